"""Held-out members: do neurons that tell the other members of two categories apart tell new members apart? Float64.

A member is one row: a word, for example. Knows no word and no model.
"""

from collections.abc import Iterator

import numpy as np

from neurexp.stats.chunks import labelling_chunks
from neurexp.stats.hypothesis_tests import compare_within

MOST_PAIRS = 100  # pairs of members that are held out; of more, a random choice
SELECTED = 0.05  # share of the neurons that the other members select


def pairs_right(x: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Holds out one member of each category at a time, and asks neurons for their order.

    A neuron says that the member of category 1 is higher if it is so on average over the other members. It is
    *selected* if its |Welch's t| over the other members is among the largest 5 % of the layer (one neuron at least).
    Equal activations count half.

    Args:
        x: `[members, neurons]`, three or more of each category.
        labels: `[members]`, 0 or 1.
        seed: of the choice of pairs, if there are more than `MOST_PAIRS`.

    Returns:
        The share of pairs that each neuron orders rightly, `[neurons]`, whether or not it is selected; and the share of
        pairs over the neurons that each pair's other members select. By chance 0.5.
    """
    right, chosen_right, count = np.zeros(x.shape[1]), 0.0, 0
    for shares, selected in _by_pair(x, labels, seed):
        right += shares
        chosen_right += float(shares[selected].mean())
        count += 1
    return right / count, chosen_right / count


def _by_pair(x: np.ndarray, labels: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each pair: how right each neuron is (0, ½ or 1), and the indices of the selected ones."""
    pairs = np.stack(np.meshgrid(np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)), axis=-1).reshape(-1, 2)
    if len(pairs) > MOST_PAIRS:
        pairs = np.random.default_rng(seed).permutation(pairs)[:MOST_PAIRS]
    count = max(1, round(SELECTED * x.shape[1]))
    for part in labelling_chunks(len(pairs), max(x.shape)):
        inside = np.ones((part.stop - part.start, len(x)), dtype=bool)
        np.put_along_axis(inside, pairs[part], False, axis=1)
        tested = compare_within(x, np.broadcast_to(labels, inside.shape), inside)
        for (zero, one), t, direction in zip(pairs[part], tested.statistic, tested.direction, strict=True):
            order = np.argsort(-np.abs(np.nan_to_num(t)), kind="stable")
            difference = x[one].astype(np.float64) - x[zero].astype(np.float64)
            yield (1 + np.sign(difference) * direction) / 2, order[:count]
