"""Effects of ablations: by the number of neurons ablated, and by group of tokens.

What random neurons do is grey everywhere; what the found ones do is in colour, with a marker of its own. Knows no model
and no experiment: an effect is a number, and titles come from the caller.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from neurexp.figures.fonts import drawable, families
from neurexp.figures.heat import on_one_line
from neurexp.figures.style import GROUP_STYLES, bare, new_figure, set_title

MARKERS = "os^Dvx"
COLUMNS = 3  # panels beside each other
RANDOM = {"facecolor": "#cccccc", "edgecolor": "#888888", "linewidth": 0.6}
FOUND_LABEL, BAND_LABEL, MEAN_LABEL = (
    "found neurons, 95 % interval",
    "random neurons, central 95 %",
    "their mean",
)


@dataclass(frozen=True)
class Doses:
    """The effect of ablating the first k neurons of a set, and of as many random ones. NaN where there is no value."""

    kind: str  # of replacement, such as "mean"
    ks: Sequence[int]  # [k], increasing
    effect: np.ndarray  # [k], and so are all below
    low: np.ndarray
    high: np.ndarray
    null_mean: np.ndarray
    null_low: np.ndarray
    null_high: np.ndarray


@dataclass(frozen=True)
class TokenEffect:
    """The effect of ablating a set of neurons on a group of tokens, and of random neurons. NaN where there is none."""

    neurons: str  # the set; rows of one set stand together
    tokens: str  # the group
    effect: float
    low: float
    high: float
    null_mean: float
    null_low: float
    null_high: float
    p: float


def dose_response(panels: Mapping[str, Sequence[Doses]], title: str, detail: str, ylabel: str) -> Figure:
    """The effect over the number of neurons ablated, with its interval, above the band of random neurons.

    Args:
        panels: the set of neurons → a curve for each kind of replacement. Each set is a column, each kind a row; the
            sets of a single kind are wrapped into rows.
        title, detail: texts.
        ylabel: the effect and its unit.
    """
    kinds = list(dict.fromkeys(curve.kind for curves in panels.values() for curve in curves))
    columns = min(len(panels), COLUMNS) if len(kinds) == 1 else len(panels)
    rows = math.ceil(len(panels) / columns) if len(kinds) == 1 else len(kinds)
    figure = new_figure(max(6.4, 3.6 * columns), 1.2 + 2.9 * rows)
    cells = figure.add_gridspec(rows + 1, columns, height_ratios=[0.3, *[2.9] * rows])
    for index, (name, curves) in enumerate(panels.items()):
        for curve in curves:
            kind = kinds.index(curve.kind)
            row, column = divmod(index, columns) if len(kinds) == 1 else (kind, index)
            axes = figure.add_subplot(cells[row + 1, column])
            _curve(axes, curve, kind)
            heading = textwrap.fill(name, 44)
            axes.set_title(heading if len(kinds) == 1 else f"{heading}\nreplaced by: {curve.kind}", fontsize=9)
            if not column:
                axes.set_ylabel(textwrap.fill(ylabel, 40), fontsize=8)
    key = figure.add_subplot(cells[0, :])
    key.set_axis_off()
    key.legend(*_entries(figure), loc="center", ncols=3, frameon=False, fontsize=8).set_in_layout(False)
    set_title(figure, title, detail)
    return figure


def _curve(axes: Axes, curve: Doses, kind: int) -> None:
    ks = np.asarray(curve.ks, dtype=float)
    color = GROUP_STYLES[2]["color"]
    band = np.isfinite(curve.null_low) & np.isfinite(curve.null_high)
    if band.any():
        # A single k gets a band of some width
        x, widen = (ks[band], 1) if band.sum() > 1 else (ks[band] * np.array([2**-0.12, 2**0.12]), 2)
        low, high, mean = (
            np.repeat(values[band], widen) for values in (curve.null_low, curve.null_high, curve.null_mean)
        )
        axes.fill_between(x, low, high, label=BAND_LABEL, **RANDOM)
        axes.plot(x, mean, color="#555555", linewidth=1.2, label=MEAN_LABEL)
    axes.plot(ks, curve.effect, color=color, marker=MARKERS[kind % len(MARKERS)], ms=6, label=FOUND_LABEL)
    _whiskers(axes, ks, np.asarray(curve.effect), curve.low, curve.high, color)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.use_sticky_edges = False
    low, high = axes.get_ylim()
    room = 0.04 * (max(high, 0.0) - min(low, 0.0))
    axes.set_ylim(min(low, -room), max(high, room))
    axes.set_xscale("log", base=2)
    axes.set_xlim(ks.min() / 2**0.4, ks.max() * 2**0.4)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ks, _apart(curve.ks))
    axes.set_xlabel("neurons ablated (k)", fontsize=8)
    axes.tick_params(labelsize=8)
    bare(axes)


def _apart(ks: Sequence[int]) -> list[str]:
    """The labels of the ticks, without those too close to the next; the last is kept."""
    places = np.log2(np.asarray(ks, dtype=float))
    gap, labels, following = 0.07 * (places[-1] - places[0] + 0.8), [], np.inf
    for k, place in zip(reversed(ks), reversed(places), strict=True):
        fits = following - place >= gap
        labels.append(str(k) if fits else "")
        following = place if fits else following
    return labels[::-1]


def _whiskers(axes: Axes, x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray, color: str) -> None:
    defined = np.isfinite(y) & np.isfinite(low) & np.isfinite(high)
    if defined.any():
        axes.vlines(x[defined], np.asarray(low)[defined], np.asarray(high)[defined], color=color, linewidth=1.6)


def _entries(figure: Figure) -> tuple[list[Artist], list[str]]:
    """What a legend of all panels holds: each label once, in one order."""
    found = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = [label for label in (FOUND_LABEL, BAND_LABEL, MEAN_LABEL) if label in found]
    return [found[label] for label in labels], labels


def effects_by_tokens(rows: Sequence[TokenEffect], title: str, detail: str, xlabel: str) -> Figure:
    """A dot with its interval for each set and group of tokens, before what random neurons do; p at the right.

    Args:
        rows: from the top down.
        title, detail: texts.
        xlabel: the effect and its unit.
    """
    places, labels, headings, y = [], [], [], 0.0
    for index, row in enumerate(rows):
        if not index or row.neurons != rows[index - 1].neurons:
            headings.append((y, row.neurons))
            y += 1
        places.append(y)
        labels.append(textwrap.shorten(on_one_line(row.tokens), 46, placeholder=" …"))
        y += 1
    figure = new_figure(8.5, 1.7 + 0.34 * y)
    axes = figure.add_subplot()
    color = GROUP_STYLES[2]["color"]
    for row, place in zip(rows, places, strict=True):
        if np.isfinite(row.null_low) and np.isfinite(row.null_high):
            axes.barh(
                place,
                row.null_high - row.null_low,
                left=row.null_low,
                height=0.56,
                label=BAND_LABEL,
                zorder=1,
                **RANDOM,
            )
        if np.isfinite(row.null_mean):
            ends = (place - 0.28, place + 0.28)
            axes.vlines(row.null_mean, *ends, color="#555555", linewidth=1.5, label=MEAN_LABEL, zorder=2)
        if np.isfinite(row.low) and np.isfinite(row.high):
            axes.hlines(place, row.low, row.high, color=color, linewidth=2, zorder=3)
        axes.plot(row.effect, place, "o-", color=color, ms=7, label=FOUND_LABEL, zorder=4)
        note = "no tokens" if np.isnan(row.effect) else "" if np.isnan(row.p) else f"p = {row.p:.2g}"
        axes.text(1.01, place, note, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # the line at 0 does not cross a heading
    for place, name in headings:
        text = textwrap.shorten(on_one_line(name), 90, placeholder=" …")
        axes.text(
            0.01, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, fontweight="bold",
            bbox=paper,
        )  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8, zorder=0)
    fonts = ["sans-serif", *families("".join(labels))]
    axes.set_yticks(places, [drawable(label) for label in labels], fontsize=8, parse_math=False, fontfamily=fonts)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylim(y - 0.4, -0.6)
    axes.use_sticky_edges = False
    axes.margins(x=0.06)
    axes.legend(*_entries(figure), loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, frameon=False, fontsize=8)
    bare(axes)
    set_title(figure, title, detail)
    return figure
