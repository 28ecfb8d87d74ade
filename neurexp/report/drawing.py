"""Draws the figures and pages of a report into its folder. Knows no experiment."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from neurexp.console.forks import shared_out
from neurexp.io.files import whole_file
from neurexp.report.folder import FIGURES
from neurexp.report.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_figures(folder: Path, report: Report, formats: Sequence[str] = ("png",)) -> None:
    """Draws every figure, writes it in each of the formats, and writes every page, into `folder/figures`.

    Forks of this process draw some of the figures: drawing is all Python, which keeps one processor busy.
    """
    (folder / FIGURES).mkdir(exist_ok=True)
    if len(report.figures) > 1:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401 (once here, and not in each fork)
    longest_first = list(reversed(report.figures))  # the later ones tend to have more panels
    shared_out(partial(_write_figure, folder / FIGURES, report, formats), longest_first)
    for name, write in report.pages.items():
        with whole_file(folder / FIGURES / f"{name}.html") as path:
            path.write_text(write(), "utf-8")


def _write_figure(folder: Path, report: Report, formats: Sequence[str], name: str) -> None:
    figure = report.figures[name]()
    for ending in formats:
        with whole_file(folder / f"{name}.{ending}") as path:
            _save(figure, path, ending, name)


def _save(figure: "Figure", path: Path, ending: str, name: str) -> None:
    """Writes a figure, the same bytes whenever it is drawn; a pdf has fonts of the kind that journals ask for."""
    from matplotlib import rc_context

    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with rc_context({"svg.hashsalt": name, "pdf.fonttype": 42}):
        figure.savefig(path, format=ending, metadata=undated.get(ending))
