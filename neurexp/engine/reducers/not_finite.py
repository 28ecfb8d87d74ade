"""NotFinite: counts NaN and infinity among the activations of each site."""

import torch

from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer


class NotFinite(Reducer):
    """Counts NaN and infinity: `counts` `[sites]` int64, of `values` `[sites]` int64 activations in all."""

    concurrent = True
    summed = ("counts", "values")

    def __init__(self, sites: int, device: torch.device | str = "cpu", raises: bool = True):
        """If `raises` is False, `check` raises nothing: the pass goes on to count them all."""
        self._raises = raises
        self.counts = torch.zeros(sites, dtype=torch.int64, device=device)
        self.values = torch.zeros(sites, dtype=torch.int64)

    def check(self) -> None:
        if not self._raises:
            return
        bad = self.counts.nonzero()
        if len(bad):
            raise NotFiniteError(int(bad[0]))

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        # A sum is finite if all values are, and takes a fraction of the time; near the format's limit it may overflow
        if activations.device.type != "cpu" or not bool(activations.sum(dtype=torch.float32).isfinite()):
            self.counts[site] += activations.numel() - activations.isfinite().sum()
        self.values[site] += activations.numel()
