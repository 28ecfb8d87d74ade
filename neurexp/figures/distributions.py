"""Distributions: of a count over the tokens, and of activations by group for every layer."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from neurexp.figures.style import GROUP_STYLES, bare, new_figure, set_title


def split_counts(
    histogram: np.ndarray,
    median: float,
    title: str,
    detail: str,
    xlabel: str,
    groups: tuple[str, str, str] = ("shorter", "equal", "longer"),
) -> Figure:
    """Bars of how many tokens have each value, coloured by their side of the median, which is marked.

    Args:
        histogram: `[values]`, how often each value 0, 1, 2, … occurs.
        median: of these values.
        title, detail, xlabel: texts.
        groups: names of the values below, at and above the median.
    """
    figure = new_figure(8, 4.2)
    axes = figure.add_subplot()
    values = np.flatnonzero(histogram)
    shares = histogram / histogram.sum() * 100
    sides = (
        (values < median, f"{groups[0]} than the median", 0, ""),
        (values == median, groups[1], 1, "///"),
        (values > median, groups[2], 2, "..."),
    )
    for chosen, label, style, hatch in sides:
        if chosen.any():
            total = shares[values[chosen]].sum()
            axes.bar(
                values[chosen],
                shares[values[chosen]],
                color=GROUP_STYLES[style]["color"],
                hatch=hatch,
                edgecolor="white",
                label=f"{label}: {total:.1f} % of tokens",
            )
    axes.axvline(median, color="black", linewidth=1, linestyle="--")
    axes.annotate(
        f"median {median:g}",
        (median, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -10),
        textcoords="offset points",
    )
    if values.max() <= 40:
        axes.set_xticks(range(int(values.min()), int(values.max()) + 1))
    axes.set(xlabel=xlabel, ylabel="share of tokens (%)")
    axes.legend(framealpha=0.9, edgecolor="none")  # a bar may stand behind it
    bare(axes)
    set_title(figure, title, detail)
    return figure


def group_histograms(
    edges: np.ndarray,
    counts: np.ndarray,
    labels: Sequence[str],
    names: Sequence[str],
    notes: Sequence[str],
    title: str,
    detail: str,
    xlabel: str,
) -> Figure:
    """A grid of panels, one a layer: the density of each group's values.

    Args:
        edges: `[layers, bins + 1]`.
        counts: `[layers, groups, bins]`, without under- and overflow.
        labels: the groups' names.
        names: the panels' titles.
        notes: a short text inside each panel.
        title, detail, xlabel: texts.
    """
    layers = len(counts)
    columns = min(layers, 3 if layers <= 12 else 4)
    rows = math.ceil(layers / columns)
    figure = new_figure(3.6 * columns, 1.2 + 2.1 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel, axes in enumerate(panels.flat):
        if panel >= layers:
            axes.set_axis_off()
            continue
        width = np.diff(edges[panel])
        occupied = np.flatnonzero(counts[panel].sum(0))
        for group, label in enumerate(labels):
            total = counts[panel, group].sum()
            if total:
                axes.stairs(counts[panel, group] / total / width, edges[panel], label=label, **GROUP_STYLES[group])
        if len(occupied):
            # The view is the bulk: the far tails are counted in the file, but would squeeze the shapes
            cumulative = np.cumsum(counts[panel].sum(0)) / counts[panel].sum()
            first, last = np.searchsorted(cumulative, (0.0005, 0.9995))
            axes.set_xlim(edges[panel][first], edges[panel][min(last + 1, len(width))])
        axes.axvline(0, color="black", linewidth=0.5)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.25)  # room for the legend and the note
        axes.set_title(names[panel], fontsize=9)
        axes.text(0.98, 0.95, notes[panel], transform=axes.transAxes, ha="right", va="top", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.set_yticks([])
        bare(axes)
    if panels.flat[0].patches:
        panels.flat[0].legend(loc="upper left", frameon=False, fontsize=7, handlelength=1.6)
    for axes in panels.flat[max(0, layers - columns) : layers]:  # the lowest panel of each column
        axes.set_xlabel(xlabel, fontsize=8)
    for axes in panels[:, 0]:
        axes.set_ylabel("density (own scale)", fontsize=8)
    set_title(figure, title, detail)
    return figure
