"""Figures of optimisations: what is reached step by step, and by which way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from neurexp.figures.style import GROUP_STYLES, bare, new_figure, set_title

COLUMNS = 3
LINES = (("--", "black"), (":", "#555555"))


def ascent_curves(
    steps: Sequence[int],
    panels: Mapping[str, np.ndarray],
    levels: Mapping[str, Mapping[str, float]],
    title: str,
    detail: str,
    ylabel: str,
) -> Figure:
    """A panel for each unit: a thin line for each start, a thick one for their mean, and horizontal lines.

    Args:
        steps: `[points]`.
        panels: name → curves `[starts, points]`.
        levels: name → what a horizontal line stands for → where it is.
        title, detail, ylabel: texts.
    """
    rows, columns = -(-len(panels) // COLUMNS), min(COLUMNS, len(panels))
    figure = new_figure(max(6.5, 1.2 + 3.4 * columns), 2.0 + 2.6 * rows)
    color = GROUP_STYLES[2]["color"]
    for index, (name, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for curve in curves:
            axes.plot(steps, curve, color=color, linewidth=0.8, alpha=0.5)
        axes.plot(steps, curves.mean(0), color=color, linewidth=2.2, label="mean of the starts")
        for (line, shade), (text, level) in zip(LINES, levels[name].items(), strict=False):
            axes.axhline(level, linestyle=line, color=shade, linewidth=1.3, label=text)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        if index % columns == 0:
            axes.set_ylabel(ylabel, fontsize=8)
        axes.tick_params(labelsize=8)
        if index == 0:
            axes.legend(fontsize=7, frameon=False)
        bare(axes)
    set_title(figure, title, detail)
    return figure


@dataclass(frozen=True)
class Reached:
    """What a unit reached.

    Args:
        bars: name of a source → the activation of its best string.
        embedding: the activation that embeddings reached.
        random: activations of random strings.
    """

    bars: Mapping[str, float]
    embedding: float
    random: np.ndarray


def reached(panels: Mapping[str, Reached], title: str, detail: str, xlabel: str) -> Figure:
    """A panel for each unit: a bar for each source, a marker for embeddings, a band for random strings."""
    rows, columns = len(panels), 1
    most = max(len(one.bars) for one in panels.values())
    figure = new_figure(8.5, 1.9 + rows * (0.6 + 0.28 * (most + 1)))
    for index, (name, one) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        places = np.arange(len(one.bars))
        values = np.array(list(one.bars.values()))
        best = values == values.max()
        low, high = np.quantile(one.random, [0.025, 0.975])
        axes.axvspan(low, high, color="#dddddd", zorder=0)
        for place, value, is_best in zip(places, values, best, strict=True):
            color, hatch = (GROUP_STYLES[2]["color"], "") if is_best else (GROUP_STYLES[0]["color"], "//")
            axes.barh(place, value, height=0.62, color=color, hatch=hatch, edgecolor="black", linewidth=0.8)
        axes.plot(one.embedding, len(places), marker="D", color="white", markeredgecolor="black", markersize=7)
        axes.axvline(0, color="black", linewidth=0.8)
        for place, value in enumerate([*values, one.embedding]):
            end = max(value, 0.0)
            axes.annotate(
                f"{value:.3g}", (end, place), xytext=(8, 0), textcoords="offset points", va="center", fontsize=8
            )  # fmt: skip
        axes.set_yticks(np.arange(len(places) + 1), [*one.bars, "ascent, embeddings"], fontsize=8)
        axes.set_ylim(len(places) + 0.5, -0.5)
        span = max(*values, one.embedding, high, 0) - min(*values, one.embedding, low, 0)
        axes.set_xlim(right=max(*values, one.embedding, high, 0) + 0.1 * span)
        axes.set_title(name, fontsize=9, loc="left")
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8)
        if index == len(panels) - 1:
            axes.set_xlabel(xlabel, fontsize=8)
        bare(axes)
    set_title(figure, title, detail)
    return figure
