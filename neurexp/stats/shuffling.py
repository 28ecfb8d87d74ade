"""Shuffled labels, and groups: rows that belong together, such as all occurrences of one word.

A group's rows are never separated by a split, and labels are shuffled within groups where every group has every
category. Labels are integers from 0. Knows no statistic.
"""

from collections.abc import Iterator

import numpy as np

from neurexp.stats.chunks import labelling_chunks


def is_paired(labels: np.ndarray, groups: np.ndarray | None) -> bool:
    """Whether every group has the same number of rows of each category, and at least one.

    Args:
        labels: `[rows]` integers.
        groups: `[rows]`, the number of each row's group; None: no groups.
    """
    if groups is None:
        return False
    categories = int(labels.max()) + 1
    cells, counts = np.unique(groups.astype(np.int64) * categories + labels, return_counts=True)
    if len(cells) < categories * len(np.unique(groups)):
        return False
    by_group = counts.reshape(-1, categories)
    return bool((by_group == by_group[:, :1]).all())


def shuffle_within(labels: np.ndarray, strata: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The labels `[rows]` shuffled among the rows of each stratum; `strata` is `[rows]` integers."""
    return _shuffle(labels, strata, _rows_by_stratum(strata), random)


def _rows_by_stratum(strata: np.ndarray) -> np.ndarray:
    return np.lexsort((np.arange(len(strata)), strata))


def _shuffle(labels: np.ndarray, strata: np.ndarray, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    drawn = np.lexsort((random.random(len(labels)), strata))  # rows by stratum, in random order
    shuffled = np.empty_like(labels)
    shuffled[rows] = labels[drawn]
    return shuffled


def shuffles(
    labels: np.ndarray, draws: int, random: np.random.Generator, strata: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Shuffled labels, in batches `[some draws, rows]` that sum to `draws`.

    Args:
        labels: `[rows]` integers.
        draws: the number of shuffles.
        random: the source of randomness.
        strata: `[rows]` integers: labels are shuffled within each stratum; None: among all rows.
    """
    rows = None if strata is None else _rows_by_stratum(strata)
    for batch in labelling_chunks(draws, len(labels)):
        count = batch.stop - batch.start
        if strata is None or rows is None:
            yield random.permuted(np.repeat(labels[None], count, axis=0), axis=1)
        else:
            yield np.stack([_shuffle(labels, strata, rows, random) for _ in range(count)])


def strata_of_groups(labels: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    """The strata of a split: the numbers of the groups that have rows of the same categories, one array a stratum.

    Args:
        labels: `[rows]` integers.
        groups: `[rows]`, the number of each row's group.
    """
    numbers, group = np.unique(groups, return_inverse=True)
    present = np.zeros((len(numbers), int(labels.max()) + 1), dtype=bool)
    present[group, labels] = True
    # The strata are ordered by the binary number of their categories, whose most significant digit is the last category
    _, stratum = np.unique(np.packbits(present[:, ::-1], axis=1), axis=0, return_inverse=True)
    stratum = stratum.reshape(-1)
    order = np.argsort(stratum, kind="stable")
    return [numbers[members] for members in np.split(order, np.flatnonzero(np.diff(stratum[order])) + 1)]
