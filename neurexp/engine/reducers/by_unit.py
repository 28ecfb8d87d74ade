"""ByUnit: what was found for each of a few units, as named tensors. It is filled by an optimisation, not by a text."""

from typing import Self

import torch

from neurexp.engine.reducers.base import Batch, Reducer


class ByUnit(Reducer):
    """Named tensors of each unit, by its index; and some of no unit."""

    def __init__(self) -> None:
        self._found: dict[str, torch.Tensor] = {}

    def add(self, unit: int | None, **tensors: torch.Tensor) -> None:
        """Takes tensors of a unit, or of none."""
        for name, value in tensors.items():
            self._found[f"{'all' if unit is None else unit}.{name}"] = value.detach().cpu().contiguous()

    def of(self, unit: int | None, name: str) -> torch.Tensor:
        """One tensor. Raises KeyError if there is none of that name."""
        return self._found[f"{'all' if unit is None else unit}.{name}"]

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        raise NotImplementedError("no text is reduced to this")

    def state(self) -> dict[str, torch.Tensor]:
        return dict(self._found)

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self._found = {name: value.clone() for name, value in state.items()}

    def merge(self, other: Self) -> None:
        """Takes over the units that `other` has found."""
        self._found |= other._found
