"""Quantiles of values that were counted in bins. Float64."""

import numpy as np


def quantiles_of_histogram(
    counts: np.ndarray,
    start: np.ndarray,
    width: np.ndarray,
    minimum: np.ndarray,
    maximum: np.ndarray,
    shares: np.ndarray,
) -> np.ndarray:
    """Quantiles from counts, taken as spread evenly within each bin.

    Underflow is taken to reach down to the minimum, overflow up to the maximum. No quantile is outside of these.

    Args:
        counts: `[…, bins + 2]`, underflow first and overflow last.
        start: `[…]` where the first bin begins.
        width: `[…]` of every bin.
        minimum: `[…]` the lowest value, which need not be among the counted ones.
        maximum: `[…]` the highest value.
        shares: `[quantiles]` from 0 to 1: 0.5 is the median.

    Returns:
        `[…, quantiles]`; NaN where nothing was counted.
    """
    counts, shares = np.asarray(counts, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    start, width, minimum, maximum = (
        np.asarray(of, dtype=np.float64)[..., None] for of in (start, width, minimum, maximum)
    )
    bins = counts.shape[-1] - 2
    inner = start + np.arange(bins + 1) * width
    edges = np.concatenate([np.minimum(minimum, inner[..., :1]), inner, np.maximum(maximum, inner[..., -1:])], -1)
    below = np.concatenate([np.zeros_like(start), counts.cumsum(-1)], -1)  # how many values are below each edge
    total = below[..., -1:]
    rank = shares * total
    # The first bin up to whose end there are as many values as wanted, and which has any
    place = (below[..., None, 1:] < rank[..., :, None]).sum(-1)
    place = np.maximum(place, (counts > 0).argmax(-1)[..., None])

    def at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
        return np.take_along_axis(np.broadcast_to(values, (*index.shape[:-1], values.shape[-1])), index, -1)

    with np.errstate(divide="ignore", invalid="ignore"):
        within = (rank - at(below, place)) / at(counts, place)
    found = at(edges, place) + within * (at(edges, place + 1) - at(edges, place))
    return np.where(total > 0, np.clip(found, minimum, maximum), np.nan)
