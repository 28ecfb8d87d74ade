"""How many neurons lead in both runs of each pair, and by layer in several runs, beside what chance gives."""

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neurexp.figures.style import GROUP_STYLES, bare, new_figure, set_title

MOST_PAIRS = 15  # that are drawn: those of the largest ratios
LONGEST = 48  # characters of a run's label
BY_CHANCE = {"color": "#dddddd", "edgecolor": "#999999"}
SIMILAR = {"color": "white", "edgecolor": "#999999", "hatch": "////"}
OBSERVED = {"color": GROUP_STYLES[2]["color"], "markeredgecolor": "black", "markeredgewidth": 0.5, "linestyle": ""}


def pairs_and_layers(
    pairs: Sequence[tuple[str, str, Mapping[str, float]]],
    layers: Sequence[Mapping[str, float]],
    title: str,
    detail: str,
) -> Figure:
    """On the left, the numbers of neurons that lead in both runs of a pair; on the right, in two or more, by layer.

    Bars are the middle 95 % of what chance gives, and the strokes in them its mean.

    Args:
        pairs: labels of the two runs, and `both` `expected` `ratio` `low` `high`; where there is a second kind of
            chance, among neurons of a similar spread, also `expected_spread` `low_spread` `high_spread`.
        layers: `layer` `agreed` `expected` `low` `high` of each.
        title, detail: texts.
    """
    shown = sorted(pairs, key=lambda pair: -np.nan_to_num(pair[2]["ratio"]))[:MOST_PAIRS]
    figure = new_figure(11.5, 3.0 + 0.5 * len(shown))
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    _draw_pairs(left, shown)
    note = f"the {MOST_PAIRS} of {len(pairs)} pairs with the largest ratios; " if len(shown) < len(pairs) else ""
    place = np.arange(len(layers))
    low, high, expected, agreed = _columns(layers, "low", "high", "expected", "agreed")
    right.bar(place, high - low, bottom=low, width=0.7, label="chance within layers", **BY_CHANCE)
    right.plot(place, expected, "_", color="black", ms=10, label="mean by chance")
    right.plot(place, agreed, "o", label="observed", **OBSERVED)
    step = 1 + len(layers) // 16
    right.set_xticks(place[::step], [f"{row['layer']:.0f}" for row in layers][::step])
    right.set(xlabel="layer", ylabel="neurons that lead in two\nor more runs")
    right.set_ylim(-0.04 * max(high.max(), agreed.max(), 1), None)
    right.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
        bare(axes)
    set_title(figure, title, note + detail)
    return figure


def _draw_pairs(axes: Any, shown: Sequence[tuple[str, str, Mapping[str, float]]]) -> None:
    rows, numbers = np.arange(len(shown)), [pair[2] for pair in shown]
    has_spread = "low_spread" in numbers[0]
    kinds = [("", -0.16 if has_spread else 0, "within layers", BY_CHANCE)]
    if has_spread:
        kinds.append(("_spread", 0.16, "among neurons of a similar spread", SIMILAR))
    (both,) = _columns(numbers, "both")
    for suffix, offset, label, style in kinds:
        low, high, expected = _columns(numbers, f"low{suffix}", f"high{suffix}", f"expected{suffix}")
        axes.barh(rows + offset, high - low, left=low, height=0.3, label=f"chance {label}", **style)
        axes.plot(expected, rows + offset, "|", color="black", ms=10, label=None if suffix else "mean by chance")
    axes.plot(both, rows, "o", label="observed", **OBSERVED)
    top = max(both.max(), *(_columns(numbers, f"high{suffix}")[0].max() for suffix, *_ in kinds), 1)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
    for row, one in zip(rows, numbers, strict=True):
        beyond = f": {one['ratio']:.2g} × chance" if one["both"] and np.isfinite(one["ratio"]) else ""
        axes.annotate(
            f"{one['both']:.0f}{beyond}", (one["both"], row), xytext=(8, 0), textcoords="offset points", va="center",
            fontsize=8, bbox=paper,
        )  # fmt: skip
    labels = ["\n".join(shorten(label, LONGEST, placeholder=" …") for label in pair[:2]) for pair in shown]
    axes.set_yticks(rows, labels, fontsize=8)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(-0.02 * top, 1.3 * top)  # room for the numbers
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("neurons that lead in both runs")


def _columns(rows: Sequence[Mapping[str, float]], *names: str) -> list[np.ndarray]:
    return [np.array([row[name] for row in rows], dtype=float) for name in names]
