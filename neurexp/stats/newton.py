"""Newton's method for the logistic regressions of two categories on one neuron each, many at once. Float64.

Knows no test and no prediction.
"""

import numpy as np
from scipy import special

from neurexp.stats.chunks import chunks

ITERATIONS, HALVINGS = 50, 20
TOLERANCE = 1e-8  # of the largest step, on standardised neurons
CACHED = 2**16  # numbers of one array, so that all arrays of a step stay in the processor's cache


def newton(z: np.ndarray, y: np.ndarray, tolerance: float = TOLERANCE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maximum-likelihood intercepts and slopes, and whether they converged: the last step was below `tolerance`.

    A Newton step is halved while it lowers the likelihood. A neuron that never varies has slope 0 and converged.

    Args:
        z: `[rows, neurons]`, standardised.
        y: `[rows]`, 0 or 1.
        tolerance: of the largest step.
    """
    share, neurons = y.mean(), z.shape[1]
    intercept, slope = np.full(neurons, np.log(share / (1 - share))), np.zeros(neurons)
    converged = np.zeros(neurons, dtype=bool)
    for block in chunks(neurons, CACHED // len(y)):
        intercept[block], slope[block], converged[block] = _newton(np.ascontiguousarray(z[:, block]), y, tolerance)
    return intercept, slope, converged


def _newton(z: np.ndarray, y: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
        if rest.all():
            likelihood = reached
            continue
        active, x, p, likelihood = active[rest], x[:, rest], p[:, rest], reached[rest]
    return intercept, slope, converged
