"""Checks over layers: how far two ways to the same numbers are apart, and how large the numbers are."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from neurexp.figures.style import bare, new_figure, set_title

MARKERS = "osD^vPX*<>"
LINES = ("-", "--", ":", "-.")
COLOURS = ("#0072B2", "#E69F00", "#555555", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
FLOOR = 1e-9  # smaller deviations are drawn here


def deviations_by_layer(
    layers: Sequence[int],
    deviations: Mapping[str, np.ndarray],
    tolerance: float,
    first: np.ndarray,
    rest: np.ndarray,
    title: str,
    detail: str,
) -> Figure:
    """Deviations of several identities over the layers, and the stream's largest magnitudes.

    Args:
        layers: block indices.
        deviations: name → `[layers]`; NaN is not drawn. The names of those that are 0 everywhere are given in words.
        tolerance: drawn as a line.
        first, rest: `[layers]` largest magnitudes at the first tokens of sequences, and at all others.
        title, detail: texts.
    """
    figure = new_figure(11, 4.4)
    left, right = figure.subplots(1, 2)
    exact = [name for name, row in deviations.items() if np.nanmax(row) == 0]
    for index, (name, row) in enumerate((name, row) for name, row in deviations.items() if name not in exact):
        left.plot(
            layers, np.maximum(row, FLOOR), label=name, color=COLOURS[index % len(COLOURS)],
            linestyle=LINES[index % len(LINES)], marker=MARKERS[index % len(MARKERS)], markersize=4, linewidth=1.2,
        )  # fmt: skip
    left.axhline(tolerance, color="black", linewidth=0.8)
    left.annotate("tolerance", (layers[0], tolerance), xytext=(0, 3), textcoords="offset points", fontsize=8)
    left.set(xlabel="layer", ylabel="largest ‖a − b‖ / ‖b‖ over tokens", yscale="log", ylim=(FLOOR / 2, None))
    left.set_title(textwrap.fill(f"exactly 0 in every layer: {', '.join(exact)}" if exact else "", 60), fontsize=8)
    if len(exact) < len(deviations):
        left.legend(frameon=False, fontsize=8, ncols=2)
    right.plot(layers, first, color="#0072B2", marker="o", markersize=4, label="at first tokens")
    right.plot(layers, rest, color="#E69F00", marker="s", markersize=4, linestyle="--", label="at all other tokens")
    right.set(xlabel="layer", ylabel="largest |activation| (model's own units)", yscale="log")
    right.set_title("the residual stream after each block", fontsize=8)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        bare(axes)
        axes.xaxis.get_major_locator().set_params(integer=True)
    set_title(figure, title, detail)
    return figure
