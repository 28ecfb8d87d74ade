"""Reducers: what is left of a site's activations once a batch is over.

A reducer sees one site's activations `[tokens, neurons]` and the batch's covariates, updates its state, and the
activations are gone. State is float64 (counts int64) whatever the model's dtype, does not grow with the number of
tokens, and is mergeable: states of parts of a text add up to the state of the whole. Knows neither models nor what the
groups mean.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Self

import torch


@dataclass(frozen=True)
class Batch:
    """What a reducer may know of the tokens it sees. `rows` are the flat places of the valid ones (None: all are)."""

    input_ids: torch.Tensor  # [sequences, length] int64
    valid: torch.Tensor  # [sequences, length] bool
    rows: torch.Tensor | None  # [tokens] int64
    positions: torch.Tensor  # [sequences, length] int64, counted over valid tokens
    first: int  # index of the batch's first sequence in the whole
    covariates: dict[str, torch.Tensor] = field(default_factory=dict)  # name → [tokens, …], ordered as `rows`

    @property
    def tokens(self) -> int:
        """The number of valid tokens."""
        return self.input_ids.numel() if self.rows is None else len(self.rows)


class NotFiniteError(ArithmeticError):
    """A site put out NaN or infinity; `site` is its index in the pass."""

    def __init__(self, site: int):
        super().__init__(f"site {site} puts out NaN or infinity")
        self.site = site


class Reducer(ABC):
    """Base of all reducers; a subclass lists in `summed` which of its tensors add up when two are merged."""

    summed: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()  # set before the pass; must be equal to be merged

    def begin(self, batch: Batch) -> None:  # noqa: B027
        """Once per batch, before any site: what all sites share is computed here."""

    @abstractmethod
    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        """One site's activations `[tokens, neurons]` of the batch's valid tokens."""

    def state(self) -> dict[str, torch.Tensor]:
        """Everything needed to go on or to merge, as copies on the CPU."""
        return {name: getattr(self, name).detach().cpu().clone() for name in self.summed + self.fixed}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over a state of `state()`."""
        for name in self.summed + self.fixed:
            setattr(self, name, state[name].to(getattr(self, name).device).clone())

    def merge(self, other: Self) -> None:
        """Adds what `other` saw of other tokens. Raises ValueError if shifts, edges or groups differ."""
        for name in self.summed:
            if getattr(self, name).shape != getattr(other, name).shape:
                raise ValueError(f"cannot merge: the two have {name} of different shapes")
        for name in self.fixed:
            if not torch.equal(getattr(self, name), getattr(other, name)):
                raise ValueError(f"cannot merge: the two were taken with different {name}")
        for name in self.summed:
            getattr(self, name).add_(getattr(other, name).to(getattr(self, name).device))


class Pilot(Reducer):
    """Looks at one stretch of text before the pass, to fix what must not depend on how the pass is cut.

    After it, `shift` `[sites, neurons]` is each neuron's mean, and `low` and `high` `[sites]` the 0.1 % and 99.9 %
    quantiles over all of a site's values.
    """

    fixed = ("shift", "low", "high")

    def __init__(self, sites: int, device: torch.device):
        self.shift = torch.empty(sites, 0, device=device)  # as wide as the first site that comes
        self.low, self.high = torch.zeros(sites), torch.zeros(sites)

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        values = activations.float()
        if self.shift.shape[1] == 0:
            self.shift = self.shift.new_zeros(len(self.shift), values.shape[1])
        self.shift[site] = values.double().mean(0).float()
        flat = values.flatten()
        rank = max(1, math.ceil(0.001 * flat.numel()))
        self.low[site] = flat.kthvalue(rank).values
        self.high[site] = flat.kthvalue(flat.numel() + 1 - rank).values


class Moments(Reducer):
    """Per group of tokens and neuron: count, sum, sum of squares (about a fixed shift), and sum of magnitudes.

    `count` is `[groups]`; `sums`, `squares` (of x − shift) and `magnitudes` (of x itself) are
    `[sites, groups, neurons]`. Taken about the shift a neuron that sits far from zero loses no digits. The groups are
    a partition: the covariate `group` says 0 … groups − 1 for every token, so sums over groups are those of all tokens.
    """

    summed = ("count", "sums", "squares", "magnitudes")
    fixed = ("shift",)

    def __init__(self, groups: int, shift: torch.Tensor):
        sites, neurons = shift.shape
        self.groups, self.shift = groups, shift
        self.count = torch.zeros(groups, dtype=torch.int64, device=shift.device)
        shape = (sites, groups, neurons)
        self.sums, self.squares, self.magnitudes = (shift.new_zeros(shape, dtype=torch.float64) for _ in range(3))

    def begin(self, batch: Batch) -> None:
        group = batch.covariates["group"]
        self._members = torch.nn.functional.one_hot(group, self.groups).T.to(torch.float32)  # [groups, tokens]
        self.count += torch.bincount(group, minlength=self.groups)

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        values = activations.float()
        self.magnitudes[site] += self._members @ values.abs()
        centred = values - self.shift[site]
        added = self._members @ centred
        if not bool(added.isfinite().all()):
            raise NotFiniteError(site)
        self.sums[site] += added
        self.squares[site] += self._members @ centred.square_()


class Gram(Reducer):
    """Sums of products of covariates with each other and with the activations: what correlation and regression need.

    With Z the covariate `design` `[tokens, K]` and X the activations about their fixed shift, `zz` is ΣZᵀZ `[K, K]`,
    `zx` is ΣZᵀX `[sites, K, neurons]`, and `qxx` is ΣQᵀX² `[sites, columns of Q, neurons]` where Q are the columns
    `squared` of Z (indicators of blocks of tokens, whose variances are wanted apart).
    """

    summed = ("zz", "zx", "qxx")
    fixed = ("shift",)

    def __init__(self, columns: int, squared: slice, shift: torch.Tensor):
        sites, neurons = shift.shape
        self.shift, self._squared = shift, squared
        taken = len(range(*squared.indices(columns)))
        self.zz = shift.new_zeros((columns, columns), dtype=torch.float64)
        self.zx = shift.new_zeros((sites, columns, neurons), dtype=torch.float64)
        self.qxx = shift.new_zeros((sites, taken, neurons), dtype=torch.float64)

    def begin(self, batch: Batch) -> None:
        design = batch.covariates["design"]
        self._z, self._q = design.T.contiguous(), design[:, self._squared].T.contiguous()
        exact = design.double()
        self.zz += exact.T @ exact

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        centred = activations.float() - self.shift[site]
        self.zx[site] += self._z @ centred
        self.qxx[site] += self._q @ centred.square_()


class Histogram(Reducer):
    """Per group of tokens: how many activations of a site fall into each bin, all neurons together.

    `counts` is `[sites, groups, bins + 2]`: underflow first, overflow last. A bin is [edge, next edge). Its width is a
    power of two and its edges are multiples of it, so that x / width and its floor are exact in any binary float: the
    counts are exactly those that float64 would give.
    """

    summed = ("counts",)
    fixed = ("width", "start")

    def __init__(self, groups: int, low: torch.Tensor, high: torch.Tensor, bins: int, device: torch.device):
        """`low` and `high` `[sites]` bracket the bulk, which gets `bins` / 2 to `bins` bins; the rest is margin."""
        sites = len(low)
        # No narrower than 2⁻²² of the values: float32 has no finer steps there, and bin numbers stay exact in it
        least = torch.maximum(low.abs(), high.abs()).double().clamp(min=2.0**-100) * 2.0**-22
        self.bins, self.groups = 2 * bins, groups
        width = torch.maximum((high - low).double() / bins, least)
        self.width = torch.exp2(torch.ceil(torch.log2(width)))  # [sites] float64
        middle = (low + high).double() / 2
        self.start = torch.floor(middle / self.width).long() - bins  # [sites]: the first edge, in widths
        self.counts = torch.zeros(sites, groups, self.bins + 2, dtype=torch.int64, device=device)

    @property
    def edges(self) -> torch.Tensor:
        """`[sites, bins + 1]` float64."""
        steps = self.start[:, None] + torch.arange(self.bins + 1)
        return steps * self.width[:, None]

    def begin(self, batch: Batch) -> None:
        self._offsets = (batch.covariates["group"] * (self.bins + 2)).to(torch.int32)[:, None]

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        # float32 holds every bin number here exactly; the width is a power of two, so the product is exact as well
        numbers = (activations.float() * (1.0 / self.width[site].item())).floor_()
        numbers.sub_(float(self.start[site] - 1)).clamp_(0, self.bins + 1)
        flat = numbers.to(torch.int32).add_(self._offsets).flatten()
        self.counts[site] += torch.bincount(flat, minlength=self.groups * (self.bins + 2)).view(self.groups, -1)


class Keep(Reducer):
    """Keeps everything, within a memory budget: `kept[site]` is `[sequences, length, neurons]`, NaN where invalid."""

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
            with torch.inference_mode(False):  # an ordinary tensor, for whoever gets it
                self.kept[site] = torch.full(shape, torch.nan, dtype=activations.dtype)
        place = self.kept[site][batch.first : batch.first + sequences].view(sequences * length, -1)
        if batch.rows is None:
            place.copy_(activations)
        else:
            place[batch.rows.cpu()] = activations.cpu()


class Rows(Reducer):
    """Chosen tokens only: the activations of each span of tokens, pooled into a row.

    Row i are the tokens at columns [start, stop) of one sequence; `rows(site)` is `[rows, neurons]` float32, whatever
    the model's dtype (the mean is taken in float64). Its memory grows with the number of rows that were asked for, not
    with the number of tokens.
    """

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
        """`[rows, neurons]` float32 on the CPU; NaN where the pass has not come to a row."""
        return self.kept[site]

    def begin(self, batch: Batch) -> None:
        sequences, length = batch.valid.shape
        here = (self._sequence >= batch.first) & (self._sequence < batch.first + sequences)
        self._here = here.nonzero().squeeze(1)
        start, stop = self._start[self._here], self._stop[self._here]
        self._counts = (stop - start).to(batch.valid.device)
        flat = (self._sequence[self._here] - batch.first) * length + start
        # Every token of every span: its place among the batch's valid tokens, and the row it belongs to
        of_row = torch.arange(len(flat)).repeat_interleave(stop - start)
        within = torch.arange(len(of_row)) - (torch.cumsum(stop - start, 0) - (stop - start))[of_row]
        places = (flat[of_row] + within).to(batch.valid.device)
        self._of_row = of_row.to(batch.valid.device)
        self._places = places if batch.rows is None else torch.searchsorted(batch.rows, places)

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        if site not in self.kept:
            with torch.inference_mode(False):
                self.kept[site] = torch.full((len(self._sequence), activations.shape[1]), torch.nan)
        if len(self._here) == 0:
            return
        values = activations[self._places]
        if not bool(values.isfinite().all()):
            raise NotFiniteError(site)
        shape = (len(self._here), activations.shape[1])
        if self._pooling == "max":
            values = values.float()
            of_row = self._of_row[:, None].expand_as(values)
            pooled = values.new_full(shape, -torch.inf).scatter_reduce_(0, of_row, values, "amax")
        else:
            pooled = values.new_zeros(shape, dtype=torch.float64).index_add_(0, self._of_row, values.double())
            pooled = (pooled / self._counts[:, None]).float()
        self.kept[site][self._here] = pooled.cpu()

    def state(self) -> dict[str, torch.Tensor]:
        return {str(site): rows.clone() for site, rows in self.kept.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self.kept = {int(site): rows.clone() for site, rows in state.items()}

    def merge(self, other: Self) -> None:
        """Takes over the rows that `other` saw."""
        for name in ("_sequence", "_start", "_stop"):
            if not torch.equal(getattr(self, name), getattr(other, name)):
                raise ValueError("cannot merge: the two look for different rows")
        if self._pooling != other._pooling:
            raise ValueError("cannot merge: the two pool differently")
        for site, rows in other.kept.items():
            own = self.kept.get(site)
            self.kept[site] = rows.clone() if own is None else torch.where(own.isnan(), rows, own)
