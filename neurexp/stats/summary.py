"""Summaries over what is defined: NaN stands for a quantity that is not, and where nothing is left the summary is NaN.

Knows no neuron, no token and no test.
"""

import numpy as np


def median(values: np.ndarray) -> float:
    """The median of what is defined."""
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")


def mean(values: np.ndarray) -> float:
    """The mean of what is defined."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def quantile(values: np.ndarray, share: float) -> float:
    """The quantile of what is defined."""
    values = values[np.isfinite(values)]
    return float(np.quantile(values, share)) if len(values) else float("nan")


def ratio(part: np.ndarray, whole: np.ndarray) -> float:
    """Sum over sum."""
    return float(part.sum() / whole.sum()) if whole.sum() > 0 else float("nan")


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of y on x through the origin, over what is defined in both."""
    both = np.isfinite(x) & np.isfinite(y)
    return float((x[both] @ y[both]) / (x[both] @ x[both])) if both.any() and x[both].any() else float("nan")


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r over what is defined in both; NaN where that is too little or does not vary."""
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < 3 or np.ptp(x[both]) == 0 or np.ptp(y[both]) == 0:
        return float("nan")
    return float(np.corrcoef(x[both], y[both])[0, 1])


def largest(values: np.ndarray) -> int | None:
    """The place of the largest magnitude, or None where none is defined."""
    return int(np.nanargmax(np.abs(values))) if np.isfinite(values).any() else None
