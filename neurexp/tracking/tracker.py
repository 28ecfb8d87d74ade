"""Logs run folders into MLflow. Knows no experiment.

MLflow gets what the folder holds, after the run or later, by `python -m neurexp.tracking RUN_FOLDER`. Each run has a
client of its own, so that nothing global is left behind between the jobs of a sweep.
"""

import argparse
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf.errors import OmegaConfBaseException

from neurexp.config.schema import Backend, TrackingConfig
from neurexp.console import terminal
from neurexp.errors import UserError, one_line, without_secrets
from neurexp.io import mlflow_stores as stores
from neurexp.io.files import read_table, write_json
from neurexp.io.mlflow_stores import Store
from neurexp.report.folder import CHECKPOINT, CONFIG, LAYERS, SUMMARY, forget, summary_of
from neurexp.report.report import SITE, Table

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

LONGEST_NAME = 250  # characters of a run's name in MLflow's databases
MOST = 1000  # metrics, parameters and tags in one call


class Tracker:
    """Tracking that is off: only the run folder is written. Also the interface of tracking that is on."""

    run_id: str | None = None
    where = ""  # the command or address that opens the store, without a password
    store: str | None = None  # its address, without a password

    def log(
        self,
        metrics: dict[str, float],
        layers: Table,
        step_column: str | None,
        tags: dict[str, Any],
        dataset: dict[str, str] | None = None,
    ) -> None:
        """Logs metrics, those of `layers` over its `step_column`, tags and the dataset of a finished run."""

    def log_folder(self, folder: Path, within: str | None = None) -> None:
        """Logs a folder or a file as artifacts, in the artifact folder `within`."""

    def finish(self, status: str, reason: str = "") -> None:
        """Ends the run as FINISHED, FAILED or KILLED."""


class MlflowTracker(Tracker):
    """One MLflow run."""

    def __init__(self, client: "MlflowClient", store: Store, run_id: str, begun: int | None = None):
        """`begun` is the run's start in ms, if it is known; else the store is asked for it."""
        self._client, self._id, self._begun = client, run_id, begun
        self.run_id, self.where, self.store = run_id, store.where, without_secrets(store.uri)

    @classmethod
    def begin(
        cls,
        client: "MlflowClient",
        store: Store,
        experiment_id: str,
        name: str,
        parameters: dict[str, str],
        folder: Path | None,
        parent: str | None,
    ) -> "MlflowTracker":
        """Starts a new run for `folder`, as a child of `parent` if that is given."""
        from mlflow.entities import Param

        tags = {} if parent is None else {"mlflow.parentRunId": parent}
        tags |= {} if folder is None else {"run_folder": str(folder)}
        run = client.create_run(experiment_id, run_name=name[:LONGEST_NAME], tags=tags)
        values = (Param(name, value[:6000]) for name, value in parameters.items())
        for chunk in _chunks(values, 100):
            client.log_batch(run.info.run_id, params=chunk)
        return cls(client, store, run.info.run_id, run.info.start_time)

    @property
    def status(self) -> str | None:
        """RUNNING, FINISHED, FAILED or KILLED; None if the store does not have the run, or it was deleted."""
        run = self._run()
        return None if run is None else run.info.status

    def _run(self) -> "Run | None":
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(self._id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def goes_on(self) -> bool:
        """Makes the run RUNNING again. Returns False if it does not exist any more."""
        run = self._run()
        if run is None:
            return False
        self._begun = run.info.start_time
        self._client.update_run(self._id, status="RUNNING")
        if "reason" in run.data.tags:  # of the earlier failure
            self._client.delete_tag(self._id, "reason")
        return True

    def log(
        self,
        metrics: dict[str, float],
        layers: Table,
        step_column: str | None,
        tags: dict[str, Any],
        dataset: dict[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Dataset, DatasetInput, Metric, RunTag

        # One timestamp for all: values that are logged again after a failure replace the old ones
        when = self._client.get_run(self._id).info.start_time if self._begun is None else self._begun
        entries = [Metric(name, float(value), when, 0) for name, value in metrics.items()]
        if step_column is not None and layers:
            places = layers[step_column]
            sites = [f"{site}/" for site in layers[SITE]] if SITE in layers else [""] * len(places)
            for name in layers.keys() - {step_column, SITE}:  # one key per column, and site; the layer is the step
                entries += [
                    Metric(f"{site}{name}", float(value), when, int(place))
                    for site, place, value in zip(sites, places, layers[name], strict=True)
                    if np.isfinite(value)
                ]
        named = [RunTag(name, str(value)) for name, value in tags.items()]
        self._client.log_batch(self._id, metrics=entries[: MOST - len(named)], tags=named)
        for chunk in _chunks(entries[MOST - len(named) :], MOST):
            self._client.log_batch(self._id, metrics=chunk)
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
    folder: Path | None = None,
    parent: str | None = None,
    run_id: str | None = None,
    goes_on: bool = False,
) -> Tracker:
    """Opens the tracker that the config asks for.

    Args:
        config: the tracking group.
        outputs: where the SQLite store and its artifacts go unless `tracking.uri` names another place.
        experiment, run_name: how MLflow lists the run.
        parameters: the resolved config, flat.
        folder: the run folder.
        parent: id of the run that this one is a child of.
        run_id: of a resumed run, if the store still has it.
        goes_on: the run is resumed; its first process may have ended before it noted an id.

    Raises:
        UserError: the store cannot be opened or the server does not answer.
    """
    if config.backend is Backend.off:
        return Tracker()
    for line in stores.from_environment(config.uri, config.experiment):
        _say(line)
    store = stores.store_of(config.uri, outputs)
    client = stores.open_store(store)
    try:
        if run_id is not None and (tracker := MlflowTracker(client, store, run_id)).goes_on():
            return tracker  # whatever the name of its experiment
        mlflow_name = stores.experiment_name(client, config.experiment, experiment)
        artifacts = outputs / "mlartifacts" / re.sub(r"[^\w -]", "_", mlflow_name)  # a name may contain slashes
        experiment_id = stores.experiment_of(client, store, mlflow_name, artifacts)
        begun = _begun_in(client, experiment_id, folder) if goes_on and folder is not None else None
        if begun is not None and (tracker := MlflowTracker(client, store, begun)).goes_on():
            return tracker
        return MlflowTracker.begin(client, store, experiment_id, run_name, parameters, folder, parent)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{store.given}: MLflow does not take a run there ({one_line(error)}); tracking=off works"
        ) from error


@cache
def _say(line: str) -> None:
    """Logs a line once in a process: the jobs of a sweep share the environment."""
    log.info("MLflow:     %s", line)


def log_run(tracker: Tracker, folder: Path) -> None:
    """Logs a complete run folder: metrics, also by layer, tags, dataset, and every file but `summary.json`.

    The caller logs that last: it may still note the seconds of the logging itself.
    """
    summary = summary_of(folder)
    facts, layers = summary["provenance"], {}
    if summary["step_column"] is not None and (folder / LAYERS).exists():
        layers = read_table(folder / LAYERS)
    dataset = facts["dataset"]
    entity = {
        "name": summary["dataset"],
        "digest": facts.get("text_token_hash", facts["token_hash"])[:16],
        "source_type": dataset["source"],
        "source": str(dataset.get("path") or dataset.get("name") or dataset["source"]),
    }
    tags = {name: facts[name] for name in ("model_revision", "token_hash", "git_commit", "git_dirty")}
    tags |= {name: summary[name] for name in ("experiment", "model", "dataset", "device")} | {"run_folder": folder}
    tags["mlflow.note.content"] = "\n".join(f"- {line}" for line in summary["findings"])  # MLflow shows this note first
    tracker.log(summary["metrics"], layers, summary["step_column"], tags, entity)
    for entry in sorted(folder.iterdir()):
        if entry.name != SUMMARY and not entry.name.startswith(CHECKPOINT):  # files that only a resumed run needs
            tracker.log_folder(entry, entry.name if entry.is_dir() else None)


def download(run_id: str, uri: str | None, outputs: Path, into: Path | None = None, option: str = "--uri") -> Path:
    """Downloads the files of a run from MLflow into `into` or a temporary folder.

    Args:
        run_id: of the run.
        uri: of the store; MLFLOW_TRACKING_URI, or the one in `outputs`, if not given.
        outputs: the folder of all outputs.
        into: a folder that exists.
        option: the option that names the store, for messages.

    Raises:
        UserError: there is no such store, or no such run in it.
    """
    store = stores.store_of(uri, outputs, option=option)
    if store.file is not None and not store.file.exists():
        raise UserError(
            f"{run_id}: no such run folder, and no MLflow store at {store.file}; give its address with {option}"
        )
    client = stores.open_store(store, make=False)
    from mlflow.exceptions import MlflowException

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        return Path(client.download_artifacts(run_id, "", None if into is None else str(into)))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{run_id}: no such run folder, and no such run in {without_secrets(store.uri)} ({one_line(error)}); give "
            f"a run folder, or the address of another store with {option}"
        ) from error


def later(folder: Path) -> str:
    """The command that logs a run folder."""
    return shlex.join(["python", "-m", "neurexp.tracking", str(folder)])


def log_later(folder: Path, uri: str | None = None) -> Tracker:
    """Logs a complete run folder that MLflow did not accept, or not completely, when it was made.

    Args:
        folder: of the run.
        uri: of the store; that of the run's own config if not given.

    Raises:
        UserError: the folder holds no finished run, or MLflow cannot be opened or does not take it.
    """
    from omegaconf import OmegaConf

    from neurexp.config.schema import flat

    summary = summary_of(folder)
    try:
        config = OmegaConf.load(folder / CONFIG)
        typed_in = Path(OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra.runtime.cwd)
        outputs = Path(typed_in, Path(config.run.outputs).expanduser()).resolve()
        kept, name = summary.get("mlflow_store") or config.tracking.uri, config.experiment.name
    except (OSError, OmegaConfBaseException) as error:
        raise UserError(
            f"{folder}: its .hydra folder does not say where it was to be logged ({one_line(error)})"
        ) from error
    if uri is None and kept is not None:
        uri = stores.store_of(stores.with_password(kept, folder), outputs, typed_in).uri
    store = without_secrets(stores.store_of(uri, outputs).uri)
    parent = next((run_id for place in folder.resolve().parents if (run_id := _sweep_in(place, store))), None)
    wanted, known = TrackingConfig(Backend.mlflow, uri, config.tracking.get("experiment")), summary["mlflow_run_id"]
    run_name = summary.get("run_name", summary["setting"])
    tracker = start(wanted, outputs, name, run_name, flat(config), folder.resolve(), parent, known, True)  # type: ignore[arg-type]
    try:
        changed = {"mlflow_run_id": tracker.run_id, "mlflow_store": tracker.store}
        if summary | changed != summary:
            write_json(folder / SUMMARY, summary | changed)
        log_run(tracker, folder)
        tracker.log_folder(folder / SUMMARY)
        tracker.finish("FINISHED")
    except Exception as error:
        raise UserError(
            f"tracking: MLflow did not take the run ({one_line(error)}); `{later(folder)}` tries it again"
        ) from error
    log.info("MLflow:     run %s; open with: %s", tracker.run_id, tracker.where)
    return tracker


def _sweep_in(folder: Path, store: str) -> str | None:
    """The id of a sweep's MLflow run in `store`, if the folder is a sweep's."""
    with suppress(OSError, ValueError, AttributeError):  # `parent.json` may be another program's
        known = json.loads((folder / "parent.json").read_text("utf-8"))
        return known["run_id"] if known.get("store") == store else None
    return None


def _begun_in(client: "MlflowClient", experiment_id: str, folder: Path) -> str | None:
    """The id of the unfinished MLflow run of a run folder."""
    if "'" in str(folder):
        return None
    runs = client.search_runs([experiment_id], f"tags.run_folder = '{folder}' and attributes.status != 'FINISHED'")
    return runs[0].info.run_id if runs else None


def _chunks(items: Iterable, size: int) -> Iterator[list]:
    iterator: Iterator = iter(items)
    return iter(lambda: list(islice(iterator, size)), [])


def main() -> None:
    """`python -m neurexp.tracking RUN_FOLDER`."""

    terminal.prepare()
    parser = argparse.ArgumentParser("python -m neurexp.tracking", description="Logs finished runs into MLflow later.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="of finished runs")
    parser.add_argument("--uri", help="of an MLflow server or store; that of the run's own config if not given")
    arguments = parser.parse_args()
    log.setLevel(logging.INFO)
    with terminal.without_a_log():
        for folder in arguments.folders:
            try:
                log_later(folder, arguments.uri)
            except UserError as error:
                sys.exit(f"error: {error}")
            forget(folder)
