"""MLflow in a process beside this one. Its imports take as long as PyTorch's, and run at the same time there.

The command line uses it for a single run. Knows neither MLflow nor experiments.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from neurexp.config.schema import Backend, TrackingConfig
from neurexp.console.beside import Beside
from neurexp.io import mlflow_stores as stores
from neurexp.report.report import Table
from neurexp.tracking.tracker import Tracker

_allowed = False
_there: Tracker | None = None  # over there: the tracker of the run


def allow() -> None:
    """Says that this process is neurexp's own, so that it may be forked."""
    global _allowed
    _allowed = True


@contextmanager
def prepared(config: TrackingConfig, outputs: Path) -> Iterator[Beside | None]:
    """A process that begins to import MLflow now, and ends with the block; None where that would gain nothing.

    Raises:
        UserError: the config's address names no store.
    """
    is_fresh = not {"mlflow", "torch"} & sys.modules.keys()
    if not (_allowed and is_fresh and Beside.is_of_use() and config.backend is Backend.mlflow):
        yield None
        return
    is_server = stores.store_of(config.uri, outputs).is_server
    beside = Beside(lambda: _import(is_server), "talks to MLflow")
    try:
        yield beside
    finally:
        beside.end()


def _import(is_server: bool) -> None:
    import_module("mlflow.tracking.client")
    if not is_server:
        import_module("mlflow.store.tracking.sqlalchemy_store")


class TrackerBeside(Tracker):
    """The interface to a tracker that another process has."""

    def __init__(self, beside: Beside, start: Callable[..., Tracker], *arguments: Any):
        """`start(*arguments)` makes the tracker, over there. Raises what it raises."""
        self._beside = beside
        self.run_id, self.where, self.store = beside.call(_start, start, arguments)

    def log(
        self,
        metrics: dict[str, float],
        layers: Table,
        step_column: str | None,
        tags: dict[str, Any],
        dataset: dict[str, str] | None = None,
    ) -> None:
        self._beside.call(_do, "log", metrics, layers, step_column, tags, dataset)

    def log_folder(self, folder: Path, within: str | None = None) -> None:
        self._beside.call(_do, "log_folder", folder, within)

    def finish(self, status: str, reason: str = "") -> None:
        self._beside.call(_do, "finish", status, reason)


def _start(start: Callable[..., Tracker], arguments: tuple[Any, ...]) -> tuple[str | None, str, str | None]:
    global _there
    _there = start(*arguments)
    return _there.run_id, _there.where, _there.store


def _do(method: str, *arguments: Any) -> None:
    getattr(_there, method)(*arguments)
