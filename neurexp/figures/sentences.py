"""Words in sentences: t in one set against t in another, and lines over layers, with or without a null's range."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from neurexp.figures.contrasts import MOST_TICKS
from neurexp.figures.style import GROUP_STYLES, bare, new_figure, set_title

GREY, BLUE, ORANGE = "#999999", GROUP_STYLES[2]["color"], GROUP_STYLES[0]["color"]


def t_of_sets(
    first: np.ndarray, second: np.ndarray, both: np.ndarray, one: np.ndarray, title: str, detail: str, label: str
) -> Figure:
    """t in set 1 against t in set 2, a mark for each neuron.

    Args:
        first, second: `[neurons]`; NaN is left out.
        both: `[neurons]` bool: significant in both sets with the same sign.
        one: `[neurons]` bool: significant in one set, or in both with opposite signs.
        title, detail, label: texts.
    """
    figure = new_figure(6.5, 6)
    axes = figure.add_subplot()
    for chosen, colour, marker, size, name in (
        (~(both | one), GREY, "o", 6, "in neither"),
        (one, ORANGE, "v", 14, "in one set, or with opposite signs"),
        (both, BLUE, "^", 18, "in both, with the same sign"),
    ):
        axes.scatter(
            first[chosen], second[chosen], s=size, color=colour, marker=marker, label=f"{name} ({int(chosen.sum())})"
        )
    values = np.abs(np.concatenate([first, second]))
    limit = 1.08 * float(values[np.isfinite(values)].max(initial=0.0)) or 1.0
    axes.plot([-limit, limit], [-limit, limit], color="black", linewidth=0.8, linestyle="--")
    axes.axhline(0, color="black", linewidth=0.5)
    axes.axvline(0, color="black", linewidth=0.5)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel=f"{label}, set 1", ylabel=f"{label}, set 2")
    axes.legend(frameon=False, fontsize=8, loc="upper left", title="significant", title_fontsize=8)
    bare(axes)
    set_title(figure, title, detail)
    return figure


def lines_over_layers(
    layers: Sequence[int],
    panels: Mapping[str, Mapping[str, np.ndarray]],
    title: str,
    detail: str,
    null: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """A panel for each quantity, and in it a line for each series.

    Args:
        layers: their indices.
        panels: what the vertical axis shows → the series' name → `[layers]`.
        title, detail: texts.
        null: the ends of a null's range, `[layers]` each; drawn in every panel.
    """
    figure = new_figure(max(6.0, 4.6 * len(panels)), 4.2)
    for axes, (ylabel, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        if null is not None:
            axes.fill_between(layers, *null, color="#BBBBBB", alpha=0.6, label="95 % of the shuffles", step="mid")
            axes.axhline(0, color="black", linewidth=0.5)
        for index, (name, values) in enumerate(series.items()):
            style = GROUP_STYLES[(2, 0, 1)[index % 3]]
            axes.plot(layers, values, "o^s"[index % 3], color=style["color"], linestyle=style["linestyle"], label=name)
        every = np.concatenate(list(series.values()))
        if every.min() > 0 and every.max() > 20 * np.median(every):
            axes.set_yscale("log")
        axes.set_xticks(layers[:: 1 + len(layers) // MOST_TICKS])
        axes.set(xlabel="layer", ylabel=ylabel)
        axes.legend(frameon=False, fontsize=8)
        bare(axes)
    set_title(figure, title, detail)
    return figure
