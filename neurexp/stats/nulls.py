"""What chance can do: labels dealt out anew, and rows drawn anew. Float64.

Knows no word and no model. Labels are 0 … categories − 1. Work is done in `parts`: memory does not depend on the number
of neurons, of labellings or of draws beyond one number of each.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from neurexp.stats.association import LEVEL
from neurexp.stats.contrast import FLAT, centred, f_over
from neurexp.stats.parts import CELLS, LABELLINGS, Advance, in_float64, no_progress, of_neurons, parts
from neurexp.stats.units import is_paired, shuffles

DRAWN = 2000  # labellings whose statistics are counted for a picture of the null
TIE = 1e-9  # relative and absolute: statistics as close as this are equal but for rounding


@dataclass(frozen=True)
class Permutation:
    """Against relabelled rows: p per neuron, p corrected for all neurons by the largest statistic, and the null."""

    p: np.ndarray  # [neurons]
    p_max: np.ndarray  # [neurons]
    observed: np.ndarray  # [neurons] |statistic|, by the same arithmetic as in the draws
    largest: np.ndarray  # [draws] the largest |statistic| of any neuron
    counts: np.ndarray  # [bins] of all neurons' statistics over the first 2,000 draws, or some more
    edges: np.ndarray  # [bins + 1]
    exact: bool  # every distinct labelling was taken once, so that p needs no +1


def permutation(
    x: np.ndarray,
    labels: np.ndarray,
    draws: int,
    seed: int,
    units: np.ndarray | None = None,
    bins: int = 120,
    tick: Advance = no_progress,
) -> Permutation:
    """Deals the labels out anew: how often is |Welch t| (more categories: F) as large as the one observed?

    p = (1 + exceedances) / (draws + 1) (Phipson and Smyth 2010, Statistical Applications in Genetics 9). `p_max`
    compares with the largest of all neurons in each draw (Westfall and Young 1993): it controls the chance of a single
    false find in the layer under any dependence between neurons. Two categories with no more than `draws` distinct
    labellings are enumerated, and p = exceedances / labellings, the observed one among them.

    Args:
        x: `[rows, neurons]`.
        labels: `[rows]`.
        draws: of labellings.
        seed: of the draws.
        units: `[rows]`: rows of one unit (a word in two sentences) change labels among themselves only, if every unit
            has as many rows of each category.
        bins: of the null's histogram.
        tick: is told of the progress.
    """
    make = f_over if labels.max() > 1 else _welch_over
    columns = of_neurons(x, LABELLINGS)
    only = make(in_float64(x, columns[0])) if len(columns) == 1 else None

    def statistics(labellings: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        for part in columns:
            yield part, (only or make(in_float64(x, part)))(labellings)

    # By the same arithmetic as the draws, or the observed labelling might not be found as extreme as itself
    observed = np.concatenate([np.abs(found[0]) for _, found in statistics(labels[None])])
    defined, threshold = np.isfinite(observed), _threshold(observed)
    ones, within = int((labels == 1).sum()), units if is_paired(labels, units) else None
    exact = labels.max() == 1 and within is None and _are_few(len(labels), ones, draws)
    random = np.random.default_rng(seed)
    edges = np.linspace(-6.0, 6.0, bins + 1)
    exceed, counts, largest = np.zeros(x.shape[1], dtype=np.int64), np.zeros(bins, dtype=np.int64), []
    done = 0
    for batch in _every_labelling(len(labels), ones) if exact else shuffles(labels, draws, random, within):
        highest, first, pictured = np.zeros(len(batch)), done == 0, done < DRAWN
        for part, drawn in statistics(batch):
            magnitude = np.where(np.isfinite(drawn), np.abs(drawn), 0.0)
            exceed[part] += (magnitude >= threshold[part]).sum(0)
            np.maximum(highest, magnitude.max(1, initial=0.0), out=highest)
            if pictured and not first:
                counts += np.histogram(drawn[:, defined[part]], edges)[0]
        if first:
            top = 1.5 * max(float(highest.max()), 1.0)  # hardly a later draw lies beyond
            edges = np.linspace(0.0 if labels.max() > 1 else -top, top, bins + 1)
            for part, drawn in statistics(batch):
                counts += np.histogram(drawn[:, defined[part]], edges)[0]
        largest.append(highest)
        done += len(batch)
        tick(len(batch) / draws)
    every = np.concatenate(largest)
    add = 0 if exact else 1
    p = np.where(defined, (exceed + add) / (len(every) + add), 1.0)
    return Permutation(p, p_of_largest(observed, every, exact), observed, every, counts, edges, bool(exact))


def _are_few(rows: int, ones: int, most: int) -> bool:
    """Whether there are no more than `most` ways to choose `ones` of `rows`."""
    ways = 1
    for chosen in range(min(ones, rows - ones)):
        ways = ways * (rows - chosen) // (chosen + 1)
        if ways > most:  # it only grows
            return False
    return True


def _threshold(observed: np.ndarray) -> np.ndarray:
    """What counts as at least as large as each observed |statistic|; nothing does where it is undefined.

    A statistic of the same labelling differs by rounding only, but the larger it is the more: it divides by what
    cancellation left of the variance.
    """
    rounding = np.minimum(TIE + 1e-14 * observed**2, 0.5)
    return np.where(np.isfinite(observed), observed * (1 - rounding) - TIE, np.inf)


def p_of_largest(observed: np.ndarray, largest: np.ndarray, exact: bool) -> np.ndarray:
    """p of each |statistic| against the largest of all neurons in each draw `[draws]`; 1 where undefined."""
    defined, add = np.isfinite(observed), 0 if exact else 1
    exceed = len(largest) - np.searchsorted(np.sort(largest), _threshold(np.abs(observed)), side="left")
    return np.where(defined, (exceed + add) / (len(largest) + add), 1.0)


def _welch_over(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Welch's t as a function of labels 0/1 `[draws, rows]`, all with the same numbers of each, in few operations.

    x is about its mean, so the groups' sums are each other's negative, and their sums of squares add up to the whole:
    the squared error of the difference is linear in one group's sum of squares and in the square of its sum. With
    groups of equal size the sums of squares fall out.
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


def _every_labelling(rows: int, ones: int):
    chunk: list[np.ndarray] = []
    for chosen in combinations(range(rows), ones):
        labels = np.zeros(rows, dtype=np.int64)
        labels[list(chosen)] = 1
        chunk.append(labels)
        if len(chunk) == LABELLINGS:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)


def auroc_interval(x: np.ndarray, labels: np.ndarray, units: np.ndarray, draws: int, seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of one neuron's AUROC, by drawing units of each category anew (bootstrap).

    A draw counts each unit's rows as often as the unit was drawn. Its AUROC follows from one sum along the sorted rows,
    so time and memory are linear in the rows.

    Args:
        x: `[rows]`.
        labels: `[rows]`, 0 or 1.
        units: `[rows]`: rows of one unit (a word that occurs several times) are drawn together.
        draws: how many.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    times = []  # each unit was drawn, `[draws, units]`, for category 0 and 1
    of_row = np.zeros(len(x), dtype=np.int64)
    for category in (0, 1):
        _, of_row[labels == category] = np.unique(units[labels == category], return_inverse=True)
        count = int(of_row[labels == category].max()) + 1
        share, drawn = np.full(count, 1 / count), np.empty((draws, count), dtype=np.int32)
        for part in parts(draws, CELLS // count):
            drawn[part] = random.multinomial(count, share, size=part.stop - part.start)
        times.append(drawn)
    order = np.argsort(x, kind="stable")
    values, one = x[order], labels[order] == 1
    zero_units, one_units = of_row[order][~one], of_row[order][one]
    zeros_before = np.concatenate([[0], np.cumsum(~one)])
    # Of each row of category 1: the rows of category 0 that lie below it, and those that do not lie above it
    below = zeros_before[np.searchsorted(values, values[one], side="left")]
    not_above = zeros_before[np.searchsorted(values, values[one], side="right")]
    scores = []
    for part in parts(draws, CELLS // len(x)):
        sums = np.pad(times[0][part][:, zero_units].cumsum(1, dtype=np.float64), ((0, 0), (1, 0)))
        weight = times[1][part][:, one_units].astype(np.float64)
        above = np.einsum("br,br->b", weight, sums[:, below] + sums[:, not_above]) / 2  # ties count half
        scores.append(above / (weight.sum(1) * sums[:, -1]))
    low, high = np.quantile(np.concatenate(scores), (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)
