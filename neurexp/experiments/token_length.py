"""Token length: does the model spend more activation on long tokens, which carry more meaning, than on short ones?

A profile of every neuron over the length of its token: group means about the median, Pearson's r with its interval and
an honest null, and what is left of r once frequency, position and word beginning are controlled for. The words and
numbers are made here; the arithmetic is in `stats`, the columns of the pass in `design`, the texts of the data
dictionary in `token_length_columns`, the figures in `token_length_figures`. Touches no hook and no activation.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neurexp.console.progress import over
from neurexp.engine.reducers.base import Histogram, Reducer
from neurexp.engine.reducers.gram import Gram
from neurexp.errors import UserError
from neurexp.experiments import base
from neurexp.experiments.profile.columns import COLUMNS
from neurexp.experiments.profile.design import Design
from neurexp.experiments.profile.figures import Figures
from neurexp.io.provenance import hash_of_tokenizer
from neurexp.models.load import LanguageModel
from neurexp.report.report import Report, Table
from neurexp.stats import association, summary
from neurexp.stats.groups import EQUAL, LONGER, SHORTER, GroupSums, Summary, median_split, overlap
from neurexp.stats.profile import LayerProfile, ProfileSums, profile_layer
from neurexp.text.tokens import Tokens, token_lengths
from neurexp.text.vocabulary import begins_word

GROUPS = ("shorter", "equal", "longer")
OF_THE_TEXT = frozenset(
    ["tokens", "tokens_special", "length_min", "length_max", "length_median", "types", "types_effective"]
    + [f"share_{name}" for name in GROUPS]
)
PASS_OPTIONS = (
    "strip_space",
    "skip_positions",
    "permutations",
    "blocks",
    "bins",
)  # others are of the analysis: the same pass serves them
SPECIAL, SKIPPED = 3, 4  # the groups of tokens without a length, and of tokens at skipped positions


@dataclass
class Options(base.Options):
    """The options of conf/experiment/token_length.yaml."""

    strip_space: bool = False
    skip_positions: int = 0
    permutations: int = 32
    blocks: int = 32
    correction: str = "bh"
    bins: int = 96


class TokenLength(base.Experiment):
    """The experiment `token_length`."""

    Options = Options

    def __init__(self, options: Any, setting: base.Setting):
        super().__init__(options, setting)
        for name, value, least, most in (
            ("bins", options.bins, 8, 4096),
            ("permutations", options.permutations, 8, 1024),
            ("blocks", options.blocks, 16, 64),
        ):
            if not least <= value <= most:
                raise UserError(f"experiment.{name}={value}: give a whole number from {least} to {most}")
        if options.correction not in ("bh", "by"):
            raise UserError(
                f"experiment.correction={options.correction}: give bh (Benjamini-Hochberg) or by (Benjamini-Yekutieli)"
            )

    def reducers(self, model: LanguageModel, tokens: Tokens, layers: list[int]) -> list[Reducer]:
        skipped, length = self.options.skip_positions, tokens.valid.shape[1]
        if not 0 <= skipped < length:
            raise UserError(f"experiment.skip_positions={skipped}: give a whole number from 0 to {length - 1}")
        self.layers = layers
        lengths = token_lengths(model.tokenizer, self.options.strip_space)
        occurrences = np.bincount(tokens.input_ids[tokens.valid], minlength=len(lengths))
        self.special = int(occurrences[lengths < 0].sum())
        self.reference = "the counts of the tokenizer's training text"
        reference = model.token_counts
        if reference is None:
            self.reference, reference = "the counts of this very text", occurrences
        has_length = lengths >= 0
        counted = np.bincount(tokens.input_ids[:, skipped:][tokens.valid[:, skipped:]], minlength=len(lengths))
        self.lengths = np.bincount(lengths[has_length], weights=counted[has_length]).astype(np.int64)
        if not self.lengths.any():
            raise UserError("dataset.tokens: no token of this text has a length; give more text")
        self.split = median_split(self.lengths)
        groups = len(GROUPS) + 1 + (skipped > 0)
        group_of_id = np.where(has_length, self.split.group(lengths), SPECIAL)
        self._group_of_id = torch.from_numpy(group_of_id)
        self.design = Design(
            tokens,
            lengths,
            reference,
            begins_word(model.tokenizer),
            self.options.permutations,
            self.options.blocks,
            skipped,
            self.setting.seed,
            group_of_id,
            groups,
        )
        self.sequences = len(tokens.valid)
        columns, sites = self.design.columns, len(layers)
        self.histogram = Histogram(groups, sites, self.options.bins, model.device)
        self.gram = Gram(self.design.width, sites, self.design.squared, columns["group"], device=model.device)
        return [self.histogram, self.gram]

    kept = True

    def key(self, model: LanguageModel) -> dict[str, Any]:
        options, counts = self.options, model.token_counts
        return {
            "experiment": f"{type(self).__module__}.{type(self).__qualname__}",  # not that of a class made from it
            "layers": self.chosen_layers(model),
            "tokenizer": hash_of_tokenizer(model.tokenizer),
            "reference_counts": None if counts is None else hashlib.sha256(counts.tobytes()).hexdigest(),
            "seed": self.setting.seed,
            **{name: getattr(options, name) for name in PASS_OPTIONS},
        }

    def covariates(self, ids: torch.Tensor, positions: torch.Tensor, sequences: torch.Tensor) -> dict[str, Any]:
        group = torch.where(positions < self.options.skip_positions, SKIPPED, self._group_of_id[ids])
        return {"group": group, "design": self.design(ids, positions, sequences)}

    def analyse(self) -> Report:
        design, gram = self.design, _arrays(self.gram)
        histogram, edges = _arrays(self.histogram)["counts"], self.histogram.edges.numpy()
        group, squared = design.columns["group"], design.columns["group"].start - design.squared.start
        self._sums = GroupSums(
            count=np.diag(gram["zz"])[group].round().astype(np.int64),
            sums=gram["zx"][:, group],
            squares=gram["qxx"][:, squared : squared + design.groups],
            magnitudes=gram.pop("magnitudes"),
            shift=gram["shift"],
        )
        sums = ProfileSums(
            **gram,
            columns=design.columns,
            squared_from=design.squared.start,
            categories=design.categories,
            centre=design.centre,
        )
        detail = f"{len(self.layers)} layers of {gram['zx'].shape[-1]:,} neurons"
        profiles = [profile_layer(sums, index) for index in over(range(len(self.layers)), "Analysis", detail)]
        neurons = self._neuron_table(profiles)
        layers = self._layer_table(profiles, neurons, histogram, sums)
        metrics = self._metrics(layers, neurons)
        curves = np.stack([profile.curve for profile in profiles])
        return Report(
            findings=self._findings(layers, metrics),
            metrics=metrics,
            layers=layers,
            neurons=neurons,
            columns=COLUMNS,
            statistic="r_length",
            of_the_text=OF_THE_TEXT,
            over_layers={
                "share_significant": ("share of neurons that differ from the null", ""),
                "r_median": ("median r with token length", ""),
            },
            tensors={
                "histograms": {
                    "edges": edges,
                    "counts": histogram[:, :, 1:-1],
                    "underflow": histogram[:, :, 0],
                    "overflow": histogram[:, :, -1],
                    "layers": np.array(self.layers),
                },
                "length_curves": {
                    "lengths": design.categories.astype(np.int64),
                    "tokens": self.lengths[design.categories],
                    "mean": curves,
                    "layers": np.array(self.layers),
                },
            },
            figures=Figures(self, layers, neurons, histogram[:, :SPECIAL, 1:-1], edges, curves).all(),
        )

    def _neuron_table(self, profiles: list[LayerProfile]) -> Table:
        everything, by_group = self._everything(), [self._sums.of(group) for group in (SHORTER, EQUAL, LONGER)]
        count = everything.mean.shape[1]
        by_yekutieli = self.options.correction == "by"
        p = np.stack([profile.p for profile in profiles])
        table = {
            "layer": np.repeat(self.layers, count),
            "neuron": np.tile(np.arange(count), len(self.layers)),
            "mean": everything.mean.ravel(),
            "std": everything.std.ravel(),
            "mean_abs": everything.mean_abs.ravel(),
        }
        table |= {f"mean_{name}": group.mean.ravel() for name, group in zip(GROUPS, by_group, strict=True)}
        with np.errstate(invalid="ignore", divide="ignore"):
            table["d_longer_shorter"] = (table["mean_longer"] - table["mean_shorter"]) / table["std"]

        def column(name: str) -> np.ndarray:
            return np.concatenate([getattr(profile, name) for profile in profiles])

        table["eta2_length"] = column("eta2")
        table["r_length"] = column("r")
        table["r_length_low"], table["r_length_high"] = column("low"), column("high")
        table["r_frequency"] = column("r_frequency")
        table["r_length_partial"] = column("r_partial")
        table["r_length_without_first"] = column("r_without_first")
        if self.options.skip_positions:
            table["r_length_with_skipped"] = column("r_with_skipped")
        table["r_length_first_half"] = np.concatenate([profile.r_halves[0] for profile in profiles])
        table["r_length_second_half"] = np.concatenate([profile.r_halves[1] for profile in profiles])
        table["null_mean"], table["null_sd"] = column("null_mean"), column("null_sd")
        table["p_length"] = p.ravel()
        table["q_length"] = np.concatenate([association.q_values(row, by_yekutieli) for row in p])
        table["q_length_all"] = association.q_values(p, by_yekutieli).ravel()
        with np.errstate(invalid="ignore", divide="ignore"):
            survival = table["r_length_partial"] / table["r_length"]
        table["survival"] = np.where(table["q_length"] < association.LEVEL, survival, np.nan)
        return table

    def _everything(self) -> Summary:
        return self._sums.of(SHORTER, EQUAL, LONGER, SPECIAL)

    def _layer_table(
        self, profiles: list[LayerProfile], neurons: Table, histogram: np.ndarray, sums: ProfileSums
    ) -> Table:
        everything = self._everything()
        table: Table = {"layer": np.array(self.layers)}
        table["mean"], table["std"], table["mean_abs"] = everything.per_layer()
        for group, name in enumerate((*GROUPS, "special")):
            of_group = self._sums.of(group)
            table[f"mean_{name}"], table[f"std_{name}"], table[f"mean_abs_{name}"] = of_group.per_layer()
        with np.errstate(invalid="ignore", divide="ignore"):
            table["d_longer_shorter"] = (table["mean_longer"] - table["mean_shorter"]) / table["std"]
        table["overlap_longer_shorter"] = overlap(histogram[:, SHORTER], histogram[:, LONGER])
        for group, name in enumerate(GROUPS):
            table[f"second_peak_{name}"] = association.second_peak(histogram[:, group, 1:-1])
        table["constant_neurons"] = (~association.varies(everything.std**2, everything.mean)).sum(1)
        table["special_distance"] = _distance(self._sums.of(SPECIAL).mean, everything)
        if self.options.skip_positions:
            table["skipped_distance"] = _distance(self._sums.of(SKIPPED).mean, everything)
        first = [sums.first_position(index) for index in range(len(self.layers))]
        with np.errstate(invalid="ignore", divide="ignore"):
            of_first = np.stack([sums.shift[index] + one.x / one.n for index, one in enumerate(first)])
        table["first_distance"] = _distance(of_first, everything)

        rows = [_summarise(profile) for profile in profiles]
        table |= {name: np.array([row[name] for row in rows]) for name in rows[0]}
        if self.options.skip_positions:
            table["r_median_with_skipped"] = np.array([summary.median(profile.r_with_skipped) for profile in profiles])
        by_layer = neurons["q_length"].reshape(len(self.layers), -1) < association.LEVEL
        # The test is about the null's mean, and so is the direction of what it found
        above = _above_null(neurons).reshape(len(self.layers), -1)
        table["share_significant"] = by_layer.mean(1)
        table["share_significant_positive"] = (by_layer & above).mean(1)
        table["share_significant_negative"] = (by_layer & ~above).mean(1)
        table["r_detectable"] = np.array(
            [
                summary.median(association.smallest_detectable(one.null_sd, self.options.permutations))
                for one in profiles
            ]
        )
        return table

    def _metrics(self, layers: Table, neurons: Table) -> dict[str, float]:
        occurring, shares = np.flatnonzero(self.lengths), self.split.shares
        q, r = neurons["q_length_all"], neurons["r_length"]
        significant = q < association.LEVEL
        spread = layers["r_std"]
        metrics = {
            "tokens": int(self._sums.count.sum()),
            "tokens_special": self.special,
            "length_min": int(occurring[0]),
            "length_max": int(occurring[-1]),
            "length_median": self.split.median,
            "share_shorter": shares[SHORTER],
            "share_equal": shares[EQUAL],
            "share_longer": shares[LONGER],
            "types": int((self.design.counts > 0).sum()),
            "types_effective": float(self.design.counts.sum() ** 2 / (self.design.counts.astype(float) ** 2).sum()),
            "r_median_all": summary.median(r),
            "r_abs_median": summary.median(np.abs(r)),
            "r_partial_abs_median": summary.median(np.abs(neurons["r_length_partial"])),
            "share_significant_all": float(significant.mean()),
            "share_significant_all_positive": float((significant & _above_null(neurons)).mean()),
            "survival_overall": summary.slope(r, neurons["r_length_partial"]),
            "replication_r_overall": summary.correlation(
                neurons["r_length_first_half"], neurons["r_length_second_half"]
            ),
            "r_detectable_median": summary.median(layers["r_detectable"]),
            "first_layer_excess": summary.median(layers["r_median"][:1]) - summary.median(layers["r_median"][1:]),
            "last_layers_contraction": _contraction(spread),
        }
        strongest = summary.largest(layers["d_longer_shorter"])
        if strongest is not None:
            metrics["d_longer_shorter_strongest"] = float(layers["d_longer_shorter"][strongest])
            metrics["d_longer_shorter_strongest_layer"] = self.layers[strongest]
        strongest = summary.largest(layers["r_median"])
        if strongest is not None:
            metrics["r_median_strongest"] = float(layers["r_median"][strongest])
            metrics["r_median_strongest_layer"] = self.layers[strongest]
        return {name: value for name, value in metrics.items() if np.isfinite(value)}

    def _findings(self, layers: Table, metrics: dict[str, Any]) -> list[str]:
        shares = self.split.shares
        lines = [
            f"Token lengths run from {metrics['length_min']} to {metrics['length_max']} characters, median "
            f"{self.split.median:g}: {shares[SHORTER]:.1%} of the tokens are shorter, {shares[EQUAL]:.1%} exactly at "
            f"it, {shares[LONGER]:.1%} longer; {self.special} special tokens have no length. A median split would put "
            f"{shares[SHORTER]:.1%} or {shares[SHORTER] + shares[EQUAL]:.1%} on the short side, not half.",
        ]
        if "r_median_all" not in metrics:
            return [*lines, "No correlation is defined: the tokens have one single length, or no neuron varies."]
        lines.append(
            f"Correlation with length: median r {metrics['r_median_all']:+.3f}, median |r| "
            f"{metrics['r_abs_median']:.3f}; "
            f"{metrics['share_significant_all']:.1%} of the neurons differ from the null of shuffled token types "
            f"(Benjamini-{'Hochberg' if self.options.correction == 'bh' else 'Yekutieli'} over all layers, q < 0.05)."
        )
        if "r_detectable_median" in metrics:
            detectable = metrics["r_detectable_median"]
            lines[-1] += f" This text could have found |r − null mean| of {detectable:.2f} (80 % power, one neuron)."
        if "survival_overall" in metrics:
            lines.append(
                f"Given frequency, position and word beginning, {metrics['survival_overall']:.0%} of r is left "
                f"(median |r| {metrics['r_partial_abs_median']:.3f}); frequencies are {self.reference}."
            )
        else:
            lines.append("Nothing of length is left once frequency, position and word beginning are known.")
        if "replication_r_overall" in metrics:
            lines.append(
                f"The two halves of the text agree on r with a correlation of {metrics['replication_r_overall']:.2f} "
                "over neurons."
            )
        if self.options.skip_positions and "r_median_strongest" in metrics:
            at = self.layers.index(metrics["r_median_strongest_layer"])
            lines.append(
                f"The first {self.options.skip_positions} positions of a sequence are left out; with them the largest "
                f"median r of a layer, {layers['r_median'][at]:+.3f} in layer {self.layers[at]}, would be "
                f"{layers['r_median_with_skipped'][at]:+.3f}."
            )
        if self.sequences == 1:
            lines.append("One sequence only: no interval for r and no replication.")
        return lines


def _above_null(neurons: Table) -> np.ndarray:
    return neurons["r_length"] > neurons["null_mean"]


def _arrays(reducer: Reducer) -> dict[str, np.ndarray]:
    """A reducer's state; on a CPU not a copy, which would be the peak of the whole pass."""
    return {name: getattr(reducer, name).detach().cpu().numpy() for name in reducer.summed + reducer.fixed}


def _distance(means: np.ndarray, everything: Summary) -> np.ndarray:
    """How far `means` lie from the mean of all tokens, in each neuron's standard deviations: their RMS, `[layers]`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (means - everything.mean) / everything.std
    return np.array([np.sqrt(np.mean(row[np.isfinite(row)] ** 2)) if np.isfinite(row).any() else np.nan for row in z])


def _summarise(profile: LayerProfile) -> dict[str, float]:
    """The row of `layers.parquet` that follows from one layer's neurons."""
    r, (early, late) = profile.r, profile.r_halves
    defined = np.isfinite(r)
    quantiles = np.quantile(r[defined], (0.05, 0.25, 0.5, 0.75, 0.95)) if defined.any() else np.full(5, np.nan)
    q_early, p_late = association.q_values(profile.p_halves[0]), profile.p_halves[1]
    found = q_early < association.LEVEL
    excess_early, excess_late = profile.excess_halves
    kept = found & (p_late < association.LEVEL) & (np.sign(excess_early) == np.sign(excess_late))
    both = np.isfinite(early) & np.isfinite(late)
    return {
        "r_mean": float(r[defined].mean()) if defined.any() else np.nan,
        "r_std": float(r[defined].std()) if defined.any() else np.nan,
        **dict(zip(("r_q05", "r_q25", "r_median", "r_q75", "r_q95"), map(float, quantiles), strict=True)),
        "share_positive": float((r > 0).mean()),
        "share_negative": float((r < 0).mean()),
        "r_frequency_median": summary.median(profile.r_frequency),
        "r_partial_median": summary.median(profile.r_partial),
        "r_median_without_first": summary.median(profile.r_without_first),
        "survival": summary.slope(r, profile.r_partial),
        "eta2_median": summary.median(profile.eta2),
        "null_sd_median": summary.median(profile.null_sd),
        "r_largest_by_chance": profile.largest_by_chance,
        "replication_r": summary.correlation(early, late),
        "replication_sign": float((np.sign(early) == np.sign(late))[both].mean()) if both.any() else np.nan,
        "found_first_half": float(found.mean()) if both.any() else np.nan,
        "replicated": float(kept.sum() / found.sum()) if found.any() and both.any() else np.nan,
    }


def _contraction(spread: np.ndarray) -> float:
    """1 − (spread of r in the last quarter of the layers) / (in the middle half), by medians over layers."""
    count = len(spread)
    quarter = max(1, count // 4)
    middle, last = summary.median(spread[quarter : count - quarter]), summary.median(spread[count - quarter :])
    return 1 - last / middle if middle > 0 else float("nan")
