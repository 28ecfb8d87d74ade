"""The driver: config → model → text → one pass → analysis → figures → tracking. The only place that sees all rooms.

What torch, transformers, datasets and mlflow bring is imported when a run starts: `--help`, `--cfg` and tab completion
answer before that.
"""

import logging
import os
import shutil
import sys
import time
import traceback
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from neurexp.config import CONFIG_FOLDER, Config, Source, Weights, checked, explain, register_schema, typed_options
from neurexp.errors import UserError, one_line

log = logging.getLogger(__name__)

WORTH_SAYING = 10  # seconds of a pass that are announced before it starts
BYTES_PER_NEURON = 200  # of neurons.parquet, roughly
MOST_TOKENS_WRITTEN = 1_000_000  # longer inputs are identified by their hash only

register_schema()


def run(config: DictConfig, folder: Path) -> None:
    """One run, from the composed config to the files in `folder` and in MLflow.

    Raises:
        UserError: whatever the user can mend.
    """
    settings = checked(config)
    _check_reachable(settings)
    options, plugin = typed_options(settings.experiment)
    if options.control not in ("off", "random"):
        raise UserError(f"experiment.control={options.control}: give off or random")
    if options.control == "random" and settings.model.weights is Weights.random:
        raise UserError("experiment.control=random: model.weights=random is that already; give one of the two")

    from neurexp import tracking
    from neurexp.experiments.base import Setting

    clock = tracking.Stopwatch()
    _prepare_device(settings)
    outputs = Path(settings.run.outputs).expanduser().resolve()
    setting = Setting(_model_name(settings), _dataset_name(settings), settings.run.seed)
    experiment = plugin(options, setting)
    tracker = tracking.start(settings.tracking, outputs, options.name, str(setting), _flat(config))
    try:
        model, tokens, report = _measure(settings, experiment, outputs, clock)
        with clock("analyse"):
            tracking.write_report(folder, report)
        with clock("figures"):
            tracking.write_figures(folder, report)
        _track(settings, setting, options, folder, model, tokens, report, tracker, clock)
        tracker.finish("FINISHED")
    except KeyboardInterrupt:
        tracker.finish("KILLED", "interrupted")
        raise
    except BaseException as error:
        with suppress(Exception):  # what went wrong is the news, not that it could not be noted
            tracker.finish("FAILED", f"{type(error).__name__}: {error}")
        raise
    _tell(report.findings, folder, sorted(report.figures), tracker, clock.seconds())


def _measure(settings: Config, experiment: Any, outputs: Path, clock: Any) -> tuple:
    """The model, the tokens it was run on, and the report: with the control's beside it if that was asked for."""
    from neurexp.models.load import load_model
    from neurexp.models.sites import find_sites, parse_layers
    from neurexp.report import with_control

    options = experiment.options
    with clock("load_model"):
        model = load_model(**_model_arguments(settings))
        _check_length(settings, model)
        find_sites(model.network, options.site, parse_layers(options.layer, model.layers))
        log.info("Model: %s, %d layers, on %s, %s", model.name, model.layers, model.device, model.network.dtype)
    with clock("prepare_text"):
        tokens = experiment.inputs(model, settings.dataset, outputs / "cache")
        log.info("Text: %d tokens in %d sequences, %d documents", tokens.count, len(tokens.valid), tokens.documents)
    with clock("capture"):
        capture_for(experiment, model, tokens, settings.device.batch_size)
    with clock("analyse"):
        report = experiment.analyse()
    if options.control == "random":
        log.info("Control: the same with random weights")
        control = type(experiment)(options, experiment.setting)
        with clock("load_model"):
            untrained = load_model(**{**_model_arguments(settings), "weights": "random"})
        with clock("capture"):
            capture_for(control, untrained, tokens, settings.device.batch_size)
        with clock("analyse"):
            report = with_control(report, control.analyse())
    return model, tokens, report


def _track(settings, setting, options, folder, model, tokens, report, tracker, clock) -> None:
    """Tokens, provenance and summary into the run folder, everything into MLflow; the summary comes last."""
    from neurexp import files, provenance
    from neurexp.text import sources

    with clock("track"):
        if tokens.count <= MOST_TOKENS_WRITTEN:
            arrays = {"input_ids": tokens.input_ids, "valid": tokens.valid}
            files.write_tensors(folder / "tokens.safetensors", arrays)
        dataset = sources.identity(settings.dataset)
        facts = provenance.of_process() | {
            "model_revision": model.revision,
            "model_weights": model.weights,
            "tokenizer_hash": provenance.hash_of_tokenizer(model.tokenizer),
            "dataset": dataset,
            "token_hash": tokens.hash,
            "seed": settings.run.seed,
            "threads": _threads(settings),
            "batch_size": settings.device.batch_size,
        }
        tags = {name: facts[name] for name in ("model_revision", "token_hash", "git_commit", "git_dirty")}
        tags |= {"experiment": options.name, "model": model.name, "dataset": setting.dataset}
        tags |= {"device": model.device, "run_folder": folder}
        source = str(dataset.get("path") or dataset.get("name") or dataset["source"])
        entity = {"name": setting.dataset, "digest": tokens.hash[:16], "source_type": dataset["source"]}
        tracker.log(report, tags, entity | {"source": source})
        tracker.log_folder(folder)
    summary = {
        "experiment": options.name,
        "model": model.name,
        "device": str(model.device),
        "dtype": str(model.network.dtype).removeprefix("torch."),
        "setting": str(setting),
        "model_layers": model.layers,
        "statistic": report.statistic,
        "findings": report.findings,
        "metrics": report.metrics,
        "provenance": facts,
        "mlflow_run_id": tracker.run_id,
        "timings": clock.seconds(),
    }
    files.write_json(folder / "summary.json", summary)
    tracker.log_folder(folder / "summary.json")


def capture_for(experiment: Any, model: Any, tokens: Any, batch_size: int) -> None:
    """The pass that an experiment asks for: its reducers have seen every token when it returns."""
    from neurexp.engine.passes import measure_pilot, run_pass
    from neurexp.engine.reducers import NotFiniteError
    from neurexp.models.sites import find_sites, parse_layers

    layers = parse_layers(experiment.options.layer, model.layers)
    sites = find_sites(model.network, experiment.options.site, layers)

    @cache
    def pilot() -> Any:
        start = time.perf_counter()
        measured = measure_pilot(model.network, sites, tokens.input_ids, tokens.valid)
        seconds = (time.perf_counter() - start) * len(tokens.valid)
        if seconds > WORTH_SAYING:
            rows = measured.shift.numel()
            log.info(
                "Pass: %d tokens, about %s by the pace of the first sequence; it will write about %.0f MB",
                tokens.count,
                f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min",
                (rows * BYTES_PER_NEURON + min(tokens.count, MOST_TOKENS_WRITTEN) * 5) / 1e6 + 1,
            )
        return measured

    reducers = experiment.reducers(model, tokens, layers, pilot)
    ids, valid, covariates = tokens.input_ids, tokens.valid, experiment.covariates
    try:
        run_pass(model.network, sites, ids, valid, reducers, covariates, batch_size, progress=True)
    except NotFiniteError as error:
        raise UserError(
            f"device.dtype={str(model.network.dtype).removeprefix('torch.')}: {sites[error.site].key} puts out NaN or "
            "infinity; give device.dtype=float32 or bfloat16, or check the weights"
        ) from error


def _check_reachable(settings: Config) -> None:
    """Refuses what is not to be had before anything heavy is imported, anything loaded or written."""
    from neurexp.models.places import check_reachable
    from neurexp.text import sources

    model = settings.model
    check_reachable(model.name, model.revision, model.tokenizer, model.weights.value, model.architecture is not None)
    sources.check_reachable(settings.dataset)


def _prepare_device(settings: Config) -> None:
    import torch

    from neurexp.models.load import choose_device

    choose_device(settings.device.name)
    torch.set_num_threads(_threads(settings))


@cache
def _default_threads() -> int:
    import torch

    return torch.get_num_threads()


def _threads(settings: Config) -> int:
    """Asked for, or PyTorch's own choice at start: a job of a sweep must not inherit another's."""
    return settings.device.threads or _default_threads()


def _model_arguments(settings: Config) -> dict[str, Any]:
    model = settings.model
    return {
        "name": model.name,
        "revision": model.revision,
        "tokenizer": model.tokenizer,
        "weights": model.weights.value,
        "architecture": model.architecture,
        "device": settings.device.name,
        "dtype": settings.device.dtype.value,
        "seed": settings.run.seed,
    }


def _check_length(settings: Config, model) -> None:
    positions = getattr(model.network.config, "max_position_embeddings", None)
    if positions is not None and settings.dataset.sequence_length > positions:
        raise UserError(
            f"dataset.sequence_length={settings.dataset.sequence_length}: {model.name} has {positions} positions; "
            f"give {positions} or fewer"
        )


def _model_name(settings: Config) -> str:
    name = settings.model.name.rsplit("/")[-1]
    return f"{name} with random weights" if settings.model.weights is Weights.random else name


def _dataset_name(settings: Config) -> str:
    dataset = settings.dataset
    if dataset.source is Source.files:
        return Path(dataset.path or "").name
    return dataset.source.value if dataset.source is Source.pydoc else str(dataset.name).rsplit("/")[-1]


def _flat(config: DictConfig) -> dict[str, str]:
    """The resolved config as dotted names, for MLflow's parameters."""

    def walk(prefix: str, value: Any):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif value is not None:
            yield prefix, str(getattr(value, "value", value))

    return dict(walk("", OmegaConf.to_container(config, resolve=True)))


def _tell(findings: list[str], folder: Path, figures: list[str], tracker, seconds: dict[str, float]) -> None:
    log.info("")
    for line in findings:
        log.info("  • %s", line)
    log.info("")
    near = os.path.relpath(folder)
    log.info("Run folder: %s", near if not near.startswith("..") else folder)
    log.info("Figures:    %s", ", ".join(f"figures/{name}.png" for name in figures))
    if tracker.run_id:
        log.info("MLflow:     run %s; open with: %s", tracker.run_id, tracker.where)
    log.info("Seconds:    %s", ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()))


_failures: list[str] = []


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="config")
def _job(config: DictConfig) -> None:
    """One Hydra job. A failure is told and remembered: the other jobs of a sweep go on, the exit code says so."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        run(config, folder)
    except Exception as error:
        if _wants_traceback():
            raise
        message = str(error)
        if not isinstance(error, UserError):
            (folder / "traceback.txt").write_text(traceback.format_exc(), "utf-8")
            message = f"unexpected {type(error).__name__}: {one_line(error)} (see {folder / 'traceback.txt'})"
        print(f"error: {message}", file=sys.stderr)
        _failures.append(message)
        _discard_if_empty(folder)


def _discard_if_empty(folder: Path) -> None:
    """Takes away a run folder in which nothing is but what Hydra put there."""
    if all(entry.name in (".hydra", "neurexp.log") for entry in folder.iterdir()):
        shutil.rmtree(folder)


def _wants_traceback() -> bool:
    return os.environ.get("NEUREXP_TRACEBACK") == "1"


def main() -> None:
    """The command line: `python -m neurexp` and the console script `neurexp`."""
    # Hydra hands its errors over only in this mode; what the user asked for is kept beside it
    os.environ["NEUREXP_TRACEBACK"] = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _job()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        message = explain(error)
        if message is None or _wants_traceback():
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)
    if _failures:
        sys.exit(1)
