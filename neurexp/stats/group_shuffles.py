"""Labels shuffled over groups of rows: every row of a group (all occurrences of a word) keeps the same label.

Rows of one word are no independent evidence. A test that shuffles rows takes them as such, and finds too much. Knows no
word and no model.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import special

from neurexp.stats.chunks import (
    ProgressCallback,
    in_float64,
    in_neuron_chunks,
    labelling_chunks,
    neuron_chunks,
    no_progress,
)
from neurexp.stats.hypothesis_tests import TestResult
from neurexp.stats.rounding import FLAT, centred
from neurexp.stats.shuffling import shuffle_within

FEW_SPLITS = 200  # distinct splits of groups, up to which all of them are enumerated
TIE = 1e-9  # relative: statistics as close as this are taken as equal


@in_neuron_chunks
def student(x: np.ndarray, labels: np.ndarray) -> TestResult:
    """Student's t of two categories with equal variances, positive where category 1 is higher, and its two-sided p.

    Args:
        x: `[rows, neurons]`.
        labels: `[rows]`, 0 or 1.
    """
    x, _ = centred(x)
    one, zero = x[labels == 1], x[labels == 0]
    degrees = len(x) - 2
    within = (one.var(0) * len(one) + zero.var(0) * len(zero)) / degrees
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(np.maximum(within, FLAT * (x**2).mean(0)) * (1 / len(one) + 1 / len(zero)))
        t = (one.mean(0) - zero.mean(0)) / error
    p = 2 * special.stdtr(degrees, -np.abs(t))
    return TestResult(t, np.where(np.isfinite(p), p, 1.0))


def shuffle_groups(
    labels: np.ndarray, groups: np.ndarray, random: np.random.Generator, blocks: np.ndarray | None = None
) -> np.ndarray:
    """The labels of whole groups shuffled among the groups, `[rows]`. The number of rows with a label may change.

    Args:
        labels: `[rows]`, the same within each group.
        groups: `[rows]`, the number of each row's group, from 0 without a gap.
        random: the source of randomness.
        blocks: `[rows]` integers, the same within each group: labels are shuffled among the groups of a block only.
    """
    of_group = np.zeros(int(groups.max()) + 1, dtype=labels.dtype)
    of_group[groups] = labels
    if blocks is None:
        return random.permutation(of_group)[groups]
    block = np.zeros(len(of_group), dtype=np.int64)
    block[groups] = blocks
    return shuffle_within(of_group, block, random)[groups]


def splits_of_groups(labels: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Ways to label groups, as many of them 1 as in `labels`; the given one is the first, `[splits, groups]`.

    If there are at most `FEW_SPLITS` distinct ones, these are all of them; otherwise the others are random shuffles.
    With categories of equal size, exchanging them is no other split: of four and four groups there are 35.

    Args:
        labels: `[groups]`, 0 or 1.
        draws: the number of shuffles.
        seed: of the shuffles.
    """
    groups, ones = len(labels), int(labels.sum())
    equal = 2 * ones == groups
    if math.comb(groups, ones) // (1 + equal) > FEW_SPLITS:
        random = np.random.default_rng(seed)
        return np.stack([labels, *(random.permutation(labels) for _ in range(draws))])
    every = np.zeros((math.comb(groups, ones), groups), dtype=labels.dtype)
    for split, chosen in zip(every, combinations(range(groups), ones), strict=True):
        split[list(chosen)] = 1
    every = every[every[:, 0] == labels[0]] if equal else every
    return np.concatenate([labels[None], every[(every != labels).any(1)]])


@dataclass(frozen=True)
class GroupPermutation:
    """The p of each neuron among shuffles of the labels over groups, `[neurons]` each."""

    p: np.ndarray
    p_max: np.ndarray  # corrected for all neurons, by the largest statistic of each draw


def group_permutation(
    x: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    draws: int,
    seed: int,
    progress: ProgressCallback = no_progress,
    blocks: np.ndarray | None = None,
) -> GroupPermutation:
    """How often is |r| of the neuron and labels that are shuffled over groups at least as large as the observed |r|?

    p = (1 + exceedances) / (draws + 1). r orders neurons as the score test of a logistic regression does: its χ² is
    rows · r². `p_max` compares with the largest |r| of all neurons in each draw (Westfall and Young 1993).

    Args:
        x: `[rows, neurons]`.
        labels: `[rows]`, 0 or 1, the same within each group.
        groups: `[rows]`, the number of each row's group, from 0 without a gap.
        draws: the number of shuffles.
        seed: of the shuffles.
        progress: called with each share of the work that is done.
        blocks: as in `shuffle_groups`.
    """
    random, neurons = np.random.default_rng(seed), x.shape[1]
    shuffled = [shuffle_groups(labels, groups, random, blocks) for _ in range(draws)]
    labellings = np.stack([labels, *shuffled]).astype(np.int8)
    observed, exceed, largest = np.zeros(neurons), np.zeros(neurons, dtype=np.int64), np.zeros(draws)
    columns = neuron_chunks(x, 1)
    for chunk in columns:
        z, varies = centred(in_float64(x, chunk))
        z /= np.where(varies, z.std(0), 1.0)
        observed[chunk] = _correlations(labellings[:1], z)[0]
        threshold = observed[chunk] * (1 - TIE)
        for part in labelling_chunks(draws, max(z.shape)):
            drawn = _correlations(labellings[1:][part], z)
            exceed[chunk] += ((drawn >= threshold) & varies).sum(0)
            exceed[chunk] += np.where(varies, 0, len(drawn))
            largest[part] = np.maximum(largest[part], drawn.max(1, initial=0.0))
            progress(len(drawn) / draws / len(columns))
    beyond = draws - np.searchsorted(np.sort(largest), observed * (1 - TIE), side="left")
    return GroupPermutation((1 + exceed) / (draws + 1), (1 + beyond) / (draws + 1))


def _correlations(labellings: np.ndarray, z: np.ndarray) -> np.ndarray:
    """|r| of each labelling `[labellings, rows]` and each standardised neuron `[rows, neurons]`; 0 for one label."""
    y = labellings - labellings.mean(1, keepdims=True)
    spread = np.sqrt((y**2).sum(1, keepdims=True) * len(z))
    return np.abs(y @ z) / np.where(spread > 0, spread, 1.0)
