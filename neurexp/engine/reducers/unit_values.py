"""UnitValues: the activations of a few chosen units at every token of a short text."""

from collections.abc import Sequence

import torch

from neurexp.engine.reducers.base import Batch, Reducer
from neurexp.models.transfer import to_device


class UnitValues(Reducer):
    """All activations of a few units: `values` `[units, sequences, length]` float32, 0 where a token is not valid.

    It grows with the text: it is for a list of short strings. Units are in the order of the sites, then as given.
    """

    summed = ("values",)
    concurrent = True
    handles_not_finite = False

    def __init__(self, units: Sequence[Sequence[int]], sequences: int, length: int, device: torch.device | str = "cpu"):
        """`units` are the indices of neurons, for each site of the pass."""
        starts = [sum(map(len, units[:site])) for site in range(len(units) + 1)]
        self._device, self._first = torch.device(device), starts
        self._units = units
        with torch.inference_mode(False):
            self.values = torch.zeros(starts[-1], sequences, length, device=self._device)

    def begin(self, batch: Batch) -> None:
        rows = torch.arange(batch.valid.numel()) if batch.rows is None else batch.rows
        batch.shared[self] = to_device(rows, batch.device)

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        sequences, length = batch.valid.shape
        here = slice(batch.first, batch.first + sequences)
        for index, unit in enumerate(range(*self._first[site : site + 2])):
            grid = activations.new_zeros(sequences * length, dtype=torch.float32)
            grid[batch.shared[self]] = activations[:, int(self._units[site][index])].float()
            self.values[unit, here] = grid.view(sequences, length)
