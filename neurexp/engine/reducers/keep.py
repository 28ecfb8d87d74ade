"""Keep: all activations of a pass, within a memory budget."""

import math

import torch

from neurexp.engine.reducers.base import Batch, Reducer
from neurexp.models.transfer import Outbox


class Keep(Reducer):
    """Keeps everything, within a memory budget: `kept[site]` is `[sequences, length, neurons]`, NaN where invalid."""

    concurrent = True

    def __init__(self, sites: int, sequences: int, length: int, budget_bytes: int):
        """`update` raises MemoryError if all sites together would take more than `budget_bytes`."""
        self.kept: dict[int, torch.Tensor] = {}
        self._sites, self._shape, self._budget = sites, (sequences, length), budget_bytes
        self._outbox, self._batches = Outbox(), list[tuple[int, Batch]]()  # of what is still on a device

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        if site not in self.kept:
            shape = (*self._shape, activations.shape[1])
            needed = self._sites * math.prod(shape) * activations.element_size()
            if needed > self._budget:
                raise MemoryError(f"keeping {self._sites} × {list(shape)} takes {needed:,} bytes of {self._budget:,}")
            with torch.inference_mode(False):  # an ordinary tensor, for the caller
                self.kept[site] = torch.full(shape, torch.nan, dtype=activations.dtype)
        if activations.device.type == "cpu":
            self._put(site, batch, activations)
            return
        self._outbox.put(activations.clone())  # the model may go on to write into them
        self._batches.append((site, batch))
        if self._outbox.is_full:
            self.check()

    def _put(self, site: int, batch: Batch, activations: torch.Tensor) -> None:
        sequences, length = batch.valid.shape
        place = self.kept[site][batch.first : batch.first + sequences].view(sequences * length, -1)
        if batch.rows is None:
            place.copy_(activations)
        else:
            place[batch.rows] = activations

    def check(self) -> None:
        """Takes what is still on a device. Raises nothing."""
        batches, self._batches = self._batches, []
        for (site, batch), activations in zip(batches, self._outbox.fetch(), strict=True):
            self._put(site, batch, activations)
