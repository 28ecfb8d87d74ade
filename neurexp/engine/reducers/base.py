"""Reducers: what is left of a site's activations once a batch is over.

A reducer sees one site's activations `[tokens, neurons]` and the batch's covariates, updates its state, and the
activations are gone. State is float64 (counts int64) whatever the model's dtype, does not grow with the number of
tokens, and is mergeable: states of parts of a text add up to the state of the whole. What must not depend on how the
pass is cut into batches (shifts, edges) is calibrated by the first sequence alone. Knows neither models nor what the
groups mean.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from neurexp.models.kernels import fitting

CPU = torch.device("cpu")
PILOT_TOKENS = 64  # of the first sequence: they set the edges of a histogram


@dataclass(frozen=True)
class Batch:
    """What a reducer may know about the tokens of a batch. `rows` are the flat indices of the valid ones (None: all).

    Ids, indices and covariates are on the CPU, whatever the model's device. What follows from them is computed there,
    once for all sites, while an accelerator is busy.
    """

    input_ids: torch.Tensor  # [sequences, length] int64
    valid: torch.Tensor  # [sequences, length] bool
    rows: torch.Tensor | None  # [tokens] int64
    positions: torch.Tensor  # [sequences, length] int64, counted over valid tokens
    first: int  # index of the batch's first sequence in the whole
    covariates: dict[str, Any] = field(default_factory=dict)  # name → [tokens, …], ordered as `rows`
    device: torch.device = CPU  # where the activations are
    shared: dict["Reducer", Any] = field(default_factory=dict)  # what a reducer has computed for all sites

    @property
    def tokens(self) -> int:
        """The number of valid tokens."""
        return self.input_ids.numel() if self.rows is None else len(self.rows)


class NotFiniteError(ArithmeticError):
    """A site put out NaN or infinity; `site` is its index in the pass, `sequences` those that were not checked yet."""

    def __init__(self, site: int):
        super().__init__(f"site {site} puts out NaN or infinity")
        self.site, self.sequences = site, slice(None)


class Reducer(ABC):
    """Base of all reducers. A subclass lists in `summed` the tensors that are added when two reducers are merged."""

    summed: tuple[str, ...] = ()
    calibrated: tuple[str, ...] = ()  # set by the first sequence; must be equal in reducers that are merged
    is_calibrated = True  # or there is nothing to calibrate
    by_site = False  # `state` has an entry for each site, named by its number; a pass over more layers serves fewer
    concurrent = False  # `begin` stores nothing on the reducer itself, so batches may run at the same time
    tells_not_finite = True  # `check` finds NaN and infinity, or the reducer is meant to keep them
    _device = CPU

    def calibrate(self, site: int, activations: torch.Tensor) -> None:  # noqa: B027
        """One site's activations `[tokens, neurons]` of the first sequence alone, before any `update` of that site."""

    def check(self) -> None:  # noqa: B027
        """Raises NotFiniteError if a site put out NaN or infinity since the start. Waits for the device."""

    def begin(self, batch: Batch) -> None:  # noqa: B027
        """Called once per batch, before any site: computes what all sites share, and puts it into `batch.shared[self]`.

        If `concurrent` is True it must put it nowhere else, because several batches may then run at the same time.
        `begin` is called in the order of the batches, and so is `update` at each site.
        """

    @abstractmethod
    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        """One site's activations `[tokens, neurons]` of the batch's valid tokens."""

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that resuming and merging need, as copies on the CPU."""
        if not self.summed:
            raise NotImplementedError(f"{type(self).__name__} cannot be merged: it names nothing that adds up")
        return {name: getattr(self, name).detach().cpu().clone() for name in self.summed + self.calibrated}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Replaces the state by one of `state()`."""
        for name in self.summed + self.calibrated:
            there = getattr(self, name, None)
            setattr(self, name, state[name].to(self._device if there is None else there.device).clone())
        self.is_calibrated = True

    def merge(self, other: Self) -> None:
        """Adds the state of `other`, which saw other tokens. Raises ValueError if shifts, edges or groups differ."""
        for name in self.summed:
            if getattr(self, name).shape != getattr(other, name).shape:
                raise ValueError(f"cannot merge: the two have {name} of different shapes")
        for name in self.calibrated:
            if not torch.equal(getattr(self, name), getattr(other, name)):
                raise ValueError(f"cannot merge: the two were taken with different {name}")
        for name in self.summed:
            getattr(self, name).add_(getattr(other, name).to(getattr(self, name).device))


def joined_states(reducers: Sequence[Reducer]) -> dict[str, torch.Tensor]:
    """The states of all reducers as one dictionary, for a file."""
    states = enumerate(reducer.state() for reducer in reducers)
    return {f"{index}.{name}": value for index, state in states for name, value in state.items()}


def take_over(joined: dict[str, torch.Tensor], reducers: Sequence[Reducer]) -> None:
    """Loads each reducer's part of `joined_states`. Raises KeyError if something is missing."""
    states: list[dict[str, torch.Tensor]] = [{} for _ in reducers]
    for name, value in joined.items():
        index, _, own = name.partition(".")
        states[int(index)][own] = value
    for state, reducer in zip(states, reducers, strict=True):
        reducer.load(state)


class Histogram(Reducer):
    """Per group of tokens: how many activations of a site fall into each bin, all neurons together.

    `counts` is `[sites, groups, bins + 2]`: underflow first, overflow last. A bin is [edge, next edge). Its width is a
    power of two and its edges are multiples of it, so that x / width and its floor are exact in any binary float: the
    counts are exactly those that float64 would give. The covariate `group` `[tokens]` says 0 … groups − 1.
    """

    concurrent = True
    summed = ("counts",)
    calibrated = ("width", "start")
    tells_not_finite = False

    def __init__(self, groups: int, sites: int, bins: int, device: torch.device | str = "cpu"):
        """The bulk of a site, as `set_edges` gets it, takes `bins` / 2 to `bins` bins; as many again are margin."""
        self.bins, self.groups, self._device = 2 * bins, groups, torch.device(device)
        self.width = torch.zeros(sites, dtype=torch.float64)  # 0: not set yet
        self.start = torch.zeros(sites, dtype=torch.int64)  # the first edge, in widths
        self.counts = torch.zeros(sites, groups, self.bins + 2, dtype=torch.int64, device=self._device)
        self.is_calibrated = False

    def set_edges(self, site: int, low: float, high: float) -> None:
        """Sets a site's edges so that [low, high] is its bulk."""
        # No narrower than 2⁻²² of the values: float32 has no finer steps there, and bin numbers stay exact in it
        least = max(abs(low), abs(high), 2.0**-100) * 2.0**-22
        width = 2.0 ** math.ceil(math.log2(max(2 * (high - low) / self.bins, least)))
        self.width[site], self.start[site] = width, math.floor((low + high) / 2 / width) - self.bins // 2
        self.is_calibrated = bool((self.width > 0).all())

    def calibrate(self, site: int, activations: torch.Tensor) -> None:
        """The bulk lies between the 0.1 % and 99.9 % quantiles over all neurons and some tokens of the sequence."""
        flat = activations[:: max(1, len(activations) // PILOT_TOKENS)].float().flatten()
        if not bool(flat.isfinite().all()):
            raise NotFiniteError(site)
        rank = max(1, math.ceil(0.001 * flat.numel()))
        # The smallest of the largest, and the largest of the smallest: much quicker than `kthvalue`
        low, high = (flat.topk(rank, largest=largest, sorted=False).values for largest in (False, True))
        self.set_edges(site, float(low.max()), float(high.min()))

    @property
    def edges(self) -> torch.Tensor:
        """`[sites, bins + 1]` float64."""
        return (self.start[:, None] + torch.arange(self.bins + 1)) * self.width[:, None]

    def begin(self, batch: Batch) -> None:
        group = batch.covariates["group"]
        stops = torch.bincount(group, minlength=self.groups).cumsum(0).tolist()
        batch.shared[self] = group.argsort(stable=True).to(batch.device), stops

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        start, inverse = float(int(self.start[site]) - 1), 1.0 / float(self.width[site])
        if activations.device.type == "cpu":
            self.counts[site] += self._count(activations, start, inverse, *batch.shared[self])
        else:
            self.counts[site] += self._count_on_device(activations, start, inverse, *batch.shared[self])

    def _number(self, values: torch.Tensor, start: float, inverse: float) -> torch.Tensor:
        """The number of each value's bin, from 0 to bins + 1, as float32.

        float32 holds every bin number exactly, and the width is a power of two, so the product is exact as well.
        """
        return torch.mul(values.float(), inverse).floor_().clamp_(start, start + self.bins + 1).sub_(start)

    def _count(
        self, values: torch.Tensor, start: float, inverse: float, order: torch.Tensor, stops: list[int]
    ) -> torch.Tensor:
        """How many values fall into each bin in each group, `[groups, bins + 2]`; `order` has the groups' tokens."""
        small = self.bins + 2 <= 256
        whole = torch.empty(values.shape, dtype=torch.int8 if small else torch.int32)
        for some in fitting(len(values), values.shape[1], values.device):
            numbers = self._number(values[some], start, inverse)
            if small:
                # PyTorch converts to int8 much faster than to uint8. Viewed as uint8, negative numbers come last
                whole[some] = numbers.sub_(128)
            else:  # NaN becomes a negative number, which bincount refuses; another reducer reports NaN
                whole[some] = numbers.to(torch.int32).clamp_(0, self.bins + 1)
        words = torch.int64 if small and whole.shape[1] % 8 == 0 else whole.dtype  # moving eight at once is faster
        whole = whole.view(words).index_select(0, order).view(torch.uint8 if small else torch.int32)
        counts, first = [], 0
        for stop in stops:
            counted = torch.bincount(whole[first:stop].flatten(), minlength=256 if small else self.bins + 2)
            counts.append((counted.roll(128) if small else counted)[: self.bins + 2])
            first = stop
        return torch.stack(counts)

    def _count_on_device(
        self, values: torch.Tensor, start: float, inverse: float, order: torch.Tensor, stops: list[int]
    ) -> torch.Tensor:
        """The same without `bincount`, which would wait for the device: `histc` counts in float32."""
        # No bin can exceed 2²⁴, up to which float32 counts exactly
        rows, counts, first = max(1, 2**24 // values.shape[1]), [], 0
        numbers = self._number(values, start, inverse).add_(0.5)[order]
        for stop in stops:
            parts = [numbers[at : min(at + rows, stop)] for at in range(first, stop, rows)]
            bins = self.bins + 2
            counted = [torch.histc(part, bins, 0, bins).long() for part in parts]
            counts.append(torch.stack(counted).sum(0) if counted else self.counts.new_zeros(bins))
            first = stop
        return torch.stack(counts)


class NotFinite(Reducer):
    """Counts NaN and infinity: `counts` `[sites]` int64, of `values` `[sites]` activations."""

    concurrent = True
    summed = ("counts", "values")

    def __init__(self, sites: int, device: torch.device | str = "cpu"):
        self.counts = torch.zeros(sites, dtype=torch.int64, device=device)
        self.values = torch.zeros(sites, dtype=torch.int64)

    def check(self) -> None:
        bad = self.counts.nonzero()
        if len(bad):
            raise NotFiniteError(int(bad[0]))

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        # A sum is finite if all values are, and takes a fraction of the time; near the format's limit it may overflow
        if activations.device.type != "cpu" or not bool(activations.sum(dtype=torch.float32).isfinite()):
            self.counts[site] += activations.numel() - activations.isfinite().sum()
        self.values[site] += activations.numel()


class Keep(Reducer):
    """Keeps everything, within a memory budget: `kept[site]` is `[sequences, length, neurons]`, NaN where invalid."""

    concurrent = True

    def __init__(self, sites: int, sequences: int, length: int, budget_bytes: int):
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


class Rows(Reducer):
    """Chosen tokens only: the activations of each span of tokens, pooled into a row.

    Row i is the span of columns [start, stop) of one sequence. `rows(site)` is `[rows, neurons]` float32 for every
    dtype of the model; the mean is taken in float64. Memory grows with the number of rows, not with the number of
    tokens.
    """

    by_site = True
    concurrent = True
    POOLINGS = ("mean", "first", "last", "max")

    def __init__(self, sequence: torch.Tensor, start: torch.Tensor, stop: torch.Tensor, pooling: str = "mean"):
        """Spans `[rows]` int64 each, none of them empty."""
        if pooling not in self.POOLINGS:
            raise ValueError(f"pooling is {pooling}; give one of {', '.join(self.POOLINGS)}")
        if bool((stop <= start).any()):
            raise ValueError("a row without tokens")
        if pooling == "first":
            stop = start + 1
        elif pooling == "last":
            start = stop - 1
        self._sequence, self._start, self._stop, self._pooling = sequence, start, stop, pooling
        self.kept: dict[int, torch.Tensor] = {}

    def rows(self, site: int) -> torch.Tensor:
        """`[rows, neurons]` float32 on the CPU; NaN in rows that the pass has not reached."""
        return self.kept[site]

    def begin(self, batch: Batch) -> None:
        sequences, length = batch.valid.shape
        here = (self._sequence >= batch.first) & (self._sequence < batch.first + sequences)
        chosen = here.nonzero().squeeze(1)
        start, stop = self._start[chosen], self._stop[chosen]
        flat = (self._sequence[chosen] - batch.first) * length + start
        # For every token of every span: its index among the batch's valid tokens, and its row
        of_row = torch.arange(len(flat)).repeat_interleave(stop - start)
        within = torch.arange(len(of_row)) - (torch.cumsum(stop - start, 0) - (stop - start))[of_row]
        places = flat[of_row] + within
        places = places if batch.rows is None else torch.searchsorted(batch.rows, places)
        batch.shared[self] = chosen, *(part.to(batch.device) for part in (of_row, places, stop - start))

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        if site not in self.kept:
            with torch.inference_mode(False):
                self.kept[site] = torch.full((len(self._sequence), activations.shape[1]), torch.nan)
        chosen, of_row, places, counts = batch.shared[self]
        if len(chosen) == 0:
            return
        values = activations[places]
        if not bool(values.isfinite().all()):
            raise NotFiniteError(site)
        shape = (len(chosen), activations.shape[1])
        if self._pooling == "max":
            values = values.float()
            of_row = of_row[:, None].expand_as(values)
            pooled = values.new_full(shape, -torch.inf).scatter_reduce_(0, of_row, values, "amax")
        else:
            pooled = values.new_zeros(shape, dtype=torch.float64).index_add_(0, of_row, values.double())
            pooled = (pooled / counts[:, None]).float()
        self.kept[site][chosen] = pooled.cpu()

    def state(self) -> dict[str, torch.Tensor]:
        """The rows themselves, not a copy: they may be as large as the machine's memory."""
        return {str(site): rows for site, rows in self.kept.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Uses the given rows without a copy: those of a stored pass are mapped from a file."""
        self.kept = {int(site): rows for site, rows in state.items()}

    def merge(self, other: Self) -> None:
        """Adds the rows that `other` saw."""
        for name in ("_sequence", "_start", "_stop"):
            if not torch.equal(getattr(self, name), getattr(other, name)):
                raise ValueError("cannot merge: the two look for different rows")
        if self._pooling != other._pooling:
            raise ValueError("cannot merge: the two pool differently")
        for site, rows in other.kept.items():
            own = self.kept.get(site)
            self.kept[site] = rows.clone() if own is None else torch.where(own.isnan(), rows, own)
