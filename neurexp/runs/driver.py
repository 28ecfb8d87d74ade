"""One run: config → model → text → passes → analysis → figures → tracking. The only place that sees all rooms.

A signal interrupts each stage at once (`console.interrupts`), and the driver cleans up after it. Everything that needs
torch, transformers, datasets or mlflow is imported when a run starts.
"""

import json
import logging
import os
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from neurexp.config.schema import Backend, Config, Source, flat, typed_options
from neurexp.console.beside import Beside
from neurexp.console.interrupts import hearing_signals
from neurexp.engine import processes
from neurexp.errors import UserError, one_line
from neurexp.io import files
from neurexp.report.clock import Stopwatch
from neurexp.report.drawing import write_figures
from neurexp.report.folder import (
    HYDRA,
    SKIPPED,
    SUMMARY,
    TOKENS,
    forget,
    summary_of,
    write_folders,
    write_report,
)
from neurexp.runs import resume
from neurexp.runs import sweep as sweeps
from neurexp.runs.early import Early, checked_early
from neurexp.runs.run_name import run_name
from neurexp.runs.source import facts_of, opened
from neurexp.runs.sweep_job import Membership
from neurexp.tracking import beside

if TYPE_CHECKING:
    from neurexp.experiments.base import Experiment
    from neurexp.runs.measure import Measurement
    from neurexp.tracking.tracker import Tracker

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path, job: Membership | None = None) -> None:
    """Runs an experiment, from the composed config to the files in `folder` and in MLflow.

    Args:
        config: as Hydra composed it.
        folder: the run folder.
        job: says which sweep this run is a job of, if any.

    Raises:
        UserError: a mistake of the user.
    """
    clock = Stopwatch()
    with checked_early(config) as known:
        outputs, is_one_run = _outputs(known.config), job is None and processes.rank() == 0
        with beside.prepared(known.config.tracking, outputs) if is_one_run else nullcontext() as mlflow:
            _run(known, config, folder, job, clock, mlflow)


def _run(
    known: Early, config: DictConfig, folder: Path, job: Membership | None, clock: Stopwatch, mlflow: Beside | None
) -> None:
    """The run, from the imports on. `mlflow` is the process that does the tracking, if it is not this one."""
    typed = known.config
    log.info("Loading PyTorch and transformers for %s", typed.experiment.name)
    with clock("imports"):
        options, plugin = hearing_signals(typed_options, typed.experiment)
        options = known.options or options  # the same, and its files are read already
        hearing_signals(import_module, "neurexp.runs.measure")  # and with it all large libraries
    from neurexp.io import provenance
    from neurexp.runs.measure import measure, prepare_device
    from neurexp.text import sources
    from neurexp.tracking import tracker as tracking

    prepare_device(typed)
    experiment = plugin(options)
    if known.unreachable and experiment.reads_text:
        raise known.unreachable
    with opened(experiment.source_run if known.source is None else None, typed) as own_source:
        source = known.source or own_source
        names = known.model_name, _dataset_name(typed, experiment)
        other_layers = job is not None and job.varies("experiment.layer")
        hearing_signals(processes.connect)
        if processes.rank() > 0:
            shared, started = json.loads(hearing_signals(processes.broadcast, ""))
            if shared and plugin.distributed:
                hearing_signals(resume.check_shared, Path(shared), started)
                hearing_signals(measure, typed, experiment, names, Path(shared), clock, source=source)
            processes.shut_down()
            return
        with resume.at_work(folder, config) as progress:
            resume.redact(folder / HYDRA)
            is_whole = (folder / SUMMARY).exists()  # the process ended while it logged
            shared = "" if is_whole else str(folder.resolve())
            hearing_signals(processes.broadcast, json.dumps([shared, progress.note["started"]]))
            if is_whole:
                processes.shut_down()
                progress.results_are_whole()
                if typed.tracking.backend is not Backend.off:
                    hearing_signals(tracking.log_later, folder, typed.tracking.uri)
                forget(folder)
                return
            text = hearing_signals(sources.identity, typed.dataset) if experiment.reads_text else {"source": "none"}
            facts = provenance.of_process() | {"dataset": text} | facts_of(source)
            with clock("track"):
                name = run_name(" on ".join(names), config, options, job)
                tracker = hearing_signals(_start_tracking, typed, config, folder, job, name, progress, mlflow)
            progress.remember(run_id=tracker.run_id or progress.note.get("run_id"))
            try:
                measured = hearing_signals(measure, typed, experiment, names, folder, clock, other_layers, source)
                processes.shut_down()
                written = _Written(typed, experiment, measured, folder, clock, tracker, name)
                hearing_signals(_write, written, resume.options_of(config), facts)
                progress.results_are_whole()
                untracked = hearing_signals(_log, folder, tracker, clock)
            except BaseException as error:
                how, why = "FAILED", f"{type(error).__name__}: {error}"
                if isinstance(error, KeyboardInterrupt):
                    lost = processes.lost()
                    how, why = ("KILLED", "interrupted") if lost is None else ("FAILED", lost)
                    files.remove_own(folder)  # of work that native code still does
                with suppress(Exception):  # the user must see the first error, not this one
                    hearing_signals(tracker.finish, how, why)
                raise
            if not untracked:
                forget(folder)
    _print_result(written)
    if untracked:
        raise UserError(untracked)


def _start_tracking(
    typed: Config,
    config: DictConfig,
    folder: Path,
    job: Membership | None,
    name: str,
    progress: resume.Progress,
    mlflow: Beside | None,
) -> "Tracker":
    from neurexp.tracking import tracker as tracking

    outputs, experiment = _outputs(typed), typed.experiment["name"]
    parent = None if job is None else sweeps.parent(typed.tracking, outputs, experiment, job.folder)
    arguments = (
        typed.tracking,
        outputs,
        experiment,
        name,
        flat(config),
        folder,
        parent,
        progress.note.get("run_id"),
        progress.resumed,
    )
    return tracking.start(*arguments) if mlflow is None else beside.TrackerBeside(mlflow, tracking.start, *arguments)


def _outputs(config: Config) -> Path:
    """The folder of all outputs."""
    return Path(config.run.outputs).expanduser().resolve()


@dataclass(frozen=True)
class _Written:
    """A measurement, and where it is written."""

    config: Config
    experiment: "Experiment"
    measured: "Measurement"
    folder: Path
    clock: Stopwatch
    tracker: "Tracker"
    name: str  # in MLflow


def _write(run: _Written, options: dict[str, str], begun: dict[str, Any]) -> None:
    """Writes everything into the run folder. `summary.json` comes last, and makes the folder a result.

    `begun` describes the code, the text and the source run as they were before the pass.
    """
    from neurexp.io import provenance
    from neurexp.models.spread import device_of
    from neurexp.runs.announcing import MOST_TOKENS_WRITTEN
    from neurexp.runs.measure import batch_size_of
    from neurexp.text.skipped import table
    from neurexp.text.tokenizer import document_end, first_tokens

    model, plan, report = run.measured.model, run.measured.plan, run.measured.report
    assert report is not None
    tokens, network, folder = plan.tokens, model.network, run.folder
    with run.clock("analyse"):
        write_report(folder, report)
    with run.clock("figures"):
        write_figures(folder, report, run.config.tracking.figures)
        write_folders(folder, report)
    with run.clock("track"):
        if tokens.count <= MOST_TOKENS_WRITTEN:
            arrays = {"input_ids": tokens.input_ids, "valid": tokens.valid}
            files.write_tensors(folder / TOKENS, arrays)
        if plan.skipped:
            files.write_table(folder / SKIPPED, table(plan.skipped))
        dtype = str(network.dtype).removeprefix("torch.")

        def spelled(ids: list[int] | None) -> str | None:
            return "".join(model.tokenizer.convert_ids_to_tokens(ids)) if ids else None

        facts = {
            **plan.provenance,  # first: an experiment's own facts replace none of these
            **report.provenance,
            **begun,
            "model_name": model.name,
            "tokenizer_name": model.tokenizer_name,
            "model_revision": model.revision,
            "model_weights": model.weights,
            "model_hash": model.weights_hash,
            "tokenizer_hash": provenance.hash_of_tokenizer(model.tokenizer),
            "begins_with_bos": model.begins_with_bos,
            "first_token": spelled(first_tokens(model.tokenizer) if model.begins_with_bos else []),
            "document_end_token": spelled(document_end(model.tokenizer, run.config.dataset.eos.wanted)),
            "token_hash": tokens.hash,
            "seed": run.config.run.seed,
            "dtype": dtype,
            "batch_size": batch_size_of(run.config),
            "processes": processes.count(),
            "fast_forward": model.fast,
            "attention": model.attention,
            **provenance.of_arithmetic(device_of(network)),
            "reused": list(run.measured.reused),
            "resumed": dict(run.measured.resumed),
            "skipped": len(plan.skipped),
            "plugin_hash": provenance.hash_of_plugin(type(run.experiment)),
        }
    summary = {
        "experiment": run.experiment.options.name,
        "model": model.name,
        "dataset": plan.inputs.dataset_name,
        "device": str(device_of(network)),
        "dtype": dtype,
        "setting": plan.inputs.label,
        "run_name": run.name,
        "model_layers": model.layers,
        "statistic": report.statistic,
        "step_column": report.step_column,
        "over_layers": report.over_layers,
        "findings": report.findings,
        "metrics": report.metrics,
        "options": options,
        "provenance": facts,
        "mlflow_run_id": run.tracker.run_id,
        "mlflow_store": run.tracker.store,
        "timings": run.clock.seconds(),
    }
    files.write_json(folder / SUMMARY, summary)


def _log(folder: Path, tracker: "Tracker", clock: Stopwatch) -> str | None:
    """Logs the folder into MLflow. Returns what the user can do if that fails; the folder is complete then."""
    from neurexp.tracking import tracker as tracking

    try:
        with clock("track"):
            tracking.log_run(tracker, folder)
        files.write_json(folder / SUMMARY, summary_of(folder) | {"timings": clock.seconds()})
        tracker.log_folder(folder / SUMMARY)
        tracker.finish("FINISHED")
    except Exception as error:
        return (
            f"tracking: MLflow did not take the run ({one_line(error)}); it is whole in {folder}, and "
            f"`{tracking.later(folder)}` logs it"
        )
    return None


def _dataset_name(config: Config, experiment: "Experiment") -> str:
    dataset = config.dataset
    if not experiment.reads_text:
        return experiment.without_text
    if dataset.source is Source.files:
        return Path(dataset.path or "").name
    return dataset.source.value if dataset.source is Source.pydoc else str(dataset.name).rsplit("/")[-1]


def _print_result(run: _Written) -> None:
    report, folder = run.measured.report, run.folder
    assert report is not None
    log.info("")
    for line in report.findings:
        log.info("  • %s", line)
    log.info("")
    near = os.path.relpath(folder)
    first, *others = run.config.tracking.figures
    figures = sorted([f"{name}.{first}" for name in report.figures] + [f"{name}.html" for name in report.pages])
    also = f" (pictures also as {', '.join(others)})" if others else ""
    log.info("Run folder: %s", near if not near.startswith("..") else folder)
    log.info("Figures:    %s%s", ", ".join(f"figures/{name}" for name in figures), also)
    for name in report.folders:
        if (folder / name / "index.html").exists():
            log.info("Pages:      %s/index.html", name)
    if run.tracker.run_id:
        log.info("MLflow:     run %s; open with: %s", run.tracker.run_id, run.tracker.where)
    seconds = run.clock.seconds().items()
    log.info("Seconds:    %s", ", ".join(f"{stage} {value:.1f}" for stage, value in seconds))
