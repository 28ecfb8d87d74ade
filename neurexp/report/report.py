"""The report of an experiment: metrics, tables with their data dictionary, tensors and figures.

Knows neither where a report is written nor which experiment made it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = dict[str, np.ndarray]  # column → values, all of one length
CONTROL_NEURONS = "neurons_control"  # the table of a control's neurons
CONTROL_RULE = "NAME_control"  # in the data dictionary: how the names of a control's numbers are made
SITE = "site"  # the first column of tables with rows of several sites


def by_neuron(layers: Sequence[int], tables: Sequence[Table]) -> Table:
    """The layers' tables one below the other, a row for each neuron, with the columns `layer` and `neuron` first.

    Args:
        layers: block indices.
        tables: of each layer, with the same columns `[neurons]`.
    """
    count = len(next(iter(tables[0].values())))
    places = {"layer": np.repeat(layers, count), "neuron": np.tile(np.arange(count), len(layers))}
    return places | {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}


def by_layer(layers: Sequence[int], rows: Sequence[Mapping[str, float]]) -> Table:
    """A table with a row for each layer, and the column `layer` first."""
    return {"layer": np.array(layers)} | {name: np.array([row[name] for row in rows]) for name in rows[0]}


@dataclass
class Report:
    """The result of one run.

    `columns` is the data dictionary: it defines every column of `layers` and `neurons`, every metric, and every tensor
    and further table's column as `FILE.NAME`. The numbers of a control are defined by one rule, `CONTROL_RULE`.
    """

    findings: list[str]  # the sentences that a person reads first
    metrics: dict[str, float]
    layers: Table  # a row per layer, with the column `layer`
    neurons: Table  # a row per layer and neuron
    columns: dict[str, str]
    statistic: str  # the column of `neurons` that summarises the run
    of_the_text: frozenset[str] = frozenset()  # metrics that do not depend on the model
    shares: dict[str, str] = field(default_factory=dict)  # metric → what this share of the neurons does, as a verb
    tensors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # file name without ending → tensors
    notes: dict[str, dict[str, str]] = field(default_factory=dict)  # file of tensors → its metadata
    tables: dict[str, Table] = field(default_factory=dict)  # file name without ending → a further table
    figures: dict[str, Callable[[], "Figure"]] = field(default_factory=dict)  # file name without ending → drawing
    pages: dict[str, Callable[[], str]] = field(default_factory=dict)  # file name without ending → a page of HTML
    # Folder name → writer (folder to fill, run folder): it reads the tables and tensors, which are written by then
    folders: dict[str, Callable[[Path, Path], None]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)  # facts that only the analysis could know
    step_column: str | None = "layer"  # of `layers`: MLflow's step; None if rows share a step
    # Columns of `layers` that summarise it → their label in figures, and the column of their null or ""
    over_layers: dict[str, tuple[str, str]] = field(default_factory=dict)

    def names(self) -> set[str]:
        """Everything that the data dictionary must define."""
        more = (self.tensors | self.tables).items()
        names = {*self.layers, *self.neurons, *self.metrics}
        within = {f"{file}.{name}" for file, table in more for name in table}
        if CONTROL_RULE not in self.columns:
            return names | within
        by_rule = {
            name for name in names if name.endswith(("_control", "_excess")) and name.rpartition("_")[0] in names
        }
        return (names - by_rule) | {name for name in within if not name.startswith(CONTROL_NEURONS)} | {CONTROL_RULE}

    def check(self) -> None:
        """Raises ValueError for an undefined column, unequal lengths, a name used twice, or a metric that is not
        finite."""
        twice = set(self.metrics) & set(self.layers)
        if twice:
            raise ValueError(f"metrics that are named as columns of layers, which MLflow could not tell apart: {twice}")
        undefined = self.names() - set(self.columns)
        if undefined:
            raise ValueError(f"no definition in the data dictionary for {sorted(undefined)}")
        for name, table in {"layers": self.layers, "neurons": self.neurons, **self.tables}.items():
            if len({len(values) for values in table.values()}) > 1:
                raise ValueError(f"the columns of {name} differ in length")
        not_finite = [name for name, value in self.metrics.items() if not np.isfinite(value)]
        if not_finite:
            raise ValueError(f"metrics that are no number: {not_finite}")


@dataclass(frozen=True)
class Control:
    """What a run is compared with, in the words of reports."""

    label: str  # before its findings
    meaning: str  # in definitions of columns
    where: str  # in sentences, after a share of neurons
    neurons: str  # what its neurons have in common with the run's


CONTROLS = {
    "random": Control(
        label="random weights",
        meaning="the same architecture with random weights",
        where="in the same network with random weights",
        neurons="its neurons have nothing but their places in common with the run's",
    ),
    "shuffled_text": Control(
        label="words shuffled",
        meaning="the same model over the text with its words shuffled",
        where="in the same model over the text with its words shuffled",
        neurons="its neurons are the run's",
    ),
}


def with_control(report: Report, control: Report, kind: str = "random") -> Report:
    """Adds the numbers of a control to the report, and the excess of every metric over the control.

    `NAME_control` and `NAME_excess` = NAME − NAME_control for every metric that depends on the model (no excess for
    the index of a layer or neuron), a column `NAME_control` in `layers` likewise, and the table of the control's
    neurons. The data dictionary has one entry for all. The first finding compares the report's `shares` with the
    control's.

    Args:
        report: of the run.
        control: the report of the same experiment on the control.
        kind: of `CONTROLS`.
    """
    words, columns = CONTROLS[kind], dict(report.columns)
    metrics, layers = dict(report.metrics), dict(report.layers)
    for name, value in report.metrics.items():
        other = control.metrics.get(name)
        if other is not None and name not in report.of_the_text:
            metrics[f"{name}_control"] = other
            if not name.endswith(("_layer", "_neuron")):  # a place, not a quantity
                metrics[f"{name}_excess"] = value - other
    for name in report.layers:
        if name != "layer" and not name.startswith("rows_"):
            layers[f"{name}_control"] = control.layers[name]
    columns[CONTROL_RULE] = (
        f"NAME of the control: {words.meaning}; NAME_excess is NAME − NAME_control. So the metrics that depend on the "
        "model and the columns of layers.parquet are named"
    )
    tables = dict(report.tables)
    if control.neurons:
        tables[CONTROL_NEURONS] = control.neurons
        columns[CONTROL_RULE] += f". {CONTROL_NEURONS}.parquet is neurons.parquet of the control; {words.neurons}"
    sentences = [
        f"{report.metrics[name]:.1%} of the neurons {what}, against {control.metrics[name]:.1%} {words.where}: "
        f"{_excess(report.metrics[name] - control.metrics[name])}."
        for name, what in report.shares.items()
        if name in report.metrics and name in control.metrics
    ]
    headline = [" ".join(sentences)] if sentences else []
    findings = headline + report.findings + [f"Control ({words.label}): {line}" for line in control.findings[1:]]
    return replace(report, findings=findings, metrics=metrics, layers=layers, columns=columns, tables=tables)


def _excess(share: float) -> str:
    points = f"{abs(100 * share):.1f} percentage points"
    return f"an excess of {points}" if share >= 0 else f"{points} fewer"


def join_sites(reports: Mapping[str, Report]) -> Report:
    """One report of several sites' reports; that of a single site as it is.

    Tables of layers and neurons get a first column `site`. Metrics are named `SITE/NAME`, unless they are of the text
    only. Files of tensors, tables and figures, and folders, are named `NAME_SITE`. A finding begins with its site,
    unless it is the same for all.
    """
    first = next(iter(reports.values()))
    if len(reports) == 1:
        return first
    for report in reports.values():
        report.check()
    joined = replace(
        first, findings=[], metrics={}, tensors={}, notes={}, tables={}, figures={}, pages={}, folders={},
        columns=first.columns | {SITE: "the site of the row (docs/models.md)"},
        layers=_stacked({site: report.layers for site, report in reports.items()}),
        neurons=_stacked({site: report.neurons for site, report in reports.items()}),
    )  # fmt: skip
    for site, report in reports.items():
        for name, value in report.metrics.items():
            own = name if name in report.of_the_text else f"{site}/{name}"
            joined.metrics[own] = value
            if name in report.columns:  # not the numbers of a control
                joined.columns[own] = report.columns[name]
        for name, meaning in report.columns.items():
            joined.columns.setdefault(name, meaning)
            file, _, within = name.partition(".")
            if within:
                joined.columns[f"{file}_{site}.{within}"] = meaning
        for line in report.findings:
            everywhere = all(line in other.findings for other in reports.values())
            if not (everywhere and line in joined.findings):
                joined.findings.append(line if everywhere else f"{site}: {line}")
        for kind in ("tensors", "notes", "tables", "figures", "pages", "folders"):
            getattr(joined, kind).update({f"{name}_{site}": one for name, one in getattr(report, kind).items()})
    return joined


def _stacked(tables: Mapping[str, Table]) -> Table:
    """Tables below each other, with the column `site` first. A column that one of them lacks is left out there: NaN,
    or −1 among whole numbers."""
    names = dict.fromkeys(name for table in tables.values() for name in table)
    if not names:
        return {}
    rows = {site: len(next(iter(table.values()), ())) for site, table in tables.items()}
    stacked: Table = {SITE: np.repeat(list(tables), list(rows.values()))}
    for name in names:
        kind = next(table[name] for table in tables.values() if name in table).dtype
        missing = -1 if kind.kind in "iu" else "" if kind.kind in "UO" else np.nan
        stacked[name] = np.concatenate(
            [table[name] if name in table else np.full(rows[site], missing) for site, table in tables.items()]
        )
    return stacked
