"""Runs of one model and site, and their tables of neurons brought together: who has a value, and who leads.

Reads finished runs only, and knows no experiment.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurexp.errors import UserError
from neurexp.report.finished import FinishedRun
from neurexp.report.report import SITE, Table
from neurexp.stats import agreement as chance

SIMILAR = 25  # neurons of a layer, about, that count as of a similar standard deviation


@dataclass(frozen=True)
class Group:
    """Runs of one model and site, and the neurons that two of them or more have a value for.

    `strata`: neurons of one layer with values in the same runs may change places by chance. `spread`: those that have a
    similar standard deviation as well; None unless some run has one for every neuron.
    """

    site: str
    numbers: list[int]  # of the runs, in the order given
    columns: list[str]  # the statistic of each run
    layer: np.ndarray  # [neurons]
    neuron: np.ndarray  # [neurons]
    values: np.ndarray  # [runs, neurons] float64, NaN where a run has none
    leads: np.ndarray  # [runs, neurons] bool
    strata: np.ndarray  # [neurons]
    spread: np.ndarray | None  # [neurons]

    @property
    def times(self) -> np.ndarray:
        """In how many runs each neuron leads, `[neurons]`."""
        return self.leads.sum(0)

    @property
    def known(self) -> np.ndarray:
        """Which run has a value for which neuron, `[runs, neurons]` bool."""
        return ~np.isnan(self.values)

    def ranks(self, row: int) -> np.ndarray:
        """Each neuron's rank by |value| among those of its layer that the run has values for; −1 without a value."""
        known, found = self.known[row], np.full(len(self.layer), -1)
        found[known] = chance.ranks(self.values[row, known], self.layer[known])
        return found


def groups_of(runs: Sequence[FinishedRun], columns: Sequence[str], lead: float) -> list[Group]:
    """The runs of one model (the same weights in the same number format) and one site, where there are several.

    Args:
        runs: each of one site.
        columns: the statistic of each.
        lead: per cent of a layer's neurons that lead.
    """
    alike: dict[tuple[str, str], list[int]] = {}
    for number, run in enumerate(runs):
        weights = run.facts.get("model_hash")
        if weights and columns[number] in run.neurons and "neuron" in run.neurons:
            alike.setdefault((weights, _site(run)), []).append(number)
    found = [
        _group(site, numbers, [runs[number] for number in numbers], [columns[number] for number in numbers], lead)
        for (_, site), numbers in alike.items()
        if len(numbers) > 1
    ]
    return [group for group in found if len(group.layer)]


def _site(run: FinishedRun) -> str:
    named = (run.summary.get("options") or {}).get(f"experiment.{SITE}")
    return str(named or ", ".join(run.sites))


def _group(site: str, numbers: list[int], runs: list[FinishedRun], columns: list[str], lead: float) -> Group:
    keys = [_keys(run.neurons) for run in runs]
    for run, one in zip(runs, keys, strict=True):
        if len(np.unique(one)) < len(one):
            raise UserError(f"compare: {run.place} has several rows of one neuron; give runs with one row a neuron")
    every = np.unique(np.concatenate(keys))
    values, spreads = np.full((2, len(runs), len(every)), np.nan)
    for row, (run, own, column) in enumerate(zip(runs, keys, columns, strict=True)):
        places = np.searchsorted(every, own)
        values[row, places] = run.neurons[column]
        if "std" in run.neurons:
            spreads[row, places] = run.neurons["std"]
    layer = every >> 32
    leads = np.zeros(values.shape, dtype=bool)
    for own, of_run in zip(values, leads, strict=True):
        known = ~np.isnan(own)
        of_run[known] = chance.leading(own[known], layer[known], lead / 100)
    shared = (~np.isnan(values)).sum(0) > 1
    every, layer = every[shared], layer[shared]
    values, leads, spreads = values[:, shared], leads[:, shared], spreads[:, shared]
    place = np.column_stack([layer, (~np.isnan(values)).T])
    strata = np.unique(place, axis=0, return_inverse=True)[1].ravel()
    similar = None
    if len(every) and (~np.isnan(spreads)).any(0).all():
        similar = chance.similar_strata(strata, _mean_ranks(spreads, layer), SIMILAR)
    return Group(site, numbers, columns, layer, every & (2**32 - 1), values, leads, strata, similar)


def _mean_ranks(values: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """The mean over runs of each neuron's rank in its layer, as a share, `[neurons]`; NaN are left out."""
    total, runs = np.zeros((2, len(layer)))
    for row in values:
        known = ~np.isnan(row)
        of_layer = np.bincount(layer[known])
        total[known] += chance.ranks(row[known], layer[known]) / of_layer[layer[known]]
        runs += known
    return total / runs


def _keys(neurons: Table) -> np.ndarray:
    """One number for each layer and neuron."""
    return (neurons["layer"].astype(np.int64) << 32) + neurons["neuron"].astype(np.int64)
