"""What pages are about: the neurons of a run of `top_contexts`, read back from its folder and checked.

Knows the files of the run folder, and no experiment's code.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from neurexp.errors import UserError, one_line
from neurexp.pages.texts import readable
from neurexp.report.folder import CONFIG, NEURONS, definitions_in
from neurexp.report.report import SITE, Table

ENDS = ("top", "bottom")
NEEDED = ("contexts.parquet", "windows.safetensors", "context_tokens.safetensors", "vocabulary.parquet")
_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, RecursionError, ArithmeticError)


@dataclass(frozen=True)
class Subject:
    """The neurons of one site, with their contexts.

    Args:
        given: the run as the user gave it; messages begin with it.
        site: of the neurons; None if the run has one only and nobody said which.
        layers: `[layers]` block indices, ascending.
        neurons: `neurons.parquet`, by layer and neuron.
        columns: what each column means.
        values: `[layers, 2, neurons, k]` float32, the top and the bottom activations; NaN where there are fewer.
        places: the same shape, int64: row of `input_ids` · length + position; −1 where there are fewer.
        token_ids: the same shape, int64; −1 where there are fewer.
        levels: `[layers, 2, neurons, k, before + 1 + after]` int8: the activations around each context, in hundredths
            of the context's own magnitude; −128 where there is no token.
        before, after: tokens around a context.
        input_ids: `[n, length]`, the sequences that have a context.
        valid: the same shape, bool.
        vocabulary: token id → its bytes, and the token decoded alone.
        direct: the rows of `direct.parquet`; empty if there is none.
        histograms: `counts`, `start`, `width`; empty if there are none.
    """

    given: str
    site: str | None
    layers: np.ndarray
    neurons: Table
    columns: dict[str, str]
    values: np.ndarray
    places: np.ndarray
    token_ids: np.ndarray
    levels: np.ndarray
    before: int
    after: int
    input_ids: np.ndarray
    valid: np.ndarray
    vocabulary: dict[int, tuple[bytes, str]]
    direct: Table
    histograms: dict[str, np.ndarray]

    @property
    def width(self) -> int:
        """Neurons of each layer."""
        return self.values.shape[2]

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.input_ids.shape[1]

    @cached_property
    def properties(self) -> tuple[str, ...]:
        """The properties with an explained variance, in the order of the table."""
        names = [name.removeprefix("ev_") for name in self.neurons if name.startswith("ev_")]
        return tuple(name for name in names if name != "property")

    def row(self, layer: int, neuron: int) -> int:
        """The row of a neuron in `neurons`. Raises UserError if there is no such neuron."""
        if layer not in self.layers:
            known = ", ".join(map(str, self.layers))
            raise UserError(f"{layer}/{neuron}: {self.given} has no layer {layer}; give one of {known}")
        if not 0 <= neuron < self.width:
            raise UserError(f"{layer}/{neuron}: {self.given} has neurons 0 to {self.width - 1} in each layer")
        return int(np.searchsorted(self.layers, layer)) * self.width + neuron

    def texts(self, sequence: int) -> list[str]:
        """The readable text of each token of a row of `input_ids`."""
        ids = self.input_ids[sequence][self.valid[sequence]].tolist()
        return readable([self.vocabulary[one][0] for one in ids])


def read(folder: Path, site: str | None = None, given: str | None = None) -> Subject:
    """Reads a run of `top_contexts`. Its `summary.json` need not be written yet.

    Args:
        folder: the run folder.
        site: which one, of a run of several.
        given: what messages call the run; the folder if not given.

    Raises:
        UserError: it is another folder, or the run is of several sites and none is given, or a file cannot be read.
    """
    from safetensors import SafetensorError

    given = str(folder) if given is None else given
    ending = "" if site is None or not (folder / f"contexts_{site}.parquet").exists() else f"_{site}"
    if not ending and not (folder / NEEDED[0]).exists():
        sites = sorted(path.stem.removeprefix("contexts_") for path in folder.glob("contexts_*.parquet"))
        if sites and site is None:
            raise UserError(f"{given}: is of several sites; give --site, in Python site=, one of {', '.join(sites)}")
        if sites:
            raise UserError(f"--site {site}: {given} has no such site; give one of {', '.join(sites)}")
    known = _sites(folder) if site is not None and not ending else ()
    if known and site not in known:
        raise UserError(f"--site {site}: {given} has no such site; give one of {', '.join(known)}")
    files = {name: folder / name.replace(".", f"{ending}.", 1) for name in NEEDED}
    missing = [path.name for path in (*files.values(), folder / NEURONS) if not path.exists()]
    if missing:
        raise UserError(
            f"{given}: is no run of experiment=top_contexts ({', '.join(missing)} missing); give the folder of one"
        )
    try:
        return _read(folder, site, given, ending, files)
    except (*_UNREADABLE, SafetensorError) as error:
        raise UserError(
            f"{given}: its contexts cannot be read ({one_line(error)}); give the folder of a whole run"
        ) from error


def _sites(folder: Path) -> tuple[str, ...]:
    """The sites that the run's options name; none if they cannot be read."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        site = OmegaConf.select(OmegaConf.load(folder / CONFIG), "experiment.site")
    except (*_UNREADABLE, OmegaConfBaseException, YAMLError):
        return ()
    return (site,) if isinstance(site, str) else tuple(map(str, site or ()))


def _read(folder: Path, site: str | None, given: str, ending: str, files: dict[str, Path]) -> Subject:
    from neurexp.io.files import read_table

    neurons = read_table(folder / NEURONS)
    if SITE in neurons and site is not None:
        own = neurons[SITE] == site
        neurons = {name: values[own] for name, values in neurons.items() if name != SITE}
    windows, notes = _tensors(files["windows.safetensors"])
    levels, layers = windows["levels"], windows["layers"]
    known, _ = _tensors(files["context_tokens.safetensors"])
    _check_grid(neurons, layers, levels.shape[2])
    names = ["layer", "neuron", "end", "rank", "value", "sequence", "position", "token_id"]
    contexts = _some_columns(files["contexts.parquet"], names)
    at = (
        np.searchsorted(layers, contexts["layer"]),
        (contexts["end"] == ENDS[1]).astype(np.int64),
        contexts["neuron"],
        contexts["rank"],
    )
    rows = np.searchsorted(known["sequences"], contexts["sequence"])
    if (
        len(rows)
        and not (known["sequences"][np.minimum(rows, len(known["sequences"]) - 1)] == contexts["sequence"]).all()
    ):
        raise ValueError("a context's sequence is not among context_tokens")
    values = np.full(levels.shape[:4], np.nan, dtype=np.float32)
    places, token_ids = (np.full(levels.shape[:4], -1, dtype=np.int64) for _ in range(2))
    values[at] = contexts["value"]
    places[at] = rows * known["input_ids"].shape[1] + contexts["position"]
    token_ids[at] = contexts["token_id"]
    words = read_table(files["vocabulary.parquet"])
    vocabulary = {
        int(one): (bytes.fromhex(spelled), str(token))
        for one, token, spelled in zip(words["token_id"], words["token"], words["bytes"], strict=True)
    }
    if not set(np.unique(known["input_ids"][known["valid"]]).tolist()) <= set(vocabulary):
        raise ValueError("a token of context_tokens is not in the vocabulary")
    direct, histograms = (folder / f"{name}{ending}" for name in ("direct", "neuron_histograms"))
    of_direct, of_histograms = direct.with_suffix(".parquet"), histograms.with_suffix(".safetensors")
    return Subject(
        given=given,
        site=site,
        layers=layers,
        neurons=neurons,
        columns=definitions_in(folder),
        values=values,
        places=places,
        token_ids=token_ids,
        levels=levels,
        before=int(notes["before"]),
        after=int(notes["after"]),
        input_ids=known["input_ids"],
        valid=known["valid"],
        vocabulary=vocabulary,
        direct=read_table(of_direct) if of_direct.exists() else {},
        histograms=_tensors(of_histograms)[0] if of_histograms.exists() else {},
    )


def _tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _some_columns(path: Path, names: list[str]) -> Table:
    from pyarrow import parquet

    table = parquet.read_table(path, columns=names)
    return {name: table[name].to_numpy() for name in names}


def _check_grid(neurons: Table, layers: np.ndarray, width: int) -> None:
    """Raises ValueError unless the table has a row for each layer and neuron, in order."""
    wanted = np.repeat(layers, width), np.tile(np.arange(width), len(layers))
    for name, values in zip(("layer", "neuron"), wanted, strict=True):
        if not np.array_equal(neurons[name], values):
            raise ValueError(f"the column {name} of neurons.parquet does not fit windows.safetensors")
