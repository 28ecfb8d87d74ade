"""What explains neurons, over layers: shares of labels as stacked bars, a map of means, and values against chance."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from neurexp.figures.style import GROUP_STYLES, WIDEST, bare, new_figure, set_title

MOST_TICKS = 40  # layers with a label each
# Neighbours differ in lightness or in their hatches: they are told apart in grey and by the colour-blind
STYLES = (
    ("#0072B2", ""), ("#A6D8F0", ""), ("#56B4E9", "xxx"), ("#F7F3B0", ""), ("#E69F00", "///"), ("#7A5230", ""),
    ("#F2C9DD", ""), ("#CC79A7", "\\\\\\"), ("#009E73", ""), ("#BFE8DA", "..."), ("#444444", ""), ("#F4F4F4", ""),
)  # fmt: skip


def _ticks(axes: Axes, layers: Sequence[int]) -> None:
    shown = range(0, len(layers), 1 + len(layers) // MOST_TICKS)
    axes.set_xticks(shown, [str(layers[index]) for index in shown], fontsize=8)
    axes.set_xlabel("layer")


def _width(layers: Sequence[int], margin: float) -> float:
    return float(min(max(6.5, 0.32 * len(layers) + margin), WIDEST))


def stacked_shares(
    layers: Sequence[int], shares: Mapping[str, tuple[int, np.ndarray]], title: str, detail: str, ylabel: str
) -> Figure:
    """A bar for each layer, made of parts that add up to 1; the legend, in the order of the parts, is beside it.

    Args:
        layers: their indices.
        shares: name, from the bottom up → index of its style in `STYLES`, and its shares `[layers]`.
        title, detail, ylabel: texts.
    """
    figure = new_figure(_width(layers, 4.5), 4.8)
    axes = figure.add_subplot()
    bottom = np.zeros(len(layers))
    for name, (style, values) in shares.items():
        color, hatch = STYLES[style % len(STYLES)]
        axes.bar(
            np.arange(len(layers)), values, 0.84, bottom, color=color, hatch=hatch, edgecolor="black", linewidth=0.5,
            label=textwrap.fill(name, 30),
        )  # fmt: skip
        bottom = bottom + values
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.set_ylabel(ylabel)
    _ticks(axes, layers)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8,
        handlelength=2.2, handleheight=1.3,
    )  # fmt: skip
    bare(axes)
    set_title(figure, title, detail)
    return figure


def map_over_layers(
    layers: Sequence[int], rows: Mapping[str, np.ndarray], title: str, detail: str, label: str
) -> Figure:
    """Shares by row and layer, darker where they are larger, each with its number in per cent.

    Args:
        layers: their indices.
        rows: name, from the top down → `[layers]` shares; NaN is left blank.
        title, detail, label: texts; the last one says what the shares are of.
    """
    values = np.array(list(rows.values()))
    figure = new_figure(_width(layers, 4.5), 1.9 + 0.33 * len(rows))
    axes = figure.add_subplot()
    largest = float(max(0.01, np.nanmax(values, initial=0.0)))
    image = axes.imshow(values.clip(0), aspect="auto", cmap="Blues", vmin=0, vmax=largest)
    for row, column in np.ndindex(values.shape):
        share = values[row, column]
        if np.isfinite(share) and len(layers) <= MOST_TICKS:
            text = f"{100 * share:.1f}" if len(layers) <= MOST_TICKS // 2 else f"{100 * share:.0f}"
            text = text.removeprefix("-") if float(text) == 0 else text
            axes.text(
                column, row, text, ha="center", va="center", fontsize=7,
                color="white" if share > 0.6 * largest else "black",
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), [textwrap.shorten(name, 40, placeholder=" …") for name in rows], fontsize=8)
    axes.tick_params(axis="y", length=0)
    _ticks(axes, layers)
    bar = figure.colorbar(image, ax=axes, pad=0.02, format=PercentFormatter(1, 0 if largest > 0.05 else 1))
    bar.set_label(textwrap.fill(label, 34), fontsize=8)
    set_title(figure, title, detail)
    return figure


def against_chance(
    layers: Sequence[int],
    panels: Mapping[str, tuple[Sequence[np.ndarray], Sequence[np.ndarray]]],
    names: tuple[str, str],
    title: str,
    detail: str,
    ylabel: str,
) -> Figure:
    """Median and middle half over neurons at each layer, of what was found and of what chance gives, a panel each.

    Args:
        layers: their indices.
        panels: heading → `[neurons]` values of each layer, and those by chance.
        names: of the two, in the legend.
        title, detail, ylabel: texts.
    """
    figure = new_figure(min(WIDEST, max(7.5, len(panels) * (0.2 * len(layers) + 2.6))), 4.6)
    columns = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    styles: tuple[dict[str, Any], ...] = (
        {"color": GROUP_STYLES[2]["color"], "marker": "o"},
        {"color": GROUP_STYLES[1]["color"], "marker": "s", "mfc": "white"},
    )
    for axes, (heading, found) in zip(columns, panels.items(), strict=True):
        for index, (rows, style) in enumerate(zip(found, styles, strict=True)):
            place = np.arange(len(layers)) + (index - 0.5) * 0.24
            quartiles = np.array(
                [np.nanquantile(row, (0.25, 0.5, 0.75)) if np.isfinite(row).any() else [np.nan] * 3 for row in rows]
            )
            axes.vlines(place, quartiles[:, 0], quartiles[:, 2], color=style["color"], linewidth=1.4)
            axes.plot(place, quartiles[:, 1], linestyle="none", ms=4.5, label=names[index], **style)
        axes.set_title(textwrap.fill(heading, 50), fontsize=9)
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
        step = max(1, -(-len(layers) * len(panels) // MOST_TICKS))
        axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers][::step], fontsize=8)
        axes.set_xlabel("layer")
        bare(axes)
    columns[0].set_ylabel(textwrap.fill(ylabel, 50))
    columns[0].set_ylim(0, min(1.02, 1.1 * columns[0].get_ylim()[1]))
    handles, labels = columns[0].get_legend_handles_labels()
    labels = [textwrap.fill(label, 20) for label in labels]
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    set_title(figure, title, detail)
    return figure
