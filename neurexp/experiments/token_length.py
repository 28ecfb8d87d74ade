"""Token length: does the model spend more activation on long tokens, which carry more meaning, than on short ones?

Every token of a running text is shorter than, equal to or longer than the median token; per layer and group, the
distribution, mean, spread and mean magnitude of the activations. Special tokens have no length: they are a group apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from neurexp.engine.reducers import Histogram, Moments, Pilot, Reducer
from neurexp.errors import UserError
from neurexp.experiments import base
from neurexp.models.load import LanguageModel
from neurexp.report import Report
from neurexp.stats.groups import EQUAL, LONGER, SHORTER, GroupSums, median_split, overlap
from neurexp.text.tokens import Tokens, token_lengths

GROUPS = ("shorter", "equal", "longer")
SPECIAL = len(GROUPS)  # the group of tokens without a length


@dataclass
class Options(base.Options):
    """The options of conf/experiment/token_length.yaml."""

    strip_space: bool = False
    bins: int = 96


class TokenLength(base.Experiment):
    """The experiment `token_length`."""

    Options = Options

    def reducers(
        self, model: LanguageModel, tokens: Tokens, layers: list[int], pilot: Callable[[], Pilot]
    ) -> list[Reducer]:
        if self.options.bins < 8:
            raise UserError(f"experiment.bins={self.options.bins}: give 8 or more")
        self.layers = layers
        lengths = token_lengths(model.tokenizer, self.options.strip_space)
        present = np.bincount(tokens.input_ids[tokens.valid], minlength=len(lengths))
        has_length = lengths >= 0
        self.lengths = np.bincount(lengths[has_length], weights=present[has_length]).astype(np.int64)
        self.special = int(present[~has_length].sum())
        if self.lengths.sum() == 0:
            raise UserError("dataset.tokens: every token of this text is a special one; give more text")
        self.split = median_split(self.lengths)
        group_of_id = np.where(has_length, self.split.group(lengths), SPECIAL)
        self._group_of_id = torch.from_numpy(group_of_id).to(model.device)

        first = pilot()
        self.moments = Moments(len(GROUPS) + 1, first.shift)
        self.histogram = Histogram(len(GROUPS) + 1, first.low, first.high, self.options.bins, model.device)
        return [self.moments, self.histogram]

    def covariates(self, ids: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"group": self._group_of_id[ids]}

    def analyse(self) -> Report:
        state = {name: tensor.numpy() for name, tensor in self.moments.state().items()}
        sums = GroupSums(**state)
        counts, edges = self.histogram.state()["counts"].numpy(), self.histogram.edges.numpy()
        everything, by_group = sums.of(), [sums.of(group) for group in (SHORTER, EQUAL, LONGER, SPECIAL)]
        layers = self._layer_table(everything, by_group, counts)
        return Report(
            findings=self._findings(layers),
            metrics=self._metrics(layers),
            layers=layers,
            neurons=self._neuron_table(everything, by_group),
            columns=COLUMNS,
            tensors={
                "histograms": {
                    "edges": edges,
                    "counts": counts[:, :, 1:-1],
                    "underflow": counts[:, :, 0],
                    "overflow": counts[:, :, -1],
                    "layers": np.array(self.layers),
                }
            },
            figures=self._figures(layers, counts, edges),
        )

    def _layer_table(self, everything, by_group, counts: np.ndarray) -> dict[str, np.ndarray]:
        table = {"layer": np.array(self.layers)}
        table["mean"], table["std"], table["mean_abs"] = everything.per_layer()
        for name, summary in zip((*GROUPS, "special"), by_group, strict=True):
            table[f"mean_{name}"], table[f"std_{name}"], table[f"mean_abs_{name}"] = summary.per_layer()
        with np.errstate(invalid="ignore", divide="ignore"):
            table["d_longer_shorter"] = (table["mean_longer"] - table["mean_shorter"]) / table["std"]
        table["overlap_longer_shorter"] = overlap(counts[:, SHORTER], counts[:, LONGER])
        table["constant_neurons"] = (everything.std == 0).sum(1)
        return table

    def _neuron_table(self, everything, by_group) -> dict[str, np.ndarray]:
        neurons = everything.mean.shape[1]
        table = {
            "layer": np.repeat(self.layers, neurons),
            "neuron": np.tile(np.arange(neurons), len(self.layers)),
            "mean": everything.mean.ravel(),
            "std": everything.std.ravel(),
            "mean_abs": everything.mean_abs.ravel(),
        }
        return table | {f"mean_{name}": summary.mean.ravel() for name, summary in zip(GROUPS, by_group, strict=False)}

    def _metrics(self, layers: dict[str, np.ndarray]) -> dict[str, float]:
        occurring = np.flatnonzero(self.lengths)
        shares = self.split.shares
        metrics = {
            "tokens": int(self.lengths.sum()) + self.special,
            "length_min": int(occurring[0]),
            "length_max": int(occurring[-1]),
            "length_median": self.split.median,
            "share_shorter": shares[SHORTER],
            "share_equal": shares[EQUAL],
            "share_longer": shares[LONGER],
            "tokens_special": self.special,
        }
        strongest = self._strongest(layers)
        if strongest is not None:
            metrics["d_longer_shorter_strongest"] = float(layers["d_longer_shorter"][strongest])
            metrics["d_longer_shorter_strongest_layer"] = self.layers[strongest]
        return metrics

    def _strongest(self, layers: dict[str, np.ndarray]) -> int | None:
        """The row of the layer whose means differ most, or None where a group is empty or nothing varies."""
        difference = np.abs(layers["d_longer_shorter"])
        return int(np.nanargmax(difference)) if np.isfinite(difference).any() else None

    def _findings(self, layers: dict[str, np.ndarray]) -> list[str]:
        occurring, shares = np.flatnonzero(self.lengths), self.split.shares
        lines = [
            f"Token lengths run from {occurring[0]} to {occurring[-1]} characters, median {self.split.median:g}: "
            f"{shares[SHORTER]:.1%} of the tokens are shorter, {shares[EQUAL]:.1%} exactly at it, {shares[LONGER]:.1%} "
            f"longer; {self.special} special tokens have no length.",
            f"So a median split is not half and half: it would put {shares[SHORTER]:.1%} or "
            f"{shares[SHORTER] + shares[EQUAL]:.1%} on the short side, depending on where the median itself goes.",
        ]
        strongest = self._strongest(layers)
        if strongest is None:
            return [*lines, "Longer and shorter tokens cannot be compared: one of the groups is empty."]
        difference = layers["d_longer_shorter"]
        lines.append(
            f"Mean activation of longer minus shorter tokens, in standard deviations of the layer: largest in layer "
            f"{self.layers[strongest]} ({difference[strongest]:+.3f}), negative in {int((difference < 0).sum())} of "
            f"{len(difference)} layers; the two histograms share {layers['overlap_longer_shorter'].min():.0%} or more "
            "of their area. No test was made: part 1 describes."
        )
        return lines

    def _figures(self, layers: dict[str, np.ndarray], counts: np.ndarray, edges: np.ndarray):
        def token_length_figure():
            from neurexp.figures.distributions import split_counts

            shares = self.split.shares
            return split_counts(
                self.lengths,
                self.split.median,
                f"The median token has {self.split.median:g} characters; {shares[SHORTER]:.0%} of tokens are shorter, "
                f"{shares[EQUAL]:.0%} as long, {shares[LONGER]:.0%} longer",
                f"{int(self.lengths.sum()):,} tokens of {self.setting.dataset}; {self.special} special tokens left out",
                "token length (characters of the decoded token"
                + (", leading space stripped)" if self.options.strip_space else ", leading space counted)"),
            )

        def histogram_figure():
            from neurexp.figures.distributions import group_histograms

            difference, shared = layers["d_longer_shorter"], layers["overlap_longer_shorter"]
            if self._strongest(layers) is None:
                finding = "Only one side of the median is occupied: nothing to compare"
            else:
                finding = (
                    f"Longer and shorter tokens share {np.nanmin(shared):.0%} to {np.nanmax(shared):.0%} of area; "
                    f"their means differ by {np.nanmin(difference):+.2f} to {np.nanmax(difference):+.2f} SD"
                )
            return group_histograms(
                edges,
                counts[:, :SPECIAL, 1:-1],
                ["shorter than the median", "of median length", "longer"],
                [f"{self.options.site}_{layer}" for layer in self.layers],
                [f"d = {value:+.2f}\noverlap {share:.0%}" for value, share in zip(difference, shared, strict=True)],
                finding,
                f"{self.setting}, {int(self.lengths.sum()):,} tokens; all neurons of a "
                "layer together; d: longer minus shorter, overlap: of the same two",
                f"activation at {self.options.site} (model's own units)",
            )

        return {"token_lengths": token_length_figure, "activation_histograms": histogram_figure}


def _per_group(quantity: str, meaning: str) -> dict[str, str]:
    tokens = {
        "shorter": "tokens shorter than the median",
        "equal": "tokens of median length",
        "longer": "tokens longer than the median",
        "special": "special tokens",
    }
    return {f"{quantity}_{name}": f"{meaning}, over {which} only; missing if none" for name, which in tokens.items()}


COLUMNS = {
    "layer": "block index, from 0",
    "neuron": "index of the unit within the site",
    "mean": "mean activation over all valid tokens (layers: and all neurons); model's own units",
    "std": "standard deviation of the activation over all valid tokens (layers: and all neurons), population (ddof 0)",
    "mean_abs": "mean of the activation's magnitude |x| over all valid tokens (layers: and all neurons)",
    **_per_group("mean", "mean activation"),
    **_per_group("std", "population standard deviation of the activation"),
    **_per_group("mean_abs", "mean magnitude of the activation"),
    "d_longer_shorter": "(mean_longer − mean_shorter) / std of the layer: a description, not a test",
    "overlap_longer_shorter": "share of area that the histograms of longer and shorter tokens have in common (0 to 1)",
    "constant_neurons": "number of neurons whose activation did not vary at all",
    "tokens": "valid tokens, special ones included",
    "length_min": "length of the shortest token that occurs, in characters",
    "length_max": "length of the longest token that occurs, in characters",
    "length_median": "median length over the tokens that have one, in characters",
    "share_shorter": "share of the tokens with a length that are shorter than the median",
    "share_equal": "share of the tokens with a length that lie exactly at the median",
    "share_longer": "share of the tokens with a length that are longer than the median",
    "tokens_special": "number of special tokens (end of text, …), which have no length",
    "d_longer_shorter_strongest": "d_longer_shorter of the layer where it is largest in magnitude",
    "d_longer_shorter_strongest_layer": "that layer",
}
