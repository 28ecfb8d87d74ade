"""Are optima that were reached from several random starts one optimum? Similarities and repeats, against chance.

Knows no model and no tokenizer: an optimum is an array of numbers, a token a whole number.
"""

from dataclasses import dataclass

import numpy as np

INTERVAL = (0.025, 0.975)


def mean_cosine(vectors: np.ndarray) -> float:
    """The mean cosine similarity over all pairs of rows `[rows, width]`; NaN for fewer than two."""
    rows = len(vectors)
    if rows < 2:
        return float("nan")
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    total = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0).sum(0)
    return float((total @ total - (norms > 0).sum()) / (rows * (rows - 1)))


@dataclass(frozen=True)
class Similarity:
    """How similar vectors are to each other: the mean cosine over pairs.

    Args:
        value: of the vectors.
        low, high: the 95 % interval of the value by the jackknife over vectors; NaN for fewer than three.
        null_low, null_high: the middle 95 % of the same for as many random vectors.
        p: one-sided by rank: (1 + draws of random vectors whose value is as large or larger) / (1 + draws).
    """

    value: float
    low: float
    high: float
    null_low: float
    null_high: float
    p: float


def similarity(vectors: np.ndarray, draws: int, seed: int) -> Similarity:
    """The similarity of rows `[rows, width]`, against `draws` draws of as many normal vectors of that width."""
    rows, width = vectors.shape
    value = mean_cosine(vectors)
    if rows < 2:
        missing = float("nan")
        return Similarity(value, missing, missing, missing, missing, 1.0)
    low = high = float("nan")
    if rows > 2:
        without = np.array([mean_cosine(np.delete(vectors, row, axis=0)) for row in range(rows)])
        error = np.sqrt((rows - 1) / rows * ((without - without.mean()) ** 2).sum())
        low, high = value - 1.96 * error, value + 1.96 * error
    random = np.random.default_rng([seed, 7])
    null = np.array([mean_cosine(random.standard_normal((rows, width))) for _ in range(draws)])
    null_low, null_high = np.quantile(null, INTERVAL)
    ends = float(low), float(high), float(null_low), float(null_high)
    return Similarity(value, *ends, p_by_rank(value, null))


def p_by_rank(value: float, null: np.ndarray) -> float:
    """(1 + draws that are as large or larger) / (1 + draws)."""
    return float((1 + (null >= value).sum()) / (1 + len(null)))


def repeats(tokens: np.ndarray) -> int:
    """How many tokens are not the first of their kind: tokens − distinct ones."""
    return int(tokens.size - len(np.unique(tokens)))


@dataclass(frozen=True)
class Repeats:
    """How often tokens repeat each other.

    Args:
        distinct: different tokens.
        repeated: tokens − distinct ones.
        expected: the mean of `repeated` over draws of as many tokens from a pool.
        p: one-sided by rank: (1 + draws with as many repeats or more) / (1 + draws).
        uniform: the expected number if each token of the vocabulary were as likely.
    """

    distinct: int
    repeated: int
    expected: float
    p: float
    uniform: float


def compare_repeats(tokens: np.ndarray, pool: np.ndarray, vocabulary: int, draws: int, seed: int) -> Repeats:
    """The repeats among tokens `[…]`, against draws from a pool of tokens.

    Args:
        tokens: ids.
        pool: `[pool]` ids of independent draws; each draw of the null takes as many of them, without replacement if
            there are enough.
        vocabulary: how many tokens there are.
        draws, seed: of the null.
    """
    random = np.random.default_rng([seed, 8])
    count, replace = tokens.size, tokens.size > len(pool)
    null = np.array([repeats(random.choice(pool, count, replace=replace)) for _ in range(draws)])
    found = repeats(tokens)
    uniform = count - vocabulary * -np.expm1(count * np.log1p(-1 / vocabulary)) if vocabulary > 1 else count - 1
    return Repeats(count - found, found, float(null.mean()), p_by_rank(found, null), float(uniform))


def draw_alike(ids: np.ndarray, counts: np.ndarray, allowed: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Random types of the same octave of frequency in place of each, `[draws, …]`.

    Args:
        ids: `[…]`.
        counts: of each type, `[types]`; an octave is 0, 1, 2–3, 4–7, ….
        allowed: the types that may be drawn, each as likely; one with no other type in its octave stays.
        draws, seed: of the draws.
    """
    random = np.random.default_rng([seed, 9])
    octave = np.where(counts > 0, np.floor(np.log2(np.maximum(counts, 1))), -1).astype(int)
    drawn = np.repeat(ids[None], draws, axis=0)
    for band in np.unique(octave[ids]):
        members = allowed[octave[allowed] == band]
        here = octave[ids] == band
        if len(members):
            drawn[:, here] = members[random.integers(0, len(members), (draws, int(here.sum())))]
    return drawn
