"""Summaries that ignore undefined values (NaN, infinity). A summary is NaN where no value is defined.

Knows no neuron, no token and no test.
"""

import numpy as np


def median(values: np.ndarray) -> float:
    """The median of the defined values."""
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")


def mean(values: np.ndarray) -> float:
    """The mean of the defined values."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def quantile(values: np.ndarray, share: float) -> float:
    """The quantile `share` (from 0 to 1) of the defined values."""
    values = values[np.isfinite(values)]
    return float(np.quantile(values, share)) if len(values) else float("nan")


def ratio(part: np.ndarray, whole: np.ndarray) -> float:
    """The sum of `part` over the sum of `whole`; NaN where `whole` sums to 0."""
    return float(part.sum() / whole.sum()) if whole.sum() > 0 else float("nan")


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """The slope of the regression of y on x through the origin, over the pairs in which both are defined."""
    both = np.isfinite(x) & np.isfinite(y)
    return float((x[both] @ y[both]) / (x[both] @ x[both])) if both.any() and x[both].any() else float("nan")


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r over the pairs in which both are defined; NaN with fewer than three, or if x or y does not vary."""
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < 3 or np.ptp(x[both]) == 0 or np.ptp(y[both]) == 0:
        return float("nan")
    return float(np.corrcoef(x[both], y[both])[0, 1])


def largest(values: np.ndarray) -> int | None:
    """The index of the largest magnitude; None if no value is defined."""
    return int(np.nanargmax(np.abs(values))) if np.isfinite(values).any() else None
