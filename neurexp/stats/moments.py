"""Mean, standard deviation, skewness and kurtosis from sums of powers. Float64."""

from dataclasses import dataclass

import numpy as np

from neurexp.stats.rounding import varies

STEPS = 16  # a variance of fewer rounding errors than these is none


@dataclass(frozen=True)
class MomentStatistics:
    """What the sums of powers of neurons' activations say, each array `[…, neurons]` float64."""

    mean: np.ndarray
    std: np.ndarray  # √ of the mean squared deviation; 0 where it is only rounding
    skewness: np.ndarray  # mean of ((x − mean) / std)³; NaN where std is 0
    kurtosis: np.ndarray  # mean of ((x − mean) / std)⁴, minus 3: that of a normal distribution is 0; NaN where std is 0
    share_positive: np.ndarray  # of x > 0


def moments_of(n: np.ndarray, sums: np.ndarray, positive: np.ndarray, shift: np.ndarray) -> MomentStatistics:
    """The statistics from the state of the reducer `Moments`; NaN where there are no tokens.

    Central moments follow from those about the shift by the binomial theorem (Kendall and Stuart, The Advanced Theory
    of Statistics, volume 1, §3.3). A variance that is only rounding (`rounding.varies`) is 0. A statistic is NaN where
    a power is too large for float32, in which the reducer takes it: |x − shift| above about 4e9 for kurtosis, 6e12 for
    skewness, 1e19 for the standard deviation.

    Args:
        n: `[…]` number of tokens.
        sums: `[…, 4, neurons]` Σ (x − shift) to the powers 1 to 4.
        positive: `[…, neurons]` number of x > 0.
        shift: `[…, neurons]`.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        count = np.asarray(n, dtype=np.float64)[..., None]
        first, second, third, fourth = np.moveaxis(np.asarray(sums, dtype=np.float64), -2, 0) / count
        variance = second - first**2
        mean = shift.astype(np.float64) + first
        is_more = (variance > STEPS * np.finfo(np.float64).eps * second) & varies(variance, mean)
        variance = np.where(is_more, variance, 0 * variance)
        skewness = (third - 3 * first * second + 2 * first**3) / variance**1.5
        kurtosis = (fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4) / variance**2 - 3
        flat = variance == 0
        return MomentStatistics(
            mean=mean,
            std=_finite(np.sqrt(variance)),
            skewness=np.where(flat, np.nan, _finite(skewness)),
            kurtosis=np.where(flat, np.nan, _finite(kurtosis)),
            share_positive=positive / count,
        )


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)
