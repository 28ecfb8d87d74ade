"""What the analysis of categories reads: the rows of both sets, word by word and sentence by sentence.

Knows no statistic and no sentence of a report.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from neurexp.experiments.contrast import ContrastData
from neurexp.experiments.contrast.data import number_words
from neurexp.text.spans import Selection

SET_2 = "set_2"  # the condition's name
STREAM = ("RESID_PRE", "RESID_POST")
HERE, TARGET, INSIDE = -1, -2, -3  # in place of a target's first token, and of its others


@dataclass(frozen=True)
class Targets:
    """The rows of one set: targets in sentences.

    Args:
        rows: the rows.
        groups: `[rows]`, the number of each row's word, from 0, in the order of category and word.
        label: `[words]`, each word's category.
    """

    rows: Selection
    groups: np.ndarray
    label: np.ndarray
    words: list[str]

    @classmethod
    def of(cls, rows: Selection) -> "Targets":
        """Numbers the words."""
        groups, distinct = number_words(rows)
        return cls(rows, groups, np.array([label for label, _ in distinct]), [word for _, word in distinct])

    @property
    def keys(self) -> list[tuple[int, str]]:
        """Each word with its category, in the order of their numbers."""
        return list(zip(self.label.tolist(), self.words, strict=True))

    @cached_property
    def alone(self) -> np.ndarray:
        """Whether the row is the only target of its sentence, `[rows]` bool."""
        return np.bincount(self.rows.sequence)[self.rows.sequence] == 1

    @cached_property
    def word_before(self) -> np.ndarray:
        """The number of the word of the nearest target before the row in its sentence, `[rows]`.

        −1 if there is none, if the targets before are of both categories, or if one of them is the same word.
        """
        rows, found = self.rows, np.full(len(self.rows.words), -1)
        for row in range(len(found)):
            before = np.flatnonzero((rows.sequence == rows.sequence[row]) & (rows.start < rows.start[row]))
            if len(set(rows.category[before])) == 1 and self.groups[row] not in self.groups[before]:
                found[row] = self.groups[before[rows.start[before].argmax()]]
        return found

    @property
    def earlier(self) -> np.ndarray:
        """The category of the word before, `[rows]`; −1 without one (`word_before`)."""
        return np.where(self.word_before >= 0, self.label[self.word_before], -1)

    @cached_property
    def frames(self) -> list[tuple[int, ...]]:
        """The token ids of each row's sentence, with `HERE` for the row and `TARGET` for each other target.

        Rows at the same place of sentences that differ in their targets only share them.
        """
        rows, found = self.rows, []
        for row, sequence in enumerate(rows.sequence):
            ids = rows.tokens.input_ids[sequence][rows.tokens.valid[sequence]].astype(np.int64)
            for other in np.flatnonzero(rows.sequence == sequence):
                ids[rows.start[other]] = HERE if other == row else TARGET
                ids[rows.start[other] + 1 : rows.stop[other]] = INSIDE
            found.append(tuple(ids[ids != INSIDE].tolist()))
        return found


@dataclass(frozen=True)
class EveryTarget:
    """The targets of all sets, one set after the other. A word that is in several sets has one number.

    Args:
        label: `[words]`, each word's category.
        groups: `[rows]`, the number of each row's word.
        word_before: `[rows]`, the number of the word before; −1 without one (`Targets.word_before`).
        alone: `[rows]` bool, as in `Targets`.
        frame: `[rows]`, the number of each row's frame (`Targets.frames`).
    """

    label: np.ndarray
    groups: np.ndarray
    word_before: np.ndarray
    alone: np.ndarray
    frame: np.ndarray

    @classmethod
    def of(cls, sets: Collection[Targets]) -> "EveryTarget":
        """Numbers the words and the frames of all sets."""
        distinct = sorted({key for one in sets for key in one.keys})
        groups, before = [], []
        for one in sets:
            number = np.array([distinct.index(key) for key in one.keys])
            groups.append(number[one.groups])
            before.append(np.where(one.word_before >= 0, number[one.word_before], -1))
        frames = [frame for one in sets for frame in one.frames]
        place = {frame: index for index, frame in enumerate(dict.fromkeys(frames))}
        return cls(
            label=np.array([category for category, _ in distinct]),
            groups=np.concatenate(groups),
            word_before=np.concatenate(before),
            alone=np.concatenate([one.alone for one in sets]),
            frame=np.array([place[frame] for frame in frames]),
        )


@dataclass(frozen=True)
class CategoryData:
    """The contrast's data with a row for each target in its sentence."""

    contrast: ContrastData

    @cached_property
    def sets(self) -> dict[str, Targets]:
        """The rows of each set: “words”, which is set 1, and `SET_2` if there is one."""
        sets = {"words": Targets.of(self.contrast.rows)}
        return sets | {name: Targets.of(one.rows) for name, one in self.contrast.conditions.items()}

    @property
    def has_second(self) -> bool:
        """Whether there is a second set."""
        return SET_2 in self.sets

    @cached_property
    def same_words(self) -> bool:
        """Whether both sets have the same words."""
        return self.sets["words"].keys == self.sets[SET_2].keys

    @cached_property
    def every_target(self) -> EveryTarget:
        """The targets of both sets."""
        return EveryTarget.of(self.sets.values())

    @cached_property
    def several_tokens(self) -> np.ndarray:
        """The number of the word of each target whose stream was captured, `[targets]`."""
        one = self.sets["words"]
        return one.groups[(one.rows.lengths > 1) & (one.rows.start > 0)]

    def x(self, name: str, layer: int) -> np.ndarray:
        """The activations of one set's rows, `[rows, neurons]` float32."""
        return self.contrast.activations[name][layer]

    def stream(self, layer: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The residual stream before and after a block, `[2, targets, width]` each: first tokens, then last ones."""
        if STREAM[0] not in self.contrast.activations:
            return None
        before, after = (self.contrast.activations[site][layer] for site in STREAM)
        return before.reshape(2, -1, before.shape[1]), after.reshape(2, -1, after.shape[1])


def means_by_group(x: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """The mean of each group's rows, `[count, …]` float64; NaN for a group without rows."""
    sums = np.zeros((count, *x.shape[1:]))
    np.add.at(sums, groups, x.astype(np.float64))
    sizes = np.bincount(groups, minlength=count).astype(np.float64)
    sizes[sizes == 0] = np.nan
    return sums / sizes.reshape(-1, *[1] * (x.ndim - 1))
