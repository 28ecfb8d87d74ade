"""Cross-validated probes: how well does one neuron tell held-out rows of two categories apart? Float64.

The rows of each category are divided into folds. A probe is fitted on four fifths of the rows and scored on the fifth
that it has not seen. Knows no word and no model. `layer_probe` has the probe on all neurons of a layer.
"""

from dataclasses import dataclass

import numpy as np

from neurexp.stats.chunks import ProgressCallback, in_float64, labelling_chunks, neuron_chunks, no_progress
from neurexp.stats.hypothesis_tests import compare_within
from neurexp.stats.newton import newton
from neurexp.stats.shuffling import strata_of_groups

FOLDS = 5


@dataclass(frozen=True)
class NeuronProbes:
    """The results of a logistic regression on each neuron alone, `[neurons]` each."""

    accuracy: np.ndarray  # share of held-out rows that were predicted correctly
    separated: np.ndarray  # bool: in some fold the neuron separates the training rows perfectly
    converged: np.ndarray  # bool: in every fold the fit converged, or the neuron separates the training rows


def folds(labels: np.ndarray, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """The fold of each row, `[rows]` integers from 0 to 4; the groups of each category are spread evenly.

    Args:
        labels: `[rows]`.
        seed: of the random assignment.
        groups: `[rows]`: rows of one group (a word in two sentences) share a fold; None: every row is a group.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    random = np.random.default_rng(seed)
    fold = np.zeros(int(groups.max()) + 1, dtype=np.int64)
    for stratum in strata_of_groups(labels, groups):
        members = random.permutation(stratum)
        fold[members] = np.arange(len(members)) % FOLDS
    return fold[groups]


def neuron_probes(
    x: np.ndarray, labels: np.ndarray, fold: np.ndarray, progress: ProgressCallback = no_progress
) -> NeuronProbes:
    """Fits a logistic regression to every neuron at once, by Newton's method, and scores the held-out rows.

    If a neuron separates the training rows perfectly, the likelihood has no maximum. Its limit is used instead: the
    threshold midway between the two nearest rows. `separated` marks these neurons.

    Args:
        x: `[rows, neurons]`.
        labels: `[rows]`, 0 or 1.
        fold: `[rows]`, as from `folds`.
        progress: called with each share of the work that is done.
    """
    correct = np.zeros(x.shape[1])
    separated, converged = np.zeros(x.shape[1], dtype=bool), np.ones(x.shape[1], dtype=bool)
    columns, held_out = neuron_chunks(x), np.unique(fold)
    for chunk in columns:
        values = in_float64(x, chunk)
        for held in held_out:
            hits, separates, done = _score(values, labels, fold != held)
            correct[chunk] += hits
            separated[chunk] |= separates
            converged[chunk] &= done | separates
            progress(1 / len(columns) / len(held_out))
    return NeuronProbes(correct / len(labels), separated, converged)


def best_neuron_accuracy(x: np.ndarray, labellings: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Held-out accuracy of the best neuron of each fold, `[labellings]`.

    The best neuron has the largest |Welch's t| among the training rows, so no row is used to both choose and test it.

    Args:
        x: `[rows, neurons]`.
        labellings: `[labellings, rows]`, 0 or 1: the labels, and shuffles of them.
        fold: `[rows]`, as from `folds`.
    """
    correct = np.zeros(len(labellings))
    for held in np.unique(fold):
        train = fold != held
        for chunk in labelling_chunks(len(labellings), max(x.shape)):
            labels_of_chunk = labellings[chunk]
            t = compare_within(x, labels_of_chunk, np.broadcast_to(train, labels_of_chunk.shape)).statistic
            best = np.argmax(np.nan_to_num(np.abs(t), nan=-1.0), axis=1)
            correct[chunk] += [
                _score(x[:, [neuron]].astype(np.float64), labels, train)[0][0]
                for neuron, labels in zip(best, labels_of_chunk, strict=True)
            ]
    return correct / x.shape[0]


def _score(x: np.ndarray, labels: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each neuron: correct held-out predictions, whether it separates the training rows, whether it converged."""
    y, spread = labels[train], x[train].std(0)
    z = (x - x[train].mean(0)) / np.where(spread > 0, spread, 1.0)
    threshold, sign, separates = _separation(z[train], y)
    intercept, slope, converged = newton(z[train], y)
    score = np.where(separates, sign * (z[~train] - threshold), intercept + slope * z[~train])
    return ((score > 0) == (labels[~train] == 1)[:, None]).sum(0), separates, converged


def _separation(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The threshold between the categories, the sign of category 1 relative to it, and whether it separates them."""
    one, zero = z[y == 1], z[y == 0]
    above, below = one.min(0) > zero.max(0), one.max(0) < zero.min(0)
    threshold = np.where(above, one.min(0) + zero.max(0), one.max(0) + zero.min(0)) / 2
    return threshold, np.where(above, 1.0, -1.0), above | below
