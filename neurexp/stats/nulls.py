"""Null distributions: what shuffled labels give, and resampled rows (bootstrap). Float64.

Knows no word and no model. The work is done in `chunks`: memory grows only by one number for each neuron and each draw.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np

from neurexp.stats.association import LEVEL
from neurexp.stats.chunks import (
    CHUNK_SIZE,
    MOST_LABELLINGS,
    ProgressCallback,
    chunks,
    in_float64,
    neuron_chunks,
    no_progress,
)
from neurexp.stats.hypothesis_tests import anova_of
from neurexp.stats.rounding import FLAT, centred
from neurexp.stats.shuffling import is_paired, shuffles

PICTURED = 2000  # draws whose statistics are counted in the histogram
TIE = 1e-9  # relative and absolute: statistics as close as this are taken as equal


@dataclass(frozen=True)
class Permutation:
    """The result of a permutation test of every neuron."""

    p: np.ndarray  # [neurons]
    p_max: np.ndarray  # [neurons] corrected for all neurons, by the largest statistic of each draw
    observed: np.ndarray  # [neurons] |statistic|, computed in the same way as in the draws
    largest: np.ndarray  # [draws] the largest |statistic| of any neuron
    counts: np.ndarray  # [bins] histogram of all neurons' statistics over about the first 2,000 draws
    edges: np.ndarray  # [bins + 1]
    exact: bool  # all distinct labellings were enumerated, and p has no + 1


def permutation(
    x: np.ndarray,
    labels: np.ndarray,
    draws: int,
    seed: int,
    groups: np.ndarray | None = None,
    bins: int = 120,
    progress: ProgressCallback = no_progress,
) -> Permutation:
    """How often is |Welch's t| (with more categories, F) of shuffled labels at least as large as the observed one?

    p = (1 + exceedances) / (draws + 1) (Phipson and Smyth 2010, Statistical Applications in Genetics 9). `p_max`
    compares with the largest statistic of all neurons in each draw (Westfall and Young 1993). It controls the chance of
    one or more false positives in the layer, however the neurons depend on each other. If two categories have at most
    `draws` distinct labellings, all of them are enumerated, the observed one included, and p = exceedances /
    labellings.

    Args:
        x: `[rows, neurons]`.
        labels: `[rows]`.
        draws: the number of shuffles.
        seed: of the shuffles.
        groups: `[rows]`: labels are shuffled within groups (a word in two sentences) if every group has the same number
            of rows of each category.
        bins: of the histogram.
        progress: called with each share of the work that is done.
    """
    statistic_of = anova_of if labels.max() > 1 else _welch_of
    columns = neuron_chunks(x, MOST_LABELLINGS)
    prepared = statistic_of(in_float64(x, columns[0])) if len(columns) == 1 else None

    def statistics(labellings: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        for chunk in columns:
            yield chunk, (prepared or statistic_of(in_float64(x, chunk)))(labellings)

    # Computed in the same way as the draws: otherwise the observed labelling might not be as extreme as itself
    observed = np.concatenate([np.abs(statistic[0]) for _, statistic in statistics(labels[None])])
    defined, threshold = np.isfinite(observed), _threshold(observed)
    ones, strata = int((labels == 1).sum()), groups if is_paired(labels, groups) else None
    exact = bool(labels.max() == 1 and strata is None and _are_few(len(labels), ones, draws))
    random = np.random.default_rng(seed)
    edges = np.linspace(-6.0, 6.0, bins + 1)
    exceed, counts, largest = np.zeros(x.shape[1], dtype=np.int64), np.zeros(bins, dtype=np.int64), []
    done = 0
    for batch in _all_labellings(len(labels), ones) if exact else shuffles(labels, draws, random, strata):
        highest, first, pictured = np.zeros(len(batch)), done == 0, done < PICTURED
        for chunk, drawn in statistics(batch):
            magnitude = np.where(np.isfinite(drawn), np.abs(drawn), 0.0)
            exceed[chunk] += (magnitude >= threshold[chunk]).sum(0)
            np.maximum(highest, magnitude.max(1, initial=0.0), out=highest)
            if pictured and not first:
                counts += np.histogram(drawn[:, defined[chunk]], edges)[0]
        if first:
            top = 1.5 * max(float(highest.max()), 1.0)  # almost no later draw exceeds this
            edges = np.linspace(0.0 if labels.max() > 1 else -top, top, bins + 1)
            for chunk, drawn in statistics(batch):
                counts += np.histogram(drawn[:, defined[chunk]], edges)[0]
        largest.append(highest)
        done += len(batch)
        progress(len(batch) / draws)
    all_largest = np.concatenate(largest)
    add = 0 if exact else 1
    p = np.where(defined, (exceed + add) / (len(all_largest) + add), 1.0)
    return Permutation(p, p_of_largest(observed, all_largest, exact), observed, all_largest, counts, edges, exact)


def _are_few(rows: int, ones: int, most: int) -> bool:
    """Whether there are at most `most` ways to choose `ones` of `rows`."""
    ways = 1
    for chosen in range(min(ones, rows - ones)):
        ways = ways * (rows - chosen) // (chosen + 1)
        if ways > most:  # the number only grows
            return False
    return True


def _threshold(observed: np.ndarray) -> np.ndarray:
    """The value from which a drawn |statistic| counts as at least as large as the observed one; inf where undefined.

    Statistics of the same labelling differ by rounding only. The difference grows with the statistic, which divides by
    the small variance that is left after a subtraction.
    """
    rounding = np.minimum(TIE + 1e-14 * observed**2, 0.5)
    return np.where(np.isfinite(observed), observed * (1 - rounding) - TIE, np.inf)


def p_of_largest(observed: np.ndarray, largest: np.ndarray, exact: bool) -> np.ndarray:
    """p of each |statistic| against the largest one of all neurons in each draw; 1 where undefined.

    Args:
        observed: `[neurons]`.
        largest: `[draws]`.
        exact: whether the draws are all distinct labellings, as in `Permutation`.
    """
    defined, add = np.isfinite(observed), 0 if exact else 1
    exceed = len(largest) - np.searchsorted(np.sort(largest), _threshold(np.abs(observed)), side="left")
    return np.where(defined, (exceed + add) / (len(largest) + add), 1.0)


def _welch_of(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Welch's t as a fast function of labels 0 and 1 `[draws, rows]`, all with the same number of each.

    x is centred, so the sums of the two categories are each other's negative, and their sums of squares add up to the
    total. The squared error of the difference is therefore linear in one category's sum of squares and in the square of
    its sum. With categories of equal size the sum of squares cancels.
    """
    x, _ = centred(x)
    rows, x2 = len(x), x**2
    total = x2.sum(0)

    def statistic(labels: np.ndarray) -> np.ndarray:
        member = labels.astype(float)
        n1 = member[0].sum()
        n0 = rows - n1
        a1, a0 = 1 / (n1 * (n1 - 1)), 1 / (n0 * (n0 - 1))
        sums = member @ x
        error = sums**2
        error *= -(a1 / n1 + a0 / n0)
        error += total * a0
        if n1 != n0:
            error += (a1 - a0) * (member @ x2)
        np.maximum(error, FLAT * total / rows * (1 / (n1 - 1) + 1 / (n0 - 1)), out=error)
        np.sqrt(error, out=error)
        sums *= 1 / n1 + 1 / n0
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.divide(sums, error, out=sums)

    return statistic


def _all_labellings(rows: int, ones: int) -> Iterator[np.ndarray]:
    """All ways to label `ones` of the rows 1 and the others 0, in batches `[some labellings, rows]`."""
    chosen = combinations(range(rows), ones)
    while batch := list(islice(chosen, MOST_LABELLINGS)):
        labels = np.zeros((len(batch), rows), dtype=np.int64)
        np.put_along_axis(labels, np.array(batch), 1, axis=1)
        yield labels


def auroc_interval(x: np.ndarray, labels: np.ndarray, groups: np.ndarray, draws: int, seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of one neuron's AUROC, by a bootstrap of the groups of each category.

    A group's rows count as often as the group was drawn. The AUROC of a draw is computed from one cumulative sum over
    the sorted rows, so time and memory are linear in the rows.

    Args:
        x: `[rows]`.
        labels: `[rows]`, 0 or 1.
        groups: `[rows]`: rows of one group (a word that occurs several times) are drawn together.
        draws: the number of bootstrap samples.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    times_drawn = []  # of each group, `[draws, groups]`, for category 0 and 1
    group_of_row = np.zeros(len(x), dtype=np.int64)
    for category in (0, 1):
        _, group_of_row[labels == category] = np.unique(groups[labels == category], return_inverse=True)
        count = int(group_of_row[labels == category].max()) + 1
        share, drawn = np.full(count, 1 / count), np.empty((draws, count), dtype=np.int32)
        for chunk in chunks(draws, CHUNK_SIZE // count):
            drawn[chunk] = random.multinomial(count, share, size=chunk.stop - chunk.start)
        times_drawn.append(drawn)
    order = np.argsort(x, kind="stable")
    values, one = x[order], labels[order] == 1
    zero_groups, one_groups = group_of_row[order][~one], group_of_row[order][one]
    zeros_before = np.concatenate([[0], np.cumsum(~one)])
    # For each row of category 1, the number of rows of category 0 below it, and below it or equal to it
    below = zeros_before[np.searchsorted(values, values[one], side="left")]
    not_above = zeros_before[np.searchsorted(values, values[one], side="right")]
    scores = []
    for chunk in chunks(draws, CHUNK_SIZE // len(x)):
        sums = np.pad(times_drawn[0][chunk][:, zero_groups].cumsum(1, dtype=np.float64), ((0, 0), (1, 0)))
        weight = times_drawn[1][chunk][:, one_groups].astype(np.float64)
        above = np.einsum("br,br->b", weight, sums[:, below] + sums[:, not_above]) / 2  # ties count half
        scores.append(above / (weight.sum(1) * sums[:, -1]))
    low, high = np.quantile(np.concatenate(scores), (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)
