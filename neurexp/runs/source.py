"""The finished run that an experiment goes on from: a folder, or an id in MLflow.

A relative folder starts where the user typed the command, in the jobs of a sweep too. Knows no experiment.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from neurexp.config.schema import Config
from neurexp.console.interrupts import hearing_signals
from neurexp.errors import UserError, one_line
from neurexp.report.finished import FinishedRun, read_finished
from neurexp.report.folder import NEURONS, SUMMARY

_ID = re.compile("[0-9a-fA-F-]{32,36}")  # MLflow's are 32 hexadecimal digits


@contextmanager
def opened(wanted: str | None, config: Config) -> Iterator[FinishedRun | None]:
    """The run that an experiment goes on from; None for an experiment that goes on from none.

    The files of a run that only MLflow has are there until the block ends.

    Args:
        wanted: `Experiment.source_run`.
        config: of the run that goes on. The source is looked for in its `run.outputs` and its MLflow store.

    Raises:
        UserError: there is no such run, it has no neurons, or it cannot be read.
    """
    if wanted is None:
        yield None
        return
    with TemporaryDirectory(prefix="neurexp-source-") as copy:
        yield hearing_signals(_read, wanted, config, Path(copy))


def facts_of(source: FinishedRun | None) -> dict[str, Any]:
    """The provenance of what a run went on from: the absolute folder or the id that was given, and what was found."""
    return {} if source is None else {"source_run": source.place, "source_run_hash": source.neurons_hash}


def _read(wanted: str, config: Config, copy: Path) -> FinishedRun:
    given = f"experiment.run={wanted}"
    folder = _folder(wanted, given)
    place = str(folder.resolve()) if folder is not None else wanted
    if folder is None:
        outputs = Path(config.run.outputs).expanduser().resolve()
        folder = folder_with_id(wanted, outputs) or _download(wanted, given, config, outputs, copy)
    if (folder / SUMMARY).exists() and not (folder / NEURONS).exists() and (name := _experiment_in(folder)) != "sweep":
        raise UserError(f"{given}: a run of {name}, which has no neurons; give a run that tested neurons")
    run = read_finished(folder, given, place)
    _ = run.options, run.columns  # what cannot be read is said now, not after the passes
    return run


def _folder(wanted: str, given: str) -> Path | None:
    """The folder; None for what looks like an id and is no folder."""
    works = "give the folder of a finished run, or its id in MLflow"
    if not wanted.strip():
        raise UserError(f"experiment.run is empty: {works}")
    try:
        folder = Path(wanted).expanduser()
        if folder.is_dir():
            return folder
    except (OSError, RuntimeError) as error:  # a name that is too long, or an unknown user's home
        raise UserError(f"{given}: cannot be a run folder ({one_line(error)}); {works}") from error
    if not _ID.fullmatch(wanted):
        raise UserError(f"{given}: no such folder; {works}")
    return None


def _experiment_in(folder: Path) -> str:
    try:
        return str(json.loads((folder / SUMMARY).read_text("utf-8"))["experiment"])
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return "sweep"  # or a file that `read_finished` explains


def folder_with_id(run_id: str, outputs: Path) -> Path | None:
    """The run folder of an MLflow id among all outputs, jobs of sweeps included; None for what is no id."""
    if not _ID.fullmatch(run_id):
        return None
    for file in chain(outputs.glob(f"*/*/{SUMMARY}"), outputs.glob(f"*/*/*/{SUMMARY}")):
        try:
            if json.loads(file.read_text("utf-8")).get("mlflow_run_id") == run_id:
                return file.parent
        except (OSError, ValueError, RecursionError, AttributeError):
            continue  # not ours
    return None


def _download(run_id: str, given: str, config: Config, outputs: Path, copy: Path) -> Path:
    from neurexp.tracking.tracker import download

    try:
        return download(run_id, config.tracking.uri, outputs, copy, option="tracking.uri")
    except UserError as error:
        told = str(error)
        raise UserError(told if told.startswith("tracking.") else f"{given}{told.removeprefix(run_id)}") from error
