"""Distributions: of a count over the tokens, and of activations by group for every layer."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.ticker import MaxNLocator

from neurexp.figures.style import GROUP_STYLES, WIDEST, bare, legend_above, new_figure, set_title


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
        axes.set_xticks(range(int(values.min()), int(values.max()) + 1, 1 if values.max() <= 25 else 2))
    axes.set(xlabel=xlabel, ylabel="share of tokens (%)")
    legend_above(axes)
    bare(axes)
    set_title(figure, title, detail)
    return figure


def _stairs(axes: Axes, values: np.ndarray, edges: np.ndarray, label: str, **style: Any) -> None:
    """Draws what `axes.stairs` does. That takes ten times as long: it looks for the extrema of each straight line."""
    style = {"ec" if name == "color" else name: value for name, value in style.items()}
    patch = StepPatch(values, edges, baseline=0, fill=False, label=label, **style)
    axes.add_artist(patch)
    patch.sticky_edges.y.append(0)
    axes.update_datalim([(edges[0], 0), (edges[-1], values.max())])
    axes.autoscale_view()


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
    columns = min(layers, 3 if layers <= 12 else 5 if layers <= 30 else 6)
    rows = math.ceil(layers / columns)
    heading, foot, row = 0.75, 1.0, 2.1 if layers <= 12 else 1.45  # inches
    figure = new_figure(min(3.6 * columns, WIDEST), heading + foot + row * rows, layout=None)
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
                _stairs(axes, counts[panel, group] / total / width, edges[panel], label=label, **GROUP_STYLES[group])
        if len(occupied):
            # The view is the bulk: the far tails are counted in the file, but would squeeze the shapes
            cumulative = np.cumsum(counts[panel].sum(0)) / counts[panel].sum()
            first, last = np.searchsorted(cumulative, (0.0005, 0.9995))
            axes.set_xlim(edges[panel][first], edges[panel][min(last + 1, len(width))])
        axes.axvline(0, color="black", linewidth=0.5)
        axes.set_ylim(0, axes.get_ylim()[1] * (1.25 if row > 2 else 1.7))  # room for the note
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(names[panel], fontsize=9)
        axes.text(0.98, 0.95, notes[panel], transform=axes.transAxes, ha="right", va="top", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.set_yticks([])
        bare(axes)
    if panels.flat[0].patches:
        panels.flat[0].legend(
            loc="upper center", bbox_to_anchor=(0.5, 1 - 0.32 / figure.get_figheight()), ncols=3,
            bbox_transform=figure.transFigure, frameon=False, fontsize=8,
        )  # fmt: skip
    for axes in panels.flat[max(0, layers - columns) : layers]:  # the lowest panel of each column
        axes.set_xlabel(xlabel if row > 2 else textwrap.fill(xlabel, 24), fontsize=8)
    for axes in panels[:, 0]:
        axes.set_ylabel("density (own scale)" if row > 2 else "density", fontsize=8)
    set_title(figure, title, detail)
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=0.35 / width, right=1 - 0.1 / width, bottom=foot / height, top=1 - heading / height, wspace=0.12,
        hspace=0.5 / (row - 0.5),
    )  # fmt: skip
    return figure
