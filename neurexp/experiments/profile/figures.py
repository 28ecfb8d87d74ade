"""The figures of a profile: which arrays each draws, and the sentences on it. Knows nothing of how they are drawn."""

from collections.abc import Callable
from typing import Any

import numpy as np

from neurexp.experiments.profile.analysis import Analysis
from neurexp.experiments.profile.data import SPECIAL, ProfileData
from neurexp.experiments.profile.findings import NULLS
from neurexp.experiments.profile.strongest import FEWEST
from neurexp.report.words import name_of
from neurexp.stats import summary

DRAWN = 4  # strongest neurons of each sign


class Figures:
    """The profile's figures, each drawn when it is called for."""

    def __init__(self, data: ProfileData, analysis: Analysis):
        self.data, self.covariate, self.layers, self.curves = data, data.covariate, analysis.layers, analysis.curves
        self.strongest = analysis.strongest
        self.noun, name = self.covariate.noun, self.covariate.name
        self.r, self.partial, self.frequency = (
            analysis.neurons[column].reshape(len(data.layers), -1)
            for column in (f"r_{name}", f"r_{name}_partial", "r_frequency")
        )
        self.measured = f"{data.label}, {data.tokens:,} tokens"

    def all(self) -> dict[str, Callable[[], Any]]:
        name = self.covariate.name
        figures: dict[str, Callable[[], Any]] = {
            f"token_{self.covariate.plural}": self.distribution,
            "activation_histograms": self.activation_histograms,
            f"activation_over_{name}": self.activation_over_value,
        }
        if np.isfinite(self.r).any():
            figures |= {"r_by_layer": self.r_by_layer, "r_map": self.r_map, f"{name}_and_frequency": self.confounds}
        if len(self.strongest.means):
            figures["strongest_neurons"] = self.strongest_neurons
        return figures

    def strongest_neurons(self):
        from neurexp.figures.neurons import means_of_neurons

        strongest, (low, _, high) = self.strongest, self.covariate.groups
        table = strongest.table
        sides = {
            f"more active on {group} tokens": [
                (f"{name_of(table, row)} (r = {table['r'][row]:+.2f})", strongest.means[row])
                for row in strongest.of_sign(side)[:DRAWN]
            ]
            for side, group in ((1, high), (-1, low))
        }
        return means_of_neurons(
            strongest.values, strongest.tokens, sides,
            self._finding_strongest(),
            f"{self.measured}; layer.neuron; r: given frequency, position, word beginning and the tokens before; "
            f"mean over the tokens of each {self.noun} that {FEWEST} or more tokens have",
            f"{self.noun} ({self.covariate.unit})", f"mean at {self.data.site}\n(SD about the neuron’s mean)",
        )  # fmt: skip

    def _finding_strongest(self) -> str:
        table, (low, _, high) = self.strongest.table, self.covariate.groups
        found = [
            f"{name_of(table, self.strongest.of_sign(side)[0])} follows {group} tokens most closely"
            for side, group in ((1, high), (-1, low))
            if len(self.strongest.of_sign(side))
        ]
        return f"Given the confounds, {' and '.join(found)}"

    def distribution(self):
        from neurexp.figures.distributions import split_counts

        split, (low, _, high) = self.data.plan.split, self.covariate.groups
        below, equal, above = split.shares
        defined = ", ".join(part for part in (self.covariate.unit, self.covariate.detail) if part)
        return split_counts(
            self.data.plan.value_counts,
            split.median,
            f"The median {self.noun} is {split.median:g} {self.covariate.unit}; {below:.0%} of tokens are {low}, "
            f"{equal:.0%} equal, {above:.0%} {high}",
            f"{self.measured} with a {self.noun}; {self.data.plan.special} without (special tokens, for example)",
            f"{self.noun} ({defined})",
            self.covariate.groups,
        )

    def activation_histograms(self):
        from neurexp.figures.distributions import group_histograms

        low, _, high = self.covariate.groups
        difference, shared = self.layers[self.covariate.difference], self.layers[f"overlap_{high}_{low}"]
        finding = "Only one side of the median is occupied: nothing to compare"
        if np.isfinite(difference).any():
            finding = (
                f"Tokens above and below the median share {np.nanmin(shared):.0%} to {np.nanmax(shared):.0%} of area; "
                f"their means differ by {np.nanmin(difference):+.2f} to {np.nanmax(difference):+.2f} SD"
            )
        site = self.data.site
        return group_histograms(
            self.data.edges,
            self.data.histogram[:, :SPECIAL, 1:-1],
            [f"{low} than the median", "at the median", high],
            [f"{site}_{layer}" for layer in self.data.layers],
            [
                f"d = {value:+.2f}\noverlap {share:.0%}" if np.isfinite(share) else ""
                for value, share in zip(difference, shared, strict=True)
            ],
            finding,
            f"{self.measured}; all neurons of a layer together; d: {high} minus {low}, overlap: of the same two",
            f"activation at {site} (model's own units)",
        )

    def activation_over_value(self):
        from neurexp.figures.profiles import curves_by_layer

        strongest = summary.largest(self.layers["r_median"])
        finding = f"Mean activation at each {self.noun}"
        if strongest is not None:
            value = self.layers["r_median"][strongest]
            finding = (
                f"The layer's mean {'rises' if value > 0 else 'falls'} with the {self.noun} most in layer "
                f"{self.data.layers[strongest]}"
            )
        values = self.data.categories
        return curves_by_layer(
            values, self.curves, self.data.layers, self.data.plan.value_counts[values], finding,
            f"{self.measured}; mean over all neurons of a layer; points on few tokens (below) are noisy",
            f"{self.noun} ({self.covariate.unit})", f"mean activation at {self.data.site} (model's own units)",
        )  # fmt: skip

    def _about_r(self) -> str:
        share = self.layers["share_significant"]
        return (
            f"{self.measured}; significant against {NULLS[self.covariate.by_type]} (q < 0.05 in the layer): "
            f"{share.min():.0%} to {share.max():.0%} of a layer's neurons"
        )

    def _finding_r(self) -> str:
        first, rest = self.layers["r_median"][0], self.layers["r_median"][1:]
        if len(rest) == 0:
            return f"Median r with {self.noun}: {first:+.3f}"
        return (
            f"Median r is {first:+.3f} in layer {self.data.layers[0]} and {np.nanmin(rest):+.3f} to "
            f"{np.nanmax(rest):+.3f} in the others"
        )

    def r_by_layer(self):
        from neurexp.figures.profiles import density_by_layer

        panel = (self.data.label, self.data.layers, list(self.r))
        return density_by_layer([panel], self._finding_r(), self._about_r(), f"Pearson's r with {self.noun}")

    def r_map(self):
        from neurexp.figures.profiles import density_map

        panel = (self.data.label, self.data.layers, list(self.r))
        return density_map([panel], self._finding_r(), self._about_r(), f"Pearson's r with {self.noun}")

    def confounds(self):
        from neurexp.figures.profiles import quantiles_by_layer

        name = self.covariate.name.replace("_", " ")
        left = summary.slope(self.r.ravel(), self.partial.ravel())
        return quantiles_by_layer(
            self.data.layers,
            {
                f"r with {name}": list(self.r),
                "r with log frequency": list(self.frequency),
                f"r with {name}, given the confounds": list(self.partial),
            },
            f"{left:.0%} of the correlation with the {self.noun} is left once its confounds are controlled for"
            if np.isfinite(left)
            else f"Nothing of {name} is left once its confounds are known",
            f"{self.measured}; median and middle half over neurons; confounds: frequency, position, word beginning; "
            f"frequencies: {self.data.plan.reference}",
            "correlation over tokens",
        )
