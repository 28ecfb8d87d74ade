"""Extremes: the tokens at which each neuron has its highest and its lowest activations, and the activations around.

Exact for all tokens of a text, however they are cut into batches. Does not know what the tokens are.
"""

from dataclasses import dataclass
from typing import Self

import torch

from neurexp.engine.reducers.base import Batch, Reducer

TOP, BOTTOM = 0, 1  # the ends
MISSING = -128  # the level of a place without a token
_LAST = torch.iinfo(torch.int64).max  # sorts behind every place
_AT_ONCE = 2**22  # numbers that are sorted at a time: more would take too much memory


class Extremes(Reducer):
    """The `k` highest and the `k` lowest activations of each neuron, where they are, and what is around them.

    The state, in which end 0 is the highest, in descending order, and end 1 the lowest, in ascending order:

    - `values` `[sites, 2, neurons, k]` float32, NaN where there are fewer than k,
    - `places` `[sites, 2, neurons, k]` int64: the token's sequence · `length` + its column; −1 where there are fewer,
    - `levels` `[sites, 2, neurons, k, before + 1 + after]` int8: the neuron's activations x at the tokens from `before`
      to the left to `after` to the right, as round(100 · x / |value|), limited to ±100; −128 where the sequence has no
      valid token there. Where the value is 0, a level is 100 times the sign of x.
    - `documents` `[sites, 2, neurons, k]` int64, −1 where there are fewer; only if `per_document` is not 0.

    Equal activations are ordered by their places, lower ones first. Only tokens of the covariate `counted` `[tokens]`
    bool can be extremes, all of them if there is no such covariate; the levels are of all valid tokens. If
    `per_document` is not 0, at most so many of an end's places are in one document, by the covariate `document`
    `[tokens]` int64. What is found of a neuron with NaN or infinity means nothing: another reducer reports them.
    """

    concurrent = True
    handles_not_finite = False
    values: torch.Tensor
    places: torch.Tensor
    levels: torch.Tensor
    documents: torch.Tensor

    def __init__(
        self,
        sites: int,
        k: int,
        length: int,
        before: int = 0,
        after: int = 0,
        per_document: int = 0,
        device: torch.device | str = "cpu",
    ):
        """`length` is that of the sequences. Raises ValueError if `k` or `length` is less than 1, or another number is
        negative."""
        if min(k, length) < 1 or min(before, after, per_document) < 0:
            raise ValueError(
                f"k={k} and length={length} must be 1 or more, and before={before}, after={after} and "
                f"per_document={per_document} must not be negative"
            )
        self.k, self.length, self.before, self.after, self.per_document = k, length, before, after, per_document
        self._sites, self._device = sites, torch.device(device)
        self._names = ("values", "places", "levels", *(["documents"] if per_document else []))
        self._allocate(0)

    def _allocate(self, neurons: int) -> None:
        shape, device = (self._sites, 2, neurons, self.k), self._device
        with torch.inference_mode(False):  # ordinary tensors, so that states can be merged after the pass
            self.values = torch.full(shape, torch.nan, device=device)
            self.places = torch.full(shape, -1, dtype=torch.int64, device=device)
            self.levels = torch.full((*shape, self.before + 1 + self.after), MISSING, dtype=torch.int8, device=device)
            if self.per_document:
                self.documents = torch.full(shape, -1, dtype=torch.int64, device=device)

    def begin(self, batch: Batch) -> None:
        batch.shared[self] = _Places(batch, self.length, self.before, self.after, bool(self.per_document))

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        if self.values.shape[2] == 0:
            self._allocate(activations.shape[1])
        at = batch.shared[self]
        if len(at.place) == 0:
            return
        counted = activations if at.counted is None else activations[at.counted]
        highest, lowest = counted.amax(0).float(), counted.amin(0).float()
        for end, best in ((TOP, highest), (BOTTOM, lowest)):
            worst = self.values[site, end, :, -1]
            better = (best >= worst) if end == TOP else (best <= worst)
            (neurons,) = (better | worst.isnan()).nonzero(as_tuple=True)
            step = max(1, _AT_ONCE // len(at.place))
            for some in neurons.split(step):
                self._insert(site, end, some, counted, activations, at)

    def _insert(
        self,
        site: int,
        end: int,
        neurons: torch.Tensor,
        counted: torch.Tensor,
        all_of_them: torch.Tensor,
        at: "_Places",
    ) -> None:
        """Takes the best of a batch's activations into those of some neurons."""
        found = counted[:, neurons].T.float()
        places = at.place.expand_as(found)
        documents = None if at.document is None else at.document.expand_as(found)
        new = _best(_Found(found, places, documents, None), end, self.k, self.per_document)
        new.levels = at.levels(all_of_them, neurons, new)
        old = self._of(site, end, neurons)
        self._replace(site, end, neurons, _best(_joined(old, new), end, self.k, self.per_document))

    def _of(self, site: int, end: int, neurons: torch.Tensor) -> "_Found":
        named = {name: getattr(self, name)[site, end, neurons] for name in self._names}
        return _Found(named["values"], named["places"], named.get("documents"), named["levels"])

    def _replace(self, site: int, end: int, neurons: torch.Tensor, found: "_Found") -> None:
        for name in self._names:
            getattr(self, name)[site, end, neurons] = getattr(found, name)

    def state(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name).detach().cpu().clone() for name in self._names}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        with torch.inference_mode(False):
            for name in self._names:
                setattr(self, name, state[name].to(self._device).clone())

    def merge(self, other: Self) -> None:
        """Takes over what `other` has found in other sequences.

        Raises:
            ValueError: the two look for different extremes.
        """
        for name in ("k", "length", "before", "after", "per_document"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"cannot merge: {name} is {getattr(self, name)} and {getattr(other, name)}")
        if other.values.shape[2] == 0:
            return
        if self.values.shape[2] == 0:
            self._allocate(other.values.shape[2])
        if self.values.shape != other.values.shape:
            raise ValueError("cannot merge: the two have values of different shapes")
        every = torch.arange(self.values.shape[2], device=self._device)
        for site in range(self._sites):
            for end in (TOP, BOTTOM):
                new = other._of(site, end, every.to(other._device)).to(self._device)
                joined = _joined(self._of(site, end, every), new)
                self._replace(site, end, every, _best(joined, end, self.k, self.per_document))


@dataclass
class _Found:
    """Activations of some neurons, as in the state of `Extremes` but for the first two axes."""

    values: torch.Tensor
    places: torch.Tensor
    documents: torch.Tensor | None
    levels: torch.Tensor | None

    def to(self, device: torch.device) -> "_Found":
        moved = [None if part is None else part.to(device) for part in (self.documents, self.levels)]
        return _Found(self.values.to(device), self.places.to(device), *moved)


class _Places:
    """Where a batch's tokens are."""

    def __init__(self, batch: Batch, length: int, before: int, after: int, with_documents: bool):
        """Raises ValueError if the sequences do not have the length that was told."""
        if batch.valid.shape[1] != length:
            raise ValueError(f"the sequences have {batch.valid.shape[1]} tokens, not {length}")
        device = batch.device
        rows = torch.arange(batch.valid.numel()) if batch.rows is None else batch.rows
        counted = batch.covariates.get("counted")
        kept = None if counted is None or bool(counted.all()) else counted.nonzero().squeeze(1)
        place = batch.first * length + (rows if kept is None else rows[kept])
        document = None
        if with_documents:
            document = batch.covariates["document"]
            document = (document if kept is None else document[kept]).to(device)
        self.counted = None if kept is None else kept.to(device)  # which of the valid tokens
        self.place = place.to(device)
        self.document = document
        self._first, self._length, self._device = batch.first * length, length, device
        row = torch.full((batch.valid.numel(),), -1)
        row[rows] = torch.arange(len(rows))
        self._row = row.to(device)  # of each place of the batch: its index among the valid tokens, or −1
        self._around = torch.arange(-before, after + 1, device=device)

    def levels(self, activations: torch.Tensor, neurons: torch.Tensor, found: _Found) -> torch.Tensor:
        """The levels around the places `[neurons, k]` that were found in this batch, `[neurons, k, around]` int8."""
        place = found.places[:, :, None]
        column = place % self._length + self._around
        row = self._row[(place - self._first + self._around).clamp(0, len(self._row) - 1)]
        is_there = (column >= 0) & (column < self._length) & (row >= 0) & (place >= 0)
        x = activations[row.clamp(min=0), neurons[:, None, None]].float()
        return _levels(x, found.values[:, :, None]).where(is_there, MISSING)


def _levels(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """round(100 · x / |value|) as int8, limited to ±100; 0 / 0 is 0."""
    return ((x / value.abs()) * 100).nan_to_num_(0.0, 100.0, -100.0).round_().clamp_(-100, 100).to(torch.int8)


def _joined(first: _Found, second: _Found) -> _Found:
    pairs = [
        None if one is None or other is None else torch.cat([one, other], 1)
        for one, other in ((first.documents, second.documents), (first.levels, second.levels))
    ]
    values, places = torch.cat([first.values, second.values], 1), torch.cat([first.places, second.places], 1)
    return _Found(values, places, *pairs)


def _best(found: _Found, end: int, k: int, per_document: int) -> _Found:
    """The k best of each neuron, in order: by value, then by place. Missing ones are last."""
    missing = (found.places < 0) | ~found.values.isfinite()
    score = (found.values if end == TOP else -found.values).masked_fill(missing, -torch.inf)
    order = found.places.masked_fill(missing, _LAST).argsort(dim=1, stable=True)
    order = order.gather(1, score.gather(1, order).argsort(dim=1, stable=True, descending=True))
    if found.documents is not None:
        beyond = _beyond(found.documents.gather(1, order), per_document)
        missing = missing | torch.zeros_like(missing).scatter(1, order, beyond)
        order = order.gather(1, missing.gather(1, order).int().argsort(dim=1, stable=True))
    order = order[:, :k]
    gone = missing.gather(1, order)
    parts: list[torch.Tensor | None] = []
    for part, none in (
        (found.values, torch.nan),
        (found.places, -1),
        (found.documents, -1),
        (found.levels, MISSING),
    ):
        if part is None:
            parts.append(None)
        elif part.dim() == 2:
            parts.append(_widened(part.gather(1, order).masked_fill(gone, none), k, none))
        else:
            chosen = part.gather(1, order[:, :, None].expand(-1, -1, part.shape[2]))
            parts.append(_widened(chosen.masked_fill(gone[:, :, None], none), k, none))
    values, places, documents, levels = parts
    assert values is not None and places is not None
    return _Found(values, places, documents, levels)


def _widened(part: torch.Tensor, k: int, none: float) -> torch.Tensor:
    """Fills `[neurons, fewer, …]` up to `[neurons, k, …]`."""
    lacking = k - part.shape[1]
    return torch.cat([part, part.new_full((len(part), lacking, *part.shape[2:]), none)], 1) if lacking > 0 else part


def _beyond(documents: torch.Tensor, most: int) -> torch.Tensor:
    """Whether `most` entries of the same document come before an entry in its row `[neurons, entries]`."""
    by = documents.argsort(dim=1, stable=True)
    sorted_documents = documents.gather(1, by)
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    is_first = torch.ones_like(documents, dtype=torch.bool)
    is_first[:, 1:] = sorted_documents[:, 1:] != sorted_documents[:, :-1]
    start = index.where(is_first, 0).cummax(1).values
    return torch.zeros_like(is_first).scatter(1, by, index - start >= most)
