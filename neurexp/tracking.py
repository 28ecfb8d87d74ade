"""A report → the run folder, and the same into MLflow. Knows no experiment.

Every file appears whole or not at all, `summary.json` last: a folder without it is no result. MLflow is spoken to
through a client of its own, so that nothing global is left behind between the jobs of a sweep.
"""

import logging
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from neurexp.config import Backend, TrackingConfig
from neurexp.errors import UserError, one_line
from neurexp.files import whole_file, write_table, write_tensors
from neurexp.report import Report

log = logging.getLogger(__name__)

# MLflow's own notices (new database, new experiment) would bury ours
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
logging.getLogger("alembic").setLevel(logging.WARNING)


def write_report(folder: Path, report: Report) -> None:
    """Tables, tensors and the data dictionary into `folder`."""
    report.check()
    for name, table in {"layers": report.layers, "neurons": report.neurons, **report.tables}.items():
        if table:
            write_table(folder / f"{name}.parquet", table)
    for name, tensors in report.tensors.items():
        write_tensors(folder / f"{name}.safetensors", tensors, report.notes.get(name))
    with whole_file(folder / "columns.md") as path:
        present = report.names()
        escaped = {name: text.replace("|", "\\|") for name, text in report.columns.items() if name in present}
        rows = "".join(f"| `{name}` | {definition} |\n" for name, definition in escaped.items())
        path.write_text(f"# Columns, metrics and tensors\n\n| name | definition |\n| --- | --- |\n{rows}", "utf-8")


def write_figures(folder: Path, report: Report) -> None:
    """Draws every figure, and writes every page, into `folder/figures`."""
    (folder / "figures").mkdir(exist_ok=True)
    for name, draw in report.figures.items():
        with whole_file(folder / "figures" / f"{name}.png") as path:
            draw().savefig(path, format="png")
    for name, write in report.pages.items():
        with whole_file(folder / "figures" / f"{name}.html") as path:
            path.write_text(write(), "utf-8")


_UI = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--backend-store-uri"]


class Tracker:
    """Tracking that is off: the run folder is all there is. Also the interface of tracking that is on."""

    run_id: str | None = None
    uri = ""
    where = ""

    def log(self, report: Report, tags: dict[str, Any], dataset: dict[str, str] | None = None) -> None:
        """Metrics, tags and the dataset's identity of a finished run."""

    def log_folder(self, folder: Path, within: str | None = None) -> None:
        """The run folder's files, or one of them, as artifacts, in the artifact folder `within`."""

    def finish(self, status: str, reason: str = "") -> None:
        """Ends the run as FINISHED, FAILED or KILLED."""


class MlflowTracker(Tracker):
    """One MLflow run."""

    def __init__(self, uri: str, run_id: str):
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        self.uri, self.run_id, self._id = uri, run_id, run_id
        self.where = f"{shlex.join(_UI)} {shlex.quote(uri)}" if uri.startswith("sqlite") else uri

    @classmethod
    def begin(
        cls,
        uri: str,
        artifacts: Path | None,
        experiment: str,
        name: str,
        parameters: dict[str, str],
        parent: str | None,
    ) -> "MlflowTracker":
        """A new run, RUNNING from now on; a child of `parent` if that is given."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            location = None if artifacts is None else artifacts.as_uri()
            identifier = client.create_experiment(experiment, artifact_location=location)
        else:
            identifier = found.experiment_id
        tags = {} if parent is None else {"mlflow.parentRunId": parent}
        run = client.create_run(identifier, run_name=name, tags=tags)
        values = (Param(name, value[:6000]) for name, value in parameters.items())
        for chunk in _chunks(values, 100):
            client.log_batch(run.info.run_id, params=chunk)
        return cls(uri, run.info.run_id)

    def log(self, report: Report, tags: dict[str, Any], dataset: dict[str, str] | None = None) -> None:
        from mlflow.entities import Dataset, DatasetInput, Metric, RunTag

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, 0) for name, value in report.metrics.items()]
        by_layer = {} if report.step_column is None else report.layers
        for name, values in by_layer.items():
            if name != report.step_column:  # one key per column; the layer is the step
                steps = zip(report.layers[str(report.step_column)], values, strict=True)
                metrics += [Metric(name, float(value), now, int(layer)) for layer, value in steps if np.isfinite(value)]
        for chunk in _chunks(metrics, 1000):
            self._client.log_batch(self._id, metrics=chunk)
        self._client.log_batch(self._id, tags=[RunTag(name, str(value)) for name, value in tags.items()])
        if dataset is not None:
            entity = Dataset(dataset["name"], dataset["digest"], dataset["source_type"], dataset["source"])
            self._client.log_inputs(self._id, [DatasetInput(entity, [])])

    def log_folder(self, folder: Path, within: str | None = None) -> None:
        if folder.is_dir():
            self._client.log_artifacts(self._id, str(folder), within)
        else:
            self._client.log_artifact(self._id, str(folder), within)

    def finish(self, status: str, reason: str = "") -> None:
        if reason:
            self._client.set_tag(self._id, "reason", reason[:5000])
        self._client.set_terminated(self._id, status)


def start(
    config: TrackingConfig,
    outputs: Path,
    experiment: str,
    run_name: str,
    parameters: dict[str, str],
    parent: str | None = None,
) -> Tracker:
    """Opens the tracker that the config asks for.

    Args:
        config: the tracking group.
        outputs: where the SQLite store and its artifacts go unless `tracking.uri` names another place.
        experiment, run_name: how MLflow lists the run.
        parameters: the resolved config, flat.
        parent: id of the run that this one is a child of.

    Raises:
        UserError: the store cannot be opened or the server does not answer.
    """
    if config.backend is Backend.off:
        return Tracker()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    local = outputs / "mlartifacts" / experiment
    try:
        if config.uri is not None:
            # A server knows where its artifacts go; a store of files would put them wherever the command was typed
            artifacts = None if config.uri.startswith("http") else local
            return MlflowTracker.begin(config.uri, artifacts, experiment, run_name, parameters, parent)
        outputs.mkdir(parents=True, exist_ok=True)
        from filelock import FileLock

        # Eight processes that make one fresh SQLite store at once break its migration: one at a time
        with FileLock(outputs / ".mlflow.lock"):
            uri = f"sqlite:///{outputs / 'mlflow.db'}"
            return MlflowTracker.begin(uri, local, experiment, run_name, parameters, parent)
    except Exception as error:
        option = f"run.outputs={outputs}" if config.uri is None else f"tracking.uri={config.uri}"
        raise UserError(f"{option}: MLflow cannot be opened there ({one_line(error)}); tracking=off works") from error


def _chunks(items: Iterable, size: int) -> Iterator[list]:
    iterator: Iterator = iter(items)
    return iter(lambda: list(islice(iterator, size)), [])


class Stopwatch:
    """Seconds by stage: `with clock("capture"): …`; `total` counts from its making."""

    def __init__(self) -> None:
        self._start, self.stages = time.perf_counter(), dict[str, float]()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Adds the block's duration to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """Every stage so far, and `total`, to the millisecond."""
        return {name: round(value, 3) for name, value in self.stages.items()} | {
            "total": round(time.perf_counter() - self._start, 3)
        }
