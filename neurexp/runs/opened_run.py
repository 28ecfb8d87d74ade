"""A finished run, opened from Python: `run = neurexp.open_run("outputs/…")`, then `run.findings`, `run.neurons`, …

Tables are pandas DataFrames, read when they are first asked for. Knows no experiment: what a run has is what its folder
holds. Imports nothing heavy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurexp.errors import UserError, closest, printable
from neurexp.report.finished import FinishedRun
from neurexp.report.folder import LOG
from neurexp.report.report import SITE
from neurexp.runs.contents import Contents, Figures, Tables, Tensors

if TYPE_CHECKING:
    import numpy as np
    from pandas import DataFrame

    from neurexp.pages.card import Card
    from neurexp.pages.subject import Subject

SIGNS = ("any", "both", "+", "-")
SHOWN = 10  # neurons in a notebook's view


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run. A notebook shows its findings, its strongest neurons and its figures."""

    finished: FinishedRun

    @property
    def folder(self) -> Path:
        """Its files; a temporary folder for a run that was downloaded from MLflow."""
        return self.finished.folder

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return self.finished.experiment

    @property
    def title(self) -> str:
        """The model and the text."""
        return self.finished.summary["setting"]

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json`: metrics, findings, provenance, seconds, …"""
        return self.finished.summary

    @property
    def metrics(self) -> dict[str, float]:
        """Name → number, as MLflow has them; `describe(name)` says what it means."""
        return self.summary["metrics"]

    @cached_property
    def findings(self) -> list[str]:
        """The sentences that the run printed."""
        known = self.summary.get("findings")
        if isinstance(known, list):
            return list(map(str, known))
        log = self.folder / LOG  # of a folder that an earlier version made
        lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
        return [line.removeprefix("  • ") for line in lines if line.startswith("  • ")]

    @cached_property
    def tables(self) -> "Mapping[str, DataFrame]":
        """Every table of the folder by the name of its file: `neurons`, `layers`, and what the experiment adds."""
        return Tables(self.folder, self.finished.given)

    @property
    def neurons(self) -> "DataFrame":
        """A row for each neuron, with every statistic. Raises UserError for a run without neurons."""
        return self.tables["neurons"]

    @property
    def layers(self) -> "DataFrame":
        """A row for each layer. Raises UserError for a run without layers."""
        return self.tables["layers"]

    @property
    def words(self) -> "DataFrame":
        """The words that the run compared. Raises UserError for a run without words."""
        return self.tables["words"]

    @cached_property
    def tensors(self) -> "Mapping[str, Mapping[str, np.ndarray]]":
        """Every file of tensors by its name; a tensor is read when it is asked for."""
        return Contents(self.folder, "safetensors", "tensors", Tensors, self.finished.given)

    @property
    def activations(self) -> "Mapping[str, np.ndarray]":
        """The activations that the run kept: `MLP_8` is `[words, neurons]`, row by row those of `words`.

        Raises:
            UserError: it kept none; `neurexp.capture` gives those of any text.
        """
        if "activations" not in self.tensors and "activations" not in " ".join(self.tensors):
            hint = "contrasts (grammar_tuning) keep theirs, and neurexp.capture gives those of any text"
            raise UserError(f"{self.finished.given}: the run of {self.experiment} kept no activations; {hint}")
        return self.tensors["activations"]

    @cached_property
    def figures(self) -> Figures:
        """Name → figure. A notebook shows it; `.path` is its file."""
        return Figures(self.folder, self.finished.given)

    def describe(self, name: str | None = None) -> "str | DataFrame":
        """What a column, metric or tensor means: `run.describe("r_length_low")`. Without a name, the data dictionary.

        Raises:
            UserError: the run has no such name.
        """
        known = self.finished.columns
        if name is None:
            from pandas import DataFrame

            return DataFrame({"name": list(known), "definition": list(known.values())}).set_index("name")
        if name in known:
            return known[name]
        within = [one for one in known if one.partition(".")[2] == name]  # of a further table
        if within:
            return known[within[0]]
        base, _, ending = name.rpartition("_")
        if base in known and ending in ("control", "excess"):
            return f"{base} of the control" if ending == "control" else f"{base} − {base}_control"
        raise UserError(f"{name}: {self.finished.given} has no such column, metric or tensor{closest(name, known)}")

    def top(self, n: int = SHOWN, by: str | None = None, sign: str = "any") -> "DataFrame":
        """The strongest neurons: layer, neuron, the statistic, and its interval and q where the run has them.

        The index is that of `neurons`: `run.neurons.loc[run.top(5).index]` has every column of them.

        Args:
            n: how many.
            by: a column of `neurons`; the one that sums the run up if not given.
            sign: "any": by magnitude; "+": the highest; "-": the lowest; "both": the n highest, then the n lowest.

        Raises:
            UserError: there is no such column, or it is no number, or the run has no neurons.
        """
        import numpy as np
        from pandas.api.types import is_numeric_dtype

        table = self.neurons
        by = str(self.summary["statistic"]) if by is None else by
        if by not in table or not is_numeric_dtype(table[by]):
            numbers = [one for one in table if is_numeric_dtype(table[one])]
            raise UserError(f"top(by={by!r}): no column of numbers in neurons{closest(by, numbers)}")
        if sign not in SIGNS:
            raise UserError(f"top(sign={sign!r}): give {', '.join(map(repr, SIGNS))}")
        known = table[by].to_numpy(float)
        rows = np.flatnonzero(np.isfinite(known))
        values = known[rows]

        def first(keys: np.ndarray) -> np.ndarray:
            return rows[np.argsort(keys, kind="stable")[: max(0, n)]]  # ties go to the earlier layer and neuron

        ways = {"any": [-np.abs(values)], "both": [-values, values], "+": [-values], "-": [values]}[sign]
        what = by.partition("_")[2]
        beside = (f"{by}_low", f"{by}_high", f"q_{by}", f"q_{what}")
        columns = [one for one in dict.fromkeys((SITE, "layer", "neuron", by, *beside)) if one in table]
        return table.iloc[np.concatenate([first(keys) for keys in ways])][columns]

    def neuron(self, layer: int, index: int, site: str | None = None) -> "Card":
        """What the run knows of one neuron. A notebook shows it; `.statistics` are its numbers, `.figure()` draws it.

        A run of `top_contexts` has its contexts, other runs have their row of `neurons`.

        Args:
            layer: block index, from 0.
            index: of the neuron.
            site: of the neuron, in a run of several sites.

        Raises:
            UserError: the run has no neurons, or no such neuron or site.
        """
        from neurexp.pages.card import card_of, card_of_row

        title = ", ".join((self.title, *(self.finished.sites if site is None else (site,))))
        if not any(self.folder.glob("contexts*.parquet")):
            if site is None and len(self.finished.by_site()) > 1:
                there = ", ".join(self.finished.sites)
                raise UserError(f"{self.finished.given}: is of several sites; give site= one of {there}")
            neurons = self.finished.at_site(site).neurons
            return card_of_row(neurons, self.finished.columns, title, layer, index, self.finished.given)
        from neurexp.pages.subject import read

        subject = self._subjects.get(site) or read(self.finished.folder, site, self.finished.given)
        self._subjects[site] = subject
        return card_of(subject, title, layer, index)

    @cached_property
    def _subjects(self) -> "dict[str | None, Subject]":
        return {}

    def __repr__(self) -> str:
        return printable(f"<Run of {self.experiment}: {self.title}, in {self.finished.place}>")

    def _repr_html_(self) -> str:
        from neurexp.runs.display import as_html

        strongest = None
        if "neurons" in self.tables and self.summary["statistic"] in self.tables["neurons"]:
            strongest = self.top(SHOWN)
        heading = f"{self.experiment}: {self.title}"
        return as_html(heading, self.finished.place, self.findings, strongest, self.finished.columns, self.figures)


def open_run(run: str | Path, uri: str | None = None, outputs: str | Path = "outputs") -> Run:
    """Opens a finished run.

    Args:
        run: its folder, or its id in MLflow.
        uri: of the MLflow store; MLFLOW_TRACKING_URI, or the one in `outputs`, if not given.
        outputs: the folder of all outputs.

    Raises:
        UserError: neither a finished run's folder nor a run id.
    """
    from neurexp.runs.compare import read_run
    from neurexp.runs.source import folder_with_id

    folder = folder_with_id(str(run), Path(outputs).expanduser()) if uri is None else None
    return Run(read_run(str(folder or run), uri, Path(outputs).expanduser(), tables=False, option="uri="))
