"""How concentrated a few items are: is one type among them more common than among random items of like frequency?

Knows no neuron and no text: an item is a whole number, its type.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from neurexp.stats.chunks import CHUNK_SIZE, ProgressCallback, chunks, no_progress

NONE = -1  # in place of an item, where there are fewer


@dataclass(frozen=True)
class Pool:
    """All occurrences of types, sorted by the octave of the type's number of occurrences (1, 2–3, 4–7, …)."""

    items: np.ndarray  # [occurrences] int32 the types
    octave: np.ndarray  # [types] int8; 0 for a type that does not occur
    start: np.ndarray  # [octaves + 1] where each octave begins among the items

    @classmethod
    def of(cls, counts: np.ndarray) -> Self:
        """The pool of types that occur `counts` `[types]` times."""
        octave = np.where(counts > 0, np.floor(np.log2(np.maximum(counts, 1))), 0).astype(np.int8)
        types = np.flatnonzero(counts)
        types = types[np.argsort(octave[types], kind="stable")]
        sizes = np.bincount(octave[types], counts[types], minlength=int(octave.max(initial=0)) + 1)
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return cls(np.repeat(types, counts[types]).astype(np.int32), octave, start)

    def draw(self, types: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
        """Random occurrences of the octaves of `types` `[…]`, which all occur: `[draws, …]` int32."""
        octave = self.octave[types]
        low, size = self.start[octave], np.diff(self.start)[octave]
        return self.items[low + (random.random((draws, *types.shape), dtype=np.float32) * size).astype(np.int64)]


@dataclass(frozen=True)
class Concentration:
    """Of rows of items, `[rows]` each."""

    commonest: np.ndarray  # the type that occurs most, of equals the one that comes first; NONE in a row without items
    share: np.ndarray  # of the commonest type among the row's items
    entropy: np.ndarray  # of the types in the row, bits
    share_null: np.ndarray  # mean over the draws
    entropy_null: np.ndarray
    p: np.ndarray  # by rank: (1 + draws whose share is as large or larger) / (1 + draws)


def concentration(
    items: np.ndarray, pool: Pool, draws: int, seed: int, progress: ProgressCallback = no_progress
) -> Concentration:
    """The concentration of each row, against rows of random items of the same octaves of frequency.

    Args:
        items: `[rows, k]` types, NONE where there are fewer than k.
        pool: what random items are drawn from, with replacement; all of the types occur in it.
        draws: of the null.
        seed: of the draws.
        progress: called with each share of the work that is done.
    """
    random = np.random.default_rng([seed, 99])
    rows, k = items.shape
    parts = []
    for some in chunks(rows, CHUNK_SIZE // max(1, draws * k)):
        own = items[some]
        there = own != NONE
        largest, entropy = _counted(own)
        drawn = pool.draw(np.where(there, own, pool.items[0] if len(pool.items) else 0), draws, random)
        largest_null, entropy_null = _counted(np.where(there, drawn, NONE).reshape(-1, k))
        largest_null = largest_null.reshape(draws, -1)
        size = there.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            share, share_null = largest / size, largest_null.mean(0) / size
        p = (1 + (largest_null >= largest).sum(0)) / (1 + draws)
        values = _commonest(own), share, entropy, share_null, entropy_null.reshape(draws, -1).mean(0), p
        parts.append([np.where(size > 0, one, missing) for one, missing in zip(values, _MISSING, strict=True)])
        progress(len(own) / rows)
    joined = [np.concatenate(part) for part in zip(*parts, strict=True)] if parts else [np.zeros(0)] * len(_MISSING)
    return Concentration(*joined)


_MISSING = (NONE, np.nan, np.nan, np.nan, np.nan, 1.0)


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
