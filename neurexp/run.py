"""The driver: config → model → text → one pass → analysis → figures → tracking. The only place that sees all rooms.

What torch, transformers, datasets and mlflow bring is imported when a run starts: `--help`, `--cfg` and tab completion
answer before that.
"""

import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from neurexp import sweep as sweeps
from neurexp.config import (
    CONFIG_FOLDER,
    Config,
    NoteSweep,
    Source,
    Weights,
    checked,
    explain,
    register_schema,
    typed_options,
)
from neurexp.engine import processes
from neurexp.errors import UserError, one_line

log = logging.getLogger(__name__)

WORTH_SAYING = 10  # seconds of a pass that are announced before it starts
MODELS_KEPT = 2  # a model and its control
BYTES_PER_NEURON = 200  # of neurons.parquet, roughly
MOST_TOKENS_WRITTEN = 1_000_000  # longer inputs are identified by their hash only

register_schema()


def run(config: DictConfig, folder: Path, sweep: Path | None = None, every_layer: bool = False) -> None:
    """One run, from the composed config to the files in `folder` and in MLflow.

    Args:
        config: as Hydra composed it.
        folder: the run folder.
        sweep: the folder of the sweep that this run is a job of.
        every_layer: the sweep is over layers.

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
    setting = Setting(
        _model_name(settings),
        _dataset_name(settings),
        settings.run.seed,
        settings.model.default_layer,
        settings.device.batch_size,
        settings.run.reuse,
        every_layer,
    )
    experiment = plugin(options, setting)
    processes.connect()
    if processes.rank() > 0:
        if plugin.splits:
            _measure(settings, experiment, outputs, clock)
        processes.leave()
        return
    parent = None if sweep is None else sweeps.parent(settings.tracking, outputs, options.name, sweep)
    tracker = tracking.start(settings.tracking, outputs, options.name, str(setting), _flat(config), parent)
    try:
        model, report, reused = _measure(settings, experiment, outputs, clock)
        with clock("analyse"):
            tracking.write_report(folder, report)
        with clock("figures"):
            tracking.write_figures(folder, report)
        _track(settings, experiment, folder, model, report, reused, tracker, clock)
        tracker.finish("FINISHED")
        processes.leave()
    except KeyboardInterrupt:
        tracker.finish("KILLED", "interrupted")
        raise
    except BaseException as error:
        with suppress(Exception):  # what went wrong is the news, not that it could not be noted
            tracker.finish("FAILED", f"{type(error).__name__}: {error}")
        raise
    shown = sorted([f"{name}.png" for name in report.figures] + [f"{name}.html" for name in report.pages])
    _tell(report.findings, folder, shown, tracker, clock.seconds())


def _measure(settings: Config, experiment: Any, outputs: Path, clock: Any) -> tuple:
    """The model, the report (with the control's beside it if that was asked for), and the passes that were reused.

    No report but in process 0 of those of `torchrun`.
    """
    from neurexp.models.sites import find_sites
    from neurexp.report import with_control

    options, report = experiment.options, None
    with clock("load_model"):
        model = _load(_model_arguments(settings))
        _check_length(settings, model)
        find_sites(model.network, options.site, experiment.chosen_layers(model))
        log.info("Model: %s, %d layers, on %s, %s", model.name, model.layers, model.device, model.network.dtype)
    reused = _run_passes(settings, experiment, model, outputs, clock)
    if processes.rank() == 0:
        with clock("analyse"):
            report = experiment.analyse()
    if options.control == "random":
        log.info("Control: the same with random weights")
        control = type(experiment)(options, experiment.setting)
        with clock("load_model"):
            untrained = _load({**_model_arguments(settings), "weights": "random"})
        reused += [f"control: {what}" for what in _run_passes(settings, control, untrained, outputs, clock)]
        if report is not None:
            with clock("analyse"):
                report = with_control(report, control.analyse())
    return model, report, reused


def _run_passes(settings: Config, experiment: Any, model: Any, outputs: Path, clock: Any) -> list[str]:
    """Runs every pass that the experiment asks for; returns those that an earlier run's pass stood for."""
    passes, reused = experiment.passes(model, settings.dataset, outputs / "cache"), []
    try:
        while True:
            with clock("prepare_text"):
                wanted = next(passes, None)
            if wanted is None:
                return reused
            tokens = wanted.tokens
            log.info("%s: %d tokens in %d sequences", wanted.what, tokens.count, len(tokens.valid))
            if _run_or_reuse(settings, wanted, model, experiment.options.site, outputs / "cache", clock):
                reused.append(wanted.what)
    finally:
        passes.close()


def _run_or_reuse(settings: Config, wanted: Any, model: Any, site: str, cache: Path, clock: Any) -> bool:
    """One pass, or what an earlier run stored of the same; whether it was the latter."""
    from neurexp.engine.store import StateStore
    from neurexp.experiments.base import capture_key

    tokens, batch_size = wanted.tokens, settings.device.batch_size
    key = wanted.key(model) if processes.count() == 1 else None
    if key is None:
        with clock("capture"):
            capture_for(wanted, model, tokens, batch_size, site)
        return False
    with clock("load_model"):  # the hash of its weights, once
        store = StateStore(cache, capture_key(model, tokens, site, batch_size) | key)
    if settings.run.reuse and store.exists:
        with clock("track"):
            found = store.load(wanted.reducers(model, tokens, wanted.chosen_layers(model)))
        if found:
            log.info("%s: the statistics are an earlier pass's (run.reuse=false for a fresh one)", wanted.what)
            return True
    with clock("capture"):
        reducers = capture_for(wanted, model, tokens, batch_size, site)
    with clock("track"):
        store.save(reducers)
    return False


def _track(settings, experiment, folder, model, report, reused, tracker, clock) -> None:
    """Tokens, provenance and summary into the run folder, everything into MLflow; the summary comes last."""
    from neurexp import files, provenance
    from neurexp.text import sources

    options, setting, tokens = experiment.options, experiment.setting, experiment.tokens
    with clock("track"):
        if tokens.count <= MOST_TOKENS_WRITTEN:
            arrays = {"input_ids": tokens.input_ids, "valid": tokens.valid}
            files.write_tensors(folder / "tokens.safetensors", arrays)
        dataset = sources.identity(settings.dataset) if _reads_text(settings) else {"source": "none"}
        facts = provenance.of_process() | {
            "model_revision": model.revision,
            "model_weights": model.weights,
            "tokenizer_hash": provenance.hash_of_tokenizer(model.tokenizer),
            "dataset": dataset,
            "token_hash": tokens.hash,
            "seed": settings.run.seed,
            "threads": _threads(settings),
            "batch_size": settings.device.batch_size,
            "processes": processes.count(),
            "fast_forward": model.fast,
            "reused": reused,
            **experiment.provenance(),
        }
        tags = {name: facts[name] for name in ("model_revision", "token_hash", "git_commit", "git_dirty")}
        tags |= {"experiment": options.name, "model": model.name, "dataset": setting.dataset}
        tags |= {"device": model.device, "run_folder": folder}
        source = str(dataset.get("path") or dataset.get("name") or dataset["source"])
        digest = facts.get("text_token_hash", tokens.hash)
        entity = {"name": setting.dataset, "digest": digest[:16], "source_type": dataset["source"]}
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
        "over_layers": report.over_layers,
        "findings": report.findings,
        "metrics": report.metrics,
        "provenance": facts,
        "mlflow_run_id": tracker.run_id,
        "timings": clock.seconds(),
    }
    files.write_json(folder / "summary.json", summary)
    tracker.log_folder(folder / "summary.json")


def capture_for(wanted: Any, model: Any, tokens: Any, batch_size: int, site: str = "MLP") -> list:
    """A pass that an experiment asks for: its reducers, which this returns, have seen every token.

    Of the processes of `torchrun` each runs its share, and only the reducers of process 0 see it all.
    """
    from neurexp.models.fast import fast_forward

    with fast_forward(model.network) if model.fast else nullcontext():
        return _capture(wanted, model, tokens, batch_size, site)


def _capture(wanted: Any, model: Any, tokens: Any, batch_size: int, site: str) -> list:
    from neurexp.engine.passes import run_pass
    from neurexp.engine.reducers import NotFiniteError
    from neurexp.models.sites import find_sites

    layers = wanted.chosen_layers(model)
    sites = find_sites(model.network, site, layers)  # of the model as it runs: the fast forward swaps modules

    def forecast(seconds: float, neurons: int) -> None:
        if seconds > WORTH_SAYING:
            log.info(
                "Pass: %d tokens, about %s by the pace of its second batch; the run will write about %.0f MB",
                tokens.count,
                f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min",
                (neurons * BYTES_PER_NEURON + min(tokens.count, MOST_TOKENS_WRITTEN) * 5) / 1e6 + 1,
            )

    reducers = wanted.reducers(model, tokens, layers)
    try:
        run_pass(
            model.network,
            sites,
            tokens.input_ids,
            tokens.valid,
            reducers,
            wanted.covariates,
            wanted.sequences_at_once(batch_size),
            progress=processes.rank() == 0,
            forecast=forecast,
            part=processes.own_part(len(tokens.valid)) if wanted.splits else slice(None),
        )
    except NotFiniteError as error:
        raise UserError(
            f"device.dtype={str(model.network.dtype).removeprefix('torch.')}: {sites[error.site].key} puts out NaN or "
            "infinity; give device.dtype=float32 or bfloat16, or check the weights"
        ) from error
    if wanted.splits:
        processes.merge(reducers)
    return reducers


def _check_reachable(settings: Config) -> None:
    """Refuses what is not to be had before anything heavy is imported, anything loaded or written."""
    from neurexp.models.places import check_reachable
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


def _prepare_device(settings: Config) -> None:
    import torch

    from neurexp.models.load import choose_device

    device = choose_device(settings.device.name)
    if processes.count() > 1 and device.type == "cuda":
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise UserError(f"torchrun --nproc-per-node: there are {there} GPUs; give at most so many, or device=cpu")
        settings.device.name = f"cuda:{local}"
    if settings.device.tf32 and device.type != "cuda":
        raise UserError(f"device.tf32=true: a {device.type} has no TensorFloat-32; leave it out, or give device=cuda")
    torch.set_float32_matmul_precision("high" if settings.device.tf32 else "highest")
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
        "fast": model.fast,
    }


def _check_length(settings: Config, model) -> None:
    positions = getattr(model.network.config, "max_position_embeddings", None)
    if positions is not None and _reads_text(settings) and settings.dataset.sequence_length > positions:
        raise UserError(
            f"dataset.sequence_length={settings.dataset.sequence_length}: {model.name} has {positions} positions; "
            f"give {positions} or fewer"
        )


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


def _flat(config: DictConfig) -> dict[str, str]:
    """The resolved config as dotted names, for MLflow's parameters."""

    from neurexp.provenance import without_secrets

    def walk(prefix: str, value: Any):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif value is not None:
            yield prefix, without_secrets(str(getattr(value, "value", value)))

    return dict(walk("", OmegaConf.to_container(config, resolve=True)))


def _tell(findings: list[str], folder: Path, figures: list[str], tracker, seconds: dict[str, float]) -> None:
    log.info("")
    for line in findings:
        log.info("  • %s", line)
    log.info("")
    near = os.path.relpath(folder)
    log.info("Run folder: %s", near if not near.startswith("..") else folder)
    log.info("Figures:    %s", ", ".join(f"figures/{name}" for name in figures))
    if tracker.run_id:
        log.info("MLflow:     run %s; open with: %s", tracker.run_id, tracker.where)
    log.info("Seconds:    %s", ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()))


def _load(arguments: dict[str, Any]) -> Any:
    """The model; of a sweep's jobs in one process those that want the same share it, for no run changes a model."""
    from neurexp.models.load import load_model

    key = repr(sorted(arguments.items()))
    if key not in _loaded:
        while len(_loaded) >= MODELS_KEPT:
            _loaded.pop(next(iter(_loaded)))
        _loaded[key] = load_model(**arguments)
    return _loaded[key]


_loaded: dict[str, Any] = {}
_failures: list[str] = []


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="config")
def _job(config: DictConfig) -> None:
    """One Hydra job. A failure is told and remembered: the other jobs of a sweep go on, the exit code says so."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    sweep = Path(hydra_config.sweep.dir).resolve() if hydra_config.mode is RunMode.MULTIRUN else None
    over_layers = any(override.startswith("experiment.layer=") for override in hydra_config.overrides.task)
    try:
        run(config, folder, sweep, every_layer=sweep is not None and over_layers)
    except Exception as error:
        message = str(error)
        if not isinstance(error, UserError):
            if processes.rank() > 0:
                traceback.print_exc()  # its folder goes with it
            (folder / "traceback.txt").write_text(traceback.format_exc(), "utf-8")
            message = f"unexpected {type(error).__name__}: {one_line(error)} (see {folder / 'traceback.txt'})"
        if sweep is not None:
            sweeps.note_failure(sweep, folder.name, message)
        if _wants_traceback():
            raise
        place = f" in process {processes.rank()}" if processes.rank() else ""
        print(f"error{place}: {message}", file=sys.stderr)
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
    signal.signal(signal.SIGTERM, _interrupt)  # a job that a scheduler ends leaves what Ctrl-C leaves
    status = None
    try:
        if processes.count() > 1:
            _check_processes(sys.argv)
        with _as_helper() if processes.rank() > 0 else nullcontext():
            _job()
    except KeyboardInterrupt:
        status = "KILLED"
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        status = "FAILED"
        message = explain(error)
        if message is None or _wants_traceback():
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)
    finally:
        if NoteSweep.folder is not None and not _end_sweep(NoteSweep.folder, status):
            _failures.append("the sweep")
    if _failures:
        sys.exit(1)


def _check_processes(arguments: list[str]) -> None:
    if {"-m", "--multirun"} & set(arguments):
        raise UserError(
            "torchrun with -m: torchrun splits one run over processes; for the jobs of a sweep give hydra/launcher="
        )


@contextmanager
def _as_helper() -> Iterator[None]:
    """A process of `torchrun` that is not the first leaves no run folder, and says nothing but what went wrong."""
    with TemporaryDirectory() as folder:
        sys.argv += [f"hydra.run.dir={folder}", "hydra.output_subdir=null", "hydra/job_logging=disabled"]
        yield


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _end_sweep(folder: Path, status: str | None) -> bool:
    """Sums the sweep up and ends its MLflow run; whether all went well."""
    if not folder.exists():
        return True
    try:
        sweeps.finish(folder, status)
    except Exception as error:
        if _wants_traceback():
            traceback.print_exc()
        print(f"error: the sweep in {folder} could not be summed up ({one_line(error)})", file=sys.stderr)
        with suppress(Exception):
            sweeps.finish(folder, "FAILED")
        return False
    return not sweeps.failures(folder)
