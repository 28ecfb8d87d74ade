"""Association of every neuron with a covariate, from sums over tokens: r, partial r, intervals, p and q. Float64.

Knows no token: `x` is a neuron, `z` the covariate, and arrays end in the axis of the neurons. Where a quantity is not
defined (a neuron or a covariate that never varies) it is NaN, and its p and q are 1.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import stats

from neurexp.stats.rounding import varies

LEVEL = 0.05  # of significance, and 1 − the level of intervals
POWER = 0.8
ROUNDING = 1e-6  # of an r from float32 products


@dataclass(frozen=True)
class Sums:
    """Sums over tokens of one covariate and of neurons: count, Σz, Σz² `[…]`, and Σx, Σx², Σzx `[…, neurons]`.

    x is taken about any fixed shift, z about any constant: correlations do not notice.
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
        """Sums with the tokens of `other`."""
        names = self.__dataclass_fields__
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in names))

    def __sub__(self, other: Self) -> Self:
        """Sums without the tokens of `other`."""
        names = self.__dataclass_fields__
        return type(self)(*(getattr(self, name) - getattr(other, name) for name in names))

    def pearson(self, shift: np.ndarray | float = 0.0) -> np.ndarray:
        """Pearson's r `[…, neurons]`; `shift` is what x was taken about, to tell rounding from variation."""
        n, z = self.n[..., None], self.z[..., None]
        with np.errstate(invalid="ignore", divide="ignore"):
            of_z = self.zz[..., None] - z**2 / n
            of_x = self.xx - self.x**2 / n
            r = (self.zx - z * self.x / n) / np.sqrt(of_z * of_x)
            defined = varies(of_x / n, shift + self.x / n) & (of_z > 1e-12 * self.zz[..., None])
        return np.where(defined, np.clip(r, -1, 1), np.nan)


def partial_correlation(
    zz: np.ndarray, zx: np.ndarray, xx: np.ndarray, covariate: np.ndarray, controls: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """The correlation of x with z that is left once both were regressed on the controls, `[neurons]`.

    Args:
        zz: ΣZᵀZ `[K, K]`.
        zx: ΣZᵀX `[K, neurons]`.
        xx: ΣX² `[neurons]`, over the tokens that the controls' intercept covers.
        covariate: weights `[K]`: z = Z @ covariate.
        controls: columns of Z whose span holds the intercept; they may depend on each other.
        shift: what x was taken about, `[neurons]`.
    """
    within = zz[np.ix_(controls, controls)]
    scale = np.sqrt(np.where(np.diag(within) > 0, np.diag(within), 1))  # so that the cut-off of pinv means something
    inverse = np.linalg.pinv(within / np.outer(scale, scale), rcond=1e-10, hermitian=True) / np.outer(scale, scale)
    with_z = (zz @ covariate)[controls]
    fitted_z = inverse @ with_z
    left_z = covariate @ zz @ covariate - with_z @ fitted_z
    with_x = zx[controls]
    left_x = xx - np.einsum("kn,kn->n", with_x, inverse @ with_x)
    count = np.diag(zz)[controls].max()
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (covariate @ zx - fitted_z @ with_x) / np.sqrt(left_z * left_x)
        defined = varies(left_x / count, shift)
    if left_z <= 1e-9 * (covariate @ zz @ covariate):
        return np.full(zx.shape[1], np.nan)
    return np.where(defined, np.clip(r, -1, 1), np.nan)


def eta_squared(counts: np.ndarray, sums: np.ndarray, xx: np.ndarray, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """The share of a neuron's variance that lies between categories, `[…, neurons]`.

    Args:
        counts: `[categories]`.
        sums: Σx by category `[…, categories, neurons]`, about any shift.
        xx: Σx² over all of them `[…, neurons]`.
        shift: as in `Sums.pearson`.
    """
    total, n = sums.sum(-2), counts.sum()
    within = (sums**2 / np.maximum(counts, 1)[:, None]).sum(-2)
    of_x = xx - total**2 / n
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (within - total**2 / n) / of_x
    return np.where(varies(of_x / n, shift + total / n), np.clip(share, 0, 1), np.nan)


def jackknife_error(blocks: Sums, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """The standard error of Fisher's z of r, by deleting one block of tokens at a time, `[neurons]`.

    Blocks may be of unequal size: the delete-m_j jackknife of Busing, Meijer and van der Leeden (1999, Statistics and
    Computing 9), whose pseudo-values weigh each block by its share of the tokens.

    Args:
        blocks: sums with a leading axis of two or more blocks.
        shift: as in `Sums.pearson`.
    """
    used = Sums(*(getattr(blocks, name)[blocks.n > 0] for name in Sums.__dataclass_fields__))
    count = len(used.n)
    if count < 2:
        return np.full(blocks.x.shape[-1], np.nan)
    whole = used.total()
    limit = 1 - 1e-12
    estimate = np.arctanh(np.clip(whole.pearson(shift), -limit, limit))
    deleted = np.arctanh(np.clip((_expand(whole) - used).pearson(shift), -limit, limit))  # [blocks, neurons]
    inverse_share = (whole.n / used.n)[:, None]
    mean = count * estimate - ((1 - 1 / inverse_share) * deleted).sum(0)
    pseudo = inverse_share * estimate - (inverse_share - 1) * deleted
    return np.sqrt(((pseudo - mean) ** 2 / (inverse_share - 1)).mean(0))


def _expand(sums: Sums) -> Sums:
    return Sums(*(np.asarray(getattr(sums, name))[None] for name in Sums.__dataclass_fields__))


def interval(r: np.ndarray, error: np.ndarray, degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of r from the standard error of its Fisher z, by t with `degrees` degrees of freedom."""
    half = stats.t.ppf(1 - LEVEL / 2, degrees) * error
    z = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
    return np.tanh(z - half), np.tanh(z + half)


def permutation_p(r: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two-sided p of r against draws of its null, their mean, and their standard deviation, `[…, neurons]`.

    p is parametric in the null's shape and non-parametric in its place and width: the draws give a mean and a spread,
    and r is held against a prediction interval of Student's t: (r − mean) / (sd · √(1 + 1/draws)), draws − 1 degrees of
    freedom. So it is not bounded below by 1 / (draws + 1), and is exact where the null is normal.

    Args:
        r: `[…, neurons]`.
        null: `[…, draws, neurons]`, two draws or more.
    """
    draws = null.shape[-2]
    mean, spread = null.mean(-2), null.std(-2, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = (r - mean) / (spread * np.sqrt(1 + 1 / draws))
        p = 2 * stats.t.sf(np.abs(t), draws - 1)
    # Draws that differ by rounding only are no null: where no shuffle changes anything there is no evidence
    return np.where(np.isfinite(p) & (spread > ROUNDING), p, 1.0), mean, spread


def largest_by_chance(null: np.ndarray) -> float:
    """The largest |r − null mean| over neurons in a draw of `[draws, neurons]`: its 95 % quantile over the draws."""
    centred = np.abs(null - null.mean(0))
    defined = np.isfinite(centred).all(0)
    return float(np.quantile(centred[:, defined].max(1), 1 - LEVEL)) if defined.any() else float("nan")


def q_values(p: np.ndarray, dependent: bool = False) -> np.ndarray:
    """Benjamini and Hochberg's adjusted p over all of `p`; Benjamini and Yekutieli's, for any dependence, if asked."""
    return stats.false_discovery_control(p.ravel(), method="by" if dependent else "bh").reshape(p.shape)


def smallest_detectable(spread: np.ndarray, draws: int, level: float = LEVEL) -> np.ndarray:
    """The smallest |r| found with 80 % power by a two-sided test at `level`, given the null's spread."""
    return spread * (stats.t.ppf(1 - level / 2, draws - 1) + stats.t.ppf(POWER, draws - 1))


def second_peak(counts: np.ndarray) -> np.ndarray:
    """How far a histogram `[…, bins]` is from having one peak, from 0 (one) towards 1 (two equal ones, apart).

    An effect size and no test: with millions of dependent values any test of unimodality rejects. The histogram is
    smoothed by a Gaussian of one bin; of the peaks other than the highest, the largest prominence (height above the
    higher of the two valleys beside it) is given relative to the highest peak. Of peaks of equal height the last counts
    as the highest, so that the other's prominence is its height above the valley between them.
    """
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import find_peaks

    flat = counts.reshape(-1, counts.shape[-1]).astype(float)
    result = np.zeros(len(flat))
    for index, row in enumerate(flat):
        smooth = np.pad(gaussian_filter1d(row, 1.0), 1)
        smooth *= 1 + 1e-9 * np.arange(len(smooth)) / len(smooth)  # no two peaks of equal height
        peaks, facts = find_peaks(smooth, prominence=0.0)
        if len(peaks) > 1:
            prominences = np.sort(facts["prominences"])
            result[index] = prominences[-2] / smooth.max()
    return result.reshape(counts.shape[:-1])
