"""How concentrated a few items are: is one type among them more common than among random items of like frequency?

The null is exact, without draws. Types of like frequency are in one band. A row keeps how many of its items are in each
band, and the items of a band are random occurrences of that band's types, without replacement. Bands are independent
then, and within a band the counts of types are multivariate hypergeometric: the probability that none is above c is a
coefficient of a product of polynomials, Π over types Σ j ≤ c C(m, j) xʲ, where m is how often the type occurs
(Levin 1981, "A representation for multinomial cumulative distribution functions", has the multinomial case). The p is
as discrete as the largest count is: where nothing is concentrated it errs less often than its level. In a band with one
very common type, a row of another type must be the more concentrated to be told from chance.

Knows no neuron and no text: an item is a whole number, its type.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.special import gammaln

from neurexp.stats.chunks import CHUNK_SIZE, ProgressCallback, chunks, no_progress

NONE = -1  # in place of an item, where there are fewer
MOST_ITEMS = 100  # in a row: the null's cost grows with its third power
LEAST_TYPES = 16  # in a band
LARGEST_SHARE = 0.25  # of a band's occurrences that one type may have
SMALLEST_P = 1e-12  # what rounding leaves of 1 − a probability


@dataclass(frozen=True)
class Pool:
    """Which types are of like frequency."""

    counts: np.ndarray  # [types] how often each occurs
    band: np.ndarray  # [types] int16, from the most frequent types; −1 for a type that does not occur
    bands: int

    @classmethod
    def of(cls, counts: np.ndarray) -> Self:
        """The bands of types that occur `counts` `[types]` times.

        A band is an octave of the number of occurrences (1, 2–3, 4–7, …). One with fewer than `LEAST_TYPES` types, or
        with a type that has more than `LARGEST_SHARE` of its occurrences, is joined with the next lower octaves until
        it has enough: no type is alone. What is left at the lower end is joined with the band above it.
        """
        octave = np.where(counts > 0, np.floor(np.log2(np.maximum(counts, 1))), -1).astype(np.int16)
        band = np.full(len(counts), -1, dtype=np.int16)
        bands, members = 0, np.zeros(len(counts), dtype=bool)
        for one in range(int(octave.max(initial=-1)), -1, -1):
            members |= octave == one
            own = counts[members]
            if len(own) >= LEAST_TYPES and own.max() <= LARGEST_SHARE * own.sum():
                band[members] = bands
                bands, members = bands + 1, np.zeros(len(counts), dtype=bool)
        if members.any():
            band[members] = max(0, bands - 1)
            bands = max(1, bands)
        return cls(counts, band, bands)


@dataclass(frozen=True)
class Concentration:
    """Of rows of items, `[rows]` each; missing (NaN) in a row without items."""

    commonest: np.ndarray  # the type that occurs most, of equals the one that comes first; NONE in a row without items
    share: np.ndarray  # of the commonest type among the row's items
    entropy: np.ndarray  # of the types in the row, bits
    share_null: np.ndarray  # its expectation for random items
    entropy_null: np.ndarray
    p: np.ndarray  # probability that random items have a share as large or larger; `SMALLEST_P` or more


def concentration(items: np.ndarray, pool: Pool, progress: ProgressCallback = no_progress) -> Concentration:
    """The concentration of each row, against rows of random items of the same bands of frequency.

    Args:
        items: `[rows, k]` types, NONE where there are fewer than k; k is at most `MOST_ITEMS`. They are different
            occurrences: a type is not more often in a row than it occurs.
        pool: the types that occur; all items are among them.
        progress: called with each share of the work that is done.
    """
    rows, k = items.shape
    assert k <= MOST_ITEMS
    members = [pool.counts[pool.band == band] for band in range(pool.bands)] if rows else []
    tables = [(_at_most(counts, k), _expected_sum(counts, k)) for counts in members]
    parts = []
    for some in chunks(rows, CHUNK_SIZE // (k + 1)):
        own = items[some]
        there = own != NONE
        largest, entropy = _counted(own)
        band = np.where(there, pool.band[np.maximum(own, 0)], NONE)
        at_most, total = np.ones((len(own), k + 1)), np.zeros(len(own))
        for index, (below, expected) in enumerate(tables):
            inside = (band == index).sum(1)
            at_most *= below[inside]
            total += expected[inside]
        size = there.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            share, share_null = largest / size, (1 - at_most).sum(1) / size
            entropy_null = np.maximum(np.log2(size) - total / size, 0)
        p = (1 - at_most[np.arange(len(own)), np.maximum(largest - 1, 0)]).clip(SMALLEST_P, 1)
        values = _commonest(own), share, entropy, share_null, entropy_null, p
        parts.append([np.where(size > 0, one, missing) for one, missing in zip(values, _MISSING, strict=True)])
        progress(len(own) / rows)
    joined = [np.concatenate(part) for part in zip(*parts, strict=True)] if parts else [np.zeros(0)] * len(_MISSING)
    return Concentration(*joined)


_MISSING = (NONE, np.nan, np.nan, np.nan, np.nan, np.nan)


def _at_most(counts: np.ndarray, k: int) -> np.ndarray:
    """The probability that no type is among n random occurrences more than c times, `[k + 1 of n, k + 1 of c]`.

    `counts` `[types]` says how often each type occurs. All terms are positive, so that nothing cancels.
    """
    total, index = counts.sum(), np.arange(k + 1)
    whole = np.zeros((k + 1, k + 1))  # [c, power of x / total]
    whole[:, 0] = 1
    for count, times in zip(*np.unique(counts, return_counts=True), strict=True):
        terms = np.cumprod(np.concatenate([[1.0], np.maximum(count - index[:-1], 0) / index[1:] / total]))
        power = np.where(index <= index[:, None], terms, 0.0)
        left = int(times)
        while left:
            whole = _product(whole, power) if left % 2 else whole
            left //= 2
            power = _product(power, power) if left else power
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (whole / whole[-1]).T
    return np.where((index >= index[:, None]) | ~np.isfinite(found), 1.0, np.minimum(found, 1.0))


def _product(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of polynomials, row by row `[rows, powers]`, without the powers above the last."""
    found, powers = np.zeros_like(one), one.shape[1]
    for power in np.flatnonzero(other.any(0)):
        found[:, power:] += other[:, power, None] * one[:, : powers - power]
    return found


def _expected_sum(counts: np.ndarray, k: int) -> np.ndarray:
    """The expectation of Σ over types c · log2 c among n random occurrences, `[k + 1 of n]`."""

    def log_choose(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
        found = gammaln(whole + 1.0) - gammaln(part + 1.0) - gammaln(np.maximum(whole - part, 0) + 1.0)
        return np.where(part <= whole, found, -np.inf)

    total, n, expected = counts.sum(), np.arange(k + 1), np.zeros(k + 1)
    values, times = np.unique(counts, return_counts=True)
    for c in range(2, k + 1):
        left = np.maximum(n - c, 0)
        ways = log_choose(values, np.array(c))[:, None] + log_choose((total - values)[:, None], left)
        ways -= log_choose(total, np.minimum(n, total))  # no row has more items than there are
        expected += times @ np.exp(np.where(n >= c, ways, -np.inf)) * c * np.log2(c)
    return expected


def _counted(items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often the commonest type is in each row `[rows, k]`, and the entropy of the row's types in bits."""
    rows, k = items.shape
    ordered = np.ascontiguousarray(np.sort(items, axis=1).T)  # missing ones come first
    # Σ c · log2 c over types is a sum over items: the j-th of its type adds what c · log2 c grows by from j − 1 to j
    multiples = np.arange(1, k + 1) * np.log2(np.arange(1, k + 1))
    growth = np.diff(multiples, prepend=0.0)
    run, largest = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    total, previous = np.zeros(rows), np.full(rows, NONE, dtype=items.dtype)
    for row in ordered:
        run = np.where(row == previous, run + 1, 1)
        run[row == NONE] = 0
        np.maximum(largest, run, out=largest)
        repeated = run > 1
        if repeated.any():
            total[repeated] += growth[run[repeated] - 1]
        previous = row
    size = (items != NONE).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        entropy = np.log2(size) - total / size
    return largest, np.maximum(entropy, 0.0)


def _commonest(items: np.ndarray) -> np.ndarray:
    """The commonest type of each row `[rows, k]`; of equally common ones the one that comes first."""
    counts = np.zeros(items.shape, dtype=np.int64)
    for column in items.T:
        counts += items == column[:, None]
    counts[items == NONE] = 0
    return np.take_along_axis(items, counts.argmax(1)[:, None], axis=1)[:, 0]
