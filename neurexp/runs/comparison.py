"""Finished runs side by side, from Python: `neurexp.compare([RUN, RUN])` has findings, tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from neurexp.errors import UserError, closest
from neurexp.report.report import Report
from neurexp.runs.contents import Picture
from neurexp.runs.opened_run import Run, open_run

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `python -m neurexp.compare` finds, without its folder. A notebook shows the findings and the figures."""

    runs: tuple[Run, ...]
    report: Report

    @property
    def findings(self) -> list[str]:
        """The sentences that the command prints."""
        return self.report.findings

    @property
    def metrics(self) -> dict[str, float]:
        """NAME_0 is the metric NAME of the first run, and so on."""
        return self.report.metrics

    @cached_property
    def tables(self) -> "dict[str, DataFrame]":
        """`layers`: a row for each run and layer; and further tables."""
        from pandas import DataFrame

        tables = {"layers": self.report.layers, "neurons": self.report.neurons, **self.report.tables}
        return {name: DataFrame(table) for name, table in tables.items() if table}

    @cached_property
    def figures(self) -> dict[str, Picture]:
        """Name → figure, drawn when it is shown; `.figure` is the Matplotlib figure."""
        return {name: Picture(draw=draw) for name, draw in self.report.figures.items()}

    def describe(self, name: str) -> str:
        """What a column or metric means. Raises UserError if there is no such name."""
        known = self.report.columns
        if name not in known:
            raise UserError(f"{name}: the comparison has no such column or metric{closest(name, known)}")
        return known[name]

    def save(self, folder: str | Path) -> Path:
        """Writes tables and figures into a folder, which is made. Returns it."""
        from neurexp.report.drawing import write_figures
        from neurexp.report.folder import write_report

        where = Path(folder).expanduser()
        where.mkdir(parents=True, exist_ok=True)
        write_report(where, self.report)
        write_figures(where, self.report)
        return where

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(map(repr, self.runs))}>"

    def _repr_html_(self) -> str:
        from neurexp.runs.display import as_html

        places = ", ".join(run.finished.place for run in self.runs)
        heading = f"Comparison of {len(self.runs)} runs"
        return as_html(heading, places, self.findings, None, self.report.columns, self.figures)


def compare(
    runs: Sequence[Run | str | Path],
    uri: str | None = None,
    outputs: str | Path = "outputs",
    lead: float = 1.0,
    by: Sequence[str] = (),
) -> Comparison:
    """Compares finished runs: the neurons that lead in several, and runs of one experiment by layers.

    Args:
        runs: opened runs, run folders, or ids in MLflow; two or more.
        uri: of the MLflow store of the ids; MLFLOW_TRACKING_URI, or the one in `outputs`, if not given.
        outputs: the folder of all outputs.
        lead: per cent of a layer's neurons, the largest by |statistic|, that lead in a run.
        by: the statistic: a column for all runs, or one for each; a run's own if not given.

    Raises:
        UserError: fewer than two runs, runs that nothing can be compared of, or a run that cannot be read.
    """
    from neurexp.runs.compare import compare as compared

    if isinstance(runs, str | Path | Run):
        raise UserError("compare: give a list of two runs or more")
    opened = tuple(one if isinstance(one, Run) else open_run(one, uri, outputs) for one in runs)
    for run in opened:
        if not run.finished.neurons:
            raise UserError(f"compare: {run.finished.given} is a run of {run.experiment}, which has no neurons")
    columns = (by,) if isinstance(by, str) else by
    return Comparison(opened, compared([run.finished for run in opened], lead, columns))
