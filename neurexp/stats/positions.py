"""Where does a third kind of row lie on each neuron, between two others? Float64. Knows no word and no model."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Position:
    """The median over neurons of the position, and the ends of its 95 % bootstrap interval over rows."""

    median: float
    low: float
    high: float


def positions(zero: np.ndarray, one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(mean of others − mean of zero) / (mean of one − mean of zero), `[…, neurons]`; NaN where the two are equal.

    Args:
        zero, one, others: `[…, rows, neurons]`, or means with one row.
    """
    low, high = zero.mean(-2), one.mean(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        position = (others.mean(-2) - low) / (high - low)
    return np.where(np.isfinite(position), position, np.nan)


def median_position(zero: np.ndarray, one: np.ndarray, others: np.ndarray, draws: int, seed: int) -> Position:
    """The median of `positions` over neurons. The bootstrap draws the rows of all three kinds with replacement.

    Args:
        zero, one, others: `[rows, neurons]`.
        draws: of the bootstrap.
        seed: of the bootstrap.
    """
    random = np.random.default_rng(seed)
    kinds = [np.asarray(kind, dtype=np.float64) for kind in (zero, one, others)]
    drawn = []
    for kind in kinds:
        weights = random.multinomial(len(kind), np.full(len(kind), 1 / len(kind)), draws) / len(kind)
        drawn.append((weights @ kind)[:, None])
    medians = np.nanmedian(positions(*drawn), axis=-1)
    low, high = np.nanquantile(medians, (0.025, 0.975))
    return Position(float(np.nanmedian(positions(*kinds))), float(low), float(high))
