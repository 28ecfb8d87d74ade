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
from neurexp.stats.rounding import centred

ITERATIONS, HALVINGS = 50, 20
TOLERANCE, ROUGH = 1e-8, 1e-3  # of the largest step, on standardised neurons
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
    fit, z = _Fit.of(x, labels)
    neurons, y, without = z.shape[1], labels == 1, _likelihood_without(labels)
    likelihood, error = fit.limit.copy(), np.full(neurons, np.nan)
    finite = np.flatnonzero(fit.separation == OVERLAP)
    score = fit.intercept[finite] + fit.slope[finite] * z[:, finite]
    p = special.expit(score)
    likelihood[finite] = special.log_expit(np.where(y[:, None], score, -score)).sum(0)
    weight = p * (1 - p)
    a, b = weight.sum(0), np.einsum("rn,rn->n", weight, z[:, finite])
    c = np.einsum("rn,rn,rn->n", weight, z[:, finite], z[:, finite])
    with np.errstate(invalid="ignore", divide="ignore"):
        error[finite] = np.sqrt(a / (a * c - b * b))
        wald = np.where(np.isfinite(error) & fit.varies, fit.slope / error, 0.0)
    chi2 = np.maximum(2 * (likelihood - without), 0.0)
    chi2[~fit.varies] = 0.0
    bounded = np.isfinite(fit.slope) & fit.varies
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
    return np.stack([_p_of(x, labels) for labels in labellings])


def _p_of(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    fit, z = _Fit.of(x, labels, ROUGH)
    likelihood, finite, y = fit.limit.copy(), np.flatnonzero(fit.separation == OVERLAP), labels == 1
    score = fit.intercept[finite] + fit.slope[finite] * z[:, finite]
    # Σ log p of the rows' own labels: log(1 / (1 + exp(−score))) and log(1 / (1 + exp(score)))
    likelihood[finite] = score[y].sum(0) - np.logaddexp(0, score).sum(0)
    chi2 = np.where(fit.varies, np.maximum(2 * (likelihood - _likelihood_without(labels)), 0.0), 0.0)
    return special.chdtrc(1, chi2)


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
    fit, _ = _Fit.of(x[train], labels[train])
    unseen = fit.standardised(x[~train])
    right = fit.predict(unseen) == (labels[~train] == 1)[:, None]
    sign = np.sign(fit.slope)
    area = auroc(unseen, labels[~train])
    return HeldOut(right.mean(0), 0.5 + sign * (area - 0.5))


@dataclass(frozen=True)
class _Fit:
    """Regressions on standardised neurons: what is needed to predict."""

    mean: np.ndarray
    spread: np.ndarray
    varies: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray
    separation: np.ndarray
    threshold: np.ndarray  # of separated neurons, in standard deviations from the mean
    limit: np.ndarray  # the log-likelihood's limit, of separated neurons
    converged: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, labels: np.ndarray, tolerance: float = TOLERANCE) -> tuple["_Fit", np.ndarray]:
        """The fits, and the standardised rows."""
        mean = x.mean(0)
        x, varies = centred(x)
        spread = np.where(varies, x.std(0), 1.0)
        z = x / spread
        separation, sign, threshold, limit = separations(z, labels)
        separation[~varies] = OVERLAP
        slope, converged = np.where(separation == OVERLAP, 0.0, sign * np.inf), np.ones(len(sign), dtype=bool)
        share = (labels == 1).mean()
        intercept = np.full(len(sign), np.log(share / (1 - share)))
        finite = np.flatnonzero(separation == OVERLAP)
        intercept[finite], slope[finite], converged[finite] = newton(z[:, finite], labels, tolerance)
        return cls(mean, spread, varies, slope, intercept, separation, threshold, limit, converged), z

    def standardised(self, x: np.ndarray) -> np.ndarray:
        """Other rows in the units of the fit."""
        return np.where(self.varies, x - self.mean, 0.0) / self.spread

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


def newton(z: np.ndarray, y: np.ndarray, tolerance: float = TOLERANCE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maximum-likelihood intercepts and slopes, and whether they converged: the last step was below `tolerance`.

    A Newton step is halved while it lowers the likelihood. A neuron that never varies has slope 0 and converged.

    Args:
        z: `[rows, neurons]`, standardised.
        y: `[rows]`, 0 or 1.
        tolerance: of the largest step.
    """
    share = y.mean()
    intercept, slope = np.full(z.shape[1], np.log(share / (1 - share))), np.zeros(z.shape[1])
    converged = ~(np.ptp(z, axis=0) > 0)
    active = np.flatnonzero(~converged)
    x, one = z[:, active], (y == 1)[:, None]
    p = np.full(x.shape, share)
    likelihood = np.full(len(active), np.log(np.where(one, p[:, :1], 1 - p[:, :1])).sum())
    for _ in range(ITERATIONS):
        if len(active) == 0:
            break
        weight, residual = p * (1 - p), one - p
        weighted = weight * x
        a, b, c = weight.sum(0), weighted.sum(0), np.einsum("rn,rn->n", weighted, x)  # the Hessian [[a, b], [b, c]]
        first, second = residual.sum(0), np.einsum("rn,rn->n", residual, x)  # the gradient
        with np.errstate(invalid="ignore", divide="ignore"):
            steps = np.stack([c * first - b * second, a * second - b * first]) / (a * c - b * b)
        failed = ~np.isfinite(steps).all(0)  # the weights underflowed: no maximum was found
        steps[:, failed] = 0.0
        finished = (np.abs(steps).max(0) < tolerance) & ~failed
        for _ in range(HALVINGS):
            p = special.expit(intercept[active] + steps[0] + (slope[active] + steps[1]) * x)
            with np.errstate(divide="ignore"):
                reached = np.log(np.where(one, p, 1 - p)).sum(0)
            worse = reached < likelihood - 1e-9 * np.abs(likelihood)
            if not worse.any():
                break
            steps[:, worse] /= 2
        intercept[active] += steps[0]
        slope[active] += steps[1]
        converged[active[finished]] = True
        rest = ~finished & ~failed
        active, x, p, likelihood = active[rest], x[:, rest], p[:, rest], reached[rest]
    return intercept, slope, converged
