"""Contrasts: words × neurons, effect against evidence, t against its null, values word by word, and over layers."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from neurexp.figures.fonts import drawable, families
from neurexp.figures.style import GROUP_STYLES, WIDEST, bare, legend_above, new_figure, set_title

MARKERS = "os^Dvx"
MOST_TICKS = 15  # layers with a number on the axis
MOST_BESIDE = 3  # panels over layers in a row
NAMED = 3  # neurons of each sign with a name in the volcano
CROWDED = 4  # categories, beyond which their names are turned


def words_by_neurons(
    activations: np.ndarray, labels: np.ndarray, categories: Sequence[str], band: np.ndarray, title: str, detail: str,
    scale: str,
) -> Figure:  # fmt: skip
    """The activations as an image: a row is a word, a column is a neuron. Neurons with extreme means are marked below.

    Args:
        activations: `[words, neurons]`.
        labels: `[words]`, the index of each word's category.
        categories: their names.
        band: `[neurons]` bool.
        title, detail, scale: texts.
    """
    order = np.argsort(labels, kind="stable")
    many = len(categories) > CROWDED
    figure = new_figure(9, max(5.0, 0.14 * len(categories)))
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(20, 1))
    low, high = np.quantile(activations, (0.005, 0.995))
    image = axes.imshow(
        activations[order], aspect="auto", cmap="cividis", vmin=low, vmax=high, interpolation="nearest",
        extent=(-0.5, activations.shape[1] - 0.5, len(order) - 0.5, -0.5),
    )  # fmt: skip
    start = 0
    for category, name in enumerate(categories):
        size = int((labels == category).sum())
        axes.text(
            -0.01, start + size / 2, name, transform=axes.get_yaxis_transform(), ha="right", va="center",
            rotation=0 if many else 90, fontsize=6 if many else None,
        )  # fmt: skip
        start += size
        if start < len(order):
            axes.axhline(start - 0.5, color="black", linewidth=1)
    axes.set_yticks([])
    below.vlines(np.flatnonzero(band), 0, 1, color="black", linewidth=0.8)
    below.set(ylim=(0, 1), yticks=[], xlabel="neuron")
    figure.colorbar(image, ax=[axes, below], label=scale, extend="both")
    set_title(figure, title, detail)
    return figure


def volcano(
    d: np.ndarray, p: np.ndarray, bonferroni: float, benjamini: float | None, names: Sequence[str], title: str,
    detail: str, xlabel: str, signed: bool = True,
) -> Figure:  # fmt: skip
    """Effect size against −log10 p of every neuron, with the thresholds drawn; the outermost of each sign are named.

    Args:
        d, p: `[neurons]`.
        bonferroni: the corrected level.
        benjamini: the largest p with q < 0.05, None where there is none.
        names: of the neurons.
        title, detail, xlabel: texts.
        signed: whether the effect has two directions.
    """
    figure = new_figure(7.5, 5)
    axes = figure.add_subplot()
    height = -np.log10(np.maximum(p, 1e-300))
    passed = p < bonferroni
    axes.scatter(d[~passed], height[~passed], s=6, color="#999999", marker="o", label="others")
    axes.scatter(d[passed], height[passed], s=16, color=GROUP_STYLES[2]["color"], marker="^", label="pass Bonferroni")
    axes.axhline(-np.log10(bonferroni), color="black", linewidth=1, linestyle="--")
    axes.annotate("Bonferroni", (1, -np.log10(bonferroni)), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    if benjamini is not None:
        axes.axhline(-np.log10(benjamini), color="black", linewidth=1, linestyle=":")
        axes.annotate(
            "Benjamini-Hochberg", (1, -np.log10(benjamini)), xycoords=("axes fraction", "data"), ha="right", va="bottom"
        )
    for side in (1, -1):
        own = np.flatnonzero(np.sign(d) == side)
        for index in own[np.argsort(-height[own], kind="stable")][:NAMED]:
            axes.annotate(
                str(names[index]), (d[index], height[index]), fontsize=7, xytext=(3 * side, 2),
                textcoords="offset points", ha="left" if side > 0 else "right",
            )  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.5)
    limit = float(np.max(np.abs(d[np.isfinite(d)]), initial=0.0)) * 1.25 or 1.0
    axes.set(xlim=(-limit if signed else 0, limit), xlabel=xlabel, ylabel="−log10 p")
    legend_above(axes)
    bare(axes)
    set_title(figure, title, detail)
    return figure


def against_null(
    t: np.ndarray, counts: np.ndarray, edges: np.ndarray, limit: float, title: str, detail: str, xlabel: str
) -> Figure:
    """The histogram of all neurons' t (or F) over that of shuffled labels, both as densities.

    Args:
        t: `[neurons]`.
        counts, edges: the null's histogram.
        limit: beyond ± it no neuron lies in 95 % of the shuffles.
        title, detail, xlabel: texts.
    """
    figure = new_figure(7.5, 4.4)
    axes = figure.add_subplot()
    colour, line = GROUP_STYLES[1]["color"], GROUP_STYLES[1]["linestyle"]
    axes.stairs(counts / max(1, counts.sum()) / np.diff(edges), edges, label="shuffled labels", color=colour, ls=line)
    outermost = max(edges[-1], float(np.abs(t).max(initial=0.0)) * 1.02)
    bins = np.linspace(-outermost if edges[0] < 0 else 0.0, outermost, 61)
    axes.hist(
        t, bins, density=len(t) > 0, color=GROUP_STYLES[0]["color"], alpha=0.6, label="neurons", hatch="///", ec="white"
    )
    for side in (-limit, limit) if edges[0] < 0 else (limit,):
        axes.axvline(side, color="black", linewidth=1, linestyle="--")
    axes.set(xlabel=xlabel, ylabel="density")
    legend_above(axes)
    bare(axes)
    set_title(figure, title, detail)
    return figure


def values_by_word(
    values: Sequence[np.ndarray], names: Sequence[str], labels: np.ndarray, categories: Sequence[str], title: str,
    detail: str, ylabel: str, styles: Sequence[int] | None = None,
) -> Figure:  # fmt: skip
    """Chosen neurons' values, a dot a word, by category.

    Args:
        values: `[words]` of each neuron.
        names: of the neurons.
        labels: `[words]`.
        categories, title, detail, ylabel: texts.
        styles: the number of each category's colour and marker; None: one for each.
    """
    styles = range(len(categories)) if styles is None else styles
    columns = (len(values) + 1) // 2
    many = len(categories) > CROWDED
    figure = new_figure(max(1.5, 0.2 * len(categories)) * columns + 1, 6)
    panels = figure.subplots(2, columns, squeeze=False)
    spread = np.random.default_rng(0)
    for axes in panels.flat[len(values) :]:
        axes.set_axis_off()
    names_below = [drawable(name) for name in categories]
    fonts, rotation = ["sans-serif", *families("".join(categories))], 90 if many else 0
    # The first half of the neurons above, the second below
    for axes, row, name in zip(panels.flat, values, names, strict=False):
        for category in range(len(categories)):
            own = row[labels == category]
            place = category + spread.uniform(-0.25, 0.25, len(own))
            color = GROUP_STYLES[(0, 2, 1)[styles[category] % 3]]["color"]
            axes.scatter(place, own, s=7, color=color, marker=MARKERS[styles[category] % 6], alpha=0.7)
            axes.hlines(own.mean(), category - 0.35, category + 0.35, color="black", linewidth=2)
        axes.set_xticks(
            range(len(categories)), names_below, fontsize=7, parse_math=False, fontfamily=fonts, rotation=rotation
        )
        axes.tick_params(axis="y", labelsize=6)
        axes.set_title(name, fontsize=7)
        bare(axes)
    for axes in panels[:, 0]:
        axes.set_ylabel(ylabel, fontsize=8)
    set_title(figure, title, detail)
    return figure


def over_layers(
    layers: Sequence[int],
    series: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    title: str,
    detail: str,
    ranges: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Figure:
    """A panel per column: its values over the layers, and its null dashed.

    Args:
        layers: their indices.
        series: column → its values `[layers]`, and those of its null.
        title, detail: texts.
        ranges: column → the ends of the bars about its values, `[layers]` each.
    """
    rows = 1 if len(series) <= MOST_BESIDE else 2
    columns = -(-len(series) // rows)
    figure = new_figure(min(max(6.0, 4.2 * columns), WIDEST), 4.2 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes in panels[len(series) :]:
        axes.set_axis_off()
    for axes, (name, (values, null)) in zip(panels, series.items(), strict=False):
        axes.plot(layers, values, "o-", color=GROUP_STYLES[2]["color"], label="found")
        if ranges is not None:
            around = np.stack([values - ranges[name][0], ranges[name][1] - values]).clip(min=0)
            axes.errorbar(layers, values, yerr=around, fmt="none", ecolor="black", capsize=4)
        if null is not None:
            axes.plot(layers, null, "s--", ms=4, color=GROUP_STYLES[1]["color"], label="shuffled labels")
        axes.set_xticks(layers[:: 1 + len(layers) // MOST_TICKS])
        axes.set(xlabel="layer", ylabel=textwrap.fill(name, 30))
        legend_above(axes)
        bare(axes)
    set_title(figure, title, detail)
    return figure
