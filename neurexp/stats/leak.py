"""Leak: how far does something earlier move a row towards its own category? Float64.

Rows belong to groups (a word); `earlier` is the category of what came before the row. Groups are compared with
themselves only, so what a group is plays no part. Knows no word and no model.
"""

from dataclasses import dataclass

import numpy as np

from neurexp.stats.association import LEVEL
from neurexp.stats.chunks import in_float64, labelling_chunks, neuron_chunks
from neurexp.stats.shuffling import shuffles

TIE = 1e-9  # relative: draws as close as this are taken as equal


@dataclass(frozen=True)
class Leak:
    """What an earlier category moves.

    Args:
        moved: `[neurons]` mean over groups of (mean of the rows after category 1 − mean after category 0).
        p: `[neurons]` p of |moved| among shuffles of `earlier` within groups.
        share: Σ moved · difference / Σ difference² over neurons: the part of the category difference. NaN where no
            neuron differs.
        low, high: 2.5 % and 97.5 % quantile of `share` over the shuffles.
        p_share: p of |share| among the shuffles.
        groups: number of groups that have rows after both categories.
        rows: their number of rows.
    """

    moved: np.ndarray
    p: np.ndarray
    share: float
    low: float
    high: float
    p_share: float
    groups: int
    rows: int


def leak(
    x: np.ndarray, earlier: np.ndarray, groups: np.ndarray, difference: np.ndarray, draws: int, seed: int
) -> Leak | None:
    """Measures the leak; None if no group has rows after both categories.

    p = (1 + exceedances) / (draws + 1). `difference` should come from other rows: else it shares their noise.

    Args:
        x: `[rows, neurons]`.
        earlier: `[rows]`, 0 or 1.
        groups: `[rows]`, the number of each row's group.
        difference: `[neurons]`, category 1 − category 0.
        draws: the number of shuffles.
        seed: of the shuffles.
    """
    used = np.array([np.ptp(earlier[groups == group]) > 0 for group in groups], dtype=bool)
    if not used.any():
        return None
    x, earlier, groups = x[used], earlier[used], np.unique(groups[used], return_inverse=True)[1]
    count = int(groups.max()) + 1
    ones = np.bincount(groups, earlier, minlength=count)
    zeros = np.bincount(groups, minlength=count) - ones
    up, down = (1 / (ones * count))[groups], (1 / (zeros * count))[groups]

    def weights(labellings: np.ndarray) -> np.ndarray:
        return np.where(labellings == 1, up, -down)

    moved = np.concatenate([weights(earlier) @ in_float64(x, some) for some in neuron_chunks(x)])
    size = float(difference @ difference)
    along = x.astype(np.float64) @ difference / size if size > 0 else np.full(len(x), np.nan)
    exceed, shares = np.zeros(x.shape[1], dtype=np.int64), []
    random = np.random.default_rng(seed)
    threshold = np.abs(moved) * (1 - TIE)
    for batch in shuffles(earlier, draws, random, groups):
        drawn = weights(batch)
        shares.append(drawn @ along)
        for some in neuron_chunks(x, len(batch)):
            for part in labelling_chunks(len(batch), some.stop - some.start):
                exceed[some] += (np.abs(drawn[part] @ in_float64(x, some)) >= threshold[some]).sum(0)
    null, share = np.concatenate(shares), float(weights(earlier) @ along)
    low, high = np.quantile(null, (LEVEL / 2, 1 - LEVEL / 2))
    beyond = int((np.abs(null) >= abs(share) * (1 - TIE)).sum())
    p_share = (1 + beyond) / (draws + 1) if np.isfinite(share) else np.nan
    return Leak(moved, (1 + exceed) / (draws + 1), share, float(low), float(high), p_share, count, len(x))
