"""Two values of each neuron for the same items: how far does one follow the other? Float64 unless stated.

An item is one row of both arrays: a token in two places, for example. Knows no token and no model.
"""

from dataclasses import dataclass

import numpy as np

from neurexp.stats.association import NEAR_ONE, interval
from neurexp.stats.chunks import in_float64, neuron_chunks
from neurexp.stats.rounding import centred

TIE = 1e-6  # an |r| as close as this to the observed one counts as equal: products of draws are float32


@dataclass(frozen=True)
class Pairs:
    """Statistics of every neuron, `[neurons]`; NaN (p: 1) where x or y does not vary."""

    r: np.ndarray  # Pearson's, over the items
    low: np.ndarray  # the 95 % interval of r
    high: np.ndarray
    slope: np.ndarray  # of the regression of y on x
    distance: np.ndarray  # (mean of y − mean of x) / standard deviation of y
    p: np.ndarray  # of |r| among shuffled pairs


@dataclass(frozen=True)
class Pooled:
    """One r over all neurons and items together; NaN where it is not defined."""

    raw: float
    centred: float  # after each neuron's own mean is subtracted from its x and from its y
    shuffled: float  # the mean of `raw` over all ways to shuffle the pairs: what the neurons' means alone give


def paired(x: np.ndarray, y: np.ndarray, draws: int, seed: int) -> Pairs:
    """Compares x with y `[items, neurons]`, neuron by neuron.

    The interval is that of a jackknife which deletes one item at a time, of Fisher's z, with Student's t of items − 1
    degrees of freedom. p = (1 + exceedances) / (draws + 1) over shuffles of which x belongs to which y (Phipson and
    Smyth 2010, Statistical Applications in Genetics 9); a shuffle is the same for all neurons.

    Args:
        x, y: `[items, neurons]` of any float type, with three items or more.
        draws: the number of shuffles.
        seed: of the shuffles.
    """
    parts = [_paired(in_float64(x, some), in_float64(y, some), draws, seed) for some in neuron_chunks(x)]
    return Pairs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _paired(x: np.ndarray, y: np.ndarray, draws: int, seed: int) -> tuple[np.ndarray, ...]:
    n = len(x)
    (a, a_varies), (b, b_varies) = centred(x), centred(y)
    defined = a_varies & b_varies
    aa, bb, ab = (a**2).sum(0), (b**2).sum(0), (a * b).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.where(defined, np.clip(ab / np.sqrt(aa * bb), -1, 1), np.nan)
        slope = np.where(a_varies, ab / aa, np.nan)
        distance = np.where(b_varies, (y.mean(0) - x.mean(0)) / np.sqrt(bb / n), np.nan)
        # Without one item, sums of squares about the mean shrink by its own square times n / (n − 1)
        scale = n / (n - 1)
        deleted = (ab - scale * a * b) / np.sqrt((aa - scale * a**2) * (bb - scale * b**2))
    z = np.arctanh(np.clip(deleted, -NEAR_ONE, NEAR_ONE))
    error = np.sqrt((n - 1) / n * ((z - z.mean(0)) ** 2).sum(0))
    low, high = interval(r, error, n - 1)
    return r, low, high, slope, distance, _p_of_shuffles(a, b, r, draws, seed)


def _p_of_shuffles(a: np.ndarray, b: np.ndarray, r: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """p of |r| among shuffles, of centred values `[items, neurons]`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (np.nan_to_num(one / np.sqrt((one**2).sum(0)), posinf=0, neginf=0) for one in (a, b))
    a, b = a.astype(np.float32), b.astype(np.float32)
    random, exceed = np.random.default_rng(seed), np.zeros(len(r), dtype=np.int64)
    threshold = np.where(np.isfinite(r), np.abs(r) - TIE, np.inf)
    for _ in range(draws):
        drawn = np.einsum("in,in->n", a, b[random.permutation(len(b))])
        exceed += np.abs(drawn) >= threshold
    return np.where(np.isfinite(r), (1 + exceed) / (draws + 1), 1.0)


def pooled(x: np.ndarray, y: np.ndarray) -> Pooled:
    """One r over all neurons and items of x and y `[items, neurons]`, and how much of it is the neurons' own means.

    The covariance over neurons and items is that of the neurons' means plus the mean covariance within neurons. Over
    all shuffles of the pairs the second part is 0 on average, and the variances stay: so `shuffled` needs no draw.
    """
    x_mean, y_mean = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
    between = _products(x_mean - x_mean.mean(), y_mean - y_mean.mean())
    within = np.zeros(3)
    for some in neuron_chunks(x):
        within += _products(in_float64(x, some) - x_mean[some], in_float64(y, some) - y_mean[some]) / len(x)
    whole = within + between
    return Pooled(_ratio(whole[0], whole), _ratio(within[0], within), _ratio(between[0], whole))


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Σab, Σa² and Σb²."""
    return np.array([(a * b).sum(), (a**2).sum(), (b**2).sum()])


def _ratio(covariance: float, sums: np.ndarray) -> float:
    size = float(np.sqrt(sums[1] * sums[2]))
    return float(covariance) / size if size > 0 else float("nan")
