"""Windows: where in a text a few chosen units are most active, at a token and in the mean over a window of n tokens.

Exact for all tokens of a text, however they are cut into batches. Does not know what the tokens are.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch

from neurexp.engine.reducers.base import Batch, Reducer
from neurexp.engine.reducers.extremes import TOP, Extremes
from neurexp.models.transfer import to_device

KINDS = ("mean", "peak", "maximum")


class Windows(Reducer):
    """The highest activations of a few units, of three kinds; each is an `Extremes` of one neuron for each unit.

    - `mean`: means over the n consecutive counted tokens of a sequence that end at a token,
    - `peak`: activations at tokens that end such a window,
    - `maximum`: activations at any counted token.

    Only tokens of the covariate `counted` `[tokens]` bool count, all of them if there is no such covariate. Units are
    in the order of the sites, then as given.
    """

    concurrent = True
    handles_not_finite = False

    def __init__(
        self,
        units: Sequence[Sequence[int]],
        n: int,
        k: int,
        length: int,
        device: torch.device | str = "cpu",
    ):
        """`units` are the indices of neurons, for each site of the pass; `k` are kept; `length` is the sequences'."""
        starts = [sum(map(len, units[:site])) for site in range(len(units) + 1)]
        self._device, self._n, self._first = torch.device(device), n, starts
        self._units = [torch.tensor(own, dtype=torch.int64, device=self._device) for own in units]
        self._kept = {
            kind: Extremes(starts[-1], 1 if kind == "maximum" else k, length, device=device) for kind in KINDS
        }

    def values(self, unit: int, kind: str) -> torch.Tensor:
        """The highest values, descending, `[k]`; NaN where there are fewer."""
        return self._kept[kind].values[unit, TOP, 0]

    def places(self, unit: int, kind: str) -> torch.Tensor:
        """The token of each (of a mean: the last of its window), as sequence · length + column; −1 for none."""
        return self._kept[kind].places[unit, TOP, 0]

    def begin(self, batch: Batch) -> None:
        rows = torch.arange(batch.valid.numel()) if batch.rows is None else batch.rows
        counted = batch.covariates.get("counted")
        counted = torch.ones(len(rows), dtype=torch.bool) if counted is None else torch.as_tensor(counted).cpu()
        grid = torch.zeros(batch.valid.numel(), dtype=torch.bool)
        grid[rows] = counted
        grid = grid.view(batch.valid.shape)
        whole = torch.zeros_like(grid)
        if grid.shape[1] >= self._n:
            whole[:, self._n - 1 :] = grid.unfold(1, self._n, 1).all(-1)
        ends = whole.flatten()[rows]
        for kind, reducer in self._kept.items():
            named = {"counted": counted if kind == "maximum" else ends}
            reducer.begin(replace(batch, covariates=named, shared=batch.shared))
        batch.shared[self] = to_device(rows, batch.device)

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        if len(self._units[site]) == 0:
            return
        rows = batch.shared[self]
        chosen = activations[:, self._units[site]].float()
        sequences, length = batch.valid.shape
        grid = chosen.new_zeros(sequences * length, chosen.shape[1])
        grid[rows] = chosen
        grid = grid.view(sequences, length, -1)
        means = torch.zeros_like(grid)
        if length >= self._n:
            means[:, self._n - 1 :] = grid.unfold(1, self._n, 1).mean(-1)
        means = means.flatten(0, 1)[rows]
        for index, unit in enumerate(range(*self._first[site : site + 2])):
            for kind, reducer in self._kept.items():
                values = means if kind == "mean" else chosen
                reducer.update(unit, values[:, index : index + 1], batch)

    def state(self) -> dict[str, torch.Tensor]:
        return {
            f"{kind}.{name}": value
            for kind, reducer in self._kept.items()
            for name, value in reducer.state().items()
            if name != "levels"
        }

    def load(self, state: dict[str, torch.Tensor]) -> None:
        for kind, reducer in self._kept.items():
            values, places = state[f"{kind}.values"], state[f"{kind}.places"]
            levels = torch.zeros(*values.shape, 1, dtype=torch.int8)
            reducer.load({"values": values, "places": places, "levels": levels})

    def merge(self, other: Self) -> None:
        """Takes over what `other` has found in other sequences."""
        for kind, reducer in self._kept.items():
            reducer.merge(other._kept[kind])
