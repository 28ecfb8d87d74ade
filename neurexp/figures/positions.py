"""Where words lie between two categories of words: a point and an interval for each, a panel for each comparison."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from neurexp.figures.style import bare, new_figure, set_title

STYLES = (("#E69F00", "o"), ("#0072B2", "s"), ("#555555", "^"), ("#009E73", "D"), ("#CC79A7", "v"))


def positions(table: Mapping[str, np.ndarray], names: Mapping[str, str], title: str, detail: str) -> Figure:
    """A panel for each comparison, the lowest position at the bottom.

    Args:
        table: columns `comparison`, `kind`, `label`, `position`, `position_low` and `position_high`.
        names: comparison → how its axis names it.
        title, detail: texts.
    """
    comparisons = list(dict.fromkeys(table["comparison"].tolist()))
    most = max(int((table["comparison"] == one).sum()) for one in comparisons)
    figure = new_figure(6.5 * len(comparisons), 2 + 0.16 * most)
    for axes, one in zip(figure.subplots(1, len(comparisons), squeeze=False)[0], comparisons, strict=True):
        rows = np.flatnonzero(table["comparison"] == one)
        kinds = list(dict.fromkeys(table["kind"][rows].tolist()))
        rows = rows[np.argsort(table["position"][rows], kind="stable")]
        for number, kind in enumerate(kinds):
            colour, marker = STYLES[number % len(STYLES)]
            places = np.flatnonzero(table["kind"][rows] == kind)
            middle, low, high = (table[end][rows[places]] for end in ("position", "position_low", "position_high"))
            axes.hlines(places, low, high, color=colour, linewidth=1)
            axes.plot(middle, places, marker, color=colour, markersize=4, linestyle="none", label=kind)
        axes.set_yticks(np.arange(len(rows)), table["label"][rows].tolist(), fontsize=6)
        for edge in (0, 1):
            axes.axvline(edge, color="black", linewidth=0.6, linestyle="--")
        axes.set(xlabel=f"position {names[one]} (0 and 1: the categories)", ylim=(-1, len(rows)))
        axes.legend(framealpha=1, edgecolor="none", fontsize=7, loc="upper left")
        bare(axes)
    set_title(figure, title, detail)
    return figure
