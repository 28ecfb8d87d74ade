"""A sweep (Hydra's multirun): the notes about its jobs in its folder, its beginning and its end.

A note for each job has its number, folder, overrides and options, and the reason if it failed, because jobs may run in
any process and their folders may have any name. The sweep's table uses only runs whose own options are those of the
note. The jobs are child runs of one MLflow run. Knows no experiment; imports nothing heavy until a sweep ends.
"""

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from neurexp.config.schema import Backend, TrackingConfig
from neurexp.errors import UserError, one_line, printable, without_secrets
from neurexp.report.drawing import write_figures
from neurexp.report.folder import (
    COLUMNS,
    COLUMNS_TO_READ,
    FIGURES,
    HYDRA,
    LAYERS,
    SUMMARY,
    write_report,
)
from neurexp.report.report import SITE
from neurexp.runs.sweep_job import Job, bare

PARENT = "parent.json"
JOBS = ".jobs"  # the folder of the notes
SWEPT = "swept.json"  # in JOBS: the options that the sweep varies
LOCK = ".sweep.lock"
SET_ASIDE = ".hydra_of_then"
OF_NO_JOB = {LOCK, JOBS, "multirun.yaml"}  # files of a sweep that ended before its first job

_held: list[Any] = []  # the lock of this process's sweep
_given_address: str | None = None  # of its MLflow store, with the password, which is in no file


def begin(folder: Path, config: DictConfig) -> None:
    """Locks the sweep's folder for this process. A resumed sweep runs the failed and missing jobs only.

    Raises:
        UserError: another process works in it.
    """
    from filelock import FileLock, Timeout

    from neurexp.io.files import write_json

    (folder / JOBS).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"hydra.sweep.dir={folder}: another process is at work in it") from None
    _held.append(lock)  # released when this process ends
    global _given_address
    _given_address = OmegaConf.select(config, "tracking.uri")
    write_json(folder / JOBS / SWEPT, _swept_options(config))
    for job in jobs_in(folder):
        job.current = False
        _write(folder, job)
        run = folder / job.folder
        if (run / SUMMARY).exists() and not (run / SET_ASIDE).exists():
            with suppress(OSError):  # Hydra is about to overwrite the options of a finished job
                (run / HYDRA).rename(run / SET_ASIDE)


def is_used(folder: Path) -> bool:
    """Whether the folder holds more than the files of a sweep that ended before its first job."""
    return folder.exists() and (any(entry.name not in OF_NO_JOB for entry in folder.iterdir()) or bool(jobs_in(folder)))


def begin_job(folder: Path, number: int, run: Path, overrides: list[str], config: DictConfig) -> bool:
    """Notes a job that starts. Returns whether it was finished before the sweep was interrupted.

    Raises:
        UserError: a job with this number was finished with other options, or two jobs share a folder.
    """
    from neurexp.runs import resume

    options = resume.options_of(config)
    told = [without_secrets(text) for text in overrides]
    _write(folder, Job(number, os.path.relpath(run, folder), told, options))
    if not (run / SUMMARY).exists():
        return False
    there = json.loads((run / SUMMARY).read_text("utf-8")).get("options", {})
    if different := resume.differences(there, options):
        raise UserError(
            f"run.resume=true: job {number} was done with other options ({different}); give the same sweep, or "
            "another hydra.sweep.dir="
            if config.run.get("resume")
            else f"hydra.sweep.subdir: two jobs of this sweep have the folder {run} ({different}); leave it out, or "
            "name an option in it by which all jobs differ"
        )
    return not resume.is_unfinished(run)


def varied(folder: Path, overrides: list[str]) -> list[str]:
    """The job's overrides of options that the sweep varies."""
    swept = _read(folder / JOBS / SWEPT) or []
    return [text for text in map(bare, overrides) if text.partition("=")[0].partition("@")[0] in swept]


def note_failure(folder: Path, number: int, message: str) -> None:
    """Notes that a job failed, for the process that started the sweep."""
    known = _read(folder / JOBS / f"{number}.json") or asdict(Job(number, str(number), [], {}))
    _write(folder, Job(**known | {"error": one_line(Exception(message)), "current": True}))


def jobs_in(folder: Path) -> list[Job]:
    """The noted jobs, by their numbers."""
    notes = (_read(file) for file in (folder / JOBS).glob("[0-9]*.json"))
    return sorted((Job(**note) for note in notes if note), key=lambda job: job.number)


def failures(folder: Path) -> list[str]:
    """The jobs that failed, a line each: number, tab, reason."""
    return [f"{job.number}\t{job.error}" for job in _failed(folder)]


def _failed(folder: Path) -> list[Job]:
    return [job for job in jobs_in(folder) if job.current and job.error]


def parent(config: TrackingConfig, outputs: Path, experiment: str, folder: Path) -> str | None:
    """The parent MLflow run of the sweep in `folder`; the first job makes it."""
    from neurexp.io import mlflow_stores as stores
    from neurexp.io.files import write_json
    from neurexp.tracking import tracker as tracking

    if config.backend is Backend.off:
        return None
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    store = without_secrets(stores.store_of(config.uri, outputs).uri)
    with FileLock(folder / ".parent.lock"):
        known = _read(folder / PARENT) or {}
        run_id = known["run_id"] if known.get("store") == store else None  # a resumed sweep may use another store
        name, parameters = f"sweep {folder.name}", {"sweep_folder": str(folder)}
        tracker = tracking.start(config, outputs, experiment, name, parameters, run_id=run_id)
        if tracker.run_id != run_id:  # there was none, or it was deleted
            write_json(folder / PARENT, {"run_id": tracker.run_id, "store": tracker.store})
        return tracker.run_id


def finish(folder: Path, status: str | None = None) -> None:
    """Sums up the sweep in its folder and in its parent run, and ends that run.

    Args:
        folder: of the sweep.
        status: of the parent; unless given FINISHED, or FAILED if a job failed.

    Raises:
        UserError: the MLflow store does not accept it; the folder is complete.
    """
    from neurexp.runs import resume

    for kept in folder.rglob(SET_ASIDE):
        shutil.rmtree(kept.parent / HYDRA, ignore_errors=True)
        kept.rename(kept.parent / HYDRA)
    resume.redact(folder)
    jobs, known = _finished(folder), _read(folder / PARENT)
    if status is None:
        whole = {job.number for job in jobs}
        for job in jobs_in(folder):
            if job.current and not job.error and job.number not in whole:
                note_failure(folder, job.number, f"{folder / job.folder} holds no results of its options")
    report = _sum_up(folder, jobs, known and known["run_id"]) if jobs and status is None else None
    ended = status or ("FAILED" if failures(folder) or not jobs else "FINISHED")
    try:
        if known is not None:
            _log(folder, known, jobs, report, ended)
    except Exception as error:
        told = f"MLflow did not take the sweep ({one_line(error)}); its jobs are whole in {folder}"
        raise UserError(f"{told}, and {resume.how(folder, 'hydra.sweep.dir')} sends it again") from error
    finally:
        if ended != "FINISHED":
            print(f"What did not finish: add {resume.how(folder, 'hydra.sweep.dir')} to try it again")


def _log(folder: Path, known: dict[str, str], jobs: list[Job], report: Any, status: str) -> None:
    """Sends `report` to the parent run, which `known` names, and ends it and the runs of jobs that were killed."""
    from neurexp.io import mlflow_stores as stores
    from neurexp.runs import resume
    from neurexp.tracking import tracker as tracking

    address = stores.with_password(known["store"], folder, _given_address, "tracking.uri")
    store = stores.store_of(address, folder)
    client = stores.open_store(store)
    tracker = tracking.MlflowTracker(client, store, known["run_id"])
    if report is not None:
        experiments = ", ".join(dict.fromkeys(job.run["experiment"] for job in jobs))
        columns = {name: values for name, values in report.layers.items() if values.dtype.kind in "biuf"}
        own = {"job", report.step_column, *(name for job in jobs for name in job.options)}
        # MLflow shows a metric's last step: without a name of their own the last layer's would pass for the sweep's
        steps = {f"by_layer/{name}": values for name, values in columns.items() if name.rstrip("=") not in own}
        steps |= {name: report.layers[name] for name in (report.step_column, SITE) if name in report.layers}
        tags = {"experiment": experiments, "sweep": folder}
        tags["mlflow.note.content"] = "\n".join(f"- {line}" for line in report.findings)
        tracker.log(report.metrics, steps, report.step_column, tags)
        tables = [f"{name}.parquet" for name in report.tables]
        for name in (SUMMARY, LAYERS, *tables, COLUMNS, COLUMNS_TO_READ, FIGURES, "multirun.yaml"):
            if (folder / name).exists():
                tracker.log_folder(folder / name, "figures" if name == "figures" else None)
        print(f"MLflow:     parent run {tracker.run_id}; open with: {tracker.where}")
    for run in (
        folder / job.folder for job in jobs_in(folder)
    ):  # parallel launchers kill their processes without notice
        run_id = (resume.read_note(run) or {}).get("run_id")
        if run_id is not None and not resume.is_held(run):
            left = tracking.MlflowTracker(client, store, run_id)
            if left.status == "RUNNING":
                left.finish("KILLED" if status == "KILLED" else "FAILED", "its process was killed")
    tracker.finish(status, "; ".join(line.replace("\t", ": ") for line in failures(folder)))


def _sum_up(folder: Path, jobs: list[Job], run_id: str | None) -> Any:
    """Writes the table, the figure and `summary.json` of the finished jobs. Returns the report."""
    from neurexp.io.files import write_json
    from neurexp.runs.sweep_table import report_of

    whole = {job.number for job in jobs}  # a job that MLflow did not accept counts as failed
    failed = [job for job in _failed(folder) if job.number not in whole]
    swept = _read(folder / JOBS / SWEPT) or []
    report = report_of(jobs, folder, swept, failed)
    write_report(folder, report)
    write_figures(folder, report)
    summary = {
        "experiment": "sweep",
        "of": ", ".join(dict.fromkeys(job.run["experiment"] for job in jobs)),
        "swept": swept,
        "findings": report.findings,
        "metrics": report.metrics,
        "jobs": [
            {
                "job": str(job.number),
                "folder": job.folder,
                "overrides": job.overrides,
                "swept": {name: job.value(name) for name in swept},
                "metrics": job.run["metrics"],
            }
            for job in jobs
        ],
        "failed": failures(folder),
        "mlflow_run_id": run_id,
    }
    write_json(folder / SUMMARY, summary)
    print("\n" + "".join(f"  • {printable(line)}\n" for line in report.findings))
    print(f"Sweep:      {printable(str(folder))}: {len(jobs)} jobs finished, {len(failed)} failed")
    return report


def _finished(folder: Path) -> list[Job]:
    """The jobs whose folders hold a complete run with the noted options, with its summary."""
    found = []
    for job in jobs_in(folder):
        summary = _read(folder / job.folder / SUMMARY) if job.current else None
        if summary is not None and summary.get("options") == job.options:
            job.run = summary
            found.append(job)
    return found


def _swept_options(config: DictConfig) -> list[str]:
    """The options and groups that have several values in this sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parameters = OmegaConf.select(config, "hydra.sweeper.params") or {}
    given = [f"{name}={value}" for name, value in parameters.items()] + list(config.hydra.overrides.task)
    overrides: Iterable[Any] = OverridesParser.create().parse_overrides(given)
    return list(dict.fromkeys(one.key_or_group for one in overrides if one.is_sweep_override()))


def _write(folder: Path, job: Job) -> None:
    from neurexp.io.files import write_json

    (folder / JOBS).mkdir(parents=True, exist_ok=True)
    note = {name: value for name, value in asdict(job).items() if name != "run"}
    write_json(folder / JOBS / f"{job.number}.json", note)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
