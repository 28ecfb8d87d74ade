"""Labelled rows for tests of statistics: samples, neurons that do not vary, and scipy's Welch t."""

import numpy as np
from scipy import stats

NEURONS = 5
SIZES = [(12, 12), (7, 20), (20, 7), (2, 9), (4, 4)]  # of category 0 and of category 1


def sample(sizes, neurons=NEURONS, seed=0, offset=0.3):
    """Rows of unequal variances, in a mixed order; each category lies a bit above the one before."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    scale = np.array([1.0, 2.5, 0.4])[labels][:, None]
    x = random.normal(size=(len(labels), neurons)) * scale + offset * labels[:, None] + random.normal(size=neurons) * 5
    return x, labels


def t_of(x, labels):
    """Welch's t by scipy, positive where category 1 is higher."""
    return stats.ttest_ind(x[labels == 1], x[labels == 0], equal_var=False, axis=0)


def masks(labels, *categories):
    return tuple(labels == category for category in categories)


def degenerate(labels):
    """A dead neuron, a constant one, one that differs by float32 rounding only, one constant within its groups."""
    value = np.float32(100.1)
    rounding = np.where(np.arange(len(labels)) % 2 == 0, value, np.nextafter(value, np.float32(200)))
    with_labels = np.where(labels == 0, value, np.nextafter(value, np.float32(200)))
    constant = np.full(len(labels), 0.1)
    perfect = 0.1 + 0.7 * labels
    return np.stack([np.zeros(len(labels)), constant, rounding, with_labels, perfect], axis=1).astype(float)


DEAD = slice(0, 4)  # of `degenerate`
