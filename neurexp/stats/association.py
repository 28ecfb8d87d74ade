"""Association of every neuron with a covariate, from sums over tokens: r, partial r, intervals, p and q. Float64.

`x` is a neuron's activation, `z` the covariate, and the last axis of an array is that of the neurons. A statistic is
NaN where it is not defined (the neuron or the covariate never varies), and its p and q are 1. Knows no text and no
model.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import special

from neurexp.stats.rounding import varies

LEVEL = 0.05  # of significance; intervals have the level 1 − LEVEL
POWER = 0.8
ROUNDING = 1e-6  # the rounding error of an r from float32 products
NEAR_ONE = 1 - 1e-12  # the largest |r| whose Fisher z is computed


@dataclass(frozen=True)
class Sums:
    """Sums over tokens: the count, Σz and Σz² `[…]`, and Σx, Σx² and Σzx `[…, neurons]`.

    A constant (the shift) may have been subtracted from each neuron's x, and another from z: correlations stay the
    same.
    """

    n: np.ndarray
    z: np.ndarray
    zz: np.ndarray
    x: np.ndarray
    xx: np.ndarray
    zx: np.ndarray

    def total(self) -> Self:
        """The sums over the first axis."""
        return type(self)(*(getattr(self, name).sum(0) for name in self.__dataclass_fields__))

    def __add__(self, other: Self) -> Self:
        """The sums over the tokens of both."""
        names = self.__dataclass_fields__
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in names))

    def __sub__(self, other: Self) -> Self:
        """The sums without the tokens of `other`."""
        names = self.__dataclass_fields__
        return type(self)(*(getattr(self, name) - getattr(other, name) for name in names))

    def pearson(self, shift: np.ndarray | float = 0.0) -> np.ndarray:
        """Pearson's r `[…, neurons]`.

        Args:
            shift: what was subtracted from x, `[neurons]`. It gives the mean, which shows what is only rounding.
        """
        n, z = self.n[..., None], self.z[..., None]
        with np.errstate(invalid="ignore", divide="ignore"):
            zz = self.zz[..., None] - z**2 / n
            xx = self.xx - self.x**2 / n
            r = (self.zx - z * self.x / n) / np.sqrt(zz * xx)
            defined = varies(xx / n, shift + self.x / n) & (zz > 1e-12 * self.zz[..., None])
        return np.where(defined, np.clip(r, -1, 1), np.nan)


def partial_correlation(
    zz: np.ndarray, zx: np.ndarray, xx: np.ndarray, covariate: np.ndarray, controls: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """The correlation of x and z after both were regressed on the controls, `[…, neurons]`.

    Args:
        zz: ΣZᵀZ `[K, K]`.
        zx: ΣZᵀX `[K, neurons]`.
        xx: ΣX² `[neurons]`, over the tokens whose intercept (in the controls) is 1.
        covariate: weights `[K]`, or `[K, covariates]`; z = Z @ covariate.
        controls: indices of columns of Z. Their span contains the intercept; they may be linearly dependent.
        shift: what was subtracted from x, `[neurons]`.
    """
    within = zz[np.ix_(controls, controls)]
    scale = np.sqrt(np.where(np.diag(within) > 0, np.diag(within), 1))  # makes the cut-off of pinv meaningful
    inverse = np.linalg.pinv(within / np.outer(scale, scale), rcond=1e-10, hermitian=True) / np.outer(scale, scale)
    weights = covariate.reshape(len(zz), -1)
    by_column = zz @ weights  # [K, covariates]
    with_z, whole_z = by_column[controls], np.einsum("km,km->m", weights, by_column)
    fitted_z = inverse @ with_z
    left_z = whole_z - np.einsum("cm,cm->m", with_z, fitted_z)
    with_x = zx[controls]
    left_x = xx - np.einsum("kn,kn->n", with_x, inverse @ with_x)
    count = np.diag(zz)[controls].max()
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (weights.T @ zx - fitted_z.T @ with_x) / np.sqrt(left_z[:, None] * left_x)
    defined = varies(left_x / count, shift) & (left_z > 1e-9 * whole_z)[:, None]
    return np.where(defined, np.clip(r, -1, 1), np.nan).reshape(*covariate.shape[1:], -1)


def eta_squared(counts: np.ndarray, sums: np.ndarray, xx: np.ndarray, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """The share of a neuron's variance that lies between categories, `[…, neurons]`.

    Args:
        counts: the number of tokens of each category, `[categories]`.
        sums: Σx of each category, `[…, categories, neurons]`.
        xx: Σx² over all categories, `[…, neurons]`.
        shift: as in `Sums.pearson`.
    """
    total, n = sums.sum(-2), counts.sum()
    between = (sums**2 / np.maximum(counts, 1)[:, None]).sum(-2) - total**2 / n
    whole = xx - total**2 / n
    with np.errstate(invalid="ignore", divide="ignore"):
        share = between / whole
    return np.where(varies(whole / n, shift + total / n), np.clip(share, 0, 1), np.nan)


def jackknife_error(blocks: Sums, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """The standard error of Fisher's z of r, by a jackknife that deletes one block of tokens at a time, `[neurons]`.

    Blocks may have unequal sizes: this is the delete-m_j jackknife of Busing, Meijer and van der Leeden (1999,
    Statistics and Computing 9), whose pseudo-values weight each block by its share of the tokens. NaN with fewer than
    two blocks that have tokens.

    Args:
        blocks: sums with a leading axis of blocks.
        shift: as in `Sums.pearson`.
    """
    used = Sums(*(getattr(blocks, name)[blocks.n > 0] for name in Sums.__dataclass_fields__))
    count = len(used.n)
    if count < 2:
        return np.full(blocks.x.shape[-1], np.nan)
    whole = used.total()
    estimate = _fisher_z(whole.pearson(shift))
    every = Sums(*(np.asarray(getattr(whole, name))[None] for name in Sums.__dataclass_fields__))
    deleted = _fisher_z((every - used).pearson(shift))  # [blocks, neurons]
    inverse_share = (whole.n / used.n)[:, None]
    mean = count * estimate - ((1 - 1 / inverse_share) * deleted).sum(0)
    pseudo = inverse_share * estimate - (inverse_share - 1) * deleted
    return np.sqrt(((pseudo - mean) ** 2 / (inverse_share - 1)).mean(0))


def _fisher_z(r: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(r, -NEAR_ONE, NEAR_ONE))


def interval(r: np.ndarray, error: np.ndarray, degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the 95 % interval of r, from Student's t with `degrees` degrees of freedom.

    Args:
        r: `[neurons]`.
        error: the standard error of its Fisher z, `[neurons]`.
        degrees: of freedom.
    """
    half = special.stdtrit(degrees, 1 - LEVEL / 2) * error
    z = _fisher_z(r)
    return np.tanh(z - half), np.tanh(z + half)


def permutation_p(r: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two-sided p of r against draws from its null, `[…, neurons]`.

    The draws give the null's mean and standard deviation, and its shape is taken as normal: p is that of Student's t,
    (r − mean) / (sd · √(1 + 1/draws)), with draws − 1 degrees of freedom. It is exact if the null is normal, and it can
    be smaller than 1 / (draws + 1).

    Args:
        r: `[…, neurons]`.
        null: `[…, draws, neurons]`, with two draws or more.

    Returns:
        p, and the mean and the standard deviation of the draws.
    """
    draws = null.shape[-2]
    mean, spread = null.mean(-2), null.std(-2, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = (r - mean) / (spread * np.sqrt(1 + 1 / draws))
        p = 2 * special.stdtr(draws - 1, -np.abs(t))
    # If the draws differ by rounding only, the shuffles changed nothing, and r is no evidence
    return np.where(np.isfinite(p) & (spread > ROUNDING), p, 1.0), mean, spread


def p_without_parts(r: np.ndarray, null: np.ndarray, parts: int = 8) -> np.ndarray:
    """`permutation_p` without each of `parts` parts of the draws in turn, `[parts, neurons]`, for a jackknife.

    Args:
        r: `[neurons]`.
        null: `[draws, neurons]`, with 8 draws or more.
        parts: draw i is in part i modulo `parts`.
    """
    part = np.arange(len(null)) % parts
    return np.stack([permutation_p(r, null[part != one])[0] for one in range(parts)])


def jackknife_spread(values: np.ndarray) -> float:
    """The standard error of a statistic, from its values without each of several equal parts of the data in turn."""
    return float(np.sqrt((len(values) - 1) * values.var()))


def interval_from_null(r: np.ndarray, spread: np.ndarray, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """The ends of a 95 % interval of r whose standard error is the null's standard deviation, `[neurons]`.

    On the scale of Fisher's z, where the spread of r hardly depends on r itself; Student's t with draws − 1 degrees of
    freedom, as in `permutation_p`. It covers the uncertainty that the draws show, and no other. NaN where the draws
    differ by rounding only.

    Args:
        r: `[neurons]`.
        spread: the standard deviation of the null's draws, `[neurons]`.
        draws: their number.
    """
    error = np.where(spread > ROUNDING, spread * np.sqrt(1 + 1 / draws), np.nan)
    return interval(r, error, draws - 1)


def largest_by_chance(null: np.ndarray) -> float:
    """The 95 % quantile over draws of the largest |r − null mean| of any neuron; NaN if no neuron is defined.

    Args:
        null: `[draws, neurons]`.
    """
    centred = np.abs(null - null.mean(0))
    defined = np.isfinite(centred).all(0)
    return float(np.quantile(centred[:, defined].max(1), 1 - LEVEL)) if defined.any() else float("nan")


def q_values(p: np.ndarray, dependent: bool = False) -> np.ndarray:
    """Adjusted p over all values of `p`, of any shape: Benjamini and Hochberg's, or Benjamini and Yekutieli's.

    Args:
        p: the p-values.
        dependent: use Benjamini and Yekutieli's, which is valid under any dependence.
    """
    order = np.argsort(p, axis=None)
    rank = np.arange(1, p.size + 1)
    factor = p.size * (np.sum(1 / rank) if dependent else 1.0)
    q = np.empty(p.size)
    q[order] = np.minimum.accumulate((p.ravel()[order] * (factor / rank))[::-1])[::-1]
    return np.minimum(q, 1.0).reshape(p.shape)


def smallest_detectable(spread: np.ndarray, draws: int, level: float = LEVEL) -> np.ndarray:
    """The smallest |r| that a two-sided test finds with 80 % power.

    Args:
        spread: the null's standard deviation, of any shape.
        draws: the number of draws that gave it.
        level: of the test.
    """
    return spread * (special.stdtrit(draws - 1, 1 - level / 2) + special.stdtrit(draws - 1, POWER))


def second_peak(counts: np.ndarray) -> np.ndarray:
    """The relative prominence of a histogram's second peak, `[…]`: 0 for one peak, near 1 for two equal ones far apart.

    This is an effect size and not a test: with millions of dependent values, every test of unimodality rejects. The
    histogram is smoothed by a Gaussian of one bin. The result is the second largest prominence of a peak (its height
    above the higher of the two valleys beside it) over the height of the highest peak. If two peaks have the same
    height, the last one counts as the highest.

    Args:
        counts: `[…, bins]`.
    """
    from scipy.ndimage import gaussian_filter1d

    flat = counts.reshape(-1, counts.shape[-1]).astype(float)
    result = np.zeros(len(flat))
    for index, row in enumerate(flat):
        smooth = np.pad(gaussian_filter1d(row, 1.0), 1)
        smooth *= 1 + 1e-9 * np.arange(len(smooth)) / len(smooth)  # no two peaks of equal height
        prominences = _prominences(smooth)
        if len(prominences) > 1:
            result[index] = np.sort(prominences)[-2] / smooth.max()
    return result.reshape(counts.shape[:-1])


def _prominences(heights: np.ndarray) -> np.ndarray:
    """The prominence of each peak of `heights` `[bins]`, which begins and ends with 0 and has no two equal neighbours
    but zeros.

    It is the peak's height above the higher of two valleys: those between it and the next higher bin on either side, or
    the end. `scipy.signal` has the same function, but its import takes longer than the analysis of a short run.
    """
    inner = heights[1:-1]
    peaks = 1 + np.flatnonzero((inner > heights[:-2]) & (inner > heights[2:]))
    found = []
    for peak in peaks:
        higher = np.flatnonzero(heights > heights[peak])
        first = higher[higher < peak].max(initial=-1) + 1
        last = higher[higher > peak].min(initial=len(heights))
        found.append(heights[peak] - max(heights[first : peak + 1].min(), heights[peak:last].min()))
    return np.array(found)
