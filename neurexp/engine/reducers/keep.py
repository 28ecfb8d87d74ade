"""Keep: all activations of a pass, within a memory budget."""

import math

import torch

from neurexp.engine.reducers.base import Batch, Reducer


class Keep(Reducer):
    """Keeps everything, within a memory budget: `kept[site]` is `[sequences, length, neurons]`, NaN where invalid."""

    concurrent = True

    def __init__(self, sites: int, sequences: int, length: int, budget_bytes: int):
        """`update` raises MemoryError if all sites together would take more than `budget_bytes`."""
        self.kept: dict[int, torch.Tensor] = {}
        self._sites, self._shape, self._budget = sites, (sequences, length), budget_bytes

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        sequences, length = batch.valid.shape
        if site not in self.kept:
            shape = (*self._shape, activations.shape[1])
            needed = self._sites * math.prod(shape) * activations.element_size()
            if needed > self._budget:
                raise MemoryError(f"keeping {self._sites} × {list(shape)} takes {needed:,} bytes of {self._budget:,}")
            with torch.inference_mode(False):  # an ordinary tensor, for the caller
                self.kept[site] = torch.full(shape, torch.nan, dtype=activations.dtype)
        place = self.kept[site][batch.first : batch.first + sequences].view(sequences * length, -1)
        if batch.rows is None:
            place.copy_(activations)
        else:
            place[batch.rows] = activations.cpu()
