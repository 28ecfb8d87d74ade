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

from neurexp.config.schema import Backend, Config, Source, Weights, checked, flat, plain, typed_options
from neurexp.console import environment
from neurexp.console.beside import Beside
from neurexp.console.interrupts import hearing_signals
from neurexp.engine import processes
from neurexp.errors import UserError, one_line
from neurexp.experiments.options import known_options
from neurexp.io import files
from neurexp.models.spread import device_of
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
from neurexp.runs.run_name import run_name
from neurexp.runs.source import facts_of, opened
from neurexp.runs.sweep_job import Membership
from neurexp.tracking import beside

if TYPE_CHECKING:
    from neurexp.experiments.base import Experiment, Options
    from neurexp.report.finished import FinishedRun
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
    environment.check()
    clock, typed = Stopwatch(), checked(config)
    known = hearing_signals(known_options, typed.experiment)
    _check_weights(typed)
    model_name, unreachable = hearing_signals(_check_reachable, typed)
    with opened(getattr(known, "run", None), typed) as source:
        if known is not None and source is not None:
            hearing_signals(known.check_source, source)
        is_one_run = job is None and processes.rank() == 0
        with beside.prepared(typed.tracking, _outputs(typed)) if is_one_run else nullcontext() as mlflow:
            _run(typed, config, folder, job, clock, model_name, unreachable, known, source, mlflow)


def _run(
    typed: Config,
    config: DictConfig,
    folder: Path,
    job: Membership | None,
    clock: Stopwatch,
    model_name: str,
    unreachable: UserError | None,
    known: "Options | None",
    known_source: "FinishedRun | None",
    mlflow: Beside | None,
) -> None:
    """The run, from the imports on.

    `unreachable` is the error of a dataset that the experiment may not need; `known` are the options of a built-in
    experiment, and `known_source` is the run that it goes on from. `mlflow` is the process that does the tracking, if
    it is not this one.
    """
    log.info("Loading PyTorch and transformers for %s", typed.experiment.name)
    with clock("imports"):
        options, plugin = hearing_signals(typed_options, typed.experiment)
        options = known or options  # the same, and its files are read already
        hearing_signals(import_module, "neurexp.runs.measure")  # and with it all large libraries
    from neurexp.io import provenance
    from neurexp.runs.measure import measure, prepare_device
    from neurexp.text import sources
    from neurexp.tracking import tracker as tracking

    prepare_device(typed)
    experiment = plugin(options)
    if unreachable and experiment.reads_text:
        raise unreachable
    with opened(experiment.source_run if known_source is None else None, typed) as own_source:
        source = known_source or own_source
        names = model_name, _dataset_name(typed, experiment)
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
    from neurexp.runs.measure import MOST_TOKENS_WRITTEN, batch_size_of
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


def _check_reachable(config: Config) -> tuple[str, UserError | None]:
    """Refuses a model or a dataset that cannot be reached, before anything heavy is imported, loaded or written.

    Returns:
        What titles call the model, and the dataset's error of an experiment with an option `text`, which may not read
        the dataset after all: only the experiment can say whether it does (`Experiment.reads_text`).
    """
    from neurexp.models.choices import check_early
    from neurexp.models.label import label_of
    from neurexp.models.locations import locate_parts
    from neurexp.text import sources

    model = config.model
    drawn, has_architecture = model.weights is Weights.random, model.architecture is not None
    arguments = model.name, model.revision, model.tokenizer, model.weights.value, has_architecture, model.fallback
    location, _ = locate_parts(*arguments)
    label = label_of(model.name, location, model.label) + (" with random weights" if drawn else "")
    if model.blocks is None:
        site, layer = (plain(config.experiment.get(name)) for name in ("site", "layer"))
        check_early(location, "MLP" if site is None else site, layer, model.sites)
    if config.experiment.get("text") is False or config.experiment.get("prompt"):
        return label, None
    try:
        sources.check_reachable(config.dataset)
    except UserError as error:
        if "text" not in config.experiment:
            raise
        hinted = UserError(f"{error}; experiment.text=false does without a text")
        hinted.__cause__ = error
        return label, hinted
    return label, None


def _check_weights(config: Config) -> None:
    if config.experiment.get("control") == "random" and config.model.weights is Weights.random:
        raise UserError("experiment.control=random: model.weights=random is that already; give one of the two")


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
