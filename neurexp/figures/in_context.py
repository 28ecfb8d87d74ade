"""A token in its place against the same token alone: r by layer, one neuron's tokens, and shares of variance."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neurexp.figures.fonts import drawable
from neurexp.figures.heat import on_one_line
from neurexp.figures.style import GROUP_STYLES, bare, new_figure, set_title

ORANGE, GREY, BLUE = (style["color"] for style in GROUP_STYLES)
COLUMNS = 3  # panels beside each other
NAMED = 6  # tokens of a panel that are named
LONGEST = 14  # characters of a token that are shown
# Of different lightness, and hatched: told apart in grey and by the colour-blind
PARTS = (("#0072B2", ""), ("#FFFFFF", "...."), ("#F2C879", "//"))


@dataclass(frozen=True)
class ByLayer:
    """One comparison over the layers."""

    quartiles: np.ndarray  # [layers, 3] of the neurons' r
    raw: np.ndarray  # [layers] r over all neurons and tokens
    centred: np.ndarray  # [layers] the same without each neuron's mean
    shuffled: np.ndarray  # [layers] the raw one with tokens paired at random


@dataclass(frozen=True)
class Cloud:
    """One neuron's values of the same tokens in two places."""

    name: str
    x: np.ndarray  # [tokens]
    y: np.ndarray  # [tokens]
    tokens: Sequence[str]
    xlabel: str
    ylabel: str


def r_by_layer(layers: Sequence[int], series: Mapping[str, ByLayer], title: str, detail: str) -> Figure:
    """A panel for each comparison: each neuron's own r, and the pooled r with and without the neurons' means.

    Args:
        layers: block indices.
        series: the name of each comparison → its values.
        title, detail: texts.
    """
    columns = min(COLUMNS, len(series))
    rows = -(-len(series) // columns)
    figure = new_figure(max(7.0, 4.0 * columns), 1.6 + 3.1 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (name, one) in zip(panels.flat, series.items(), strict=False):
        marked = {"marker": "o", "markersize": 3.5} if len(layers) < COLUMNS * 5 else {}
        lone = len(layers) == 1  # a band over one layer has no width
        middle = one.quartiles[:, 1]
        if lone:
            spread = np.abs(one.quartiles[:, [0, 2]] - middle[:, None]).T
            axes.errorbar(layers, middle, spread, fmt="o", color=BLUE, capsize=4, label="each neuron's r: median")
        else:
            axes.fill_between(layers, one.quartiles[:, 0], one.quartiles[:, 2], color=BLUE, alpha=0.25, linewidth=0)
            axes.plot(layers, middle, color=BLUE, linewidth=2.2, label="each neuron's r: median, middle half", **marked)
        style = {"linestyle": "none", "marker": "s"} if lone else {}
        axes.plot(layers, one.centred, **({"color": "black", "linestyle": ":", "linewidth": 1.6} | style),
                  label="pooled, each neuron's mean removed")  # fmt: skip
        axes.plot(layers, one.raw, **({"color": ORANGE, "linestyle": "--", "linewidth": 1.8} | style),
                  label="pooled over neurons and tokens")  # fmt: skip
        axes.plot(layers, one.shuffled, **({"color": GREY, "linestyle": "-.", "linewidth": 1.2} | style),
                  label="pooled, tokens paired at random")  # fmt: skip
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_title(textwrap.fill(name, 44), fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.tick_params(labelbottom=True)
        bare(axes)
    for axes in panels.flat[len(series) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("r over tokens")
    for axes in panels.flat[: len(series)]:
        axes.set_xlabel("layer")
    panels[0, 0].set_ylim(None, 1.03)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    empty = list(panels.flat[len(series) :])
    if empty:  # the place that is left over
        empty[-1].legend(handles, labels, frameon=False, fontsize=9, loc="center")
    else:
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    set_title(figure, title, detail)
    return figure


def tokens_of_a_neuron(clouds: Sequence[Cloud], title: str, detail: str) -> Figure:
    """A panel for each comparison: a dot a token, the regression line, and the tokens farthest from it by name.

    Args:
        clouds: one for each panel.
        title, detail: texts.
    """
    figure = new_figure(max(6.0, 4.3 * len(clouds)), 4.6)
    for axes, one in zip(figure.subplots(1, len(clouds), squeeze=False)[0], clouds, strict=True):
        axes.scatter(one.x, one.y, s=16, color=BLUE, alpha=0.6, linewidth=0)
        if np.ptp(one.x) > 0:
            slope, start = np.polyfit(one.x, one.y, 1)
            ends = np.array([one.x.min(), one.x.max()])
            axes.plot(ends, start + slope * ends, color="black", linewidth=1.2)
            off = np.abs(one.y - start - slope * one.x)
            taken: list[np.ndarray] = []
            size = np.array([np.ptp(one.x), max(float(np.ptp(one.y)), 1e-12)])
            for index in np.argsort(-off, kind="stable")[: 3 * NAMED]:
                place = np.array([one.x[index], one.y[index]]) / size
                if len(taken) == NAMED or any(
                    abs(place[1] - old[1]) < 0.05 and abs(place[0] - old[0]) < 0.3 for old in taken
                ):
                    continue
                taken.append(place)
                left = one.x[index] > one.x.min() + 0.6 * np.ptp(one.x)
                axes.annotate(
                    drawable(f"“{on_one_line(one.tokens[int(index)])[:LONGEST]}”"), (one.x[index], one.y[index]),
                    xytext=(-5 if left else 5, 0), textcoords="offset points", fontsize=7, va="center",
                    ha="right" if left else "left",
                )  # fmt: skip
        axes.set_title(textwrap.fill(one.name, 46), fontsize=9)
        axes.set(xlabel=textwrap.fill(one.xlabel, 44), ylabel=one.ylabel)
        axes.margins(0.08)
        bare(axes)
    set_title(figure, title, detail)
    return figure


def stacked_shares(layers: Sequence[int], parts: Mapping[str, np.ndarray], title: str, detail: str) -> Figure:
    """Shares that add up to 1 as areas over the layers, the first at the bottom; shares below 0 are drawn as 0.

    Args:
        layers: block indices.
        parts: the name of each of up to three parts → its shares `[layers]`.
        title, detail: texts.
    """
    figure = new_figure(max(6.5, min(11.0, 3.5 + 0.25 * len(layers))), 4.4)
    axes = figure.add_subplot()
    places, bottom = np.arange(len(layers)), np.zeros(len(layers))
    drawn = [np.maximum(np.nan_to_num(one), 0) for one in parts.values()]
    whole = np.maximum(np.sum(drawn, axis=0), 1e-12)
    for name, shares, (color, hatch) in zip(parts, drawn, PARTS, strict=False):
        height = shares / whole
        axes.bar(
            places, height, 1.0, bottom, color=color, hatch=hatch, edgecolor="#777777", linewidth=0, label=name,
        )  # fmt: skip
        bottom = bottom + height
        axes.stairs(bottom, np.arange(len(layers) + 1) - 0.5, color="black", linewidth=1.0, baseline=None)
    step = 1 + len(layers) // 16
    axes.set_xticks(places[::step], [str(layer) for layer in layers][::step])
    axes.set(xlabel="layer", ylabel="share of the variance", xlim=(-0.5, len(layers) - 0.5), ylim=(0, 1))
    axes.legend(*map(list, map(reversed, axes.get_legend_handles_labels())), frameon=False, fontsize=9,
                loc="center left", bbox_to_anchor=(1.01, 0.5))  # fmt: skip
    bare(axes)
    set_title(figure, title, detail)
    return figure
