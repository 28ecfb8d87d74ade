"""Measures a model: runs an experiment's passes, resumes them, or takes stored ones, and analyses the results.

Uses models, experiments and the engine. Knows nothing of run folders except where checkpoints go, nor of tracking.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from neurexp.config.schema import Config
from neurexp.console import environment
from neurexp.console.processors import processors
from neurexp.engine import plan as engine
from neurexp.engine import processes
from neurexp.engine.checkpoint import Checkpoints, OtherPassError, divide
from neurexp.engine.division import Division
from neurexp.engine.plan import Pass
from neurexp.engine.reducers.base import Reducer
from neurexp.errors import UserError
from neurexp.experiments.base import Experiment, Inputs, Plan, Results
from neurexp.io.provenance import hash_of_plugin
from neurexp.io.store import Store
from neurexp.models.choices import site_names
from neurexp.models.load import LanguageModel, choose_device, load_model, positions_of
from neurexp.models.sites import find_sites, width_of_head
from neurexp.models.spread import described, is_spread
from neurexp.report.clock import Stopwatch
from neurexp.report.finished import FinishedRun
from neurexp.report.report import CONTROLS, Report, join_sites, with_control
from neurexp.runs.announcing import Announcer
from neurexp.runs.control_figure import with_figure
from neurexp.runs.stored_pass import StoredPass
from neurexp.text.running_text import read_text
from neurexp.text.shuffled import shuffled_text
from neurexp.text.skipped import Skipped, tell

log = logging.getLogger(__name__)

MODELS_KEPT = 2  # a model and its control


@dataclass(frozen=True)
class Measurement:
    """The results of a run. `report` is None in all processes of `torchrun` but process 0."""

    model: LanguageModel
    plan: Plan
    report: Report | None
    reused: tuple[str, ...]  # passes whose results an earlier run had stored
    resumed: Mapping[str, int]  # pass → batches that were done before the interruption


def measure(
    config: Config,
    experiment: Experiment,
    names: tuple[str, str],
    folder: Path,
    clock: Stopwatch,
    other_layers: bool = False,
    source: FinishedRun | None = None,
) -> Measurement:
    """Loads the model, runs the passes and analyses them; the same on a control if one is asked for.

    Args:
        config: of the run.
        experiment: what to measure.
        names: of the model and of the dataset, for titles.
        folder: where checkpoints go.
        clock: gets the seconds of each stage.
        other_layers: other jobs of the sweep want other layers of the same passes.
        source: the finished run that the experiment goes on from.

    Raises:
        UserError: a mistake of the user; the source is of another model, for example.
    """
    arguments, options = _model_arguments(config), experiment.options
    with clock("load_model"):
        model = _load(arguments)
        if source is not None:
            source.check_model(model.name, model.weights_hash)
        original = _inputs(config, model, names, source)
        if experiment.reads_text:
            _check_length(config, model)
        find_sites(model.network, options.site, original.layers(options.layer))
    where = described(model.network) if is_spread(model.network) else model.device
    log.info("Model: %s, %d layers, on %s, %s", model.name, model.layers, where, model.network.dtype)
    runner = _Runner(config, experiment, folder, clock, other_layers)
    plan, reports = runner.run(original)
    if options.control != "off":
        log.info("Control: %s", CONTROLS[options.control].meaning)
        inputs = original = _inputs(config, model, names, source)
        if options.control == "shuffled_text":
            inputs = replace(original, read_text=lambda: shuffled_text(original.text, model.tokenizer, original.seed))
        else:
            with clock("load_model"):
                inputs = replace(inputs, model=_load({**arguments, "weights": "random"}), writer=model)
        _, controls = runner.run(inputs, "control: ")
        for site, control in controls.items():
            report = with_control(reports[site], control, options.control)
            reports[site] = with_figure(report, control, options.control, original.label)
    report = join_sites(reports) if reports else None
    return Measurement(model, plan, report, tuple(runner.reused), runner.resumed)


@dataclass
class _Runner:
    """Runs the passes of plans, or takes the stored results of the same passes."""

    config: Config
    experiment: Experiment
    folder: Path
    clock: Stopwatch
    other_layers: bool
    reused: list[str] = field(default_factory=list)
    resumed: dict[str, int] = field(default_factory=dict)
    _logged: set[Skipped] = field(default_factory=set)
    _taken_over: set[str] = field(default_factory=set)  # passes that another number of processes began
    _announcer: Announcer = field(init=False)

    def run(self, inputs: Inputs, prefix: str = "") -> tuple[Plan, dict[str, Report]]:
        """Plans, runs and analyses, for each site; the sites share their passes.

        Returns:
            The first site's plan, and each site's report (none in all processes of `torchrun` but process 0).

        `prefix` tells a control's passes from those of the model itself.
        """
        experiments = self._by_site()
        with self.clock("prepare_text"):
            plans = [experiment.prepare(inputs) for experiment in experiments.values()]
        plan = plans[0]
        self._log_skipped(plan)
        self._announcer = Announcer(plans)
        if processes.rank() == 0:
            self._announcer.before()
        results: list[dict[str, dict[str, Reducer]]] = [{} for _ in plans]
        for passes in zip(*(one.passes for one in plans), strict=True):
            passes = [one.after(own) for one, own in zip(passes, results, strict=True)]
            first = passes[0]
            if first.name in results[0]:
                raise ValueError(f"two passes are named {first.name}: give each a name of its own")
            if first.distributed or processes.rank() == 0:
                log.info("%s: %d tokens in %d sequences", first.label, first.tokens.count, len(first.tokens.valid))
                # A site that every plan captures, beside its own, is captured once
                once = {planned.site: planned for planned in passes}
                reducers = self._run_or_reuse(list(once.values()), inputs.model, f"{prefix}{first.name}")
                of_site = dict(zip(once, reducers, strict=True))
                for own, planned in zip(results, passes, strict=True):
                    own[first.name] = of_site[planned.site]
        if processes.rank() > 0:
            return plan, {}
        with self.clock("analyse"):
            analysed = zip(experiments.items(), plans, results, strict=True)
            return plan, {site: _analyse(one, site, own, found) for (site, one), own, found in analysed}

    def _by_site(self) -> dict[str, Experiment]:
        """The experiment at each of its sites; with one site the experiment itself."""
        options = self.experiment.options
        names = site_names(options.site)
        if isinstance(options.site, str):
            return {names[0]: self.experiment}
        return {name: type(self.experiment)(replace(options, site=name)) for name in names}

    def _log_skipped(self, plan: Plan) -> None:
        """Logs once what could not be used: a control reads the same again."""
        new = [one for one in plan.skipped if one not in self._logged]
        self._logged.update(new)
        tell(new)

    def _run_or_reuse(self, passes: Sequence[Pass], model: LanguageModel, name: str) -> list[dict[str, Reducer]]:
        """The reducers of each pass: stored ones, and those of one pass for the others."""
        with self.clock("load_model"):  # the hash of the weights is computed once
            keys = [self._key_of(planned, model) for planned in passes]
        first = passes[0]
        if not first.cacheable or (first.distributed and processes.count() > 1):
            return self._run(passes, model, keys, name)
        store, reuse = Store(cache_of(self.config)), self.config.run.reuse
        stored = [StoredPass(store, planned, key) for planned, key in zip(passes, keys, strict=True)]
        with self.clock("track"):
            found = [one.load() if reuse else None for one in stored]
        if any(one is None for one in found):
            with ExitStack() as locks:
                with self.clock("capture"):  # another process may be at the same pass
                    for one in sorted(stored, key=lambda one: one.entry.name):  # in one order, or two would block
                        locks.enter_context(one.entry.lock("the same pass"))
                    found = [one.load() if reuse else None for one in stored]
                missing = [index for index, one in enumerate(found) if one is None]
                if missing:
                    absent = [stored[index] for index in missing]
                    self.reused += [
                        f"{name}, {planned.site}" for planned, one in zip(passes, found, strict=True) if one is not None
                    ]
                    own = [keys[index] for index in missing]
                    made = self._run_and_store(absent, model, own, name)
                    for index, reducers in zip(missing, made, strict=True):
                        found[index] = reducers
                    return [one for one in found if one is not None]
        log.info("%s: taken from an earlier pass (run.reuse=false for a fresh one)", first.label)
        self.reused.append(name)
        return [one for one in found if one is not None]

    def _key_of(self, planned: Pass, model: LanguageModel) -> dict[str, Any]:
        key = engine.activation_key(model, planned, batch_size_of(self.config))
        return key | {"plugin": hash_of_plugin(type(self.experiment)), **planned.key}

    def _run_and_store(
        self,
        stored: "Sequence[StoredPass]",
        model: LanguageModel,
        keys: Sequence[dict[str, Any]],
        name: str,
    ) -> list[dict[str, Reducer]]:
        passes = own = [one.planned for one in stored]
        if stored[0].by_layer and self.other_layers and self.config.run.reuse:
            every = tuple(range(model.layers))  # the sweep's other jobs find theirs
            passes = [replace(planned, layers=every) for planned in own]
        try:
            results = self._run(passes, model, keys, name)
        except UserError:  # perhaps of a layer that this job does not want: it has no such site, or puts out NaN
            if passes is own:
                raise
            passes, name = own, f"{name}, own layers"
            results = self._run(passes, model, keys, name)
        made = list(zip(stored, results, strict=True))
        with self.clock("track"):
            for one, reducers in made if name not in self._taken_over else ():  # their sums have other last bits
                one.save(reducers, passes[0].layers)
            return [one.kept_of(reducers, passes[0].layers) for one, reducers in made]

    def _run(
        self,
        passes: Sequence[Pass],
        model: LanguageModel,
        keys: Sequence[dict[str, Any]],
        name: str,
    ) -> list[dict[str, Reducer]]:
        short, first = re.sub(r"\W+", "-", name.lower()), passes[0]
        whole_key = keys[0] | {"layers": list(first.layers)}
        if len(passes) > 1:
            whole_key |= {name: [key[name] for key in keys] for name in ("site", "address")}
        try:
            division = self._divide(first, short, whole_key) if first.distributed else None
            every = self.config.run.checkpoint_every
            checkpoints = Checkpoints(self.folder, short, whole_key, every, division, processes.rank())
            with self.clock("capture"):
                results = engine.run_together(
                    passes,
                    model,
                    batch_size_of(self.config),
                    checkpoints,
                    partial(self._announcer.during, first),
                    progress=processes.rank() == 0,
                    division=division,
                )
            self.clock.move(checkpoints.seconds, "capture", "checkpoints")
        except OtherPassError as error:
            changed = ", ".join(map(_told(error), error.differing))
            raise UserError(
                f"run.resume=true: {error.file} is of another pass, which differs in {changed}; "
                "give what it was made with, or leave run.resume out"
            ) from error
        if division is not None and division.finished:
            self._taken_over.add(name)
            self.resumed[name] = sum(int(file.rsplit("_", 2)[1]) for file in division.finished)
        if checkpoints.resumed_at:
            self.resumed[name] = self.resumed.get(name, 0) + checkpoints.resumed_at
        return results

    def _divide(self, planned: Pass, name: str, key: dict[str, Any]) -> Division:
        """Which sequences each process runs. Process 0 decides, because it may have to look at checkpoints."""
        said = ""
        if processes.rank() == 0:
            said = divide(self.folder, name, key, len(planned.tokens.valid), processes.count()).as_json()
        return Division.from_json(processes.broadcast(said))


def _analyse(experiment: Experiment, site: str, plan: Plan, results: Results) -> Report:
    """The experiment's report. Where neurons stand by attention heads, their table says which head."""
    report = experiment.analyse(plan, results)
    width = width_of_head(plan.inputs.model.network, site)
    if width is not None and "neuron" in report.neurons and "head" not in report.neurons:
        place = {name: report.neurons[name] for name in ("layer", "neuron")}
        report.neurons = place | {"head": report.neurons["neuron"] // width} | report.neurons
        report.columns = report.columns | {"head": f"attention head of the neuron, from 0; each has {width} neurons"}
    return report


def _told(error: OtherPassError) -> Callable[[str], str]:
    """Names a part of the key that differs; of the arithmetic what differs in it, which an option or command sets."""

    def told(name: str) -> str:
        there, here = error.there.get(name), error.here.get(name)
        if not (isinstance(there, dict) and isinstance(here, dict)):
            return name
        inner = [f"{one} {there.get(one)} there, {here.get(one)} here" for one in here if there.get(one) != here[one]]
        return f"{name} ({'; '.join(inner)})"

    return told


def cache_of(config: Config) -> Path:
    """The folder of stored results."""
    return Path(config.run.outputs).expanduser().resolve() / "cache"


def _inputs(config: Config, model: LanguageModel, names: tuple[str, str], source: FinishedRun | None = None) -> Inputs:
    dataset, bos = config.dataset, model.begins_with_bos
    return Inputs(
        model,
        *names,
        read_text=lambda: read_text(dataset, model.tokenizer, bos, cache_of(config), processes.count()),
        seed=config.run.seed,
        default_layer=config.model.default_layer,
        batch_size=batch_size_of(config),
        source=source,
    )


def _check_length(config: Config, model: LanguageModel) -> None:
    positions = positions_of(model.network)
    length = config.dataset.sequence_length
    if positions is not None and length > positions:
        raise UserError(
            f"dataset.sequence_length={length}: {model.name} has {positions} positions; give {positions} or fewer"
        )


def prepare_device(config: Config) -> None:
    """Sets threads and precision, and gives each process of `torchrun` a GPU of its own.

    Raises:
        UserError: no such device, fewer GPUs than processes, or an option that the device does not know.
    """
    device = choose_device(config.device.name)
    if config.model.device_map is not None:
        given = f"model.device_map={config.model.device_map}"
        if processes.count() > 1:
            raise UserError(f"{given}: one process uses all devices; run it without torchrun")
        if config.experiment.get("control") == "random":
            raise UserError(f"{given}: cannot spread the random weights of experiment.control=random; give off")
    if processes.count() > 1 and device.type == "cuda":
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            raise UserError(f"torchrun --nproc-per-node: there are {count} GPUs; give at most so many, or device=cpu")
        config.device.name = f"cuda:{local}"
    if config.device.tf32 and device.type != "cuda":
        raise UserError(f"device.tf32=true: a {device.type} has no TensorFloat-32; leave it out, or give device=cuda")
    torch.set_float32_matmul_precision("high" if config.device.tf32 else "highest")
    torch.set_num_threads(config.device.threads or _default_threads())


def batch_size_of(config: Config) -> int:
    """How many sequences one forward takes: `device.batch_size`, or what suits the device (docs/benchmarks.md)."""
    on_cpu = choose_device(config.device.name).type == "cpu"
    return config.device.batch_size or (2 if on_cpu else 4)


@cache
def _default_threads() -> int:
    """PyTorch's own choice at start: a job of a sweep must not inherit another's. Unless the environment says how many,
    they are no more than the processors for this process."""
    chosen = torch.get_num_threads()
    return chosen if any(map(os.environ.get, environment.THREADS)) else min(chosen, processors())


def _model_arguments(config: Config) -> dict[str, Any]:
    model = config.model
    return {
        "name": model.name,
        "revision": model.revision,
        "tokenizer": model.tokenizer,
        "weights": model.weights.value,
        "architecture": model.architecture,
        "fallback": model.fallback,
        "device": config.device.name,
        "dtype": config.device.dtype.value,
        "seed": config.run.seed,
        "fast": model.fast,
        "attention": model.attention,
        "bos": config.dataset.bos.wanted,
        "blocks": model.blocks,
        "sites": model.sites,
        "device_map": model.device_map,
        "max_memory": model.max_memory,
    }


def load_configured(config: Config) -> LanguageModel:
    """The model that a configuration names, as a run loads it."""
    return _load(_model_arguments(config))


def _load(arguments: dict[str, Any]) -> LanguageModel:
    """Loads a model. Runs in one process share it, because no run changes a model."""
    key = repr(sorted(arguments.items()))
    with _loading:
        if key not in _loaded:
            while len(_loaded) >= MODELS_KEPT:
                _loaded.pop(next(iter(_loaded)))
            _loaded[key] = load_model(**arguments)
        return _loaded[key]


_loaded: dict[str, LanguageModel] = {}
_loading = threading.Lock()
