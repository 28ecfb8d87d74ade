"""What is known of neurons without ablating each: an estimate against exact effects, and the tokens they write.

Knows no model and no experiment: an effect is a number, and titles come from the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neurexp.figures.fonts import drawable, families, look_up, tell
from neurexp.figures.heat import on_one_line
from neurexp.figures.style import GROUP_STYLES, bare, new_figure, set_title

NEURONS = 6  # of the direct path
COLUMNS = 3  # neurons beside each other
LONGEST = 17  # characters of a token that are shown
DECADES = 3  # of a logarithmic axis, on each side of zero
WIDE = 30.0  # the largest magnitude over the median one, beyond which the axes are logarithmic
NAMED = 12  # found neurons whose names are written
LETTER, LINE = 0.014, 0.026  # the size of a name's letters, in shares of the axes


@dataclass(frozen=True)
class DirectPath:
    """The tokens that a neuron's output weights promote and suppress most, the strongest first."""

    neuron: str
    promoted: Sequence[tuple[str, float]]  # token, effect
    suppressed: Sequence[tuple[str, float]]


def estimate_against_exact(
    estimate: np.ndarray, exact: np.ndarray, found: np.ndarray, names: Sequence[str], title: str, detail: str, unit: str
) -> Figure:
    """Each neuron's estimated effect against its exact one, with the line on which they are equal.

    The axes are the same. They are logarithmic on both sides of zero, and linear near it, where the largest effect is
    more than 30 times the median one. The found neurons with the largest exact effects are named.

    Args:
        estimate, exact: `[neurons]`. A neuron that lacks one is left out.
        found: `[neurons]` bool; the others are random.
        names: `[neurons]`.
        title, detail: texts.
        unit: of both.
    """
    found = np.asarray(found, dtype=bool)
    both = np.isfinite(estimate) & np.isfinite(exact)
    figure = new_figure(6.4, 6.2)
    axes = figure.add_subplot()
    others, color = both & ~found, GROUP_STYLES[2]["color"]
    _scales(axes, np.concatenate([np.asarray(estimate)[both], np.asarray(exact)[both]]))
    ends = axes.get_xlim()
    line = np.linspace(*ends, 400)
    axes.plot(line, line, color="black", linewidth=0.8, linestyle="--", label="estimate = exact")
    axes.axhline(0, color="#bbbbbb", linewidth=0.6, zorder=0)
    axes.axvline(0, color="#bbbbbb", linewidth=0.6, zorder=0)
    if others.any():
        axes.scatter(
            exact[others], estimate[others], s=20, facecolor="white", edgecolor="#555555", linewidth=0.8,
            label="random neurons",
        )  # fmt: skip
    mine = np.flatnonzero(both & found)
    if len(mine):
        axes.scatter(exact[mine], estimate[mine], s=42, color=color, marker="^", label="found neurons", zorder=3)
    _names(axes, estimate, exact, mine[np.argsort(-np.abs(exact[mine]), kind="stable")], names)
    axes.tick_params(labelsize=8)
    axes.set(xlabel=f"exact: the neuron ablated alone ({unit})", ylabel=f"first-order estimate ({unit})")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    bare(axes)
    set_title(figure, title, detail)
    return figure


def _scales(axes: Axes, values: np.ndarray) -> None:
    """The same limits and scale for both axes, so that the line of equals is the diagonal."""
    size = np.abs(values[values != 0])
    largest = float(size.max(initial=0.0))
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if len(size) and largest > WIDE * np.median(size):
        linear = 10.0 ** np.ceil(np.log10(max(largest / 10**DECADES, np.quantile(size, 0.25))))
        room, margin = 2.0, 2 * linear
        axes.set_xscale("symlog", linthresh=linear, linscale=0.6)
        axes.set_yscale("symlog", linthresh=linear, linscale=0.6)
    else:
        room, margin = 1.1, 0.05 * (high - low) or 1.0
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6))
            axis.get_offset_text().set_fontsize(8)
        axes.ticklabel_format(style="sci", scilimits=(-2, 4))
    ends = min(low * room, -margin), max(high * room, margin)
    axes.set(xlim=ends, ylim=ends, aspect="equal")


def _names(axes: Axes, estimate: np.ndarray, exact: np.ndarray, order: np.ndarray, names: Sequence[str]) -> None:
    """Writes the neurons' names beside their points, the first of `order` first, but none over another."""
    to_axes = axes.transData + axes.transAxes.inverted()
    written: list[tuple[float, float, float, float]] = []
    for index in order[:NAMED]:
        x, y = to_axes.transform((exact[index], estimate[index]))
        left, width = x > 0.5, LETTER * (len(names[index]) + 2)
        start = x - width if left else x
        box = (start, start + width, y - LINE / 2, y + LINE / 2)
        if any(box[0] < b and a < box[1] and box[2] < d and c < box[3] for a, b, c, d in written):
            continue
        written.append(box)
        axes.annotate(
            str(names[index]), (exact[index], estimate[index]), xytext=(-7 if left else 7, 0),
            textcoords="offset points", ha="right" if left else "left", va="center", fontsize=7,
        )  # fmt: skip


def direct_path(neurons: Sequence[DirectPath], title: str, detail: str, xlabel: str) -> Figure:
    """For each neuron, bars of the tokens that it promotes most, from the top, and suppresses most, from the bottom.

    A space is drawn as ␣, a line's end as ⏎.

    Args:
        neurons: the first six are drawn.
        title, detail: texts.
        xlabel: the effect and its unit.
    """
    neurons = neurons[:NEURONS]
    columns = min(COLUMNS, len(neurons)) if len(neurons) != 4 else 2
    rows = -(-len(neurons) // columns)
    longest = max(len(one.promoted) + len(one.suppressed) for one in neurons)
    figure = new_figure(max(5.0, 3.4 * columns), 1.2 + rows * (0.9 + 0.19 * longest))
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(neurons) :]:
        axes.set_axis_off()
    for index, (axes, one) in enumerate(zip(panels.flat, neurons, strict=False)):
        _tokens(axes, one)
        if index + columns >= len(neurons):  # nothing is below
            axes.set_xlabel(xlabel, fontsize=8)
    set_title(figure, title, detail)
    return figure


def _tokens(axes: Axes, one: DirectPath) -> None:
    shown = [*one.promoted, *reversed(one.suppressed)]
    texts = [_token(token) for token, _ in shown]
    split = len(one.promoted)
    for side, color, hatch in (
        (slice(0, split), GROUP_STYLES[2]["color"], ""),
        (slice(split, None), GROUP_STYLES[0]["color"], "///"),
    ):
        places = np.arange(len(shown))[side] + (0.6 if side.start else 0.0)
        values = [effect for _, effect in shown][side]
        axes.barh(places, values, height=0.72, color=color, hatch=hatch, edgecolor="black", linewidth=0.5)
    look_up({character for text in texts for character in text})
    tell({character for text in texts for character in text})
    ticks = [place + (0.6 if place >= split and split else 0.0) for place in range(len(shown))]
    fonts = ["sans-serif", *families("".join(texts))]
    axes.set_yticks(ticks, [drawable(text) for text in texts], fontsize=7.5, parse_math=False, fontfamily=fonts)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_title(one.neuron, fontsize=9)
    bare(axes)


def _token(token: str) -> str:
    """A token as a label: its spaces are visible, and it is no longer than `LONGEST`."""
    text = on_one_line(token).replace(" ", "␣")
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
