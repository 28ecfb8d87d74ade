"""How much of a neuron's variance a property of the token explains, cross-validated, from sums over tokens. Float64.

The property is fitted in each half of the tokens apart. The explained variance is the product of the two fits'
predictions, in the mean over the tokens, over the neuron's variance. The noise of the two halves is independent, so it
does not add up in the product: its expectation is 0 where there is nothing to explain, and it may be negative. For
which *type* a token is, the same is estimated from projections on random signs (Alon, Matias and Szegedy 1996, The
space complexity of approximating the frequency moments), whose number does not depend on how many types there are.

`x` is a neuron's activation, and the last axis of an array is that of the neurons. Knows no text and no model.
"""

from dataclasses import dataclass

import numpy as np

from neurexp.stats.association import Sums, permutation_p
from neurexp.stats.rounding import varies

CONSTANT = 1e-12  # a column whose variance is below this share of its mean square does not vary


def variance_of(sums: Sums, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """The variance of x `[neurons]`; NaN where it is only rounding.

    Args:
        sums: of all tokens; only `n` `[]`, `x` and `xx` `[neurons]` are read.
        shift: what was subtracted from x, `[neurons]`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.x / sums.n
        variance = sums.xx / sums.n - mean**2
    return np.where(varies(variance, shift + mean), variance, np.nan)


def explained_by_columns(first: Sums, second: Sums, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """The cross-validated explained variance of single covariates z, `[columns, neurons]`.

    It is b₁ · b₂ · var(z) / var(x), where b are the slopes of the regressions of x on z in the two halves, and the
    variances are those of all tokens. NaN where z does not vary in one of the halves, or x does not vary.

    Args:
        first: sums over the tokens of one half, with z `[columns]` and zx `[columns, neurons]`.
        second: of the other half.
        shift: what was subtracted from x, `[neurons]`.
    """
    whole = first + second
    with np.errstate(invalid="ignore", divide="ignore"):
        product = _slopes(first) * _slopes(second)
        n = np.ravel(whole.n)[0]
        variance = variance_of(Sums(n, whole.z, whole.zz, whole.x, whole.xx, whole.zx), shift)
        return product * (whole.zz / n - (whole.z / n) ** 2)[:, None] / variance


def _slopes(sums: Sums) -> np.ndarray:
    n = sums.n[:, None]
    left = sums.zz[:, None] - sums.z[:, None] ** 2 / n
    slopes = (sums.zx - sums.z[:, None] * sums.x / n) / left
    return np.where(left > CONSTANT * sums.zz[:, None], slopes, np.nan)


@dataclass(frozen=True)
class Sketch:
    """The means of x by type, projected on random signs.

    Args:
        first: `[projections, neurons]`: Σ over types of sign · √w · (the type's mean − the mean of all tokens), in one
            half of the tokens. w is the type's share of all tokens. Types that are not in both halves are left out.
        second: the same in the other half, with the same signs.
        types: how many types there are in both halves.
    """

    first: np.ndarray
    second: np.ndarray
    types: int

    def explained(self, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The explained variance of the type, `[neurons]`, and its two-sided p.

        Σ w · (mean₁ − mean) · (mean₂ − mean) over types is the expectation of the product of a projection of the first
        half with the same projection of the second. The product with *another* projection has the expectation 0, and
        its spread is that of a sketch in which types were dealt out anew. Sums of such products are the draws of the
        null for `permutation_p`. They are widened by the spread that the exact sum has over shuffled types.

        Args:
            variance: of x, `[neurons]`.
        """
        count = len(self.first)
        products = self._products() / (count * variance)
        widened = products[1:] * np.sqrt(1 + count / max(1, self.types - 1))
        p, *_ = permutation_p(products[0], widened)
        return products[0], p

    def _products(self) -> np.ndarray:
        """Σ over i of first[i] · second[i + k], circular, for each k: `[projections, neurons]`."""
        spectrum = np.conj(np.fft.rfft(self.first, axis=0)) * np.fft.rfft(self.second, axis=0)
        return np.fft.irfft(spectrum, len(self.first), axis=0)

    def explained_by_one(self, signs: np.ndarray, share: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """The explained variance of being one type or not, for one type of each neuron, `[neurons]`.

        √w · (mean − overall mean) of the type is found again as the mean of sign · projection (a count sketch:
        Charikar, Chen and Farach-Colton 2002, Finding frequent items in data streams). The product of the two halves'
        is larger by what all other types explain over the number of projections; this is taken off.

        Args:
            signs: `[projections, neurons]`: those of the neuron's type; 0 for a type that is not in both halves.
            share: `[neurons]` the type's share w of all tokens.
            variance: of x, `[neurons]`.
        """
        count = len(self.first)
        found = (signs * self.first).mean(0) * (signs * self.second).mean(0)
        everything = (self.first * self.second).mean(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            own = (found - everything / count) / (1 - 1 / count)
            explained = own / (1 - share) / variance
        return np.where(signs.any(0), explained, np.where(np.isnan(variance), np.nan, 0.0))


def noise_of_sketch(sketch: Sketch, variance: np.ndarray) -> np.ndarray:
    """The standard error that the random signs alone give `Sketch.explained`, `[neurons]`.

    The variance of a product of two projections is |m₁|² |m₂|² + (m₁ · m₂)² − 2 Σ m₁² m₂² at most (Alon, Matias and
    Szegedy 1996), of which the last term is left out here.
    """
    count = len(sketch.first)
    with np.errstate(invalid="ignore"):
        norms = (sketch.first**2).mean(0) * (sketch.second**2).mean(0)
        return np.sqrt((norms + (sketch.first * sketch.second).mean(0) ** 2) / count) / variance
