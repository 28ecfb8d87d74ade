"""A sweep (Hydra's multirun): its jobs are child runs of one MLflow run, whose summary draws their metrics over layers.

The sweep's folder carries what jobs in other processes must know: the parent's run id, and what failed. Knows no
experiment; imports nothing heavy until a sweep ends.
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from neurexp.config import Backend, TrackingConfig
from neurexp.errors import UserError, one_line, printable

PARENT = "parent.json"
FAILED = "failed.txt"  # a line per job that failed
LOCK = ".sweep.lock"
SET_ASIDE = ".hydra_of_then"

_held: list[Any] = []  # the lock of the sweep under way in this process


def parent(config: TrackingConfig, outputs: Path, experiment: str, folder: Path) -> str | None:
    """The MLflow run that the jobs of the sweep in `folder` belong to; the first job to ask makes it."""
    from neurexp import tracking
    from neurexp.files import write_json

    if config.backend is Backend.off:
        return None
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / PARENT
    with FileLock(folder / ".parent.lock"):
        if not file.exists():
            tracker = tracking.start(config, outputs, experiment, f"sweep {folder.name}", {"sweep_folder": str(folder)})
            write_json(file, {"run_id": tracker.run_id, "uri": tracker.uri, "where": tracker.where})
        return json.loads(file.read_text("utf-8"))["run_id"]


def begin(folder: Path) -> None:
    """Takes the sweep's folder for this process. A sweep that goes on tries what failed again, and no more.

    Raises:
        UserError: another process is at work in it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"hydra.sweep.dir={folder}: another process is at work in it") from None
    _held.append(lock)  # until this process ends
    (folder / FAILED).unlink(missing_ok=True)
    for job in folder.glob("*/summary.json"):
        if not (job.parent / SET_ASIDE).exists():  # Hydra is about to write over the options of what was done
            with suppress(OSError):
                (job.parent / ".hydra").rename(job.parent / SET_ASIDE)


def is_done(job: Path, config: DictConfig) -> bool:
    """Whether a job was done when the sweep was cut short.

    Raises:
        UserError: one of this number was, but with other options.
    """
    from neurexp import resume

    if not (job / "summary.json").exists() or resume.is_unfinished(job):
        return False
    there = json.loads((job / "summary.json").read_text("utf-8")).get("options", {})
    if different := resume.differences(there, resume.options_of(config)):
        raise UserError(
            f"run.resume=true: job {job.name} was done with other options ({different}); give the same sweep"
        )
    return True


def note_failure(folder: Path, job: str, message: str) -> None:
    """Writes down that a job failed, where the process that started the sweep will find it."""
    with (folder / FAILED).open("a", encoding="utf-8") as file:
        file.write(f"{job}\t{one_line(Exception(message))}\n")


def failures(folder: Path) -> list[str]:
    """The jobs that failed, a line each."""
    file = folder / FAILED
    return file.read_text("utf-8").splitlines() if file.exists() else []


def finish(folder: Path, status: str | None = None) -> None:
    """Sums up the sweep in its folder and in its parent run, and ends that run.

    Args:
        folder: of the sweep.
        status: of the parent; unless given FINISHED, or FAILED if a job failed.
    """
    from neurexp import resume, tracking
    from neurexp.files import write_json

    for kept in folder.glob(f"*/{SET_ASIDE}"):
        shutil.rmtree(kept.parent / ".hydra", ignore_errors=True)
        kept.rename(kept.parent / ".hydra")
    resume.redact(folder)
    failed = failures(folder)
    known = json.loads((folder / PARENT).read_text("utf-8")) if (folder / PARENT).exists() else None
    tracker = tracking.Tracker() if known is None else tracking.MlflowTracker(known["uri"], known["run_id"])
    finished = _finished(folder)
    if finished and status is None:
        report = _report(finished)
        tracking.write_report(folder, report)
        tracking.write_figures(folder, report)
        summary = {
            "experiment": "sweep",
            "of": finished[0]["experiment"],
            "jobs": [{"job": one["job"], "overrides": one["overrides"], "metrics": one["metrics"]} for one in finished],
            "failed": failed,
            "mlflow_run_id": tracker.run_id,
        }
        write_json(folder / "summary.json", summary)
        tags = {"experiment": finished[0]["experiment"], "sweep": folder}
        tracker.log(report.metrics, report.layers, report.step_column, tags)
        for name in ("summary.json", "layers.parquet", "columns.md", "figures", "multirun.yaml"):
            if (folder / name).exists():
                tracker.log_folder(folder / name, "figures" if name == "figures" else None)
        print("\n" + "".join(f"  • {printable(line)}\n" for line in report.findings))
        print(f"Sweep:      {folder}: {len(finished)} jobs finished, {len(failed)} failed")
        if known is not None:
            print(f"MLflow:     parent run {tracker.run_id}; open with: {known['where']}")
    if status is not None or failed or not finished:
        print(f"What did not finish: add {resume.how(folder, 'hydra.sweep.dir')} to try it again")
    if known is not None:
        _end_jobs_left(folder, known["uri"], status)
    reason = "; ".join(line.replace("\t", ": ") for line in failed)
    tracker.finish(status or ("FAILED" if failed or not finished else "FINISHED"), reason)


def _end_jobs_left(folder: Path, uri: str, status: str | None) -> None:
    """Ends the MLflow runs of jobs whose process was killed before it could: parallel launchers kill theirs."""
    from neurexp import resume, tracking

    for note in folder.glob(f"*/{resume.NOTE}"):
        run_id = (resume.read_note(note.parent) or {}).get("run_id")
        if run_id is not None and not resume.is_held(note.parent):
            job = tracking.MlflowTracker(uri, run_id)
            if job.status == "RUNNING":
                job.finish("KILLED" if status == "KILLED" else "FAILED", "its process was killed")


def _finished(folder: Path) -> list[dict[str, Any]]:
    """The summaries of the jobs that ended well, in their order."""
    found = []
    for file in folder.glob("*/summary.json"):
        summary = json.loads(file.read_text("utf-8"))
        overrides = file.parent / ".hydra" / "overrides.yaml"
        lines = overrides.read_text("utf-8").splitlines() if overrides.exists() else []
        summary |= {"job": file.parent.name, "folder": str(file.parent)}
        found.append(summary | {"overrides": [line.removeprefix("- ") for line in lines]})
    return sorted(found, key=lambda one: (len(one["job"]), one["job"]))


def _report(finished: list[dict[str, Any]]) -> Any:
    """The jobs' rows of `layers.parquet` under each other, and their headlines over the layers as a figure."""
    import numpy as np

    from neurexp.compare import definitions_in
    from neurexp.files import read_table
    from neurexp.report import Report

    folders = [Path(one["folder"]) for one in finished]
    if not all((folder / "layers.parquet").exists() for folder in folders):  # an experiment that knows no layers
        return Report([], {}, {}, {}, {}, "", step_column=None)
    tables = [read_table(folder / "layers.parquet") for folder in folders]
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    layers = {name: np.concatenate([table[name] for table in tables]) for name in shared}
    jobs = np.concatenate([np.full(len(table["layer"]), index) for index, table in enumerate(tables)])
    order = np.lexsort((jobs, layers["layer"]))
    layers = {"layer": layers["layer"][order], "job": jobs[order]} | {name: layers[name][order] for name in shared}
    columns = definitions_in(folders[0]) | {"job": "index of the sweep's job that the row is of"}
    once = len(set(layers["layer"].tolist())) == len(layers["layer"])  # a sweep over layers, and over nothing else
    over = {name: about for name, about in finished[0].get("over_layers", {}).items() if name in layers}
    metrics, findings = {}, []
    for name, (label, _) in over.items():
        if np.isfinite(layers[name]).any():
            best = int(np.nanargmax(np.abs(layers[name])))
            metrics |= {f"{name}_most": float(layers[name][best]), f"{name}_most_layer": int(layers["layer"][best])}
            columns |= {
                f"{name}_most": f"the {name} of largest magnitude of all jobs",
                f"{name}_most_layer": "its layer",
            }
            findings.append(f"The {label} is largest in layer {layers['layer'][best]}: {layers[name][best]:.3g}")

    def over_layers():
        from neurexp.figures.contrasts import over_layers

        return over_layers(
            layers["layer"].tolist(),
            {label: (layers[name], layers.get(null)) for name, (label, null) in over.items()},
            "; ".join(findings),
            f"{finished[0]['experiment']}, {finished[0]['setting']}; one job a layer; dashed: the null, if there is "
            "one (an average, or the 95 % quantile where it is of a best neuron)",
        )

    figures = {"over_layers": over_layers} if once and findings else {}
    return Report(findings, metrics, layers, {}, columns, "", figures=figures, step_column="layer" if once else None)
