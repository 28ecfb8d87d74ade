"""The analysis of one layer of a contrast: every statistic of its neurons, and its row of `layers.parquet`.

Arrays come from the contrast's captures, the arithmetic from `stats.contrast` and `stats.probe`; which column means
what is said in `contrast_columns`. Knows no sentence and no figure.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from neurexp.report import Table
from neurexp.stats import contrast, probe, summary
from neurexp.stats.association import LEVEL, q_values
from neurexp.text.spans import Selection, pairs

if TYPE_CHECKING:
    from neurexp.experiments.contrast import Contrast

FEWEST = 4  # rows of a category, below which nothing is compared
MANY_ROWS, FEW_SHUFFLES = 500, 5  # beyond so many rows a layer's probe is fitted to so many shuffles only
SPLITS_OF_A_SHUFFLE = 10  # of the words in halves, for each shuffle of the labels


@dataclass(frozen=True)
class LayerAnalysis:
    """One layer's columns of `neurons`, its row of `layers`, and its permutation null."""

    neurons: Table
    row: dict[str, float]
    null: contrast.Permutation


class Analyst:
    """What the layers share: labels, units, shuffles, pairs."""

    def __init__(self, of: "Contrast"):
        self.of, self.labels, self.options = of, of.rows.category, of.options
        self.seed, self.two = of.setting.seed, of.two
        _, self.units = np.unique(of.rows.words, return_inverse=True)

    def layer(self, layer: int) -> LayerAnalysis:
        """Every statistic of one layer."""
        x, labels = self.of.activations["words"][layer].astype(np.float64), self.labels
        neurons: Table = {f"mean_{one}": x[labels == one].mean(0) for one in range(len(self.of.categories))}
        neurons |= {"mean": x.mean(0), "std": x.std(0), "band": contrast.bands(x.mean(0))}
        row: dict[str, float] = {
            "mean_offset": float(neurons["mean"].mean()),
            "share_mean_negative": float((neurons["mean"] < 0).mean()),
            "bands": int(neurons["band"].sum()),
            "std_median": float(np.median(neurons["std"])),
        }
        null = self._tests(x, neurons)
        replication = contrast.replicate(x, labels, self.options.splits, self.seed, self.units)
        row |= self._replication(x, neurons, replication)
        row |= self._chance(x)
        row |= self._probes(x, neurons)
        for name, condition in self.of.conditions.items():
            beside = self.of.activations[name][layer].astype(np.float64)
            row |= self._condition(name, beside, condition.rows, x, neurons)
        single = self.of.rows.lengths == 1
        row |= self._condition("one_token", x[single], self.of.rows.only(single), x, neurons)
        row |= self._in_text(layer, x, neurons, replication)
        return LayerAnalysis(neurons, row, null)

    def _tests(self, x: np.ndarray, neurons: Table) -> contrast.Permutation:
        labels = self.labels
        tested = contrast.compare(x, labels)
        null = contrast.permutation(x, labels, self.options.permutations, self.seed, self.units)
        if self.two:
            first, second = self.pairs
            missing = np.full(x.shape[1], np.nan)
            t_paired, p_paired = contrast.paired_t(x, first, second) if len(first) else (missing, missing)
            neurons |= {"t_paired": t_paired, "p_paired": p_paired, "t_welch": tested.statistic, "p_welch": tested.p}
        else:
            neurons |= {"f": tested.statistic, "p_f": tested.p, "eta2": contrast.eta_squared(x, labels)}
        neurons |= {
            "p_permutation": null.p,
            "p_maxt": null.p_max,
            "significant_bonferroni": tested.p < LEVEL / x.shape[1],
            f"q_{self.of.test}": q_values(tested.p),
        }
        if self.two:
            names = ("cohens_d", "cohens_d_low", "cohens_d_high")
            neurons |= dict(zip(names, contrast.cohens_d(x, labels), strict=True))
            neurons["auroc"] = contrast.auroc(x, labels)
        return null

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of category 0 and of category 1, paired; empty where the categories differ in size."""
        rows, order = self.of.rows, []
        for category in (0, 1):
            members = np.flatnonzero(rows.category == category)
            ids = [rows.ids(int(member)) for member in members]
            order.append(members[pairs(ids, [rows.words[member] for member in members])])
        empty = np.array([], dtype=np.int64)
        return (order[0], order[1]) if len(order[0]) == len(order[1]) else (empty, empty)

    @cached_property
    def shuffles(self) -> np.ndarray:
        """`[shuffles, rows]`: the labels dealt out anew, within a unit if every unit has rows of every category."""
        random = np.random.default_rng(self.seed)
        return np.stack([self._shuffled(random) for _ in range(self.options.shuffles)])

    def _shuffled(self, random: np.random.Generator, groups: np.ndarray | None = None) -> np.ndarray:
        if contrast.is_paired(self.labels, self.units):
            groups = self.units
        return contrast.shuffled_within(self.labels, np.zeros_like(self.labels) if groups is None else groups, random)

    def _replication(self, x: np.ndarray, neurons: Table, found: contrast.Replication) -> dict[str, float]:
        chance = contrast.replicate(
            x, self.labels, SPLITS_OF_A_SHUFFLE, self.seed, self.units, shuffles=self.options.shuffles
        )
        neurons["selected"], neurons["replicated"] = found.selected.mean(0), found.replicated.mean(0)
        by_shuffle = chance.heldout.reshape(self.options.shuffles, -1).mean(1)
        return {
            "replication_selected": float(found.selected.sum(1).mean()),
            "replication_replicated": float(found.replicated.sum(1).mean()),
            "replication_by_chance": float(found.by_chance.mean()),
            "replication_rate": found.rate,
            "replication_selected_shuffled": float(chance.selected.sum(1).mean()),
            "replication_replicated_shuffled": float(chance.replicated.sum(1).mean()),
            "auroc_heldout": float(found.heldout.mean()),
            "auroc_heldout_shuffled": float(by_shuffle.mean()),
            "auroc_heldout_shuffled_q95": float(np.quantile(by_shuffle, 1 - LEVEL)),
        }

    def _chance(self, x: np.ndarray) -> dict[str, float]:
        """What shuffled labels find, on average."""
        p = [contrast.compare(x, labels).p for labels in self.shuffles]
        return {
            "share_significant_shuffled": float(np.mean([(q_values(one) < LEVEL).mean() for one in p])),
            "share_bonferroni_shuffled": float(np.mean([(one < LEVEL / len(one)).mean() for one in p])),
        }

    def _probes(self, x: np.ndarray, neurons: Table) -> dict[str, float]:
        random = np.random.default_rng(self.seed)
        fold = probe.folds(self.labels, self.seed, self.units)
        # Dealt out within the folds: the null's folds are then as balanced as the real ones
        shuffles = np.stack([self._shuffled(random, fold) for _ in range(self.options.shuffles)])
        labellings = np.concatenate([self.labels[None], shuffles])
        few = labellings if len(self.labels) <= MANY_ROWS else labellings[: 1 + FEW_SHUFFLES]  # it is the slow one
        of_layer = probe.layer_accuracy(x, few, fold)
        row = {
            "probe_layer_accuracy": float(of_layer[0]),
            "probe_layer_accuracy_shuffled_q95": float(np.quantile(of_layer[1:], 1 - LEVEL)),
        }
        if not self.two:
            return row
        probes = probe.neuron_probes(x, self.labels, fold)
        neurons["probe_accuracy"], neurons["probe_separated"] = probes.accuracy, probes.separated
        best = probe.best_neuron_accuracy(x, labellings, fold)
        by_chance = probe.neuron_probes(x, shuffles[0], fold).accuracy
        return row | {
            "probe_best_accuracy": float(best[0]),
            "probe_best_accuracy_shuffled_q95": float(np.quantile(best[1:], 1 - LEVEL)),
            "probe_median_accuracy": float(np.median(probes.accuracy)),
            "probe_accuracy_shuffled_q95": float(np.quantile(by_chance, 1 - LEVEL)),
            "probe_separated_neurons": int(probes.separated.sum()),
            "probe_unconverged": int((~probes.converged).sum()),
        }

    def _labels_of(self, rows: Selection) -> np.ndarray:
        """`[shuffles, rows]`: the shuffled labels of the same words in other rows."""
        keys = zip(self.of.rows.words, self.labels.tolist(), strict=True)
        place = {key: index for index, key in enumerate(keys)}
        same = [place[key] for key in zip(rows.words, rows.category.tolist(), strict=True)]
        return self.shuffles[:, same]

    def _condition(self, name: str, beside: np.ndarray, rows: Selection, x: np.ndarray, neurons: Table):
        """The headline under another condition, and how well its effects agree with the first's."""
        labels, test = rows.category, "t_welch" if self.two else "f"
        agreement = (f"d_r_{name}", f"d_r_{name}_shuffled_q95")
        row: dict[str, float] = {f"rows_{name}": len(labels)}
        if np.bincount(labels, minlength=len(self.of.categories)).min() < FEWEST:
            missing = np.full(x.shape[1], np.nan)
            neurons |= {f"{test}_{name}": missing, f"q_{name}": missing}
            row |= dict.fromkeys((f"share_significant_{name}", f"share_bonferroni_{name}"), np.nan)
            if self.two:
                neurons[f"cohens_d_{name}"] = missing
                row |= dict.fromkeys(agreement, np.nan)
            return row
        tested = contrast.compare(beside, labels)
        q = q_values(tested.p)
        neurons |= {f"{test}_{name}": tested.statistic, f"q_{name}": q}
        row |= {
            f"share_significant_{name}": float((q < LEVEL).mean()),
            f"share_bonferroni_{name}": float((tested.p < LEVEL / len(q)).mean()),
        }
        if self.two:
            neurons[f"cohens_d_{name}"] = contrast.differences(beside, labels[None])[0]
            # The same words in both: they would agree somewhat whatever their labels
            first = contrast.differences(x, self.shuffles)
            second = contrast.differences(beside, self._labels_of(rows))
            null = [summary.correlation(*both) for both in zip(first, second, strict=True)]
            values = (
                summary.correlation(neurons["cohens_d"], neurons[f"cohens_d_{name}"]),
                summary.quantile(np.array(null), 1 - LEVEL),
            )
            row |= dict(zip(agreement, values, strict=True))
        return row

    def _in_text(
        self, layer: int, x: np.ndarray, neurons: Table, replication: contrast.Replication
    ) -> dict[str, float]:
        """Whether what was found on the rows holds for the labelled rows of running text."""
        if not self.of.reads_text:
            return {}
        names = ("auroc_text_r", "auroc_text_r_shuffled_q95", "auroc_text_heldout")
        row: dict[str, float] = dict.fromkeys(names, np.nan)
        neurons["auroc_text"] = np.full(x.shape[1], np.nan)
        rows = self.of.text_rows(layer)
        if rows is None or np.bincount(self.of.found.category, minlength=2).min() < FEWEST:
            return row
        text, found = rows[0].astype(np.float64), self.of.found
        neurons["auroc_text"] = contrast.auroc(text, found.category)
        row["auroc_text_r"] = summary.correlation(neurons["auroc"], neurons["auroc_text"])
        known = set(zip(self.of.rows.words, self.labels.tolist(), strict=True))
        if not known.issuperset(zip(found.words, found.category.tolist(), strict=True)):
            return row  # other rows than the first ones': no word to shuffle or to hold out
        null = zip(contrast.auroc(x, self.shuffles), contrast.auroc(text, self._labels_of(found)), strict=True)
        row["auroc_text_r_shuffled_q95"] = summary.quantile(
            np.array([summary.correlation(*both) for both in null]), 1 - LEVEL
        )
        # Chosen on half of the words, on their own; scored on the other half, in use
        number = dict(zip(self.of.rows.words, self.units, strict=True))
        unit_of = np.array([number[word] for word in found.words])
        scores = []
        for first, best, way in zip(replication.first, replication.best, replication.best_way, strict=True):
            unseen = ~np.isin(unit_of, self.units[first])
            scores.append(contrast.one_against_rest(text[unseen, best], found.category[unseen], way))
        row["auroc_text_heldout"] = float(np.nanmean(scores)) if np.isfinite(scores).any() else np.nan
        return row
