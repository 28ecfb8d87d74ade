"""The typed schema of every config group, and the checks that need neither a model nor a text.

Imports nothing heavy: `--help`, `--cfg` and tab completion stop here. An experiment's own options are typed beside the
experiment (`Experiment.Options`), not here.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import Enum
from glob import iglob
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neurexp.config.mistakes import explain_option, with_advice
from neurexp.errors import UserError, closest, one_line, without_secrets
from neurexp.io import mlflow_stores as stores

# What can be read as text, for messages
TEXT_KINDS = ".txt, .jsonl, .json, .csv, .tsv or .parquet, all but the last also as .gz, .bz2, .xz or .zst"
FIGURE_FORMATS = ("png", "pdf", "svg")
BYTES_PER_TOKEN = 9  # while a text is packed
PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries `conf` inside the package; a checkout and an editable install have it beside the package.
CONFIG_FOLDER = next((folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir()), PACKAGE)


class Weights(Enum):
    """Trained weights, or the same architecture with seeded random ones."""

    pretrained = "pretrained"
    random = "random"


class Dtype(Enum):
    """Number format of weights and activations; statistics are always float64."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Source(Enum):
    """Where a dataset's documents come from."""

    hub = "hub"
    files = "files"
    pydoc = "pydoc"


class Added(Enum):
    """Whether a special token is added: as the model's own tokenizer does by itself, always, or never."""

    auto = "auto"
    true = "true"
    false = "false"

    @property
    def wanted(self) -> bool | None:
        """None for `auto`."""
        return None if self is Added.auto else self is Added.true


class Backend(Enum):
    """Where metrics and figures go in addition to the run folder."""

    mlflow = "mlflow"
    off = "off"


@dataclass
class ModelConfig:
    """Which language model, and which weights and tokenizer."""

    name: str = MISSING  # Hub id, local folder, GGUF file, or `mini`
    # In its place where no Hub is in reach: PACKAGE:FILE.gguf of an installed package, a GGUF file, or a folder
    fallback: str | None = None
    label: str | None = None  # what titles call it, in place of what the Hub id, the config or the path says
    revision: str = "main"  # branch, tag or commit on the Hub
    tokenizer: str | None = None  # Hub id, local folder, or `mini`; the model's own if not given
    weights: Weights = Weights.pretrained  # pretrained, or random: the same architecture, drawn by run.seed
    default_layer: int | None = None  # the layer of experiments on one layer; the one at two thirds if not given
    fast: bool = True  # faster kernels (models/fast), verified against transformers' own when the model is loaded
    # Which of transformers' attention implementations (eager, sdpa, flash_attention_2, …), without `fast`; its own
    # choice if not given
    attention: str | None = None
    # In an architecture that neurexp does not know: the path of the list of blocks
    blocks: str | None = None
    # NAME: PATH of a module in a block, for a site that neurexp does not know (PATH:input is what the module reads,
    # PATH[1/3] the second third of its output)
    sites: dict[str, str] = field(default_factory=dict)
    # Spreads a model that is larger than one device over all GPUs, the CPU's memory and the disk: auto, balanced,
    # balanced_low_0 or sequential, as accelerate has them (pip install accelerate)
    device_map: str | None = None
    # With `device_map`: how much each device may take, as {0: 70GiB, cpu: 100GiB}; what is not named is not used
    max_memory: Any = None
    # What transformers' AutoConfig takes, for random weights
    architecture: dict[str, Any] | None = field(default_factory=dict)


@dataclass
class DeviceConfig:
    """Where it runs, in which number format, and how much at once."""

    name: str = MISSING  # auto (CUDA where there is one), cpu, cuda, or cuda:N
    dtype: Dtype = Dtype.float32  # of weights and activations: float32, bfloat16 or float16
    tf32: bool = False  # CUDA: float32 products in TensorFloat-32, 10 bits of mantissa
    threads: int | None = None  # on a CPU; OMP_NUM_THREADS, or the processors that it may use, if not given
    batch_size: int | None = None  # sequences in one forward; what suits the device if not given


@dataclass
class DatasetConfig:
    """Which text, how much of it, and how it is cut."""

    source: Source = MISSING
    tokens: int = 8192  # how many tokens of the text are read
    sequence_length: int = 512  # tokens in one sequence
    bos: Any = Added.auto  # whether every sequence begins with BOS: auto (as the tokenizer does), true or false
    eos: Any = Added.auto  # whether EOS stands between two documents: auto, true or false
    name: str | None = None  # hub: the dataset's id
    subset: str | None = None  # hub: the dataset's configuration
    split: str = "train"  # hub: train, test, …
    revision: str = "main"  # hub: branch, tag or commit
    path: str | None = None  # files: a file, a folder with everything in it, or a pattern such as books/*.txt
    # Of a table. Chat messages there (a list of objects with `content` or `value`) are joined by blank lines
    text_column: str = "text"
    # The largest share, 0 to 1, of rows (and of files) that are skipped, counted and named because they cannot be used
    # (no JSON, no text column, a number in place of text, NUL, not UTF-8, damaged); with more of them the run stops
    bad_rows: float = 0.02

    # OmegaConf's own enum fields take neither YAML's true and false nor null
    def __post_init__(self) -> None:
        self.bos, self.eos = _added("dataset.bos", self.bos), _added("dataset.eos", self.eos)


@dataclass
class TrackingConfig:
    """Where runs are logged."""

    backend: Backend = MISSING
    # Of a server or a store. Unless it is given: MLFLOW_TRACKING_URI, or else SQLite under run.outputs
    uri: str | None = None
    # MLflow's name for the experiment. Unless it is given: MLFLOW_EXPERIMENT_NAME, or else experiment.name
    experiment: str | None = None
    # The formats that each figure is written in: png, pdf and svg, or some of them, such as png,pdf
    figures: Any = "png"


@dataclass
class RunConfig:
    """Options of the run as a whole."""

    # Of every random choice: random weights, shuffles, bootstraps, drawn tokens. It does not choose the text
    seed: int = 0
    outputs: str = "outputs"  # the folder of all run folders, the MLflow store, and what is kept for later runs
    reuse: bool = True  # take the stored results of the same pass of an earlier run
    resume: bool = False  # go on with the latest unfinished run with the same options, or with the one in hydra.run.dir
    checkpoint_every: float = 60.0  # seconds between two checkpoints of a pass; 0: never


@dataclass
class Config:
    """The whole configuration, as Hydra composes it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    experiment: Any = MISSING
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    run: RunConfig = field(default_factory=RunConfig)


# Group → its dataclass; Any for the experiment, whose options are typed beside it
GROUPS: dict[str, Any] = {section.name: section.type for section in fields(Config)}
# Options that only a yaml file gives
FIXED = {"experiment": ("name", "plugin"), "dataset": ("source",), "tracking": ("backend",)}


def _added(option: str, value: Any) -> Added:
    """The choice that a value of YAML, of the command line or of Python means; None and null are `auto`."""
    word = str(getattr(value, "value", value)).lower()
    for choice, words in (
        (Added.auto, "auto none"),
        (Added.true, "true yes y on 1"),
        (Added.false, "false no n off 0"),
    ):
        if word in words.split():
            return choice
    raise UserError(f"{option}={value}: give auto, true or false")


def quoted(value: Any) -> str:
    """A value for Hydra's command line: within quotes only a quote and the backslashes before it are escaped."""
    if value is None:
        return "null"
    if OmegaConf.is_config(value):
        return str(OmegaConf.to_container(value, resolve=True))
    if isinstance(value, list):
        return f"[{','.join(map(quoted, value))}]"
    if isinstance(value, str) and not re.fullmatch(r"/[\w./+-]*", value, re.ASCII):  # a plain path needs none
        return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), value) + "'"
    return str(value).lower() if isinstance(value, bool) else str(value)


def folder_of(config: DictConfig, option: str) -> Path:
    """The folder that Hydra is about to make.

    Raises:
        UserError: it or `run.outputs` is empty, or the experiment's name is no folder's name.
        OmegaConfBaseException: a ${…} in it cannot be resolved.
    """
    given = {name: str(OmegaConf.select(config, name)) for name in ("run.outputs", option)}
    for name, folder in given.items():
        if not folder.strip():  # otherwise it would be the root folder or the current one
            raise UserError(f"{name} is empty: give {name}=FOLDER")
    _check_name(config)
    return Path(given[option])


def _check_name(config: DictConfig) -> None:
    """Checks that the experiment's name, which names a folder, leads to no other folder."""
    name = OmegaConf.select(config, "experiment.name", default=None)
    if name is None or not re.fullmatch(r"\w[\w.-]{0,99}", str(name)):
        raise UserError(f"experiment.name={name}: it becomes a folder's; give letters, digits, _ and - only")


def register_schema() -> None:
    """Registers the schema with Hydra, under the name that `config.yaml` lists first."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    # Hydra copies the whole store for each group of `--help`, half of the time; `load` copies anyway
    store.__deepcopy__ = lambda memo: store  # type: ignore[attr-defined]


def checked(config: DictConfig) -> Config:
    """The composed config as typed dataclasses (`experiment` stays a DictConfig).

    Raises:
        UserError: a mandatory option is missing, or a value can never work.
    """
    for group in config:
        if group not in GROUPS:
            raise UserError(f"{group}: no such group{closest(str(group), GROUPS)} (there are {', '.join(GROUPS)})")
    for option in sorted(OmegaConf.missing_keys(config)):
        example = "ORGANISATION/MODEL or a local folder" if option == "model.name" else "VALUE"
        raise UserError(f"{option} is missing: give {option}={example}")
    try:
        whole: Config = OmegaConf.to_object(config)  # type: ignore[assignment]
    except OmegaConfBaseException as error:  # a ${…} that cannot be resolved
        raise UserError(explain_option(error)) from error
    whole.experiment = config.experiment
    # The dimensions in a model's yaml are wrong for another model.name=
    architecture = whole.model.architecture = whole.model.architecture or None
    if architecture is not None and architecture.pop("of", whole.model.name) != whole.model.name:
        whole.model.architecture, whole.model.default_layer, whole.model.fallback = None, None, None
    for option, value, least, most in (
        ("dataset.tokens", whole.dataset.tokens, 1, _memory() // BYTES_PER_TOKEN),
        ("dataset.sequence_length", whole.dataset.sequence_length, 2, 2**31 - 1),
        ("device.batch_size", whole.device.batch_size, 1, 2**31 - 1),
        ("device.threads", whole.device.threads, 1, 1024),
        ("run.seed", whole.run.seed, 0, 2**63 - 1),
    ):
        if value is not None and value < least:
            raise UserError(f"{option}={value}: give a whole number of {least} or more")
        if value is not None and value > most:
            why = "this machine's memory holds no more" if option == "dataset.tokens" else "nothing here takes more"
            raise UserError(f"{option}={value}: give {most} or fewer ({why})")
    if not 0 <= whole.dataset.bad_rows <= 1:
        raise UserError(f"dataset.bad_rows={whole.dataset.bad_rows:g}: give a share from 0 to 1, such as 0.02")
    if not 0 <= whole.run.checkpoint_every < math.inf:
        raise UserError(f"run.checkpoint_every={whole.run.checkpoint_every}: give seconds, or 0 for no checkpoints")
    whole.tracking.figures = figure_formats(whole.tracking.figures)
    _check_name(config)
    if whole.tracking.backend is Backend.mlflow and stores.given_address(whole.tracking.uri) is None:
        outputs = Path(whole.run.outputs).expanduser().resolve()
        if odd := {"?", "%"} & set(str(outputs)):  # SQLAlchemy would read them as parts of the address
            raise UserError(
                f"run.outputs={outputs}: MLflow's store cannot lie in a folder with {odd.pop()} in its name; give "
                "another one, or tracking=off"
            )
    if whole.dataset.source is Source.files:
        # `path: ???` in the yaml has no effect: the schema's default wins
        if not whole.dataset.path:
            raise UserError(f"dataset.path is missing: give dataset.path=FILE_OR_FOLDER ({TEXT_KINDS})")
        try:
            path = Path(whole.dataset.path).expanduser()
            there = path.exists() or any(iglob(str(path), recursive=True))  # noqa: PTH207 (a whole path)
        except (OSError, RuntimeError) as error:  # a name too long for a file, or another user's home that is none
            raise UserError(
                f"dataset.path={whole.dataset.path}: cannot be a file ({one_line(error)}); give {TEXT_KINDS}"
            ) from error
        if not there:
            raise UserError(f"dataset.path={whole.dataset.path}: no such file or folder; give {TEXT_KINDS}")
    return whole


def figure_formats(value: Any) -> list[str]:
    """The formats that `tracking.figures` means: a list, or a text with commas. Each once, in the order given.

    Raises:
        UserError: it names none, or one that figures cannot have.
    """
    words = [str(one).strip().lower() for one in (value if isinstance(value, list) else str(value).split(","))]
    if not words or not set(words) <= set(FIGURE_FORMATS):
        given = ",".join(map(str, value)) if isinstance(value, list) else value
        raise UserError(f"tracking.figures={given}: give {', '.join(FIGURE_FORMATS)}, or several with commas between")
    return list(dict.fromkeys(words))


def flat(config: DictConfig) -> dict[str, str]:
    """The resolved config with dotted names, without Hydra's options and without passwords."""

    def walk(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif value is not None:
            yield prefix, without_secrets(str(getattr(value, "value", value)))

    return dict(walk("", {str(group): plain(config[group]) for group in config if group != "hydra"}))


def plain(node: Any) -> Any:
    """A part of a config as Python's own lists and dictionaries; another value as it is."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def typed_options(experiment: DictConfig) -> tuple[Any, type]:
    """The experiment's options as its own dataclass, and its class: `plugin` is the dotted name of a class.

    Raises:
        UserError: there is no such class, or an option has the wrong type.
    """
    dotted = experiment.get("plugin")
    try:
        module, _, name = str(dotted).rpartition(".")
        if not module or module.startswith("."):
            raise ImportError("it names no module")
        plugin = getattr(import_module(module), name)
        if not hasattr(plugin, "Options"):
            raise AttributeError("it is no experiment")
    except (ImportError, AttributeError) as error:  # any other error of an import explains itself
        raise UserError(
            f"experiment.plugin={dotted}: no such class ({one_line(error)}); give MODULE.CLASS, whose module lies in "
            "the current folder or on PYTHONPATH"
        ) from error
    return typed(experiment, plugin.Options), plugin


def typed(experiment: DictConfig, options: type) -> Any:
    """The experiment's options as a dataclass. Raises UserError if an option has the wrong type."""
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(options), experiment))
    except OmegaConfBaseException as error:
        raise UserError(f"experiment.{error.full_key}: {with_advice(one_line(error))}") from error
