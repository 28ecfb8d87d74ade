"""Replication: neurons are selected on one half of the rows and tested on the other half, over random splits. Float64.

Knows no word and no model.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from neurexp.stats.association import LEVEL
from neurexp.stats.chunks import ProgressCallback, labelling_chunks, no_progress
from neurexp.stats.effect_sizes import auroc_in_direction
from neurexp.stats.hypothesis_tests import compare_within
from neurexp.stats.shuffling import is_paired, shuffle_within, strata_of_groups


@dataclass(frozen=True)
class Replication:
    """The results of all splits.

    A neuron is *selected* if q < 0.05 in the first half. It is *replicated* if it is selected, p < 0.05 in the second
    half, and the direction is the same.
    """

    selected: np.ndarray  # [neurons] share of the splits in which the neuron was selected
    replicated: np.ndarray  # [neurons] share of the splits in which the neuron was replicated
    found: np.ndarray  # [splits] number of neurons selected
    kept: np.ndarray  # [splits] number of neurons replicated
    by_chance: np.ndarray  # [splits] number of selected neurons that replicate if the second half's labels are shuffled
    heldout: np.ndarray  # [splits] AUROC of the first half's best neuron in the second half, in the expected direction
    first: np.ndarray  # [splits, rows] bool: the first half
    best: np.ndarray  # [splits] the best neuron of the first half: the largest |statistic|
    best_direction: np.ndarray  # [splits] its direction, as in `DirectedResult`

    @property
    def rate(self) -> float:
        """The share of selections that replicated; NaN where nothing was selected."""
        return float(self.kept.sum() / self.found.sum()) if self.found.any() else float("nan")


def replicate(
    x: np.ndarray,
    labels: np.ndarray,
    splits: int,
    seed: int,
    groups: np.ndarray | None = None,
    shuffles: int = 0,
    progress: ProgressCallback = no_progress,
) -> Replication:
    """Splits the groups of each category at random into halves, selects neurons on the first, tests on the second.

    Memory is one byte for each row of each split, and a chunk of the splits.

    Args:
        x: `[rows, neurons]`; each category needs rows of four groups or more.
        labels: `[rows]`.
        splits: the number of splits; with `shuffles`, of splits for each shuffle.
        seed: of splits and shuffles.
        groups: `[rows]`: rows of one group (a word in two sentences) stay in the same half; None: every row is a group.
        shuffles: with n > 0, the labels are first shuffled n times, and each shuffle is split. This shows what is
            selected and replicated by chance.
        progress: called with each share of the work that is done.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    random = np.random.default_rng(seed)
    strata = groups if is_paired(labels, groups) else np.zeros(len(labels), dtype=np.int64)
    labellings = [shuffle_within(labels, strata, random) for _ in range(shuffles)] if shuffles else [labels]
    first = np.stack([half for labelling in labellings for half in _halves(labelling, groups, splits, random)])
    count, neurons = len(first), x.shape[1]
    selected, replicated = np.zeros(neurons, dtype=np.int64), np.zeros(neurons, dtype=np.int64)
    by_split: dict[str, list[np.ndarray]] = {
        name: [] for name in ("found", "kept", "by_chance", "heldout", "best", "best_direction")
    }
    for chunk in labelling_chunks(count, max(len(labels), neurons)):
        inside = first[chunk]
        given = np.stack([labellings[split // splits] for split in range(chunk.start, chunk.stop)])
        shuffled_outside = given.copy()
        for labelling, half in zip(shuffled_outside, inside, strict=True):
            labelling[~half] = shuffle_within(labelling[~half], strata[~half], random)
        tested = compare_within(x, given, inside)
        chosen = stats.false_discovery_control(tested.p, axis=1) < LEVEL
        best = np.argmax(np.nan_to_num(np.abs(tested.statistic), nan=-1.0), axis=1)
        best_direction = tested.direction[np.arange(len(best)), best]
        kept, by_chance = (
            chosen & (again.p < LEVEL) & (again.direction == tested.direction)
            for again in (compare_within(x, labelling, ~inside) for labelling in (given, shuffled_outside))
        )
        heldout = [
            auroc_in_direction(x[~half, neuron], labelling[~half], direction)
            for labelling, half, neuron, direction in zip(given, inside, best, best_direction, strict=True)
        ]
        selected += chosen.sum(0)
        replicated += kept.sum(0)
        results = kept.sum(1), by_chance.sum(1), np.array(heldout), best, best_direction
        for name, values in zip(by_split, (chosen.sum(1), *results), strict=True):
            by_split[name].append(values)
        progress(len(inside) / count)
    return Replication(
        selected=selected / count,
        replicated=replicated / count,
        first=first,
        **{name: np.concatenate(values) for name, values in by_split.items()},
    )


def _halves(labels: np.ndarray, groups: np.ndarray, splits: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """The first half of each split, `[rows]` bool: half of the groups of each stratum."""
    strata = strata_of_groups(labels, groups)
    for _ in range(splits):
        chosen = np.zeros(int(groups.max()) + 1, dtype=bool)
        for stratum in strata:
            members = random.permutation(stratum)
            chosen[members[: len(members) // 2]] = True
        yield chosen[groups]
