"""The stored results of a pass: what its reducers' states become in the store, and how they are taken from it.

Where every reducer's state splits into those of single sites, each layer is stored on its own, and once what all layers
share. Then a pass over all layers serves a later one over some of them, and the jobs of a sweep over layers. Knows no
experiment.
"""

from typing import Any

import torch

from neurexp.engine.plan import Pass
from neurexp.engine.reducers.base import Reducer, joined_states, states_in
from neurexp.io.store import Entry, Store

Reducers = dict[str, Reducer]
State = dict[str, torch.Tensor]
COMMON = "common"  # the part of the entry with what all layers share


class _NotStoredError(Exception):
    """A part of the entry is missing, damaged or another version's."""


class StoredPass:
    """A planned pass and its entry in the store."""

    def __init__(self, store: Store, planned: Pass, key: dict[str, Any]):
        """`key` holds everything that the reducers' states depend on, but the layers."""
        self.planned, reducers = planned, planned.reducers(len(planned.layers))
        self.by_layer = all(reducer.by_site for reducer in reducers.values())
        self._has_common = any(reducer.common for reducer in reducers.values())
        self._count = len(reducers)
        self.entry: Entry = store.entry("passes", key if self.by_layer else key | {"layers": list(planned.layers)})

    def load(self) -> Reducers | None:
        """The pass's reducers with their stored states, or None unless all are stored and complete."""
        reducers = self._new()
        try:
            for reducer, state in zip(reducers.values(), self._states(reducers), strict=True):
                reducer.load(state)
        except (_NotStoredError, KeyError, ValueError):
            return None
        return reducers

    def _new(self) -> Reducers:
        return self.planned.reducers(len(self.planned.layers))

    def _states(self, reducers: Reducers) -> list[State]:
        if not self.by_layer:
            return self._stored("")
        common = self._stored(COMMON) if self._has_common else [{} for _ in reducers]
        layers = [self._stored(_part(layer)) for layer in self.planned.layers]
        return [
            reducer.joined(common[place], [layer[place] for layer in layers])
            for place, reducer in enumerate(reducers.values())
        ]

    def _stored(self, part: str) -> list[State]:
        """Each reducer's tensors in a part of the entry."""
        stored = self.entry.load(part)
        if stored is None:
            raise _NotStoredError
        try:
            return states_in({name: torch.from_numpy(values) for name, values in stored.items()}, self._count)
        except (IndexError, ValueError) as error:
            raise _NotStoredError from error

    def save(self, reducers: Reducers, layers: tuple[int, ...]) -> None:
        """Stores the states of a pass over `layers`, or nothing more: on a full disk the results come first."""
        parts: dict[str, list[State]] = {}
        if self.by_layer:
            split = [reducer.split(len(layers)) for reducer in reducers.values()]
            if self._has_common:
                parts[COMMON] = [common for common, _ in split]
            parts |= {_part(layer): [sites[site] for _, sites in split] for site, layer in enumerate(layers)}
        else:
            parts[""] = [reducer.state() for reducer in reducers.values()]
        added: list[str] = []  # what an earlier run has stored stays
        for part, states in parts.items():
            is_new = not self.entry.has(part)
            if not self.entry.save({name: values.numpy() for name, values in joined_states(states).items()}, part):
                self.entry.remove(added)
                return
            if is_new:
                added.append(part)

    def kept_of(self, reducers: Reducers, layers: tuple[int, ...]) -> Reducers:
        """The planned layers of a pass over `layers`, as mapped files, which take no memory, if they are stored."""
        if not self.by_layer:
            return reducers
        if (found := self.load()) is not None:
            return found
        if layers == self.planned.layers:
            return reducers
        chosen = self._new()
        for name, reducer in chosen.items():
            common, sites = reducers[name].split(len(layers))
            reducer.load(reducer.joined(common, [sites[layers.index(layer)] for layer in self.planned.layers]))
        return chosen


def _part(layer: int) -> str:
    """The part of the entry that holds a layer."""
    return f"layer_{layer}"
