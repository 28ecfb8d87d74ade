"""The analysis of one layer of a contrast: every statistic of its neurons, and its row of `layers.parquet`.

The arithmetic is in `stats`, and `columns` defines each column. Knows no sentence and no figure.

Time is linear in rows, neurons, layers, categories, permutations, splits and shuffles. Memory: one layer's rows in
float32, mapped from a file; a float32 copy of them for the probe on all neurons; a byte for each row of each shuffle
and of each split; and less than about 500 MB that depend on none of these (`stats.chunks`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from neurexp.experiments.contrast.data import FEWEST, ContrastData
from neurexp.report.report import Table
from neurexp.stats import effect_sizes, nulls, probe, summary
from neurexp.stats.association import LEVEL, q_values
from neurexp.stats.chunks import ProgressCallback, labelling_chunks, no_progress
from neurexp.stats.hypothesis_tests import FEW_CATEGORIES, TestResult, compare, paired_t, welch
from neurexp.stats.layer_probe import layer_accuracy
from neurexp.stats.replication import Replication, replicate
from neurexp.stats.shuffling import is_paired, shuffle_within
from neurexp.text.spans import Selection, pairing_order

MANY_ROWS, FEW_SHUFFLES = 500, 5  # with more rows than this, a layer's probe is fitted to this many shuffles
SPLITS_PER_SHUFFLE = 10  # of the words into halves
Effect = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows and labellings → `[labellings, neurons]`


@dataclass(frozen=True)
class LayerAnalysis:
    """One layer's columns of `neurons`, its row of `layers`, and its permutation null."""

    neurons: Table
    row: dict[str, float]
    null: nulls.Permutation


class Analyst:
    """Analyses layers. Holds what they share: labels, groups, shuffles and pairs.

    `groups` `[rows]` is the number of each row's word: all rows of a word stay together in splits, and labels are
    shuffled within words that have rows of every category.
    """

    def __init__(self, data: ContrastData):
        self.data, self.labels, self.options = data, data.labels, data.options
        self.seed, self.two, self.categories = data.seed, data.two, len(data.categories)
        _, self.groups = np.unique(data.rows.words, return_inverse=True)

    def steps(self) -> dict[str, float]:
        """The steps of a layer and the time of each, relative to a product over the rows of one neuron; rough."""
        rows, categories = len(self.labels), 1 if self.two else self.categories
        several = min(categories, FEW_CATEGORIES)
        options, in_conditions = self.options, sum(len(one.rows.words) for one in self.data.conditions.values())
        unequal = len(set(np.bincount(self.labels))) > 1
        found = len(self.data.text.found.words) if self.data.text is not None else 0
        fitted = 1 + self._fitted_shuffles
        neurons = self.data.activations["words"][self.data.layers[0]].shape[1]
        dimensions = min(rows, neurons)
        return {
            "permutation": rows * options.permutations * (several if several > 1 else 1 + unequal),
            "replication": 20 * rows * options.splits * several + 1000 * options.splits,
            "chance": 8 * rows * options.shuffles * SPLITS_PER_SHUFFLE * several + 10_000 * options.shuffles,
            "layer probe": rows * dimensions * (3 + 800 * fitted * categories / neurons),
            "neuron probes": 10_000 * rows if self.two else 0,
            "rest": 250 * (rows + in_conditions) + 1000 * found + 100_000,
        }

    def layer(self, layer: int, progress: dict[str, ProgressCallback] | None = None) -> LayerAnalysis:
        """Every statistic of one layer. `progress` maps each of `steps` to a function that reports its progress."""
        ticks = progress or dict.fromkeys(self.steps(), no_progress)
        x, labels = self.data.activations["words"][layer], self.labels
        means, mean, deviation = effect_sizes.moments(x, labels)
        neurons: Table = {f"mean_{one}": values for one, values in enumerate(means)}
        neurons |= {"mean": mean, "std": deviation, "band": effect_sizes.bands(mean)}
        row: dict[str, float] = {
            "mean_offset": float(neurons["mean"].mean()),
            "share_mean_negative": float((neurons["mean"] < 0).mean()),
            "bands": int(neurons["band"].sum()),
            "std_median": float(np.median(neurons["std"])),
        }
        null = self._tests(x, neurons, ticks["permutation"])
        replication = replicate(x, labels, self.options.splits, self.seed, self.groups, progress=ticks["replication"])
        row |= self._replication(x, neurons, replication, ticks["chance"])
        row |= self._chance(x)
        row |= self._probes(x, neurons, ticks["layer probe"], ticks["neuron probes"])
        for name, condition in self.data.conditions.items():
            row |= self._condition(name, self.data.activations[name][layer], condition.rows, x, neurons)
        single = self.data.rows.lengths == 1
        row |= self._condition("one_token", x[single], self.data.rows.only(single), x, neurons)
        row |= self._in_text(layer, x, neurons, replication)
        ticks["rest"](1)
        return LayerAnalysis(neurons, row, null)

    def _tests(self, x: np.ndarray, neurons: Table, tick: ProgressCallback) -> nulls.Permutation:
        labels = self.labels
        tested = compare(x, labels)
        null = nulls.permutation(x, labels, self.options.permutations, self.seed, self.groups, progress=tick)
        if self.two:
            first, second = self.pairs
            missing = np.full(x.shape[1], np.nan)
            paired = paired_t(x, first, second) if len(first) else TestResult(missing, missing)
            neurons |= {"t_paired": paired.statistic, "p_paired": paired.p}
            neurons |= {"t_welch": tested.statistic, "p_welch": tested.p}
        else:
            neurons |= {"f": tested.statistic, "p_f": tested.p, "eta2": effect_sizes.eta_squared(x, labels)}
            neurons |= {f"t_rest_{category}": t for category, t in enumerate(self._against_the_rest(x))}
        neurons |= {
            "p_permutation": null.p,
            "p_maxt": null.p_max,
            "significant_bonferroni": tested.p < LEVEL / x.shape[1],
            f"q_{self.data.test}": q_values(tested.p),
        }
        if self.two:
            names = ("cohens_d", "cohens_d_low", "cohens_d_high")
            neurons |= dict(zip(names, effect_sizes.cohens_d(x, labels), strict=True))
            neurons["auroc"] = effect_sizes.auroc(x, labels)
        return null

    def _against_the_rest(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Welch's t of each category against all other rows, `[neurons]` each."""
        member = self.labels == np.arange(self.categories)[:, None]
        for part in labelling_chunks(len(member), max(x.shape)):
            yield from welch(x, ~member[part], member[part]).statistic

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of category 0 and of category 1, paired; empty where the categories differ in size."""
        rows, order = self.data.rows, []
        for category in (0, 1):
            members = np.flatnonzero(rows.category == category)
            ids = [rows.ids(int(member)) for member in members]
            order.append(members[pairing_order(ids, [rows.words[member] for member in members])])
        empty = np.array([], dtype=np.int64)
        return (order[0], order[1]) if len(order[0]) == len(order[1]) else (empty, empty)

    @cached_property
    def shuffles(self) -> np.ndarray:
        """Shuffled labels, `[shuffles, rows]`."""
        return self._shuffled(np.zeros_like(self.labels))

    def _shuffled(self, strata: np.ndarray) -> np.ndarray:
        """Labels shuffled within `strata` `[rows]`; within words if every word has rows of every category.

        Returns:
            `[shuffles, rows]` in the smallest integer type that holds the categories.
        """
        random = np.random.default_rng(self.seed)
        strata = self.groups if is_paired(self.labels, self.groups) else strata
        small = self.labels.astype(np.min_scalar_type(self.categories))
        return np.stack([shuffle_within(small, strata, random) for _ in range(self.options.shuffles)])

    @property
    def _fitted_shuffles(self) -> int:
        """The number of shuffles that a layer's probe is fitted to; this is the slowest step."""
        return self.options.shuffles if len(self.labels) <= MANY_ROWS else min(FEW_SHUFFLES, self.options.shuffles)

    def _replication(
        self, x: np.ndarray, neurons: Table, found: Replication, tick: ProgressCallback
    ) -> dict[str, float]:
        shuffles = self.options.shuffles
        chance = replicate(x, self.labels, SPLITS_PER_SHUFFLE, self.seed, self.groups, shuffles, tick)
        neurons["selected"], neurons["replicated"] = found.selected, found.replicated
        by_shuffle = chance.heldout.reshape(shuffles, -1).mean(1)
        return {
            "replication_selected": float(found.found.mean()),
            "replication_replicated": float(found.kept.mean()),
            "replication_by_chance": float(found.by_chance.mean()),
            "replication_rate": found.rate,
            "replication_selected_shuffled": float(chance.found.mean()),
            "replication_replicated_shuffled": float(chance.kept.mean()),
            "auroc_heldout": float(found.heldout.mean()),
            "auroc_heldout_shuffled": float(by_shuffle.mean()),
            "auroc_heldout_shuffled_q95": float(np.quantile(by_shuffle, 1 - LEVEL)),
        }

    def _chance(self, x: np.ndarray) -> dict[str, float]:
        """The shares of significant neurons with shuffled labels, mean over shuffles."""
        significant, bonferroni = [], []
        for part in labelling_chunks(len(self.shuffles), max(x.shape)):
            for p in compare(x, self.shuffles[part]).p:
                significant.append((q_values(p) < LEVEL).mean())
                bonferroni.append((p < LEVEL / len(p)).mean())
        return {
            "share_significant_shuffled": float(np.mean(significant)),
            "share_bonferroni_shuffled": float(np.mean(bonferroni)),
        }

    def _probes(
        self, x: np.ndarray, neurons: Table, of_layer: ProgressCallback, of_neurons: ProgressCallback
    ) -> dict[str, float]:
        fold = probe.folds(self.labels, self.seed, self.groups)
        # Shuffled within the folds, so that the null's folds are as balanced as the real ones
        shuffles = self._shuffled(fold)
        labellings = np.concatenate([self.labels[None].astype(shuffles.dtype), shuffles])
        accuracy = layer_accuracy(x, labellings[: 1 + self._fitted_shuffles], fold, of_layer)
        row = {
            "probe_layer_accuracy": float(accuracy[0]),
            "probe_layer_accuracy_shuffled_q95": float(np.quantile(accuracy[1:], 1 - LEVEL)),
        }
        if not self.two:
            return row
        probes = probe.neuron_probes(x, self.labels, fold, lambda share: of_neurons(share / 2))
        neurons["probe_accuracy"], neurons["probe_separated"] = probes.accuracy, probes.separated
        best = probe.best_neuron_accuracy(x, labellings, fold)
        by_chance = probe.neuron_probes(x, labellings[1], fold, lambda share: of_neurons(share / 2)).accuracy
        return row | {
            "probe_best_accuracy": float(best[0]),
            "probe_best_accuracy_shuffled_q95": float(np.quantile(best[1:], 1 - LEVEL)),
            "probe_median_accuracy": float(np.median(probes.accuracy)),
            "probe_accuracy_shuffled_q95": float(np.quantile(by_chance, 1 - LEVEL)),
            "probe_separated_neurons": int(probes.separated.sum()),
            "probe_unconverged": int((~probes.converged).sum()),
        }

    def _are_known(self, rows: Selection) -> bool:
        """Whether all words of these rows, with their labels, are among the first condition's."""
        known = set(zip(self.data.rows.words, self.labels.tolist(), strict=True))
        return known.issuperset(zip(rows.words, rows.category.tolist(), strict=True))

    def _labels_of(self, rows: Selection) -> np.ndarray:
        """The shuffled labels of the same words in other rows, `[shuffles, rows]`."""
        keys = zip(self.data.rows.words, self.labels.tolist(), strict=True)
        place = {key: index for index, key in enumerate(keys)}
        same = [place[key] for key in zip(rows.words, rows.category.tolist(), strict=True)]
        return self.shuffles[:, same]

    def _agreement(self, effect: Effect, x: np.ndarray, other: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """How well an effect agrees between two sets of rows of the same words, with shuffled labels.

        Args:
            effect: the effect of every neuron.
            x: `[rows, neurons]`; its labels are `shuffles`.
            other: `[other rows, neurons]`.
            labels: `[shuffles, other rows]`.

        Returns:
            The correlation over neurons, `[shuffles]`; NaN where a shuffle leaves a category without a row in one set.
        """
        found = []
        for part in labelling_chunks(len(self.shuffles), x.shape[1]):
            both = zip(effect(x, self.shuffles[part]), effect(other, labels[part]), strict=True)
            found += [summary.correlation(*pair) for pair in both]
        return np.array(found)

    def _condition(
        self, name: str, other: np.ndarray, rows: Selection, x: np.ndarray, neurons: Table
    ) -> dict[str, float]:
        """The main test under another condition, and how well its effects agree with those of `x`.

        Args:
            name: the condition's.
            other: the rows' activations under it, `[rows, neurons]`.
            rows: their words and labels.
            x: the activations of the first condition.
            neurons: gets the condition's columns.
        """
        labels, test = rows.category, "t_welch" if self.two else "f"
        agreement = (f"d_r_{name}", f"d_r_{name}_shuffled_q95", f"d_r_{name}_shuffled_undefined")
        row: dict[str, float] = {f"rows_{name}": len(labels)}
        if np.bincount(labels, minlength=self.categories).min() < FEWEST:
            missing = np.full(x.shape[1], np.nan)
            neurons |= {f"{test}_{name}": missing, f"q_{name}": missing}
            row |= dict.fromkeys((f"share_significant_{name}", f"share_bonferroni_{name}"), np.nan)
            if self.two:
                neurons[f"cohens_d_{name}"] = missing
                row |= dict.fromkeys(agreement, np.nan)
            return row
        tested = compare(other, labels)
        q = q_values(tested.p)
        neurons |= {f"{test}_{name}": tested.statistic, f"q_{name}": q}
        row |= {
            f"share_significant_{name}": float((q < LEVEL).mean()),
            f"share_bonferroni_{name}": float((tested.p < LEVEL / len(q)).mean()),
        }
        if self.two:
            neurons[f"cohens_d_{name}"] = effect_sizes.cohens_d_of_labellings(other, labels[None])[0]
            # Where the words are the same, the effects agree to some degree with any labels
            null = np.full(len(self.shuffles), np.nan)
            if self._are_known(rows):
                null = self._agreement(effect_sizes.cohens_d_of_labellings, x, other, self._labels_of(rows))
            value = summary.correlation(neurons["cohens_d"], neurons[f"cohens_d_{name}"])
            row |= dict(zip(agreement, (value, *_quantile(null)), strict=True))
        return row

    def _in_text(self, layer: int, x: np.ndarray, neurons: Table, replication: Replication) -> dict[str, float]:
        """Whether the effects on the rows hold for the labelled rows of running text."""
        if not self.data.reads_text:
            return {}
        names = ("auroc_text_r", "auroc_text_r_shuffled_q95", "auroc_text_r_shuffled_undefined") if self.two else ()
        row: dict[str, float] = dict.fromkeys((*names, "auroc_text_heldout", "auroc_text_heldout_undefined"), np.nan)
        # Of two categories the second against the first; of more each against all others
        one_of = {"auroc_text": 1} if self.two else {f"auroc_text_{one}": one for one in range(self.categories)}
        neurons |= {name: np.full(x.shape[1], np.nan) for name in one_of}
        rows, in_text = self.data.text_rows(layer), self.data.text
        if rows is None or in_text is None:
            return row
        text, found = rows[0], in_text.found
        enough = self.data.enough_in_text
        member = np.stack([found.category == category for category in one_of.values()]).astype(int)
        for (name, category), auroc in zip(one_of.items(), effect_sizes.auroc(text, member), strict=True):
            if enough[category]:
                neurons[name] = auroc
        if not enough.all():
            return row
        if self.two:
            row["auroc_text_r"] = summary.correlation(neurons["auroc"], neurons["auroc_text"])
        if not self._are_known(found):
            return row  # not the same labelled words: none can be shuffled or held out together
        if self.two:
            null = self._agreement(effect_sizes.auroc, x, text, self._labels_of(found))
            row["auroc_text_r_shuffled_q95"], row["auroc_text_r_shuffled_undefined"] = _quantile(null)
        # The neuron is selected on half of the words, on their own; it is scored on the other half in running text
        group_of = dict(zip(self.data.rows.words, self.groups, strict=True))
        groups = np.array([group_of[word] for word in found.words])
        scores = []
        for first, best, direction in zip(replication.first, replication.best, replication.best_direction, strict=True):
            selecting = np.zeros(len(group_of), dtype=bool)
            selecting[self.groups[first]] = True
            unseen = ~selecting[groups]
            labels, sign = (found.category, direction) if self.two else ((found.category == direction).astype(int), 1)
            scores.append(effect_sizes.auroc_in_direction(text[unseen, best], labels[unseen], sign))
        row["auroc_text_heldout"] = summary.mean(np.array(scores))
        row["auroc_text_heldout_undefined"] = int(np.isnan(scores).sum())
        return row


def _quantile(null: np.ndarray) -> tuple[float, int]:
    """The 95 % quantile of the values that are defined, and the number of those that are not."""
    return summary.quantile(null, 1 - LEVEL), int(np.isnan(null).sum())
