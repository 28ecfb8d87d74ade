"""A finished run, read back from its folder: its summary, its tables, its options and what its columns mean.

Knows no experiment and no MLflow: whoever has an id of a run downloads its folder first. The text of every mistake
begins with the run as the user gave it.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from neurexp.errors import UserError, one_line
from neurexp.io.files import read_table
from neurexp.report.folder import CONFIG, HYDRA, LAYERS, NEURONS, SUMMARY, definitions_in
from neurexp.report.report import SITE, Table

# Entries of `summary.json` that every finished run has
NEEDED = {"setting": str, "experiment": str, "statistic": str, "model_layers": int, "metrics": dict}
_UNREADABLE = (ValueError, TypeError, AttributeError, OSError, RecursionError, YAMLError, OmegaConfBaseException)


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Args:
        given: the run as the user gave it, with the option's name: `experiment.run=outputs/…`; messages begin with it.
        place: its folder, or its id in MLflow.
        folder: of its files; a temporary one for a run that was downloaded.
        summary: `summary.json`.
        layers: `layers.parquet`, a row for each layer (and site).
        neurons: `neurons.parquet`, a row for each neuron.
    """

    given: str
    place: str
    folder: Path
    summary: dict[str, Any]
    layers: Table
    neurons: Table

    @cached_property
    def options(self) -> DictConfig:
        """The run's whole configuration, as Hydra composed it. Raises UserError if it cannot be read."""
        try:
            return DictConfig(OmegaConf.load(self.folder / CONFIG))
        except _UNREADABLE as error:
            raise UserError(f"{self.given}: its {CONFIG} cannot be read ({one_line(error)})") from error

    @cached_property
    def columns(self) -> dict[str, str]:
        """What each column and metric means. Raises UserError if it cannot be read."""
        try:
            return definitions_in(self.folder)
        except _UNREADABLE as error:
            raise UserError(f"{self.given}: its data dictionary cannot be read ({one_line(error)})") from error

    @cached_property
    def neurons_hash(self) -> str:
        """SHA-256 of `neurons.parquet`: what was found."""
        return hashlib.sha256((self.folder / NEURONS).read_bytes()).hexdigest()

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return self.summary["experiment"]

    @property
    def facts(self) -> dict[str, Any]:
        """The run's provenance."""
        known = self.summary.get("provenance")
        return known if isinstance(known, dict) else {}

    @property
    def depth(self) -> np.ndarray:
        """Relative depth of each captured layer: 0 the model's first, 1 its last."""
        return self.layers["layer"] / max(1, self.summary["model_layers"] - 1)

    def by_layer(self, column: str) -> list[np.ndarray]:
        """A column of the neurons' table, an array per layer."""
        return [self.neurons[column][self.neurons["layer"] == layer] for layer in self.layers["layer"]]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that were captured; none where neither the tables nor the options name one."""
        if SITE in self.neurons:
            return tuple(dict.fromkeys(map(str, self.neurons[SITE])))
        site = OmegaConf.select(self.options, "experiment.site")
        return (site,) if isinstance(site, str) else tuple(site or ())

    def by_site(self) -> "list[FinishedRun]":
        """A run of several sites as one run for each of them; a run of one site as it is."""
        if SITE not in self.neurons:
            return [self]
        return [self._only(site) for site in dict.fromkeys(self.layers[SITE].tolist())]

    def at_site(self, site: str | None = None) -> "FinishedRun":
        """The run as if it had captured this site only; None stands for the site of a run of one.

        Raises:
            UserError: the run has no such site, or has several and none is given.
        """
        there = ", ".join(self.sites)
        if site is None:
            if len(self.sites) > 1:
                raise UserError(f"{self.given}: is of several sites; give experiment.run_site= one of {there}")
            return self.by_site()[0]
        if site not in self.sites:
            raise UserError(f"experiment.run_site={site}: {self.given} has no such site; give one of {there}")
        return self._only(site) if SITE in self.neurons else self

    def _only(self, site: str) -> "FinishedRun":
        layers, neurons = (
            {name: values[table[SITE] == site] for name, values in table.items()}
            for table in (self.layers, self.neurons)
        )
        metrics = {name.removeprefix(f"{site}/"): value for name, value in self.summary["metrics"].items()}
        options = (self.summary.get("options") or {}) | {"experiment.site": site}
        summary = self.summary | {"metrics": metrics, "options": options}
        return replace(self, summary=summary, layers=layers, neurons=neurons)

    def check_model(self, name: str, weights_hash: str) -> None:
        """Checks that a model is the one that the run was made with.

        Args:
            name: the model's, as `model.name` gives it.
            weights_hash: `LanguageModel.weights_hash`.

        Raises:
            UserError: it is another one, or has other weights or another number format.
        """
        if self.facts.get("model_hash") == weights_hash:
            return
        own = str(self.facts.get("model_name", self.summary.get("model")))
        label = self.summary["setting"].removesuffix(f" on {self.summary.get('dataset')}")
        known = label if label == own else f"{label} ({own})"
        what = "another model" if name != own else "other weights, or another number format"
        wanted = " ".join(self._model_as_typed()) or f"model.name={own}"
        raise UserError(f"{self.given}: is of {known}, and model.name={name} gives {what}; give {wanted}")

    def _model_as_typed(self) -> list[str]:
        """The overrides of that run's command line that name its model."""
        with suppress(*_UNREADABLE):
            typed = [str(one) for one in OmegaConf.load(self.folder / HYDRA / "overrides.yaml")]
            ours = ["model=", "model.", "device.dtype="]
            ours += ["run.seed="] if self.facts.get("model_weights") == "random" else []
            chosen = [one for one in typed if one.lstrip("+").startswith(tuple(ours))]
            if any(one.startswith("model=") for one in chosen):
                return chosen
            settings = OmegaConf.load(self.folder / HYDRA / "hydra.yaml")
            return [f"model={OmegaConf.select(settings, 'hydra.runtime.choices.model')}", *chosen]
        return []


def read_finished(folder: Path, given: str, place: str | None = None, tables: bool = True) -> FinishedRun:
    """Reads the folder of a finished run.

    Args:
        folder: the run folder.
        given: what messages call it (see `FinishedRun`).
        place: its id, for a run that was downloaded; the folder if not given.
        tables: whether it must have tables of layers and neurons; a benchmark has none, and they are empty then.

    Raises:
        UserError: the folder is not that of a finished run with a table of neurons, or cannot be read.
    """
    needed = (SUMMARY, LAYERS, NEURONS) if tables or _is_sweep(folder) else (SUMMARY,)
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        hint = "; this is a sweep: give the folders of its jobs" if _is_sweep(folder) else ""
        raise UserError(f"{given}: not the folder of a finished run ({', '.join(missing)} missing){hint}")
    try:
        summary = json.loads((folder / SUMMARY).read_text("utf-8"))
        files = [folder / name for name in (LAYERS, NEURONS)]
        layers, neurons = (read_table(file) if file.exists() else {} for file in files)
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{given}: cannot be read ({one_line(error)}); give the folder of a finished run") from error
    known = summary if isinstance(summary, dict) else {}
    wrong = [name for name, kind in NEEDED.items() if not isinstance(known.get(name), kind)]
    if wrong:
        raise UserError(f"{given}: its summary.json is not that of one finished run ({', '.join(wrong)} missing)")
    if not all("layer" in table for table in (layers, neurons) if table):
        raise UserError(f"{given}: its layers.parquet or neurons.parquet has no column layer")
    return FinishedRun(given, str(folder) if place is None else place, folder, summary, layers, neurons)


def _is_sweep(folder: Path) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return json.loads((folder / SUMMARY).read_text("utf-8")).get("experiment") == "sweep"
    return (folder / "multirun.yaml").exists()
