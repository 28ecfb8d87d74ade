"""Which neurons lead in several runs, against chance: overlaps of sets of neurons within strata, and ranks. Float64.

A *stratum* is a set of neurons that could change places by chance: a layer, or those of a layer with a similar spread.
The null: each run's order of the neurons within a stratum has nothing to do with the other runs'. Knows no run.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 10_000


@dataclass(frozen=True)
class Overlap:
    """A number of neurons beside what chance gives."""

    observed: int
    expected: float  # mean of the null, exact
    low: float  # the middle 95 % of the null
    high: float
    p: float  # of as many or more under the null

    @property
    def ratio(self) -> float:
        """Observed over expected; NaN where nothing is expected."""
        return self.observed / self.expected if self.expected > 0 else float("nan")


def leading(values: np.ndarray, strata: np.ndarray, share: float) -> np.ndarray:
    """The neurons with the largest |value| in each stratum, `[neurons]` bool.

    Of n neurons, `share` · n lead, rounded, and at least one. All neurons that tie with the last of them lead as well,
    because an order among them would be the same in every run. A value of 0 never leads.

    Args:
        values: `[neurons]`, not NaN; infinite ones are the largest.
        strata: `[neurons]` numbers of the strata.
        share: between 0 and 1.
    """
    size, leads = np.abs(values), np.zeros(len(values), dtype=bool)
    for members in _members(strata):
        count = max(1, round(share * len(members)))
        least = np.partition(size[members], -count)[-count]
        leads[members] = (size[members] >= least) & (size[members] > 0)
    return leads


def ranks(values: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """The rank of each |value| in its stratum, `[neurons]` int64: 1 the largest, ties share the smallest rank."""
    found = np.zeros(len(values), dtype=np.int64)
    for members in _members(strata):
        found[members] = stats.rankdata(-np.abs(values[members]), method="min")
    return found


def similar_strata(strata: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Divides each stratum by `values` `[neurons]` into parts of about `size` neurons, `[neurons]` numbers."""
    found, first = np.zeros(len(values), dtype=np.int64), 0
    for members in _members(strata):
        parts = max(1, len(members) // size)
        order = stats.rankdata(values[members], method="ordinal") - 1
        found[members] = first + order * parts // len(members)
        first += parts
    return found


def led_by_both(first: np.ndarray, second: np.ndarray, strata: np.ndarray) -> Overlap:
    """How many neurons lead in both of two runs. The null is exact.

    With n neurons in a stratum, of which a lead in the one run and b in the other, the number that leads in both is
    hypergeometric; strata are independent, so the distribution of their sum is the convolution.

    Args:
        first, second: `[neurons]` bool: who leads.
        strata: `[neurons]` numbers of the strata.
    """
    null, expected = np.ones(1), 0.0
    for members in _members(strata):
        n, a, b = len(members), int(first[members].sum()), int(second[members].sum())
        if a and b:
            null = np.convolve(null, stats.hypergeom.pmf(np.arange(min(a, b) + 1), n, a, b))
        expected += a * b / n
    observed = int((first & second).sum())
    low, high = (float(np.searchsorted(np.cumsum(null), point)) for point in (0.025, 0.975))
    return Overlap(observed, expected, low, high, float(min(1.0, null[observed:].sum())))


def times_led(leads: np.ndarray, strata: np.ndarray, layers: np.ndarray, seed: int, draws: int = DRAWS) -> np.ndarray:
    """In how many runs a neuron leads under the null, `[draws, layers, runs + 1]` int32 numbers of neurons.

    One run after the other is dealt out: those that lead in it are a random sample of the stratum without replacement,
    so the numbers of them that led in 0, 1, 2, … runs before are multivariate hypergeometric. No neuron is shuffled.

    Args:
        leads: `[runs, neurons]` bool.
        strata: `[neurons]` numbers of the strata.
        layers: `[neurons]` the strata's layers, over which the result sums, in ascending order.
        seed: of the draws.
        draws: how many.
    """
    random, runs = np.random.default_rng(seed), len(leads)
    names = np.unique(layers)
    counts = np.zeros((draws, len(names), runs + 1), dtype=np.int32)
    for members in _members(strata):
        wanted = leads[:, members].sum(1)
        of_stratum = np.zeros((draws if (wanted > 0).sum() > 1 else 1, runs + 1), dtype=np.int64)  # 1: no other way
        of_stratum[:, 0] = len(members)
        for run in range(runs):
            left, others = np.full((2, len(of_stratum)), len(members))
            left[:] = wanted[run]
            picked = np.zeros((len(of_stratum), run + 1), dtype=np.int64)
            for times in range(run + 1 if wanted[run] else 0):
                others -= of_stratum[:, times]
                picked[:, times] = random.hypergeometric(of_stratum[:, times], others, left)
                left -= picked[:, times]
            of_stratum[:, : run + 1] -= picked
            of_stratum[:, 1 : run + 2] += picked
        counts[:, np.searchsorted(names, layers[members[0]])] += of_stratum.astype(np.int32)
    return counts


def expected_times_led(leads: np.ndarray, strata: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """The exact mean of `times_led`, `[layers, runs + 1]`: the Poisson-binomial distribution over runs, times n."""
    names = np.unique(layers)
    found = np.zeros((len(names), len(leads) + 1))
    for members in _members(strata):
        chance = np.ones(1)
        for share in leads[:, members].mean(1):
            chance = np.convolve(chance, [1 - share, share])
        found[np.searchsorted(names, layers[members[0]])] += len(members) * chance
    return found


def at_least(observed: int, times: int, drawn: np.ndarray, expected: np.ndarray) -> Overlap:
    """How many neurons lead in at least `times` runs, over all layers given.

    Args:
        observed: their number.
        times: the least number of runs.
        drawn: of `times_led`.
        expected: of `expected_times_led`, for the same layers.

    Returns:
        p = (1 + draws with as many or more) / (draws + 1).
    """
    null = drawn[:, :, times:].sum((1, 2))
    low, high = np.quantile(null, (0.025, 0.975), method="inverted_cdf")
    p = (1 + int((null >= observed).sum())) / (len(null) + 1)
    return Overlap(observed, float(expected[:, times:].sum()), float(low), float(high), p)


def rank_correlation(first: np.ndarray, second: np.ndarray, strata: np.ndarray) -> tuple[float, float]:
    """Spearman's correlation of |first| and |second| within strata, and its two-sided p.

    Ranks (the mean rank for ties) are taken about the stratum's mean and divided by its size; the sums of products run
    over all strata. The null permutes within strata: the sum has the mean 0 and the variance
    Σ (Σx²)(Σy²)/(n − 1) over strata exactly, and is taken as normal. NaN where a run's values are all equal.
    """
    x, y = (_centred_ranks(np.abs(values), strata) for values in (first, second))
    _, place, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    xx, yy = (np.bincount(place, weights=ranks**2) for ranks in (x, y))
    variance = float((xx * yy / np.maximum(1, sizes - 1)).sum())
    if variance <= 0:
        return float("nan"), float("nan")
    products = float(x @ y)
    return products / float(np.sqrt(xx.sum() * yy.sum())), float(2 * stats.norm.sf(abs(products) / np.sqrt(variance)))


def _centred_ranks(values: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """The rank of each value in its stratum about the mean rank, divided by its size; ties share their mean."""
    order = np.lexsort((values, strata))
    stratum, value = strata[order], values[order]
    other_stratum = np.r_[True, stratum[1:] != stratum[:-1]]
    other_value = other_stratum | np.r_[True, value[1:] != value[:-1]]
    ranks = _middle(other_value) - _middle(other_stratum)
    found = np.empty(len(values))
    found[order] = ranks / np.bincount(np.cumsum(other_stratum) - 1)[np.cumsum(other_stratum) - 1]
    return found


def _middle(begins: np.ndarray) -> np.ndarray:
    """For each place, the middle of the run of places that it is in; `begins`: where runs begin."""
    first = np.flatnonzero(begins)
    last = np.r_[first[1:], len(begins)] - 1
    return ((first + last) / 2)[np.cumsum(begins) - 1]


def _members(strata: np.ndarray) -> list[np.ndarray]:
    """The places of each stratum's neurons, strata in ascending order."""
    order = np.argsort(strata, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(strata[order])) + 1)
