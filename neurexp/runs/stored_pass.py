"""The stored results of a pass: what its reducers' states become in the store, and how they are taken from it.

Where every reducer's state splits into those of single sites, each layer is stored on its own. Then a pass over all
layers serves a later one over some of them, and the jobs of a sweep over layers. Knows no experiment.
"""

from typing import Any

import torch

from neurexp.engine.plan import Pass
from neurexp.engine.reducers.base import Reducer, joined_states, states_in
from neurexp.io.store import Entry, Store

Reducers = dict[str, Reducer]


class StoredPass:
    """A planned pass and its entry in the store."""

    def __init__(self, store: Store, planned: Pass, key: dict[str, Any]):
        """`key` holds everything that the reducers' states depend on, but the layers."""
        self.planned = planned
        self.by_layer = all(reducer.by_site for reducer in self._new().values())
        self.entry: Entry = store.entry("passes", key if self.by_layer else key | {"layers": list(planned.layers)})

    def _new(self) -> Reducers:
        return self.planned.reducers(len(self.planned.layers))

    def load(self) -> Reducers | None:
        """The pass's reducers with their stored states, or None unless all are stored and complete."""
        reducers = self._new()
        parts = []
        for name in map(_part, self.planned.layers) if self.by_layer else [""]:
            stored = self.entry.load(name)
            if stored is None:
                return None
            parts.append({own: torch.from_numpy(values) for own, values in stored.items()})
        try:
            states = [states_in(part, len(reducers)) for part in parts]
            for reducer, *own in zip(reducers.values(), *states, strict=True):
                reducer.load(reducer.joined(own) if self.by_layer else own[0])
        except (KeyError, ValueError, RuntimeError):  # stored by another version
            return None
        return reducers

    def save(self, reducers: Reducers, layers: tuple[int, ...]) -> None:
        """Stores the states of a pass over `layers`."""
        if not self.by_layer:
            states = joined_states(list(reducers.values()))
            self.entry.save({name: values.numpy() for name, values in states.items()})
            return
        split = [reducer.split(len(layers)) for reducer in reducers.values()]
        for site, layer in enumerate(layers):
            own = {f"{place}.{name}": part for place, of in enumerate(split) for name, part in of[site].items()}
            self.entry.save({name: values.numpy() for name, values in own.items()}, _part(layer))

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
            split = reducers[name].split(len(layers))
            reducer.load(reducer.joined([split[layers.index(layer)] for layer in self.planned.layers]))
        return chosen


def _part(layer: int) -> str:
    """The part of the entry that holds a layer."""
    return f"layer_{layer}"
