"""Extremes: the tokens at which each neuron has its highest and its lowest activations, and the activations around.

Exact for all tokens of a text, however they are cut into batches. Does not know what the tokens are.
"""

from typing import Self

import numpy as np
import torch

from neurexp.engine.reducers.base import Batch, Reducer
from neurexp.engine.reducers.candidates import Blocks, Candidates, find, find_by_document, tables
from neurexp.engine.reducers.places import MISSING, Places
from neurexp.engine.reducers.ranking import best_rows, ranked, ranked_from_left

TOP, BOTTOM = 0, 1  # the ends
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

    by_site = True
    concurrent = True
    handles_not_finite = False
    values: torch.Tensor
    places: torch.Tensor
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
        self._by_block = self._device.type == "cpu"
        self._allocate(0)

    def _allocate(self, neurons: int) -> None:
        shape = (self._sites, 2, neurons, self.k)
        levels = torch.full((*shape, self.before + 1 + self.after), MISSING, dtype=torch.int8)
        none = torch.full(shape, -1)
        self.load({"values": torch.full(shape, torch.nan), "places": none, "levels": levels, "documents": none})

    @property
    def levels(self) -> torch.Tensor:
        """`[sites, 2, neurons, k, before + 1 + after]` int8, in the order of `values`."""
        slots = self._slots.long()[..., None].expand(*self._slots.shape, self._levels.shape[-1])
        # A slot may hold the levels of what was dropped: more of a document than count
        return self._levels.gather(3, slots).masked_fill((self.places < 0)[..., None], MISSING)

    def state(self) -> dict[str, torch.Tensor]:
        found = {"values": self.values, "places": self.places, "levels": self.levels}
        found |= {"documents": self.documents} if self.per_document else {}
        return {name: part.detach().cpu().clone() for name, part in found.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        with torch.inference_mode(False):  # ordinary tensors, so that states can be merged after the pass
            self.values, self.places, self._levels = (
                state[name].to(self._device).clone() for name in ("values", "places", "levels")
            )
            if self.per_document:
                self.documents = state["documents"].to(self._device).clone()
            # Levels stay where they are when others come before them: slot i of `_slots` says where those of i are
            self._slots = torch.arange(self.k, dtype=torch.int32, device=self._device).repeat(*self.values.shape[:3], 1)
            self._worst = _score(self.values[..., -1].clone(), slice(None))  # to exceed, [sites, 2, neurons]
            self._last = [int(places.amax()) if places.numel() else -1 for places in state["places"]]

    def begin(self, batch: Batch) -> None:
        batch.shared[self] = Places(batch, self.length, self.before, self.after, bool(self.per_document))

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        if self.values.shape[2] == 0:
            self._allocate(activations.shape[1])
        at: Places = batch.shared[self]
        if at.tokens == 0:
            return
        if self._by_block and at.blocks is not None:
            self._search_blocks(site, activations, at, at.blocks)
        else:
            for end in (TOP, BOTTOM):
                self._search(site, end, activations, at)
        self._last[site] = max(self._last[site], at.last)

    def _search_blocks(self, site: int, activations: torch.Tensor, at: Places, blocks: Blocks) -> None:
        """Takes a batch's extremes in: fast, on a CPU."""
        is_later = at.first > self._last[site]  # then the kept ones come first where activations are equal
        if at.parts is None:
            found = find(activations, blocks, self._worst[site], not is_later, self.k)
        else:
            kept = _score(self.values[site, None], slice(None))[0], self.documents[site]
            found = find_by_document(activations, at.parts, self._worst[site], *kept, not is_later, self.per_document)
        for which, index in tables(found):
            step = max(1, _AT_ONCE // (self.k + index.shape[1]))
            for start in range(0, len(which), step):
                some = slice(start, start + step)
                self._take(site, found, which[some], index[some], activations, at, is_later)

    def _take(
        self,
        site: int,
        found: Candidates,
        which: np.ndarray,
        index: np.ndarray,
        activations: torch.Tensor,
        at: Places,
        is_later: bool,
    ) -> None:
        """Takes some units' candidates `[units, most]` into their extremes. A unit is a neuron at one end."""
        k, units = self.k, found.units[which]
        end, neurons = np.divmod(units, activations.shape[1])
        sign = (1 - 2 * end).astype(np.float32)[:, None]
        values, places, slots, levels = (
            part[site].flatten(0, 1).numpy() for part in (self.values, self.places, self._slots, self._levels)
        )
        there, rows = index >= 0, found.rows[index]
        old = values[units] * sign + np.float32(0)  # a zero has no sign
        np.copyto(old, -np.inf, where=np.isnan(old))
        scores = np.concatenate([old, np.where(there, found.scores[index], np.float32(-np.inf))], 1)
        given = np.concatenate([places[units], np.where(there, at.place.numpy()[rows], -1)], 1)
        documents = None
        if at.document is not None:
            own = self.documents[site].flatten(0, 1).numpy()
            documents = np.concatenate([own[units], np.where(there, at.document.numpy()[rows], -1)], 1)
        if is_later and documents is None:
            order, gone = ranked_from_left(scores), None
        else:
            of = None if documents is None else torch.from_numpy(documents)
            both = ranked(torch.from_numpy(scores), torch.from_numpy(given), of, self.per_document)
            order, gone = (part.numpy() for part in both)
        line = np.arange(len(order))[:, None]
        kept, left = order[:, :k], order[:, k:]
        scores = scores[line, kept]
        gone = scores == -np.inf if gone is None else gone[:, :k]
        old_slots, is_new = slots[units], kept >= k
        moved = old_slots[line, np.minimum(kept, k - 1)]
        moved[is_new] = old_slots[np.nonzero(left < k)[0], left[left < k]]  # in each row as many leave as come
        slots[units] = moved
        values[units] = np.where(gone, np.float32(np.nan), scores * sign + np.float32(0))
        places[units] = np.where(gone, -1, given[line, kept])
        if documents is not None:
            own[units] = np.where(gone, -1, documents[line, kept])
        self._worst[site].flatten().numpy()[units] = np.where(gone[:, -1], -np.inf, scores[:, -1])
        one, place = np.nonzero(is_new & ~gone)
        tokens = torch.from_numpy(rows[one, kept[one, place] - k])
        levels[units[one], moved[one, place]] = at.levels(activations, tokens, torch.from_numpy(neurons[one])).numpy()

    def _search(self, site: int, end: int, activations: torch.Tensor, at: Places) -> None:
        """Takes a batch's extremes in: on any device, and without a wait for it."""
        counted = activations if at.counted is None else activations[at.counted]
        if len(counted) == 0:
            return
        place = at.place if at.counted is None else at.place[at.counted]
        document = at.document if at.document is None or at.counted is None else at.document[at.counted]
        every = torch.arange(counted.shape[1], device=counted.device)
        for neurons in every.split(max(1, _AT_ONCE // len(counted))):
            found = counted.index_select(1, neurons)
            order = best_rows(_score(found.float(), end), self.k, at.counted_by_document, self.per_document)
            rows = order if at.counted is None else at.counted[order]
            new = {
                "values": found.gather(0, order).T.float(),
                "places": place[order].T,
                "levels": at.levels(activations, rows.T, neurons[:, None].expand_as(rows.T)),
            }
            if document is not None:
                new["documents"] = document[order].T
            self._join(site, end, neurons, new)

    def _join(self, site: int, end: int, neurons: torch.Tensor, new: dict[str, torch.Tensor]) -> None:
        """Takes others' extremes in, sorted or not: `[neurons, any number, …]` for each name of the state."""
        here = site, end, neurons
        slots = self._slots[here].long()
        old_levels = self._levels[site, end, neurons[:, None], slots]
        values = torch.cat([self.values[here], new["values"]], 1)
        places = torch.cat([self.places[here], new["places"]], 1)
        levels = torch.cat([old_levels, new["levels"]], 1)
        documents = torch.cat([self.documents[here], new["documents"]], 1) if self.per_document else None
        order, gone = (part[:, : self.k] for part in ranked(_score(values, end), places, documents, self.per_document))
        self.values[here] = values.gather(1, order).masked_fill(gone, torch.nan).add_(0.0)
        self.places[here] = places.gather(1, order).masked_fill(gone, -1)
        if documents is not None:
            self.documents[here] = documents.gather(1, order).masked_fill(gone, -1)
        chosen = levels.gather(1, order[..., None].expand(-1, -1, levels.shape[2]))
        self._levels[here] = chosen.masked_fill(gone[..., None], MISSING)
        self._slots[here] = torch.arange(self.k, dtype=torch.int32, device=self._device).expand_as(slots)
        self._worst[here] = _score(self.values[here][:, -1], end)

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
        every, state = torch.arange(self.values.shape[2], device=self._device), other.state()
        with torch.inference_mode():
            for site in range(self._sites):
                for end in (TOP, BOTTOM):
                    self._join(site, end, every, {name: of[site, end].to(self._device) for name, of in state.items()})
        self._last = [max(pair) for pair in zip(self._last, other._last, strict=True)]


def _score(values: torch.Tensor, end: int | slice) -> torch.Tensor:
    """The values at the upper end, their negatives at the lower end; −∞ where there is none.

    `end` is a slice for values `[sites, 2, neurons]` of both.
    """
    if isinstance(end, slice):
        values = torch.stack([values[:, TOP], -values[:, BOTTOM]], 1)
    elif end == BOTTOM:
        values = -values
    return values.masked_fill(values.isnan(), -torch.inf)
