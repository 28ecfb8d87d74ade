"""The passes of an experiment over a model: an earlier run's, an interrupted one's, or fresh ones.

Sees models, experiments and the engine. Knows nothing of run folders beyond where checkpoints go, nor of tracking.
"""

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from neurexp.config.schema import Config
from neurexp.engine import processes
from neurexp.engine.checkpoint import Checkpoints, OtherPassError
from neurexp.engine.lanes import lanes_on
from neurexp.engine.passes import count_not_finite, run_pass
from neurexp.engine.reducers.base import NotFiniteError, Reducer
from neurexp.errors import UserError
from neurexp.experiments.base import Experiment, Pass, capture_key
from neurexp.io.provenance import hash_of_plugin
from neurexp.io.store import StateStore
from neurexp.models.fast import fast_forward
from neurexp.models.load import LanguageModel, choose_device, load_model
from neurexp.models.sites import Site, find_sites
from neurexp.report.report import Report, with_control
from neurexp.text.skipped import Skipped, tell
from neurexp.text.tokens import Tokens

if TYPE_CHECKING:
    from neurexp.tracking.tracker import Stopwatch

log = logging.getLogger(__name__)

WORTH_SAYING = 10  # seconds of a pass that are announced before it starts
MODELS_KEPT = 2  # a model and its control
BYTES_PER_NEURON = 200  # of neurons.parquet, roughly
MOST_TOKENS_WRITTEN = 1_000_000  # longer inputs are identified by their hash only


@dataclass
class Measurement:
    """All passes of a run. `report` stays None but in process 0 of those of `torchrun`."""

    settings: Config
    experiment: Experiment
    folder: Path  # for checkpoints
    clock: "Stopwatch"
    reads_text: bool
    model: LanguageModel = field(init=False)
    report: Report | None = None
    reused: list[str] = field(default_factory=list)  # passes that an earlier run's stood for
    resumed: dict[str, int] = field(default_factory=dict)  # pass → batches that an interrupted process had done
    _told: set[Skipped] = field(default_factory=set)

    def run(self) -> "Measurement":
        """Loads the model, runs the passes, analyses; the same with random weights where a control was asked for."""
        options = self.experiment.options
        with self.clock("load_model"):
            self.model = _load(_model_arguments(self.settings))
            self._check_length()
            find_sites(self.model.network, options.site, self.experiment.chosen_layers(self.model))
        network = self.model.network
        log.info("Model: %s, %d layers, on %s, %s", self.model.name, self.model.layers, network.device, network.dtype)
        self._run_passes(self.experiment, self.model)
        self.report = self._analyse(self.experiment)
        if options.control == "random":
            log.info("Control: the same with random weights")
            control = type(self.experiment)(options, self.experiment.setting)
            with self.clock("load_model"):
                untrained = _load({**_model_arguments(self.settings), "weights": "random"})
            self._run_passes(control, untrained, "control: ")
            beside = self._analyse(control)
            if self.report is not None and beside is not None:
                self.report = with_control(self.report, beside)
        return self

    def _analyse(self, experiment: Experiment) -> Report | None:
        if processes.rank() > 0:
            return None
        with self.clock("analyse"):
            return experiment.analyse()

    def _run_passes(self, experiment: Experiment, model: LanguageModel, prefix: str = "") -> None:
        passes, named = experiment.passes(model, self.settings.dataset, self._cache), dict[str, int]()
        try:
            while True:
                with self.clock("prepare_text"):
                    wanted = next(passes, None)
                if wanted is None:
                    return
                self._tell_skipped(experiment)
                log.info("%s: %d tokens in %d sequences", wanted.what, wanted.tokens.count, len(wanted.tokens.valid))
                name = f"{prefix}{wanted.what}"
                named[name] = named.get(name, 0) + 1
                self._run_or_reuse(wanted, model, name if named[name] == 1 else f"{name} {named[name]}")
        finally:
            passes.close()  # type: ignore[attr-defined]

    def _tell_skipped(self, experiment: Experiment) -> None:
        """Says once what could not be used: a control reads the same again."""
        new = [one for one in experiment.skipped() if one not in self._told]
        self._told.update(new)
        tell(new)

    def _run_or_reuse(self, wanted: Pass, model: LanguageModel, name: str) -> None:
        """One pass, or what an earlier run stored of the same."""
        settings, tokens, site = self.settings, wanted.tokens, self.experiment.options.site
        with self.clock("load_model"):  # the hash of its weights, once
            key = capture_key(model, tokens, site, batch_size_of(settings))
            key |= {"plugin": hash_of_plugin(type(self.experiment))}
        key |= wanted.key(model)
        if not wanted.kept or processes.count() > 1:
            self._run_pass(wanted, model, key, name)
            return
        store = StateStore(self._cache, key)
        with store.lock():
            if settings.run.reuse and store.exists:
                with self.clock("track"):
                    found = store.load(wanted.reducers(model, tokens, wanted.chosen_layers(model)))
                if found:
                    log.info("%s: the statistics are an earlier pass's (run.reuse=false for a fresh one)", wanted.what)
                    self.reused.append(name)
                    return
            reducers = self._run_pass(wanted, model, key, name)
            with self.clock("track"):
                store.save(reducers)

    def _run_pass(self, wanted: Pass, model: LanguageModel, key: dict[str, Any], name: str) -> list[Reducer]:
        part = f"-{processes.rank()}of{processes.count()}" if processes.count() > 1 else ""
        short = re.sub(r"\W+", "-", name.lower()) + part
        checkpoints = None
        if wanted.splits or processes.rank() == 0:
            checkpoints = Checkpoints(self.folder, short, key, self.settings.run.checkpoint_every)
        batch_size, site = batch_size_of(self.settings), self.experiment.options.site
        try:
            with self.clock("capture"):
                reducers = capture_for(wanted, model, wanted.tokens, batch_size, site, checkpoints)
        except OtherPassError as error:
            changed = ", ".join(error.differing)
            raise UserError(
                f"run.resume=true: {error.file} is of another pass, which differs in {changed}; "
                "give what it was made with, or leave run.resume out"
            ) from error
        if checkpoints is not None and checkpoints.resumed_at:
            self.resumed[name] = checkpoints.resumed_at
        return reducers

    @property
    def _cache(self) -> Path:
        return Path(self.settings.run.outputs).expanduser().resolve() / "cache"

    def _check_length(self) -> None:
        positions = getattr(self.model.network.config, "max_position_embeddings", None)
        length = self.settings.dataset.sequence_length
        if positions is not None and self.reads_text and length > positions:
            raise UserError(
                f"dataset.sequence_length={length}: {self.model.name} has {positions} positions; "
                f"give {positions} or fewer"
            )


def capture_for(
    wanted: Pass,
    model: LanguageModel,
    tokens: Tokens,
    batch_size: int,
    site: str = "MLP",
    checkpoints: Checkpoints | None = None,
) -> list[Reducer]:
    """A pass that an experiment asks for: its reducers, which this returns, have seen every token.

    Of the processes of `torchrun` each runs its share, and only the reducers of process 0 see it all. Of several
    threads one at a time is in here: the fast forward swaps parts of a model, and lanes share out PyTorch's threads.
    """
    with _one_pass, fast_forward(model.network) if model.fast else nullcontext():
        model.check_ids(tokens.input_ids[tokens.valid])
        layers = wanted.chosen_layers(model)
        sites = find_sites(model.network, site, layers)  # of the model as it runs: the fast forward swaps modules
        reducers = wanted.reducers(model, tokens, layers)
        batch_size = wanted.sequences_at_once(batch_size)
        with _naming_what_is_not_finite(model, sites, tokens, batch_size):
            run_pass(
                model.network,
                sites,
                tokens.input_ids,
                tokens.valid,
                reducers,
                wanted.covariates,
                batch_size,
                progress=processes.rank() == 0,
                forecast=lambda seconds, neurons: _announce(seconds, neurons, tokens),
                part=processes.own_part(len(tokens.valid)) if wanted.splits else slice(None),
                checkpoints=checkpoints,
                lanes=lanes_on(model.device),
            )
    if wanted.splits:
        processes.merge(reducers)
    return reducers


def _announce(seconds: float, neurons: int, tokens: Tokens) -> None:
    if seconds > WORTH_SAYING:
        log.info(
            "Pass: about %s to go by the pace of its second batch; the run will write about %.0f MB",
            f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min",
            (neurons * BYTES_PER_NEURON + min(tokens.count, MOST_TOKENS_WRITTEN) * 5) / 1e6 + 1,
        )


@contextmanager
def _naming_what_is_not_finite(
    model: LanguageModel, sites: list[Site], tokens: Tokens, batch_size: int
) -> Iterator[None]:
    """Counts NaN and infinity per layer once there are some, and says what to do about them."""
    try:
        yield
    except NotFiniteError as error:
        counts, values = count_not_finite(
            model.network, sites, tokens.input_ids, tokens.valid, error.sequences, batch_size
        )
        bad = [
            f"{site.key} {count:,} of {of:,}" for site, count, of in zip(sites, counts, values, strict=True) if count
        ]
        log.info("Activations that are NaN or infinite: %s", "; ".join(bad))
        first = next((site.key for site, count in zip(sites, counts, strict=True) if count), sites[error.site].key)
        dtype = str(model.network.dtype).removeprefix("torch.")
        remedy = "check the model's weights" if dtype == "float32" else "give device.dtype=float32 or bfloat16"
        raise UserError(
            f"device.dtype={dtype}: {first} puts out NaN or infinity, and {len(bad)} of {len(sites)} layers in all "
            f"({sum(counts):,} of {sum(values):,} activations); {remedy}"
        ) from error


def prepare_device(settings: Config) -> None:
    """Sets threads and precision, and gives each process of `torchrun` a GPU of its own.

    Raises:
        UserError: no such device, fewer GPUs than processes, or an option that the device does not know.
    """
    device = choose_device(settings.device.name)
    if processes.count() > 1 and device.type == "cuda":
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise UserError(f"torchrun --nproc-per-node: there are {there} GPUs; give at most so many, or device=cpu")
        settings.device.name = f"cuda:{local}"
    if settings.device.tf32 and device.type != "cuda":
        raise UserError(f"device.tf32=true: a {device.type} has no TensorFloat-32; leave it out, or give device=cuda")
    torch.set_float32_matmul_precision("high" if settings.device.tf32 else "highest")
    torch.set_num_threads(settings.device.threads or _default_threads())


def batch_size_of(settings: Config) -> int:
    """How many sequences one forward takes: `device.batch_size`, or what suits the device (docs/benchmarks.md)."""
    on_cpu = choose_device(settings.device.name).type == "cpu"
    return settings.device.batch_size or (2 if on_cpu else 4)


@cache
def _default_threads() -> int:
    """PyTorch's own choice at start: a job of a sweep must not inherit another's."""
    return torch.get_num_threads()


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
        "bos": settings.dataset.bos,
    }


def _load(arguments: dict[str, Any]) -> LanguageModel:
    """The model; runs in one process that want the same share it, for no run changes a model."""
    key = repr(sorted(arguments.items()))
    with _loading:
        if key not in _loaded:
            while len(_loaded) >= MODELS_KEPT:
                _loaded.pop(next(iter(_loaded)))
            _loaded[key] = load_model(**arguments)
        return _loaded[key]


_loaded: dict[str, LanguageModel] = {}
_loading, _one_pass = threading.Lock(), threading.Lock()
