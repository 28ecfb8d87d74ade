"""Leak: how far does something earlier move a row towards its own category? Float64.

Before each row stands a word that has a category. What each of these words moves is estimated by least squares, with a
constant for each group that a row belongs to, so what the group is plays no part. The leak is the difference of the
categories' means over these words. A few words, however often each of them comes, are a few words: the null gives them
the categories in other ways. Knows no sentence and no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurexp.stats.association import LEVEL
from neurexp.stats.chunks import in_float64, labelling_chunks, neuron_chunks
from neurexp.stats.group_shuffles import TIE, splits_of_groups


@dataclass(frozen=True)
class Leak:
    """What an earlier category moves.

    Args:
        moved: `[neurons]` what words of category 1 move, mean over words, − that of category 0.
        p: `[neurons]` share of all splits of the words with at least this |moved|, the real one included.
        share: Σ moved · difference / Σ difference² over neurons: the part of the category difference. NaN where no
            neuron differs.
        low, high: 2.5 % and 97.5 % quantile of ±`share` over the other splits; NaN if there is none.
        p_share: share of all splits with at least this |share|, the real one included.
        words: number of earlier words.
        rows: number of rows that are compared.
    """

    moved: np.ndarray
    p: np.ndarray
    share: float
    low: float
    high: float
    p_share: float
    words: int
    rows: int


def leak(
    x: np.ndarray,
    earlier: np.ndarray,
    category: np.ndarray,
    factors: Sequence[np.ndarray],
    difference: np.ndarray,
    draws: int,
    seed: int,
) -> Leak | None:
    """Measures the leak; None unless the rows compare all earlier words with each other, words of both categories.

    `difference` should come from other rows: else it shares their noise.

    Args:
        x: `[rows, neurons]`.
        earlier: `[rows]`, the number of the word before each row.
        category: `[rows]`, 0 or 1, of that word.
        factors: `[rows]` each: a number of the row's group, from 0. A row may belong to several groups at once.
        difference: `[neurons]`, category 1 − category 0.
        draws, seed: of the splits (`splits_of_groups`).
    """
    words, word = np.unique(earlier, return_inverse=True)
    design = _within((word.reshape(-1)[:, None] == np.arange(len(words))).astype(float), factors)
    used = np.abs(design).max(1, initial=0) > TIE  # the others are alone in a group
    if len(set(category[used].tolist())) < 2:
        return None
    words, first = np.unique(earlier[used], return_index=True)
    x, design = x[used], design[used][:, np.unique(word.reshape(-1)[used])]
    if np.linalg.matrix_rank(design, tol=1e-6) < len(words) - 1:
        return None
    splits = splits_of_groups(category[used][first], draws, seed)
    contrasts = splits / splits.sum(1, keepdims=True) - (1 - splits) / (1 - splits).sum(1, keepdims=True)
    weights = contrasts @ np.linalg.pinv(design, rcond=1e-6)  # [splits, rows]
    size = float(difference @ difference)
    shares = weights @ (x.astype(np.float64) @ difference) / size if size > 0 else np.full(len(splits), np.nan)
    moved, reached = np.zeros(x.shape[1]), np.zeros(x.shape[1], dtype=np.int64)
    for some in neuron_chunks(x, len(splits)):
        values = in_float64(x, some)
        moved[some] = weights[0] @ values
        for part in labelling_chunks(len(splits), some.stop - some.start):
            reached[some] += (np.abs(weights[part] @ values) >= np.abs(moved[some]) * (1 - TIE)).sum(0)
    # With the categories exchanged a split is the same one, so its share may stand with either sign
    others = np.concatenate([shares[1:], -shares[1:]])
    low, high = np.quantile(others, (LEVEL / 2, 1 - LEVEL / 2)) if len(others) else (np.nan, np.nan)
    return Leak(
        moved=moved,
        p=np.maximum(reached, 1) / len(splits),  # the real split reaches itself, whatever the rounding
        share=float(shares[0]),
        low=float(low),
        high=float(high),
        p_share=float((np.abs(shares) >= abs(shares[0]) * (1 - TIE)).mean()) if size > 0 else np.nan,
        words=len(words),
        rows=len(x),
    )


def _within(values: np.ndarray, factors: Sequence[np.ndarray]) -> np.ndarray:
    """What is left of values `[rows, columns]` when each group's constant is fitted (alternating projections)."""
    for _ in range(1000):
        before = values
        for groups in factors:
            sums = np.zeros((int(groups.max()) + 1, values.shape[1]))
            np.add.at(sums, groups, values)
            values = values - (sums / np.maximum(1, np.bincount(groups))[:, None])[groups]
        if np.abs(values - before).max(initial=0) < 1e-12:
            break
    return values
