"""The figures of `token_length`: which arrays each draws, and the sentences on it.

Knows nothing of how they are drawn.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from neurexp.report.report import Table
from neurexp.stats import summary
from neurexp.stats.groups import EQUAL, LONGER, SHORTER

if TYPE_CHECKING:
    from neurexp.experiments.token_length import TokenLength


class Figures:
    """The experiment's figures, each drawn when it is called for.

    `histogram` is `[layers, groups, bins]`, without under- and overflow.
    """

    def __init__(self, experiment: "TokenLength", layers: Table, neurons: Table, histogram, edges, curves):
        self.of, self.layers, self.histogram, self.edges, self.curves = experiment, layers, histogram, edges, curves
        rows = len(experiment.layers)
        self.r, self.partial, self.frequency = (
            neurons[name].reshape(rows, -1) for name in ("r_length", "r_length_partial", "r_frequency")
        )
        self.measured = f"{experiment.setting}, {int(experiment.lengths.sum()):,} tokens"

    def all(self) -> dict[str, Callable[[], Any]]:
        figures: dict[str, Callable[[], Any]] = {
            "token_lengths": self.token_lengths,
            "activation_histograms": self.activation_histograms,
            "activation_over_length": self.activation_over_length,
        }
        if np.isfinite(self.r).any():
            figures |= {"r_by_layer": self.r_by_layer, "r_map": self.r_map, "length_and_frequency": self.confounds}
        return figures

    def token_lengths(self):
        from neurexp.figures.distributions import split_counts

        shares, median = self.of.split.shares, self.of.split.median
        space = "leading space stripped" if self.of.options.strip_space else "leading space counted"
        return split_counts(
            self.of.lengths,
            median,
            f"The median token has {median:g} characters; {shares[SHORTER]:.0%} of tokens are shorter, "
            f"{shares[EQUAL]:.0%} as long, {shares[LONGER]:.0%} longer",
            f"{self.measured} with a length; {self.of.special} special tokens left out",
            f"token length (characters of the decoded token, {space})",
        )

    def activation_histograms(self):
        from neurexp.figures.distributions import group_histograms

        difference, shared = self.layers["d_longer_shorter"], self.layers["overlap_longer_shorter"]
        finding = "Only one side of the median is occupied: nothing to compare"
        if np.isfinite(difference).any():
            finding = (
                f"Longer and shorter tokens share {np.nanmin(shared):.0%} to {np.nanmax(shared):.0%} of area; "
                f"their means differ by {np.nanmin(difference):+.2f} to {np.nanmax(difference):+.2f} SD"
            )
        site = self.of.options.site
        return group_histograms(
            self.edges,
            self.histogram,
            ["shorter than the median", "of median length", "longer"],
            [f"{site}_{layer}" for layer in self.of.layers],
            [
                f"d = {value:+.2f}\noverlap {share:.0%}" if np.isfinite(share) else ""
                for value, share in zip(difference, shared, strict=True)
            ],
            finding,
            f"{self.measured}; all neurons of a layer together; d: longer minus shorter, overlap: of the same two",
            f"activation at {site} (model's own units)",
        )

    def activation_over_length(self):
        from neurexp.figures.profiles import curves_by_layer

        strongest = summary.largest(self.layers["r_median"])
        finding = "Mean activation at each token length"
        if strongest is not None:
            value = self.layers["r_median"][strongest]
            finding = f"The layer's mean {'rises' if value > 0 else 'falls'} with length most in layer " + str(
                self.of.layers[strongest]
            )
        lengths = self.of.design.categories
        return curves_by_layer(
            lengths, self.curves, self.of.layers, self.of.lengths[lengths], finding,
            f"{self.measured}; mean over all neurons of a layer; points on few tokens (below) are noisy",
            "token length (characters)", f"mean activation at {self.of.options.site} (model's own units)",
        )  # fmt: skip

    def _about_r(self) -> str:
        share = self.layers["share_significant"]
        return (
            f"{self.measured}; significant against shuffled token types (q < 0.05 in the layer): {share.min():.0%} to "
            f"{share.max():.0%} of a layer's neurons"
        )

    def _finding_r(self) -> str:
        first, rest = self.layers["r_median"][0], self.layers["r_median"][1:]
        if len(rest) == 0:
            return f"Median r with token length: {first:+.3f}"
        return (
            f"Median r is {first:+.3f} in layer {self.of.layers[0]} and {np.nanmin(rest):+.3f} to "
            f"{np.nanmax(rest):+.3f} in the others"
        )

    def r_by_layer(self):
        from neurexp.figures.profiles import density_by_layer

        panel = (str(self.of.setting), self.of.layers, list(self.r))
        return density_by_layer([panel], self._finding_r(), self._about_r(), "Pearson's r with token length")

    def r_map(self):
        from neurexp.figures.profiles import density_map

        panel = (str(self.of.setting), self.of.layers, list(self.r))
        return density_map([panel], self._finding_r(), self._about_r(), "Pearson's r with token length")

    def confounds(self):
        from neurexp.figures.profiles import quantiles_by_layer

        left = summary.slope(self.r.ravel(), self.partial.ravel())
        return quantiles_by_layer(
            self.of.layers,
            {
                "r with length": list(self.r),
                "r with log frequency": list(self.frequency),
                "r with length, given frequency, position, word beginning": list(self.partial),
            },
            f"{left:.0%} of the correlation with length is left once its confounds are controlled for"
            if np.isfinite(left)
            else "Nothing of length is left once its confounds are known",
            f"{self.measured}; median and middle half over neurons; frequencies: {self.of.reference}",
            "correlation over tokens",
        )
