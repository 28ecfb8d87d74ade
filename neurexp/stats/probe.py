"""Probes: how well can held-out rows be told apart by one neuron, or by all of a layer? Cross-validated, float64.

Knows no word and no model. Rows are split into folds, each category by itself; what is chosen or fitted on four fifths
of them is scored on the fifth that it has not seen.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from neurexp.stats.contrast import compare_within
from neurexp.stats.layer_probe import layer_accuracy as layer_accuracy  # the third probe, which has a file of its own
from neurexp.stats.parts import Advance, in_float64, no_progress, of_labellings, of_neurons
from neurexp.stats.units import strata

FOLDS = 5
ITERATIONS, HALVINGS = 50, 20
TOLERANCE = 1e-8  # of the largest step, on standardised neurons


@dataclass(frozen=True)
class NeuronProbes:
    """A logistic regression on each neuron alone, `[neurons]` each."""

    accuracy: np.ndarray  # share of held-out rows that were told apart
    separated: np.ndarray  # bool: in some fold the training rows were separated perfectly, and no maximum exists
    converged: np.ndarray  # bool: in every fold, or separated


def folds(labels: np.ndarray, seed: int, units: np.ndarray | None = None) -> np.ndarray:
    """The fold of each row `[rows]`, 0 to 4: each kind of unit is dealt out evenly.

    Rows of one unit (a word in two sentences) share a fold. Unless `units` `[rows]` are given every row is one.
    """
    units = np.arange(len(labels)) if units is None else units
    random = np.random.default_rng(seed)
    fold = np.zeros(int(units.max()) + 1, dtype=np.int64)
    for kind in strata(labels, units):
        members = random.permutation(kind)
        fold[members] = np.arange(len(members)) % FOLDS
    return fold[units]


def neuron_probes(x: np.ndarray, labels: np.ndarray, fold: np.ndarray, tick: Advance = no_progress) -> NeuronProbes:
    """Fits every neuron's own logistic regression at once, by Newton's method, and scores the held-out rows.

    Where one neuron separates the training rows perfectly the likelihood has no maximum: its limit, the threshold
    midway between the two nearest rows, is taken in its place, and said so.

    Args:
        x: `[rows, neurons]`.
        labels: `[rows]`, 0 or 1.
        fold: `[rows]` of `folds`.
        tick: is told of the progress.
    """
    right = np.zeros(x.shape[1])
    separated, converged = np.zeros(x.shape[1], dtype=bool), np.ones(x.shape[1], dtype=bool)
    columns, held_out = of_neurons(x), np.unique(fold)
    for part in columns:
        some = in_float64(x, part)
        for held in held_out:
            hits, apart, done = _scored(some, labels, fold != held)
            right[part] += hits
            separated[part] |= apart
            converged[part] &= done | apart
            tick(1 / len(columns) / len(held_out))
    return NeuronProbes(right / len(labels), separated, converged)


def _scored(x: np.ndarray, labels: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Held-out rows that each neuron's probe gets right, whether it separates the training rows, and converged."""
    y, spread = labels[train], x[train].std(0)
    z = (x - x[train].mean(0)) / np.where(spread > 0, spread, 1.0)
    threshold, direction, apart = _separation(z[train], y)
    intercept, slope, done = _newton(z[train], y)
    score = np.where(apart, direction * (z[~train] - threshold), intercept + slope * z[~train])
    return ((score > 0) == (labels[~train] == 1)[:, None]).sum(0), apart, done


def _separation(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where one threshold separates the categories: it, on which side category 1 lies, and whether there is one."""
    one, zero = z[y == 1], z[y == 0]
    above, below = one.min(0) > zero.max(0), one.max(0) < zero.min(0)
    threshold = np.where(above, one.min(0) + zero.max(0), one.max(0) + zero.min(0)) / 2
    return threshold, np.where(above, 1.0, -1.0), above | below


def _newton(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intercepts and slopes of maximum likelihood, and whether the last step was negligible.

    Newton's steps, halved as long as they lower the likelihood. A neuron that never varies keeps its intercept.
    """
    share = y.mean()
    intercept, slope = np.full(z.shape[1], np.log(share / (1 - share))), np.zeros(z.shape[1])
    done = ~(np.ptp(z, axis=0) > 0)
    active = np.flatnonzero(~done)
    x, one = z[:, active], (y == 1)[:, None]
    p = np.full(x.shape, share)
    likelihood = np.full(len(active), np.log(np.where(one, p[:, :1], 1 - p[:, :1])).sum())
    for _ in range(ITERATIONS):
        if len(active) == 0:
            break
        weight, left = p * (1 - p), one - p
        weighted = weight * x
        a, b, c = weight.sum(0), weighted.sum(0), np.einsum("rn,rn->n", weighted, x)
        first, second = left.sum(0), np.einsum("rn,rn->n", left, x)
        with np.errstate(invalid="ignore", divide="ignore"):
            steps = np.stack([c * first - b * second, a * second - b * first]) / (a * c - b * b)
        lost = ~np.isfinite(steps).all(0)  # the weights underflowed: no maximum was found
        steps[:, lost] = 0.0
        finished = (np.abs(steps).max(0) < TOLERANCE) & ~lost
        for _ in range(HALVINGS):
            p = expit(intercept[active] + steps[0] + (slope[active] + steps[1]) * x)
            with np.errstate(divide="ignore"):
                reached = np.log(np.where(one, p, 1 - p)).sum(0)
            worse = reached < likelihood - 1e-9 * np.abs(likelihood)
            if not worse.any():
                break
            steps[:, worse] /= 2
        intercept[active] += steps[0]
        slope[active] += steps[1]
        done[active[finished]] = True
        left_over = ~finished & ~lost
        active, x, p, likelihood = active[left_over], x[:, left_over], p[:, left_over], reached[left_over]
    return intercept, slope, done


def best_neuron_accuracy(x: np.ndarray, labellings: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Held-out accuracy of the neuron that tells the training rows of each fold apart best, `[labellings]`.

    The neuron is chosen by Welch's t among the training rows, so that choosing and testing share no row.

    Args:
        x: `[rows, neurons]`.
        labellings: `[labellings, rows]`, 0 or 1: the labels, and shuffles of them.
        fold: `[rows]` of `folds`.
    """
    right = np.zeros(len(labellings))
    for held in np.unique(fold):
        train = fold != held
        for part in of_labellings(len(labellings), max(x.shape)):
            some = labellings[part]
            t = compare_within(x, some, np.broadcast_to(train, some.shape)).statistic
            best = np.argmax(np.nan_to_num(np.abs(t), nan=-1.0), axis=1)
            right[part] += [
                _scored(x[:, [neuron]].astype(np.float64), labels, train)[0][0]
                for neuron, labels in zip(best, some, strict=True)
            ]
    return right / x.shape[0]
