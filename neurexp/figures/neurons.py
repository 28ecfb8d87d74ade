"""Chosen neurons, each by itself: their mean activation over the values of a covariate."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from neurexp.figures.style import GROUP_STYLES, bare, legend_above, new_figure, set_title

LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")
SHADES = ("#0072B2", "#E69F00", "#333333", "#CC79A7")  # of different lightness


def means_of_neurons(
    values: np.ndarray, tokens: np.ndarray, panels: Mapping[str, Sequence[tuple[str, np.ndarray]]], title: str,
    detail: str, xlabel: str, ylabel: str,
) -> Figure:  # fmt: skip
    """The mean activation of chosen neurons over a covariate, a panel for each group of neurons; below, the tokens.

    Args:
        values: `[values]` of the covariate.
        tokens: `[values]` numbers of tokens that have them.
        panels: the panel's name → its neurons: name and `[values]` means. A panel without neurons is left out.
        title, detail, xlabel, ylabel: texts.
    """
    panels = {name: neurons for name, neurons in panels.items() if neurons}
    figure = new_figure(4.6 * len(panels) + 0.6, 5.2)
    axes = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=(4, 1))
    for (above, below), neurons in zip(axes.T, panels.values(), strict=True):
        for index, (label, means) in enumerate(neurons):
            look = index % len(LINES)
            above.plot(
                values, means, ls=LINES[look], marker=MARKERS[look], color=SHADES[look], ms=3.5, lw=1.4, label=label
            )
        above.axhline(0, color="black", linewidth=0.6)
        below.bar(values, tokens, color=GROUP_STYLES[1]["color"])
        below.set(yscale="log", xlabel=xlabel)
        bare(above)
        bare(below)
    axes[0, 0].set_ylabel(ylabel)
    axes[1, 0].set_ylabel("tokens")
    for above, name in zip(axes[0], panels, strict=True):
        legend_above(above, columns=2)
        above.get_legend().set_title(textwrap.fill(name, 40), {"size": 9})
    set_title(figure, title, detail)
    return figure
