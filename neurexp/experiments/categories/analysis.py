"""What categories adds to the analysis of a contrast over words, layer by layer.

The lectures' test over sentences, and what it gives for other splits of the same words; the concordance of two sets;
held-out members; the leak of an earlier target into a later one; the displacement of the residual stream. The
arithmetic is in `stats`, and `columns` defines each column. Knows no sentence and no figure.
"""

from dataclasses import asdict, dataclass

import numpy as np

from neurexp.experiments.categories.data import SET_2, CategoryData, means_by_group
from neurexp.report.report import Table
from neurexp.stats import summary
from neurexp.stats.association import LEVEL
from neurexp.stats.concordance import concordance, findings, independent
from neurexp.stats.group_shuffles import splits_of_groups, student
from neurexp.stats.hypothesis_tests import TestResult, compare
from neurexp.stats.leak import Leak, leak
from neurexp.stats.members import pairs_right

LEVELS = ("sentences", "words")  # what a test takes as independent
Tested = dict[str, list[TestResult]]  # level → the test with each split


@dataclass(frozen=True)
class LayerAnalysis:
    """One layer's columns of `neurons`, its row of `layers`, and numbers for each split of the words, by name."""

    neurons: Table
    row: dict[str, float]
    by_split: dict[str, np.ndarray]


class Analyst:
    """Analyses layers. Holds what they share: the splits of the words, of which the first is the real one."""

    def __init__(self, data: CategoryData):
        self.data, self.seed, self.options = data, data.contrast.seed, data.contrast.options
        self.splits = splits_of_groups(data.sets["words"].label, self.options.shuffles, self.seed)

    def layer(self, layer: int) -> LayerAnalysis:
        """Every statistic of one layer."""
        found = LayerAnalysis({}, {}, {})
        first = self._tested("words", layer, found)
        if self.data.has_second:
            self._concordance(first, self._tested(SET_2, layer, found), found)
        self._members(layer, found)
        self._leak(layer, found)
        self._displacement(layer, found)
        return found

    def _tested(self, name: str, layer: int, found: LayerAnalysis) -> Tested:
        """The tests of one set with each split; in set 2 with the real one only, if its words are others."""
        one, x = self.data.sets[name], self.data.x(name, layer)
        same = name == "words" or self.data.same_words
        splits, end = self.splits if same else one.label[None], "" if name == "words" else f"_{name}"
        means = means_by_group(x, one.groups, len(one.label))
        tested = {
            "sentences": [student(x, split[one.groups]) for split in splits],
            "words": [compare(means, split) for split in splits],
        }
        for level, results in tested.items():
            shares = np.array([(result.p < LEVEL / x.shape[1]).mean() for result in results])
            found.by_split[f"share_{level}{end}"] = shares
            found.row.update(against_splits(f"share_{level}{end}", shares))
        separated = np.array([_separated(means, split).mean() for split in splits])
        found.by_split[f"share_separated{end}"] = separated
        found.row.update(against_splits(f"share_separated{end}", separated))
        real = tested["sentences"][0]
        found.neurons[f"t_sentences{end}"], found.neurons[f"p_sentences{end}"] = real.statistic, real.p
        found.neurons[f"significant_sentences{end}"] = real.p < LEVEL / x.shape[1]
        return tested

    def _concordance(self, first: Tested, second: Tested, found: LayerAnalysis) -> None:
        """The agreement of the sets at both levels: found, with splits of both in the same way, and by independence."""
        for level in LEVELS:
            pairs = list(zip(first[level], second[level], strict=False))
            signs = [[findings(one, LEVEL / one.p.size) for one in pair] for pair in pairs]
            shares = [concordance(*both) for both in signs]
            r = np.array([summary.correlation(one.statistic, other.statistic) for one, other in pairs])
            by_split = {name: np.array([asdict(share)[name] for share in shares]) for name in asdict(shares[0])}
            by_split = {f"{name}_{level}": values for name, values in (by_split | {"t_r": r}).items()}
            found.by_split.update(by_split)
            for name, values in by_split.items():
                found.row.update(against_splits(name, values))
            for name, value in asdict(independent(*signs[0])).items():
                found.row[f"{name}_{level}_independent"] = value
            found.neurons[f"concordant_{level}"] = (signs[0][0] == signs[0][1]) & (signs[0][0] != 0)

    def _members(self, layer: int, found: LayerAnalysis) -> None:
        one = self.data.sets["words"]
        means = means_by_group(self.data.x("words", layer), one.groups, len(one.label))
        results = [pairs_right(means, split, self.seed) for split in self.splits]
        found.neurons["pairs_right"] = results[0][0]
        found.by_split["members"] = np.array([selected for _, selected in results])
        found.row.update(against_splits("members", found.by_split["members"]))

    def _leak(self, layer: int, found: LayerAnalysis) -> None:
        """The leak over both sets. A word is compared with itself in sentences that differ in their targets only."""
        every = self.data.every_target
        x = np.concatenate([self.data.x(name, layer) for name in self.data.sets])
        means = means_by_group(x[every.alone], every.groups[every.alone], len(every.label))
        known, later = np.isfinite(means[:, 0]), every.word_before >= 0
        if not later.any() or len(set(every.label[known])) < 2:
            return
        one, zero = (means[known & (every.label == label)].mean(0) for label in (1, 0))
        difference, earlier = one - zero, every.word_before[later]

        def measure(*factors: np.ndarray) -> Leak | None:
            constants = [numbers[later] for numbers in factors]
            return leak(
                x[later], earlier, every.label[earlier], constants, difference, self.options.shuffles, self.seed
            )

        # Where no two sentences share a frame, words are compared without frames
        measured = measure(every.groups, every.frame) or measure(every.groups)
        if measured is None:
            return
        found.neurons.update({"leak": measured.moved, "p_leak": measured.p, "difference_alone": difference})
        found.row.update(
            {
                "leak_share": measured.share,
                "leak_share_low": measured.low,
                "leak_share_high": measured.high,
                "leak_share_p": measured.p_share,
                "rows_leak": measured.rows,
                "words_leak": measured.words,
            }
        )

    def _displacement(self, layer: int, found: LayerAnalysis) -> None:
        stream = self.data.stream(layer)
        if stream is None:
            return
        before, after = (one.astype(np.float64) for one in stream)
        moved = np.linalg.norm(after - before, axis=-1)
        relative = moved / np.linalg.norm(before, axis=-1)
        _, word = np.unique(self.data.several_tokens, return_inverse=True)
        for end, values in (("", moved), ("_relative", relative)):
            for place, of_targets in zip(("first", "last"), values, strict=True):
                by_word = means_by_group(of_targets, word, int(word.max()) + 1)
                found.row[f"displacement_{place}{end}"] = float(by_word.mean())


def against_splits(name: str, values: np.ndarray) -> dict[str, float]:
    """A number of the real split, the mean of the others', and the share of all splits that reach it."""
    others = values[1:]
    p = float((values >= values[0] - 1e-12).mean()) if len(others) and np.isfinite(values[0]) else np.nan
    return {name: float(values[0]), f"{name}_shuffled": summary.mean(others), f"{name}_p": p}


def _separated(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether all rows of one category lie above all rows of the other, `[neurons]` bool."""
    zero, one = x[labels == 0], x[labels == 1]
    return (one.min(0) > zero.max(0)) | (one.max(0) < zero.min(0))
