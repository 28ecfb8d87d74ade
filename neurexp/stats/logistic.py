"""Logistic regression of two categories on one neuron at a time, for every neuron at once. Float64.

log(p / (1 − p)) = intercept + slope · z, where p is the chance of category 1 and z is the neuron's activation in
standard deviations from its mean. Maximum likelihood, without a penalty. Knows no word and no model.

Where a neuron separates the categories, the likelihood has no maximum: the slope is infinite, and the likelihood ratio
is that of its limit. Wald's test fails there. Its statistic, slope / standard error, falls to 0 while the slope grows
(Hauck and Donner 1977, Journal of the American Statistical Association 72).
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from neurexp.stats.chunks import in_neuron_chunks
from neurexp.stats.effect_sizes import auroc
from neurexp.stats.newton import TOLERANCE, newton
from neurexp.stats.rounding import centred

ROUGH = 1e-3  # of the largest Newton step where many labellings are fitted
OVERLAP, QUASI, COMPLETE = range(3)  # values of `separation`
Z_95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


@dataclass(frozen=True)
class Logistic:
    """A regression for each neuron, `[neurons]` each. A neuron that never varies has slope 0 and p = 1."""

    slope: np.ndarray  # per standard deviation (ddof 0); ±inf where the neuron separates the categories
    intercept: np.ndarray  # the log odds at the neuron's mean; NaN where the neuron separates the categories
    likelihood: np.ndarray  # log-likelihood; its limit where the neuron separates the categories
    chi2: np.ndarray  # likelihood ratio against the model without the neuron, 1 degree of freedom
    p: np.ndarray  # of `chi2`
    wald: np.ndarray  # slope / standard error; 0, its limit, where the neuron separates the categories
    p_wald: np.ndarray  # two-sided, normal
    low: np.ndarray  # ends of Wald's 95 % interval of the slope; NaN where the neuron separates the categories
    high: np.ndarray
    accuracy: np.ndarray  # share of these same rows that are predicted correctly at p = 1/2
    separation: np.ndarray  # int8: OVERLAP, QUASI (only equal values are in both categories) or COMPLETE
    converged: np.ndarray  # bool; where False, the likelihood is a lower bound


def log10_p(chi2: np.ndarray) -> np.ndarray:
    """log10 of the p of a χ² with 1 degree of freedom, where p itself may be too small for a float64."""
    return (np.log(2) + special.log_ndtr(-np.sqrt(np.maximum(chi2, 0)))) / np.log(10)


@in_neuron_chunks
def logistic(x: np.ndarray, labels: np.ndarray) -> Logistic:
    """The regression of the labels on each neuron.

    Args:
        x: `[rows, neurons]`.
        labels: `[rows]`, 0 or 1, with a row of each.
    """
    scale = _Scale.of(x)
    z = scale.standardised(x)
    fit, varies = _Fit.of(scale, z, labels), scale.varies
    neurons, y, without = z.shape[1], labels == 1, _likelihood_without(labels)
    likelihood, error = fit.limit.copy(), np.full(neurons, np.nan)
    finite = np.flatnonzero(fit.separation == OVERLAP)
    score = fit.intercept[finite] + fit.slope[finite] * z[:, finite]
    p = special.expit(score)
    likelihood[finite] = _likelihood(score, y)
    weight = p * (1 - p)
    a, b = weight.sum(0), np.einsum("rn,rn->n", weight, z[:, finite])
    c = np.einsum("rn,rn,rn->n", weight, z[:, finite], z[:, finite])
    with np.errstate(invalid="ignore", divide="ignore"):
        error[finite] = np.sqrt(a / (a * c - b * b))
        wald = np.where(np.isfinite(error) & varies, fit.slope / error, 0.0)
    chi2 = np.maximum(2 * (likelihood - without), 0.0)
    chi2[~varies] = 0.0
    bounded = np.isfinite(fit.slope) & varies
    return Logistic(
        slope=fit.slope,
        intercept=np.where(np.isfinite(fit.slope), fit.intercept, np.nan),
        likelihood=likelihood,
        chi2=chi2,
        p=special.chdtrc(1, chi2),
        wald=np.where(np.isfinite(wald), wald, 0.0),
        p_wald=2 * special.ndtr(-np.abs(np.where(np.isfinite(wald), wald, 0.0))),
        low=np.where(bounded, fit.slope - Z_95 * error, np.nan),
        high=np.where(bounded, fit.slope + Z_95 * error, np.nan),
        accuracy=(fit.predict(z) == y[:, None]).mean(0),
        separation=fit.separation,
        converged=fit.converged,
    )


@in_neuron_chunks
def likelihood_ratio_p(x: np.ndarray, labellings: np.ndarray) -> np.ndarray:
    """The p of `logistic` for many labellings `[labellings, rows]`, `[labellings, neurons]`; faster.

    The fits end once a step is below 0.001 standard deviations: χ² is then off by less than 1e-6 of the rows.
    """
    scale = _Scale.of(x)
    z = scale.standardised(x)
    return np.stack([_p_of(scale, z, labels) for labels in labellings])


def _p_of(scale: "_Scale", z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    fit = _Fit.of(scale, z, labels, ROUGH)
    likelihood, finite, y = fit.limit.copy(), np.flatnonzero(fit.separation == OVERLAP), labels == 1
    score = fit.intercept[finite] + fit.slope[finite] * z[:, finite]
    likelihood[finite] = _likelihood(score, y)
    chi2 = np.where(scale.varies, np.maximum(2 * (likelihood - _likelihood_without(labels)), 0.0), 0.0)
    return special.chdtrc(1, chi2)


def _likelihood(score: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The log-likelihood of log odds `[rows, neurons]`: log(1 / (1 + exp(∓score))) without an overflow."""
    return (np.minimum(np.where(y[:, None], score, -score), 0) - np.log1p(np.exp(-np.abs(score)))).sum(0)


def _likelihood_without(labels: np.ndarray) -> float:
    """The log-likelihood of the intercept alone."""
    count, ones = len(labels), int((labels == 1).sum())
    return ones * np.log(ones / count) + (count - ones) * np.log((count - ones) / count)


@dataclass(frozen=True)
class HeldOut:
    """How well the regressions do on rows that did not fit them, `[neurons]` each."""

    accuracy: np.ndarray  # share of the rows that are predicted correctly at p = 1/2
    auroc: np.ndarray  # in the direction of the fitted slope: below 0.5, the direction does not hold


@in_neuron_chunks
def held_out(x: np.ndarray, labels: np.ndarray, train: np.ndarray) -> HeldOut:
    """Fits each neuron's regression to some rows, and scores it on the others.

    Where a neuron separates the training rows, the threshold is midway between the two nearest of them.

    Args:
        x: `[rows, neurons]`.
        labels: `[rows]`, 0 or 1.
        train: `[rows]` bool. NaN is returned unless both parts have rows of both categories.
    """
    parts = [set(np.unique(labels[part]).tolist()) for part in (train, ~train)]
    if parts != [{0, 1}, {0, 1}]:
        missing = np.full(x.shape[1], np.nan)
        return HeldOut(missing, missing)
    scale = _Scale.of(x[train])
    fit, unseen = _Fit.of(scale, scale.standardised(x[train]), labels[train]), scale.standardised(x[~train])
    right = fit.predict(unseen) == (labels[~train] == 1)[:, None]
    sign = np.sign(fit.slope)
    area = auroc(unseen, labels[~train])
    return HeldOut(right.mean(0), 0.5 + sign * (area - 0.5))


@dataclass(frozen=True)
class _Scale:
    """What standardises neurons; one that never varies becomes 0."""

    mean: np.ndarray
    spread: np.ndarray
    varies: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> "_Scale":
        mean = x.mean(0)
        x, defined = centred(x)
        return cls(mean, np.where(defined, x.std(0), 1.0), defined)

    def standardised(self, x: np.ndarray) -> np.ndarray:
        """Rows in standard deviations from the mean."""
        return np.where(self.varies, x - self.mean, 0.0) / self.spread


@dataclass(frozen=True)
class _Fit:
    """Regressions on standardised neurons: what is needed to predict."""

    slope: np.ndarray
    intercept: np.ndarray
    separation: np.ndarray
    threshold: np.ndarray  # of separated neurons, in standard deviations from the mean
    limit: np.ndarray  # the log-likelihood's limit, of separated neurons
    converged: np.ndarray

    @classmethod
    def of(cls, scale: _Scale, z: np.ndarray, labels: np.ndarray, tolerance: float = TOLERANCE) -> "_Fit":
        """The fits to standardised rows."""
        separation, sign, threshold, limit = separations(z, labels)
        separation[~scale.varies] = OVERLAP
        slope, converged = np.where(separation == OVERLAP, 0.0, sign * np.inf), np.ones(len(sign), dtype=bool)
        share = (labels == 1).mean()
        intercept = np.full(len(sign), np.log(share / (1 - share)))
        finite = np.flatnonzero(separation == OVERLAP)
        if len(finite) == len(sign):
            intercept, slope, converged = newton(z, labels, tolerance)
        else:
            intercept[finite], slope[finite], converged[finite] = newton(z[:, finite], labels, tolerance)
        return cls(slope, intercept, separation, threshold, limit, converged)

    def predict(self, z: np.ndarray) -> np.ndarray:
        """Whether category 1 is predicted, `[rows, neurons]` bool."""
        apart = self.separation != OVERLAP
        slope, intercept = np.where(apart, 0.0, self.slope), np.where(apart, 0.0, self.intercept)
        score = np.where(apart, np.sign(self.slope) * (z - self.threshold), intercept + slope * z)
        return score > 0


def separations(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Whether a threshold on each neuron separates the categories; with one predictor the order of values decides.

    Separation is complete if every value of one category exceeds every value of the other, and quasi-complete if the
    two share only a single value at the border (Albert and Anderson 1984, Biometrika 71). The log-likelihood's limit is
    then 0, or that of the rows at the shared value alone.

    Returns:
        `[neurons]` each: `OVERLAP`, `QUASI` or `COMPLETE` (int8); the sign of the slope; the threshold, which lies
        midway between the nearest rows; and the log-likelihood's limit (0 for `OVERLAP`).
    """
    one, zero = x[labels == 1], x[labels == 0]
    low1, high1, low0, high0 = one.min(0), one.max(0), zero.min(0), zero.max(0)
    constant = (low1 == high1) & (low0 == high0) & (low1 == low0)
    above, below = (low1 >= high0) & ~constant, (high1 <= low0) & ~constant
    complete = (low1 > high0) | (high1 < low0)
    separation = np.where(complete, COMPLETE, np.where(above | below, QUASI, OVERLAP)).astype(np.int8)
    threshold = np.where(above, low1 + high0, high1 + low0) / 2
    n1, n0 = ((part == threshold).sum(0).astype(float) for part in (one, zero))
    limit = special.xlogy(n1, n1 / np.maximum(n1 + n0, 1)) + special.xlogy(n0, n0 / np.maximum(n1 + n0, 1))
    return separation, np.where(above, 1.0, -1.0), threshold, np.where(separation == QUASI, limit, 0.0)
