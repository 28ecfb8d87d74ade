"""Horizontal bars with whiskers about a reference of 1: how much longer, or shorter, each case takes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from neurexp.figures.style import GROUP_STYLES, bare, new_figure, set_title

# Of different lightness, and hatched: kinds are told apart in grey and by the colour-blind
KINDS = {
    "ours": (GROUP_STYLES[2]["color"], ""),
    "others": (GROUP_STYLES[0]["color"], "//"),
    "reference": ("#bbbbbb", ""),
    "limit": ("white", ".."),
}


def ratio_bars(
    names: Sequence[str],
    kinds: Sequence[str],
    ratios: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    notes: Sequence[str],
    reference: str,
    title: str,
    detail: str,
    xlabel: str,
) -> Figure:
    """A bar for each case from the top down, a whisker from its smallest to its largest ratio, a line at 1.

    Args:
        names: `[cases]`.
        kinds: `[cases]`, each of `KINDS`.
        ratios, low, high: `[cases]`; `low` and `high` NaN where there is no spread.
        notes: `[cases]`, written beside the bars.
        reference: what the line at 1 stands for.
        title, detail, xlabel: texts.
    """
    figure = new_figure(8.5, 1.9 + 0.46 * len(names))
    axes = figure.add_subplot()
    rows = np.arange(len(names))
    for row, (kind, ratio) in enumerate(zip(kinds, ratios, strict=True)):
        color, hatch = KINDS[kind]
        axes.barh(row, ratio, height=0.62, edgecolor="black", linewidth=0.8, color=color, hatch=hatch)
    spread = np.isfinite(low) & np.isfinite(high)
    if spread.any():
        around = np.stack([ratios - low, high - ratios]).clip(min=0)[:, spread]
        axes.errorbar(ratios[spread], rows[spread], xerr=around, fmt="none", ecolor="black", capsize=4, linewidth=1.4)
    ends = np.where(spread, np.fmax(ratios, high), ratios)
    axes.axvline(1, color="black", linestyle="--", linewidth=1.2)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # the line at 1 does not cross a number
    for row, (end, note) in enumerate(zip(ends, notes, strict=True)):
        axes.annotate(
            note, (end, row), xytext=(8, 0), textcoords="offset points", va="center", fontsize=8, bbox=paper
        )  # fmt: skip
    axes.annotate(
        reference, (1, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
        ha="center", va="bottom", fontsize=8,
    )  # fmt: skip
    axes.set(xlabel=xlabel, xlim=(0, max(1.0, float(ends.max())) * 1.35), ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    bare(axes)
    set_title(figure, title, detail)
    return figure
