"""OfSites: a reducer that sees some of a pass's sites only, so that one pass can serve several sites.

Knows nothing of what the reducer does.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer


class OfSites(Reducer):
    """Hands the sites `first` … `first + count − 1` of a pass to `reducer`, which counts them from 0."""

    def __init__(self, reducer: Reducer, first: int, count: int):
        self._reducer, self._first, self._count = reducer, first, count
        # What a class says of other reducers depends on the one inside
        self.by_site = reducer.by_site  # type: ignore[misc]
        self.concurrent = reducer.concurrent  # type: ignore[misc]
        self.handles_not_finite = reducer.handles_not_finite  # type: ignore[misc]

    @property
    def is_calibrated(self) -> bool:  # type: ignore[override]
        return self._reducer.is_calibrated

    @contextmanager
    def _counted_in_the_pass(self) -> Iterator[None]:
        """Gives an error of the reducer inside the site's index in the pass."""
        try:
            yield
        except NotFiniteError as error:
            raise NotFiniteError(self._first + error.site) from error

    def calibrate(self, site: int, activations: torch.Tensor) -> None:
        if 0 <= site - self._first < self._count:
            with self._counted_in_the_pass():
                self._reducer.calibrate(site - self._first, activations)

    def check(self) -> None:
        with self._counted_in_the_pass():
            self._reducer.check()

    def begin(self, batch: Batch) -> None:
        self._reducer.begin(batch)

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        if 0 <= site - self._first < self._count:
            with self._counted_in_the_pass():
                self._reducer.update(site - self._first, activations, batch)

    def update_with_gradient(self, site: int, activations: torch.Tensor, gradients: torch.Tensor, batch: Batch) -> None:
        if 0 <= site - self._first < self._count:
            with self._counted_in_the_pass():
                self._reducer.update_with_gradient(site - self._first, activations, gradients, batch)

    def state(self) -> dict[str, torch.Tensor]:
        return self._reducer.state()

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self._reducer.load(state)

    def load_calibration(self, state: dict[str, torch.Tensor]) -> None:
        self._reducer.load_calibration(state)

    def merge(self, other: "OfSites") -> None:
        self._reducer.merge(other._reducer)
