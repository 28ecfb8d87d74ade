"""Reducers: what is left of a site's activations once a batch is over.

A reducer sees one site's activations `[tokens, neurons]` and the batch's covariates, updates its state, and the
activations are gone. State is float64 (counts int64) whatever the model's dtype, does not grow with the number of
tokens, and is mergeable: states of parts of a text add up to the state of the whole. What must not depend on how the
pass is cut into batches (shifts, edges) is calibrated by the first sequence alone. Knows neither models nor what the
groups mean.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch

CPU = torch.device("cpu")


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


def predicting(valid: torch.Tensor) -> torch.Tensor:
    """Which tokens predict one, `[sequences, length]` bool: they are valid, and so is the next one of the sequence."""
    found = torch.zeros_like(valid)
    found[:, :-1] = valid[:, :-1] & valid[:, 1:]
    return found


class NotFiniteError(ArithmeticError):
    """A site put out NaN or infinity; `site` is its index in the pass, `sequences` those that were not checked yet.

    If it may not have been a site: `what` did, in words, and `look_at` says where the cause may be.
    """

    what, look_at = "", "the model's weights"

    def __init__(self, site: int):
        super().__init__(f"site {site} puts out NaN or infinity")
        self.site, self.sequences = site, slice(None)


class Reducer(ABC):
    """Base of all reducers. A subclass says by class attributes what its state is and how a pass may run it."""

    summed: ClassVar[tuple[str, ...]] = ()  # tensors that `merge` adds
    calibrated: ClassVar[tuple[str, ...]] = ()  # tensors that the first sequence sets; `merge` requires equal ones
    # The state splits into those of single sites, so that a pass over more layers serves one over fewer
    by_site: ClassVar[bool] = False
    common: ClassVar[
        tuple[str, ...]
    ] = ()  # tensors of such a state that all sites share; the first axis of all others is the site
    # `begin` stores nothing on the reducer itself, so that several batches may run at the same time
    concurrent: ClassVar[bool] = False
    # `check` finds NaN and infinity, or the reducer keeps them for the user to see
    handles_not_finite: ClassVar[bool] = True
    is_calibrated = True  # or there is nothing to calibrate
    _device = CPU

    def __init_subclass__(cls, **options: Any) -> None:
        """A subclass of a reducer says itself that its state splits into sites: it may have added to that state."""
        super().__init_subclass__(**options)
        if "by_site" not in vars(cls):
            cls.by_site = False

    def __copy__(self) -> Self:
        """A copy whose `load` leaves this reducer as it is: the reducers inside are copied, too, but no tensor."""
        other = object.__new__(type(self))
        vars(other).update({name: _copied(value) for name, value in vars(self).items()})
        return other

    def calibrate(self, site: int, activations: torch.Tensor) -> None:  # noqa: B027
        """One site's activations `[tokens, neurons]` of the first sequence alone, before any `update` of that site."""

    def check(self) -> None:  # noqa: B027
        """Raises NotFiniteError if a site put out NaN or infinity since the start. Waits for the device."""

    def begin(self, batch: Batch) -> None:  # noqa: B027
        """Computes what all sites of a batch share, and puts it into `batch.shared[self]`. Called before any `update`.

        `begin` is called in the order of the batches, and so is `update` at each site.
        """

    @abstractmethod
    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        """One site's activations `[tokens, neurons]` of the batch's valid tokens."""

    def update_with_gradient(self, site: int, activations: torch.Tensor, gradients: torch.Tensor, batch: Batch) -> None:
        """What a gradient pass calls in place of `update`, with the loss's `gradients` `[tokens, neurons]` as well.

        A reducer that does not use them reduces the activations alone.
        """
        self.update(site, activations, batch)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that resuming, merging and the store need, on the CPU. `load` of an equal reducer takes it back.

        A subclass whose state is no fixed set of tensors overrides `state`, `load` and `merge`.

        Raises:
            NotImplementedError: the subclass names no `summed` tensors: it cannot be merged.
        """
        if not self.summed:
            raise NotImplementedError(f"{type(self).__name__} cannot be merged: it names nothing that adds up")
        return {name: getattr(self, name).detach().cpu().clone() for name in self.summed + self.calibrated}

    def arrays(self) -> dict[str, np.ndarray]:
        """The tensors of `state` for an analysis; on a CPU not a copy, which would be the peak of the whole pass."""
        return {name: getattr(self, name).detach().cpu().numpy() for name in self.summed + self.calibrated}

    def split(self, sites: int) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
        """The tensors of the state that all sites share, and the others of each of its sites. Only with `by_site`."""
        state = self.state()
        common = {name: state.pop(name) for name in self.common}
        return common, [{name: value[site : site + 1] for name, value in state.items()} for site in range(sites)]

    @staticmethod
    def joined(common: dict[str, torch.Tensor], parts: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The state of several sites, from what `split` made, of several passes perhaps."""
        return common | {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Replaces the state by one of `state()`. Raises KeyError if a tensor is missing."""
        for name in self.summed + self.calibrated:
            present = getattr(self, name, None)
            setattr(self, name, state[name].to(self._device if present is None else present.device).clone())
        self.is_calibrated = True

    def load_calibration(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over shifts and edges from one of `state()`, and none of the tokens that it has seen."""
        self.load(state)
        for name in self.summed:
            getattr(self, name).zero_()

    def merge(self, other: Self) -> None:
        """Adds the state of `other`, which saw other tokens. Raises ValueError if shifts, edges or groups differ."""
        for name in self.summed:
            if getattr(self, name).shape != getattr(other, name).shape:
                raise ValueError(f"cannot merge: the two have {name} of different shapes")
        for name in self.calibrated:
            if not torch.equal(getattr(self, name), getattr(other, name).to(getattr(self, name).device)):
                raise ValueError(f"cannot merge: the two were taken with different {name}")
        for name in self.summed:
            getattr(self, name).add_(getattr(other, name).to(getattr(self, name).device))


def _copied(value: Any) -> Any:
    """The value, with copies of the dictionaries, lists and reducers in it."""
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_copied(part) for part in value]
    return copy.copy(value) if isinstance(value, Reducer) else value


def joined_states(states: Iterable[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """States of reducers as one dictionary, for a file."""
    return {f"{index}.{name}": value for index, state in enumerate(states) for name, value in state.items()}


def states_in(joined: dict[str, torch.Tensor], count: int) -> list[dict[str, torch.Tensor]]:
    """The states of `count` reducers, which `joined_states` joined."""
    states: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    for name, value in joined.items():
        index, _, own = name.partition(".")
        states[int(index)][own] = value
    return states


def take_over(joined: dict[str, torch.Tensor], reducers: Sequence[Reducer]) -> None:
    """Loads each reducer's part of `joined_states`. Raises KeyError if something is missing."""
    for state, reducer in zip(states_in(joined, len(reducers)), reducers, strict=True):
        reducer.load(state)
