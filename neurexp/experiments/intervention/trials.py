"""The trials of an intervention: which neurons are edited together, and where the result of each trial stands.

A trial is one edited model: the first k neurons of a set, one of its neurons alone, random neurons in their place, or
one random neuron of a sample. Knows no model and no text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from neurexp.engine.edits import Edit
from neurexp.errors import UserError

Pairs = np.ndarray  # [n, 2] int64: layer, neuron
MakeEdits = Callable[[str, Pairs], Sequence[Edit]]  # kind of replacement, neurons → edits


def doses(found: int, wanted: Sequence[int] | None, name: str) -> tuple[int, ...]:
    """How many neurons of a set are edited together: 1, 2, 4, … and all `found`; or those that are `wanted`.

    Raises:
        UserError: a wanted number is larger than what was found, or none.
    """
    if wanted is None:
        return tuple(sorted({2**power for power in range(found.bit_length())} | {found}))
    wrong = [k for k in wanted if not 1 <= k <= found]
    if wrong or not wanted:
        shown = ",".join(map(str, wanted))
        raise UserError(
            f"experiment.ks=[{shown}]: {name} has {found} {'neuron' if found == 1 else 'neurons'}; give numbers from 1 "
            f"to {found}"
        )
    return tuple(sorted(set(wanted)))


@dataclass(frozen=True)
class Trials:
    """All trials of a run, in their order.

    Args:
        sets: the neurons of each set, by name, in the order of their rank: `[n, 2]`.
        kinds: of replacement.
        ks: of each set, how many of its first neurons are edited together.
        draws: random sets in place of each.
        alone: each neuron of a set is edited alone, too.
        sample: random neurons of all layers that are edited alone, with the first kind.
    """

    sets: Mapping[str, Pairs]
    kinds: tuple[str, ...]
    ks: Mapping[str, tuple[int, ...]]
    draws: int
    alone: bool
    sample: int
    _places: dict[tuple[str, ...], np.ndarray] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        """Gives each trial its number. What gets all measures comes first."""
        number = 1  # 0 is the model without edits

        def take(name: tuple[str, ...], *shape: int) -> None:
            nonlocal number
            size = int(np.prod(shape))
            self._places[name] = np.arange(number, number + size).reshape(shape)
            number += size

        each = [(kind, name) for kind in self.kinds for name in self.sets]
        for kind, name in each:
            take(("found", kind, name), len(self.ks[name]))
            take(("alone", kind, name), len(self.sets[name]) if self.alone else 0)
        take(("sample",), self.sample)
        object.__setattr__(self, "detailed", number - 1)
        for kind, name in each:
            take(("null", kind, name), self.draws, len(self.ks[name]))
            take(("null alone", kind, name), self.draws if self.alone else 0)
        object.__setattr__(self, "count", number - 1)

    detailed: int = field(default=0, init=False)  # trials that get all measures: the first ones
    count: int = field(default=0, init=False)  # of trials

    def found(self, kind: str, name: str) -> np.ndarray:
        """The trials of the first k neurons of a set, `[ks]`."""
        return self._places["found", kind, name]

    def alone_of(self, kind: str, name: str) -> np.ndarray:
        """The trials of each of its neurons alone, `[n]`, or none."""
        return self._places["alone", kind, name]

    def null(self, kind: str, name: str) -> np.ndarray:
        """The trials of random neurons in place of the first k, `[draws, ks]`."""
        return self._places["null", kind, name]

    def null_alone(self, kind: str, name: str) -> np.ndarray:
        """The trials of one random neuron each, `[draws]`: each in place of one of the set's, in turn."""
        return self._places["null alone", kind, name]

    @property
    def sampled(self) -> np.ndarray:
        """The trials of the sample, `[sample]`."""
        return self._places["sample",]

    def variants(self, drawn: Mapping[str, np.ndarray], sample: Pairs, edits: MakeEdits) -> list[Sequence[Edit]]:
        """The edits of every trial, in order.

        Args:
            drawn: random neurons in place of each set's, `[draws, n, 2]`.
            sample: `[sample, 2]`.
            edits: makes them.
        """
        made: list[Sequence[Edit]] = []
        each = [(kind, name) for kind in self.kinds for name in self.sets]
        for kind, name in each:
            made += [edits(kind, self.sets[name][:k]) for k in self.ks[name]]
            made += [edits(kind, one[None]) for one in self.sets[name]] if self.alone else []
        made += [edits(self.kinds[0], one[None]) for one in sample]
        for kind, name in each:
            made += [edits(kind, draw[:k]) for draw in drawn[name] for k in self.ks[name]]
            made += [edits(kind, one[None]) for one in alone_draws(drawn[name])] if self.alone else []
        return made


def alone_draws(drawn: np.ndarray) -> Pairs:
    """One random neuron of each draw `[draws, n, 2]`: that in place of the first, the second, … neuron in turn."""
    draws = np.arange(len(drawn))
    return drawn[draws, draws % drawn.shape[1]]


def different_draws(drawn: np.ndarray) -> np.ndarray:
    """The first of the draws `[draws, n, 2]` that are of the same neurons in any order: their indices, ascending.

    A layer with few neurons repeats draws, and a repeated one says nothing new: with it, p would be too small.
    """
    sets = [tuple(sorted(map(tuple, draw.tolist()))) for draw in drawn]
    first = {one: index for index, one in reversed(list(enumerate(sets)))}
    return np.array(sorted(first.values()), dtype=np.int64)


def by_layer(pairs: Pairs) -> Iterator[tuple[int, list[int]]]:
    """The neurons of each layer."""
    for layer in np.unique(pairs[:, 0]):
        yield int(layer), pairs[pairs[:, 0] == layer, 1].tolist()
