"""Variation that is more than floating-point rounding. Knows no test and no effect size."""

import numpy as np

CONSTANT = 1e-7  # a standard deviation below this share of the mean is float32 rounding, not variation
FLAT = 1e-13  # share of a neuron's variance that rounding can leave where rows of a category do not differ


def varies(variance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Whether a variance is more than the rounding of float32 numbers about such a mean."""
    return variance > (CONSTANT * mean) ** 2


def centred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subtracts each neuron's mean.

    Args:
        x: `[rows, neurons]`, float64.

    Returns:
        The differences from the mean `[rows, neurons]`, 0 for neurons that do not vary, and whether each neuron varies
        `[neurons]`.
    """
    mean = x.mean(0)
    difference = x - mean
    defined = varies((difference**2).mean(0), mean)
    return np.where(defined, difference, 0.0), defined
