"""One run: config → model → text → passes → analysis → figures → tracking. The only place that sees all rooms.

Each stage hears a signal at once (`interrupts`); what an interrupted run leaves is put in order here. What torch,
transformers, datasets and mlflow bring is imported when a run starts.
"""

import logging
import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from neurexp.config.schema import Backend, Config, Source, Weights, checked, flat, typed_options
from neurexp.console import environment
from neurexp.console.interrupts import hearing_signals
from neurexp.engine import processes
from neurexp.errors import UserError, one_line
from neurexp.io import files
from neurexp.runs import resume
from neurexp.runs import sweep as sweeps

if TYPE_CHECKING:
    from neurexp.runs.measure import Measurement
    from neurexp.tracking.tracker import Stopwatch, Tracker

log = logging.getLogger(__name__)


def run(
    config: DictConfig, folder: Path, sweep: Path | None = None, every_layer: bool = False, among: str = ""
) -> None:
    """One run, from the composed config to the files in `folder` and in MLflow.

    Args:
        config: as Hydra composed it.
        folder: the run folder.
        sweep: the folder of the sweep that this run is a job of.
        every_layer: the sweep is over layers.
        among: what tells this run from others of the sweep, for its name in MLflow.

    Raises:
        UserError: whatever the user can mend.
    """
    environment.check()
    settings = checked(config)
    hearing_signals(_check_reachable, settings)
    options, plugin = hearing_signals(typed_options, settings.experiment)
    if options.control not in ("off", "random"):
        raise UserError(f"experiment.control={options.control}: give off or random")
    if options.control == "random" and settings.model.weights is Weights.random:
        raise UserError("experiment.control=random: model.weights=random is that already; give one of the two")

    hearing_signals(import_module, "neurexp.runs.measure")  # and with it all that is large
    from neurexp.experiments.base import Setting
    from neurexp.io import provenance
    from neurexp.runs.measure import Measurement, batch_size_of, prepare_device
    from neurexp.text import sources
    from neurexp.tracking import tracker as tracking

    clock = tracking.Stopwatch()
    prepare_device(settings)
    setting = Setting(
        _model_name(settings),
        _dataset_name(settings),
        settings.run.seed,
        settings.model.default_layer,
        batch_size_of(settings),
        settings.run.reuse,
        every_layer,
    )
    experiment = plugin(options, setting)
    hearing_signals(processes.connect)
    if processes.rank() > 0:
        shared = hearing_signals(processes.told, "")
        if shared and plugin.splits:
            hearing_signals(Measurement(settings, experiment, Path(shared), clock, _reads_text(settings)).run)
        processes.leave()
        return
    with resume.at_work(folder, config) as progress:
        resume.redact(folder / ".hydra")
        is_whole = (folder / "summary.json").exists()  # and the process was ended while it logged
        hearing_signals(processes.told, "" if is_whole else str(folder.resolve()))
        if is_whole:
            processes.leave()
            progress.results_are_whole()
            if settings.tracking.backend is not Backend.off:
                hearing_signals(tracking.log_later, folder, settings.tracking.uri)
            resume.forget(folder)
            return
        read = _reads_text(settings)
        text = hearing_signals(sources.identity, settings.dataset) if read else {"source": "none"}
        facts = provenance.of_process() | {"dataset": text}
        outputs = Path(settings.run.outputs).expanduser().resolve()
        with clock("track"):
            parent = None
            if sweep is not None:
                parent = hearing_signals(sweeps.parent, settings.tracking, outputs, options.name, sweep)
            known = progress.note.get("run_id")
            name = f"{setting}, {among}" if among else str(setting)
            parameters, resumed = flat(config), progress.resumed
            tracker = hearing_signals(
                tracking.start,
                settings.tracking,
                outputs,
                options.name,
                name,
                parameters,
                folder,
                parent,
                known,
                resumed,
            )
        progress.remember(run_id=tracker.run_id or known)
        try:
            measurement = hearing_signals(Measurement(settings, experiment, folder, clock, read).run)
            processes.leave()
            hearing_signals(_write, measurement, resume.options_of(config), facts, tracker)
            progress.results_are_whole()
            untracked = hearing_signals(_log, folder, tracker, clock)
        except BaseException as error:
            how, why = "FAILED", f"{type(error).__name__}: {error}"
            if isinstance(error, KeyboardInterrupt):
                how, why = "KILLED", "interrupted"
                files.remove_own(folder)  # of work that is in native code still
            with suppress(Exception):  # what went wrong is the news, not that it could not be noted
                hearing_signals(tracker.finish, how, why)
            raise
        if not untracked:
            resume.forget(folder)
    _tell(measurement, tracker)
    if untracked:
        raise UserError(untracked)


def _write(measurement: "Measurement", options: dict[str, str], begun: dict[str, Any], tracker: "Tracker") -> None:
    """Everything into the run folder; `summary.json` comes last, and makes it a result.

    `begun` is what is known of the code and the text since before the pass.
    """
    from neurexp.io import provenance
    from neurexp.runs.measure import MOST_TOKENS_WRITTEN, batch_size_of
    from neurexp.text.skipped import table
    from neurexp.tracking import tracker as tracking

    experiment, settings, model = measurement.experiment, measurement.settings, measurement.model
    report, folder, clock = measurement.report, measurement.folder, measurement.clock
    assert report is not None
    tokens, network = experiment.tokens, model.network
    with clock("analyse"):
        tracking.write_report(folder, report)
    with clock("figures"):
        tracking.write_figures(folder, report)
    with clock("track"):
        if tokens.count <= MOST_TOKENS_WRITTEN:
            arrays = {"input_ids": tokens.input_ids, "valid": tokens.valid}
            files.write_tensors(folder / "tokens.safetensors", arrays)
        if skipped := experiment.skipped():
            files.write_table(folder / "skipped.parquet", table(skipped))
        dtype = str(network.dtype).removeprefix("torch.")
        facts = begun | {
            "model_revision": model.revision,
            "model_weights": model.weights,
            "model_hash": model.weights_hash,
            "tokenizer_hash": provenance.hash_of_tokenizer(model.tokenizer),
            "begins_with_bos": model.begins_with_bos,
            "token_hash": tokens.hash,
            "seed": settings.run.seed,
            "dtype": dtype,
            "batch_size": batch_size_of(settings),
            "processes": processes.count(),
            "fast_forward": model.fast,
            **provenance.of_arithmetic(network.device),
            "reused": measurement.reused,
            "resumed": measurement.resumed,
            "skipped": len(skipped),
            "plugin_hash": provenance.hash_of_plugin(type(experiment)),
            **experiment.provenance(),
        }
    summary = {
        "experiment": experiment.options.name,
        "model": model.name,
        "dataset": experiment.setting.dataset,
        "device": str(network.device),
        "dtype": dtype,
        "setting": str(experiment.setting),
        "model_layers": model.layers,
        "statistic": report.statistic,
        "step_column": report.step_column,
        "over_layers": report.over_layers,
        "findings": report.findings,
        "metrics": report.metrics,
        "options": options,
        "provenance": facts,
        "mlflow_run_id": tracker.run_id,
        "mlflow_store": tracker.store,
        "timings": clock.seconds(),
    }
    files.write_json(folder / "summary.json", summary)


def _log(folder: Path, tracker: "Tracker", clock: "Stopwatch") -> str | None:
    """The whole folder into MLflow. Where MLflow fails nothing is lost: what to do then."""
    from neurexp.tracking import tracker as tracking

    try:
        with clock("track"):
            tracking.log_run(tracker, folder)
        files.write_json(folder / "summary.json", tracking.summary_of(folder) | {"timings": clock.seconds()})
        tracker.log_folder(folder / "summary.json")
        tracker.finish("FINISHED")
    except Exception as error:
        return (
            f"tracking: MLflow did not take the run ({one_line(error)}); it is whole in {folder}, and "
            f"`{tracking.later(folder)}` logs it"
        )
    return None


def _check_reachable(settings: Config) -> None:
    """Refuses what is not to be had before anything heavy is imported, anything loaded or written."""
    from neurexp.models.locations import check_reachable
    from neurexp.text import sources

    model = settings.model
    check_reachable(model.name, model.revision, model.tokenizer, model.weights.value, model.architecture is not None)
    if _reads_text(settings):
        try:
            sources.check_reachable(settings.dataset)
        except UserError as error:
            hint = "; experiment.text=false does without a text" if "text" in settings.experiment else ""
            raise UserError(f"{error}{hint}") from error


def _reads_text(settings: Config) -> bool:
    """Whether the dataset is read at all: an experiment that can do without has an option `text`."""
    return str(settings.experiment.get("text", True)).lower() not in ("false", "no", "off", "n", "0")


def _model_name(settings: Config) -> str:
    name = settings.model.name.rsplit("/")[-1]
    return f"{name} with random weights" if settings.model.weights is Weights.random else name


def _dataset_name(settings: Config) -> str:
    dataset = settings.dataset
    if not _reads_text(settings):
        return "words alone"
    if dataset.source is Source.files:
        return Path(dataset.path or "").name
    return dataset.source.value if dataset.source is Source.pydoc else str(dataset.name).rsplit("/")[-1]


def _tell(measurement: "Measurement", tracker: "Tracker") -> None:
    report, folder = measurement.report, measurement.folder
    assert report is not None
    log.info("")
    for line in report.findings:
        log.info("  • %s", line)
    log.info("")
    near = os.path.relpath(folder)
    figures = sorted([f"{name}.png" for name in report.figures] + [f"{name}.html" for name in report.pages])
    log.info("Run folder: %s", near if not near.startswith("..") else folder)
    log.info("Figures:    %s", ", ".join(f"figures/{name}" for name in figures))
    if tracker.run_id:
        log.info("MLflow:     run %s; open with: %s", tracker.run_id, tracker.where)
    seconds = measurement.clock.seconds().items()
    log.info("Seconds:    %s", ", ".join(f"{stage} {value:.1f}" for stage, value in seconds))
