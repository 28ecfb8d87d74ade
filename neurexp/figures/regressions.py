"""Regressions of every neuron: slope against evidence, against the t-test, and between two comparisons."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurexp.figures.style import GROUP_STYLES, WIDEST, bare, legend_above, new_figure, set_title

MOST_DRAWN = 20_000  # neurons; of more, every n-th that is not marked is drawn
NAMED = 4  # neurons with a name in the funnel
GREY, BLUE, ORANGE = "#999999", GROUP_STYLES[2]["color"], GROUP_STYLES[0]["color"]


def _at_the_edge(values: np.ndarray) -> np.ndarray:
    """Infinite values moved just beyond the largest finite magnitude."""
    finite = np.abs(values[np.isfinite(values)])
    edge = 1.1 * float(finite.max(initial=0.0)) or 1.0
    return np.clip(np.nan_to_num(values), -edge, edge)


def _thinned(marked: np.ndarray) -> np.ndarray:
    """The indices that are drawn: all marked ones, and of the others every n-th."""
    others = np.flatnonzero(~marked)
    step = max(1, -(-len(others) // MOST_DRAWN))
    return np.sort(np.concatenate([np.flatnonzero(marked), others[::step]]))


def funnel(
    beta: np.ndarray, log_p: np.ndarray, marked: np.ndarray, separated: np.ndarray, names: Sequence[str],
    bonferroni: float, mark: str, title: str, detail: str, xlabel: str,
) -> Figure:  # fmt: skip
    """Slope against −log10 p of every neuron; separated neurons stand at the edge. The strongest marked ones are named.

    Args:
        beta: `[neurons]`, infinite where a neuron is separated.
        log_p: `[neurons]`, −log10 p.
        marked, separated: `[neurons]` bool.
        names: `[neurons]`.
        bonferroni: −log10 of the corrected level.
        mark: what the marked neurons are.
        title, detail, xlabel: texts.
    """
    figure = new_figure(7.5, 5)
    axes = figure.add_subplot()
    x, shown = _at_the_edge(beta), _thinned(marked | separated)
    plain, chosen = shown[~marked[shown]], np.flatnonzero(marked)
    axes.scatter(x[plain], log_p[plain], s=6, color=GREY, label="others")
    axes.scatter(x[chosen], log_p[chosen], s=16, color=BLUE, marker="^", label=mark)
    if separated.any():
        axes.scatter(
            x[separated], log_p[separated], s=60, facecolor="none", edgecolor="black", marker="s",
            label="separates the categories (β infinite)",
        )  # fmt: skip
    axes.axhline(bonferroni, color="black", linewidth=1, linestyle="--")
    axes.annotate(
        "Bonferroni", (1, bonferroni), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
    )
    written: list[tuple[float, float]] = []
    wide, high = 0.2 * float(np.abs(x).max(initial=0.0)), 0.05 * float(log_p.max(initial=0.0))
    for side in (1, -1):
        own = chosen[np.sign(x[chosen]) == side]
        for index in own[np.argsort(-np.abs(x[own]), kind="stable")][:NAMED]:
            if any(abs(x[index] - a) < wide and abs(log_p[index] - b) < high for a, b in written):
                continue  # it would stand over another name
            written.append((float(x[index]), float(log_p[index])))
            axes.annotate(
                str(names[index]), (x[index], log_p[index]), fontsize=7, xytext=(4 * side, 3),
                textcoords="offset points", ha="left" if side > 0 else "right",
            )  # fmt: skip
    limit = 1.25 * float(np.abs(x).max(initial=0.0)) or 1.0
    axes.set(xlim=(-limit, limit), xlabel=xlabel, ylabel="−log10 p (likelihood ratio)")
    axes.axvline(0, color="black", linewidth=0.5)
    legend_above(axes)
    bare(axes)
    set_title(figure, title, detail)
    return figure


def against_t(
    beta: np.ndarray, t: np.ndarray, log_p: np.ndarray, log_p_wald: np.ndarray, log_p_t: np.ndarray,
    near: np.ndarray, title: str, detail: str,
) -> Figure:  # fmt: skip
    """Left: slope against t. Right: −log10 p of the likelihood ratio and of Wald's test against that of the t-test.

    Args:
        beta, t: `[neurons]`. An infinite slope is drawn at the edge.
        log_p, log_p_wald, log_p_t: `[neurons]`, −log10 of each p.
        near: `[neurons]` bool: near separation, where Wald's test falls behind the likelihood ratio.
        title, detail: texts.
    """
    figure = new_figure(WIDEST, 5)
    left, right = figure.subplots(1, 2)
    separated = np.isinf(beta)
    x, shown = _at_the_edge(beta), _thinned(near | separated)
    plain = shown[~(near | separated)[shown]]
    left.scatter(t[plain], x[plain], s=6, color=GREY, label="neurons")
    close = near & ~separated
    if close.any():
        left.scatter(
            t[close], x[close], s=16, color=ORANGE, marker="v", label="near separation: Wald’s χ² is half or less"
        )
    if separated.any():
        left.scatter(
            t[separated], x[separated], s=60, facecolor="none", edgecolor="black", marker="s",
            label="separates the categories (β infinite)",
        )  # fmt: skip
    left.set(xlabel="Student’s t", ylabel="β (log odds per standard deviation)")
    top = 1.02 * max(float(values[np.isfinite(values)].max(initial=1.0)) for values in (log_p, log_p_t))
    right.plot([0, top], [0, top], color="black", linewidth=0.8, linestyle="--", label="equal")
    right.scatter(log_p_t[shown], log_p[shown], s=10, color=BLUE, marker="o", label="likelihood ratio")
    right.scatter(log_p_t[shown], log_p_wald[shown], s=10, color=ORANGE, marker="v", label="Wald")
    right.set(xlabel="−log10 p of Student’s t", ylabel="−log10 p of the regression")
    for axes in (left, right):
        legend_above(axes, columns=2)
        bare(axes)
    set_title(figure, title, detail)
    return figure


def slopes_of_comparisons(
    beta: np.ndarray, others: Sequence[tuple[str, np.ndarray]], marked: np.ndarray, ylabel: str, mark: str, title: str,
    detail: str,
) -> Figure:  # fmt: skip
    """The slope in one comparison against the slope in each other one, a panel each; infinite slopes are at the edge.

    Args:
        beta: `[neurons]`, the vertical axis of every panel.
        others: label and slopes `[neurons]` of each horizontal axis.
        marked: `[neurons]` bool.
        ylabel, mark, title, detail: texts.
    """
    figure = new_figure(min(max(6.0, 5.0 * len(others)), WIDEST), 5)
    y, shown = _at_the_edge(beta), _thinned(marked)
    plain = shown[~marked[shown]]
    for axes, (name, values) in zip(figure.subplots(1, len(others), squeeze=False)[0], others, strict=True):
        x = _at_the_edge(values)
        axes.scatter(x[plain], y[plain], s=5, color=GREY, label="others")
        axes.scatter(x[marked], y[marked], s=14, color=BLUE, marker="^", label=mark)
        _cross(axes)
        axes.set(xlabel=name, ylabel=ylabel)
        legend_above(axes, columns=2)
        bare(axes)
    set_title(figure, title, detail)
    return figure


def _cross(axes: Axes) -> None:
    axes.axhline(0, color="black", linewidth=0.5)
    axes.axvline(0, color="black", linewidth=0.5)
