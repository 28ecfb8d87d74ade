"""Labels dealt out anew, and rows that belong together: a unit is a word, whose rows are its occurrences.

Knows no statistic.
"""

from collections.abc import Iterator

import numpy as np

from neurexp.stats.parts import of_labellings


def is_paired(labels: np.ndarray, units: np.ndarray | None) -> bool:
    """Whether every unit has the same number of rows, at least one, of each category."""
    if units is None:
        return False
    categories = int(labels.max()) + 1
    kinds, counts = np.unique(units.astype(np.int64) * categories + labels, return_counts=True)
    # Every unit has every category, and as many rows of each as of its first
    return bool(
        len(kinds) == categories * len(np.unique(units))
        and (counts.reshape(-1, categories) == counts.reshape(-1, categories)[:, :1]).all()
    )


def shuffled_within(labels: np.ndarray, groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The labels dealt out anew among the rows of each group."""
    into = np.lexsort((np.arange(len(labels)), groups))  # rows by group, in order
    return _dealt(labels, groups, into, random)


def _dealt(labels: np.ndarray, groups: np.ndarray, into: np.ndarray, random: np.random.Generator) -> np.ndarray:
    drawn = np.lexsort((random.random(len(labels)), groups))  # rows by group, in random order
    shuffled = np.empty_like(labels)
    shuffled[into] = labels[drawn]
    return shuffled


def shuffles(
    labels: np.ndarray, draws: int, random: np.random.Generator, units: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """`draws` labellings `[some, rows]` at a time, dealt out among all rows, or within `units` where they are given."""
    into = None if units is None else np.lexsort((np.arange(len(labels)), units))
    for part in of_labellings(draws, len(labels)):
        count = part.stop - part.start
        if into is None:
            yield random.permuted(np.repeat(labels[None], count, axis=0), axis=1)
        else:
            assert units is not None
            yield np.stack([_dealt(labels, units, into, random) for _ in range(count)])


def strata(labels: np.ndarray, units: np.ndarray) -> list[np.ndarray]:
    """The units by kind; units are of one kind if they have rows of the same categories. Any number of categories."""
    numbers, unit = np.unique(units, return_inverse=True)
    present = np.zeros((len(numbers), int(labels.max()) + 1), dtype=bool)
    present[unit, labels] = True
    # In the order of the binary numbers whose digits these are, the last category first
    _, kind = np.unique(np.packbits(present[:, ::-1], axis=1), axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    order = np.argsort(kind, kind="stable")
    return [numbers[members] for members in np.split(order, np.flatnonzero(np.diff(kind[order])) + 1)]
