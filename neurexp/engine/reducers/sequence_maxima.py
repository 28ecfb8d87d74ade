"""SequenceMaxima: each sequence's highest activation of a few chosen neurons. Does not know what the tokens are."""

from collections.abc import Sequence
from typing import Self

import torch

from neurexp.engine.reducers.base import Batch, Reducer
from neurexp.models.transfer import to_device


class SequenceMaxima(Reducer):
    """Each sequence's highest activation of some neurons, and its column.

    `values` is `[units, sequences]` float32, NaN where a sequence has no counted token or was not seen, and `columns`
    `[units, sequences]` int64, −1 there. Units are in the order of the sites, then as given. The lowest column counts
    where several have the same activation. Only tokens of the covariate `counted` `[tokens]` bool count, all of them if
    there is no such covariate.
    """

    concurrent = True
    handles_not_finite = False

    def __init__(self, units: Sequence[Sequence[int]], sequences: int, device: torch.device | str = "cpu"):
        """`units` are the indices of neurons, for each site of the pass; `sequences` is the text's number of them."""
        starts = [sum(map(len, units[:site])) for site in range(len(units) + 1)]
        self._device = torch.device(device)
        self._places = [slice(start, start + len(own)) for start, own in zip(starts, units, strict=False)]
        self._units = [torch.tensor(own, dtype=torch.int64, device=self._device) for own in units]
        with torch.inference_mode(False):
            self.values = torch.full((starts[-1], sequences), torch.nan, device=self._device)
            self.columns = torch.full((starts[-1], sequences), -1, dtype=torch.int64, device=self._device)

    def begin(self, batch: Batch) -> None:
        rows = torch.arange(batch.valid.numel()) if batch.rows is None else batch.rows
        counted = batch.covariates.get("counted")
        kept = None if counted is None else counted.nonzero().squeeze(1)
        flat = rows if kept is None else rows[kept]
        batch.shared[self] = None if kept is None else to_device(kept, batch.device), to_device(flat, batch.device)

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        units = self._units[site]
        if len(units) == 0:
            return
        kept, flat = batch.shared[self]
        sequences, length = batch.valid.shape
        chosen = activations[:, units].float()
        whole = chosen.new_full((sequences * length, len(units)), -torch.inf)
        whole[flat] = chosen if kept is None else chosen[kept]
        whole = whole.view(sequences, length, len(units))
        highest = whole.amax(1)
        column = torch.arange(length, device=whole.device)[None, :, None]
        first = column.where(whole == highest[:, None], length).amin(1)
        none = highest == -torch.inf
        here = slice(batch.first, batch.first + sequences)
        self.values[self._places[site], here] = highest.masked_fill(none, torch.nan).T
        self.columns[self._places[site], here] = first.masked_fill(none, -1).T

    def state(self) -> dict[str, torch.Tensor]:
        return {"values": self.values.cpu().clone(), "columns": self.columns.cpu().clone()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self.values, self.columns = (state[name].to(self._device).clone() for name in ("values", "columns"))

    def merge(self, other: Self) -> None:
        """Takes over the sequences that `other` saw. Raises ValueError if its units or its text are others."""
        same = len(self._units) == len(other._units) and self.values.shape == other.values.shape
        if not same or not all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(self._units, other._units, strict=True)):
            raise ValueError("cannot merge: the two look at different units or texts")
        seen = other.columns.to(self._device) >= 0
        self.values = other.values.to(self._device).where(seen, self.values)
        self.columns = other.columns.to(self._device).where(seen, self.columns)
