"""Rows: the activations of chosen spans of tokens. Does not know what the spans are."""

from collections.abc import Sequence
from typing import Self

import torch

from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer
from neurexp.models.choices import POOLINGS
from neurexp.models.transfer import Outbox, to_device


class Rows(Reducer):
    """The activations of chosen spans of tokens, each pooled into a row.

    Row i comes from the columns [start, stop) of one sequence. `rows(site)` is `[rows, neurons]` float32 for every
    dtype of the model; the mean is taken in float64. Memory grows with the number of rows, not with the number of
    tokens.
    """

    by_site = True
    concurrent = True
    POOLINGS = POOLINGS

    def __init__(self, sequence: torch.Tensor, start: torch.Tensor, stop: torch.Tensor, pooling: str = "mean"):
        """`sequence`, `start` and `stop` are `[rows]` int64. Raises ValueError if a span is empty."""
        if pooling not in self.POOLINGS:
            raise ValueError(f"pooling is {pooling}; give one of {', '.join(self.POOLINGS)}")
        if bool((stop <= start).any()):
            raise ValueError("a row has no tokens: stop must be greater than start")
        if pooling == "first":
            stop = start + 1
        elif pooling == "last":
            start = stop - 1
        self._sequence, self._start, self._stop, self._pooling = sequence, start, stop, pooling
        self.kept: dict[int, torch.Tensor] = {}
        self._outbox, self._places = Outbox(), list[tuple[int, torch.Tensor]]()  # of rows that are still on a device

    def rows(self, site: int) -> torch.Tensor:
        """`[rows, neurons]` float32 on the CPU; NaN in rows that the pass has not reached."""
        self.check()
        return self.kept[site]

    def begin(self, batch: Batch) -> None:
        sequences, length = batch.valid.shape
        in_batch = (self._sequence >= batch.first) & (self._sequence < batch.first + sequences)
        chosen = in_batch.nonzero().squeeze(1)
        start, stop = self._start[chosen], self._stop[chosen]
        flat = (self._sequence[chosen] - batch.first) * length + start
        # For every token of every span: its index among the batch's valid tokens, and its row
        of_row = torch.arange(len(flat)).repeat_interleave(stop - start)
        within = torch.arange(len(of_row)) - (torch.cumsum(stop - start, 0) - (stop - start))[of_row]
        places = flat[of_row] + within
        places = places if batch.rows is None else torch.searchsorted(batch.rows, places)
        batch.shared[self] = chosen, *(to_device(part, batch.device) for part in (of_row, places, stop - start))

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        if site not in self.kept:
            with torch.inference_mode(False):
                self.kept[site] = torch.full((len(self._sequence), activations.shape[1]), torch.nan)
        chosen, of_row, places, counts = batch.shared[self]
        if len(chosen) == 0:
            return
        values = activations[places]
        on_cpu = values.device.type == "cpu"
        if on_cpu and not bool(values.isfinite().all()):
            raise NotFiniteError(site)
        shape = (len(chosen), activations.shape[1])
        if self._pooling == "max":
            values = values.float()
            of_row = of_row[:, None].expand_as(values)
            pooled = values.new_full(shape, -torch.inf).scatter_reduce_(0, of_row, values, "amax")
        else:
            pooled = values.new_zeros(shape, dtype=torch.float64).index_add_(0, of_row, values.double())
            pooled = (pooled / counts[:, None]).float()
        if on_cpu:
            self.kept[site][chosen] = pooled
            return
        self._outbox.put(pooled.masked_fill_(~values.isfinite().all(), torch.nan))
        self._places.append((site, chosen))
        if self._outbox.is_full:
            self.check()

    def check(self) -> None:
        places, self._places = self._places, []
        for (site, chosen), rows in zip(places, self._outbox.fetch(), strict=True):
            if bool(rows.isnan().any()):
                raise NotFiniteError(site)
            self.kept[site][chosen] = rows

    def state(self) -> dict[str, torch.Tensor]:
        """The rows themselves, not a copy: they may be as large as the machine's memory."""
        self.check()
        return {str(site): rows for site, rows in self.kept.items()}

    def split(self, sites: int) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
        return {}, [{"0": self.kept[site]} for site in range(sites)]

    @staticmethod
    def joined(common: dict[str, torch.Tensor], parts: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return common | {str(site): part["0"] for site, part in enumerate(parts)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Uses the given rows without a copy: those of a stored pass are mapped from a file."""
        self.kept = {int(site): rows for site, rows in state.items()}

    def merge(self, other: Self) -> None:
        """Adds the rows that `other` saw. Raises ValueError if its spans or its pooling are others."""
        for name in ("_sequence", "_start", "_stop"):
            if not torch.equal(getattr(self, name), getattr(other, name)):
                raise ValueError("cannot merge: the two look for different rows")
        if self._pooling != other._pooling:
            raise ValueError("cannot merge: the two pool differently")
        for site, rows in other.kept.items():
            own = self.kept.get(site)
            self.kept[site] = rows.clone() if own is None else torch.where(own.isnan(), rows, own)
