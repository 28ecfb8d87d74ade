"""Effects of edits on a loss, with intervals over blocks of text and p-values by rank among random edits. Float64.

The data are sums over tokens: of a loss in nats under each edit (a variant), of the same loss unedited, and the numbers
of tokens, by group of tokens and by block of sequences. An effect is the mean change of the loss per token, in nats:
(Σ edited − Σ unedited) / Σ tokens over all blocks. Larger is more harm. Knows no model, no neuron and no text.
"""

import numpy as np

from neurexp.stats.association import LEVEL

CHUNK = 2**24  # numbers of the draws of some variants that are held at once: 128 MiB


def mean_effects(edited: np.ndarray, unedited: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The effect of each variant on each group, `[variants, groups]`, in nats per token. NaN where it has no token.

    Args:
        edited: `[variants, groups, blocks]`, sums of the loss under each edit.
        unedited: `[groups, blocks]`, sums of the loss without an edit.
        counts: `[groups, blocks]`, tokens.
    """
    return _ratio(_change(edited, unedited).sum(-1), np.asarray(counts).sum(-1))


def specific_effects(edited: np.ndarray, unedited: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The effect on a group minus the effect on all other tokens, `[variants, groups]`, in nats per token.

    Group 0 is all tokens: every other group is a part of it. NaN for group 0 itself, and for a group that has no token
    or every token.

    Args:
        edited, unedited, counts: as in `mean_effects`.
    """
    change, counts = _change(edited, unedited).sum(-1), np.asarray(counts).sum(-1)
    return _ratio(change, counts) - _ratio(change[:, :1] - change, counts[:1] - counts)


def bootstrap_intervals(
    edited: np.ndarray,
    unedited: np.ndarray,
    counts: np.ndarray,
    draws: int = 2000,
    level: float = 1 - LEVEL,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The percentile bootstrap interval of `mean_effects` over blocks: low and high, `[variants, groups]` each.

    Blocks are drawn with replacement, and both sums of the ratio are taken over the same blocks (Davison and Hinkley
    1997, section 2.2). All variants and groups, and `specific_intervals` with the same seed, see the same draws. A draw
    in which a group has no token does not count for it. NaN with fewer than two blocks, and where the effect is NaN.

    Args:
        edited, unedited, counts: as in `mean_effects`.
        draws: how often the blocks are drawn.
        level: of the interval.
        seed: of the draws.
    """
    return _intervals(edited, unedited, counts, draws, level, seed, specific=False)


def specific_intervals(
    edited: np.ndarray,
    unedited: np.ndarray,
    counts: np.ndarray,
    draws: int = 2000,
    level: float = 1 - LEVEL,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of `specific_effects`, from the same draws as `bootstrap_intervals`: low and high."""
    return _intervals(edited, unedited, counts, draws, level, seed, specific=True)


def rank_p(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """The one-sided p of each observed effect: how often is a random one as large, or larger (more harm)?

    It is (1 + the number of null ≥ observed) / (draws + 1) (Phipson and Smyth 2010, Statistical Applications in
    Genetics and Molecular Biology 9, 39), and never 0. Draws that are NaN do not count. NaN where the observed effect
    is NaN, or every draw.

    Args:
        observed: `[…]`.
        null: `[draws, …]`. Draws that repeat each other count as if they were different: with fewer candidates than
            draws, p is too small.
    """
    observed, null = np.asarray(observed, dtype=np.float64), np.asarray(null, dtype=np.float64)
    defined = np.isfinite(null)
    draws = defined.sum(0)
    p = (1 + (defined & (null >= observed)).sum(0)) / (draws + 1)
    return np.where(np.isfinite(observed) & (draws > 0), p, np.nan)


def in_null_units(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(observed − mean of the null) / its standard deviation (ddof 1), `[…]`. Draws that are NaN do not count.

    NaN with fewer than two draws, and where the null does not vary.

    Args:
        observed: `[…]`.
        null: `[draws, …]`.
    """
    mean, deviation = null_moments(null)
    with np.errstate(invalid="ignore", divide="ignore"):
        varies = deviation > 1e-12 * np.abs(mean)  # more than rounding
        return np.where(varies, (observed - mean) / deviation, np.nan)


def null_moments(null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation (ddof 1) over the draws `[draws, …]` that are not NaN, `[…]` each.

    The mean is NaN without a draw, the standard deviation with fewer than two.
    """
    null = np.asarray(null, dtype=np.float64)
    defined = np.isfinite(null)
    count = defined.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(defined, null, 0).sum(0) / np.where(count > 0, count, np.nan)
        squares = np.where(defined, null - mean, 0) ** 2
        return mean, np.sqrt(squares.sum(0) / np.where(count > 1, count - 1, np.nan))


def null_band(null: np.ndarray, level: float = 1 - LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """The central share `level` of the draws `[draws, …]` that are not NaN: low and high, `[…]`; NaN without a draw."""
    return _quantiles(np.asarray(null, dtype=np.float64), level)


def _change(edited: np.ndarray, unedited: np.ndarray) -> np.ndarray:
    return np.asarray(edited, dtype=np.float64) - np.asarray(unedited, dtype=np.float64)


def _ratio(change: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """NaN where there is no token."""
    return change / np.where(counts > 0, counts, np.nan)


def _intervals(
    edited: np.ndarray, unedited: np.ndarray, counts: np.ndarray, draws: int, level: float, seed: int, specific: bool
) -> tuple[np.ndarray, np.ndarray]:
    variants, groups, blocks = np.shape(edited)
    low, high = np.full((2, variants, groups), np.nan)
    if blocks < 2 or not variants or not groups:
        return low, high
    times = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=draws).astype(np.float64)
    tokens = times @ np.asarray(counts, dtype=np.float64).T  # [draws, groups]
    for start in range(0, variants, step := max(1, CHUNK // (draws * groups))):
        part = slice(start, start + step)
        change = _change(edited[part], unedited)
        drawn = (change @ times.T).transpose(2, 0, 1)  # [draws, variants, groups]
        effects = _ratio(drawn, tokens[:, None])
        if specific:
            effects = effects - _ratio(drawn[..., :1] - drawn, (tokens[:, :1] - tokens)[:, None])
        low[part], high[part] = _quantiles(effects, level)
    return low, high


def _quantiles(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the central share of the values over the first axis, without NaN; NaN where there is no value."""
    shape = values.shape[1:]
    values = values.reshape(len(values), int(np.prod(shape)))
    ends = np.full((2, values.shape[1]), np.nan)
    defined = np.isfinite(values)
    whole = defined.all(0) & (len(values) > 0)
    shares = ((1 - level) / 2, (1 + level) / 2)
    if whole.any():
        ends[:, whole] = np.quantile(values[:, whole], shares, axis=0)
    for column in np.flatnonzero(defined.any(0) & ~whole):
        ends[:, column] = np.quantile(values[defined[:, column], column], shares)
    low, high = ends.reshape(2, *shape)
    return low, high
