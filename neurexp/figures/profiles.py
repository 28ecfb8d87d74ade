"""Profiles over neurons and layers: densities of r by layer as lines and as a map, curves, and layer summaries."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d

from neurexp.figures.style import GROUP_STYLES, WIDEST, bare, legend_above, new_figure, set_title

MOST_IN_LEGEND = 12  # layers
POINTS = 241  # at which a density is drawn
FINE = 8  # bins from one of these points to the next
# Of runs over each other: no two of up to 28 look alike
RUN_COLORS = ("#E69F00", "#555555", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
RUN_LINES = ("-", ":", "--", "-.")
PANEL = 2.5  # inches: the height of densities over each other
NEAR = 0.25  # of the depth: a layer further from a panel's depth is not drawn in it


def _style_of_run(index: int) -> dict[str, Any]:
    return {"color": RUN_COLORS[index % len(RUN_COLORS)], "linestyle": RUN_LINES[index % len(RUN_LINES)]}


def _densities(values: Sequence[np.ndarray], limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian kernel densities (Scott's bandwidth) of each layer's neurons, from −limit to limit.

    The neurons are counted in fine bins, which are then smoothed: many times faster than a kernel for each neuron, and
    the same wherever the kernel is wider than a bin.
    """
    width = 2 * limit / (POINTS - 1) / FINE
    # Bins are centred on the points, and go on for half of the view on either side
    count = (POINTS - 1) * FINE
    edges = (np.arange(2 * count + 2) - count - 0.5) * width
    rows = []
    for row in values:
        row = row[np.isfinite(row)]
        if len(row) < 2 or np.ptp(row) == 0:
            rows.append(np.zeros(POINTS))
            continue
        bandwidth = row.std(ddof=1) * len(row) ** -0.2
        density = np.histogram(row, edges)[0] / (len(row) * width)
        smooth = gaussian_filter1d(density, bandwidth / width, mode="constant", truncate=5)
        rows.append(smooth[count // 2 : count // 2 + count + 1 : FINE])
    return np.linspace(-limit, limit, POINTS), np.array(rows)


def _limit(values: Sequence[np.ndarray]) -> float:
    finite = np.concatenate([row[np.isfinite(row)] for row in values])
    return float(max(0.05, np.quantile(np.abs(finite), 0.999) * 1.1)) if len(finite) else 1.0


def _shades(layers: Sequence[int]) -> np.ndarray:
    """A colour for each layer, light to dark from the first to the last, `[layers, 4]`."""
    return colormaps["viridis_r"](np.linspace(0.1, 1, len(layers)))


def _name_layers(figure: Figure, axes: Any, layers: Sequence[int]) -> None:
    """Says which line is which layer, beside the lines: a legend, or for many layers a colour bar.

    `axes` are the panel with the lines first, and the panels that share its colour bar.
    """
    if len(layers) <= MOST_IN_LEGEND:
        axes[0].legend(title="layer", frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        return
    steps = BoundaryNorm(np.arange(len(layers) + 1) - 0.5, len(layers))
    bar = figure.colorbar(
        ScalarMappable(steps, ListedColormap(_shades(layers))), ax=list(axes), label="layer", pad=0.02
    )
    shown = np.unique(np.linspace(0, len(layers) - 1, 7).round().astype(int))
    bar.set_ticks(shown.tolist(), labels=[str(layers[index]) for index in shown])
    bar.minorticks_off()


def _grid(panels: int) -> tuple[int, int]:
    """Columns and rows of panels: a page is two wide."""
    columns = min(panels, 2)
    return columns, -(-panels // columns)


def _panels(figure: Figure, count: int, sharey: bool = False) -> list[Any]:
    columns, rows = _grid(count)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel().tolist()
    for unused in panels[count:]:
        unused.remove()
    return panels[:count]


def density_by_layer(
    runs: Sequence[tuple[str, Sequence[int], Sequence[np.ndarray]]], title: str, detail: str, xlabel: str
) -> Figure:
    """The density of a statistic over neurons, a line per layer, light to dark from the first to the last.

    Args:
        runs: (name, layers, `[neurons]` values of each layer) per panel.
        title, detail, xlabel: texts.
    """
    limit = max(_limit(values) for _, _, values in runs)
    columns, rows = _grid(len(runs))
    figure = new_figure(5.6 * columns + 1.6, 4.6 * rows)
    panels = _panels(figure, len(runs), sharey=True)
    for axes, (name, layers, values) in zip(panels, runs, strict=True):
        places, densities = _densities(values, limit)
        shades = _shades(layers)
        for index, layer in enumerate(layers):
            outer = index in (0, len(layers) - 1)
            style = "--" if index == 0 else "-"
            axes.plot(places, densities[index], color=shades[index], lw=2.2 if outer else 1.2, ls=style, label=layer)
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_xlabel(textwrap.fill(xlabel, 60))
        if len(runs) > 1:  # the foot names a single one
            axes.set_title(textwrap.fill(name, 60), fontsize=10)
        bare(axes)
        _name_layers(figure, [axes], layers)
    for axes in panels[::columns]:
        axes.set_ylabel("density over neurons")
    panels[0].set_ylim(0, None)  # shared: only once all are drawn
    set_title(figure, title, detail)
    return figure


def density_map(
    runs: Sequence[tuple[str, Sequence[int], Sequence[np.ndarray]]],
    title: str,
    detail: str,
    xlabel: str,
    depths: Sequence[np.ndarray] | None = None,
) -> Figure:
    """The same as a map: layer × value, darker where more neurons lie; the median of each layer is marked.

    With `depths`, the relative depth `[layers]` of each run's layers, models of any depth lie side by side on it.
    """
    limit = max(_limit(values) for _, _, values in runs)
    columns, lines = _grid(len(runs))
    figure = new_figure(5.2 * columns + 1.6, (2.4 + 0.17 * max(len(layers) for _, layers, _ in runs)) * lines)
    panels = _panels(figure, len(runs))
    drawn = [_densities(values, limit) for _, _, values in runs]
    highest = max(densities.max() for _, densities in drawn)
    mesh = None
    rows = [np.arange(len(layers)) for _, layers, _ in runs] if depths is None else depths
    for axes, (name, layers, values), (places, densities), y in zip(panels, runs, drawn, rows, strict=True):
        mesh = axes.pcolormesh(places, y, densities, shading="nearest", cmap="Blues", vmin=0, vmax=highest)
        medians = [np.nanmedian(row) if np.isfinite(row).any() else np.nan for row in values]
        axes.plot(medians, y, "o", color="white", markeredgecolor="black", ms=4, label="median")
        axes.axvline(0, color="black", linewidth=0.6)
        step = max(1, len(layers) // 12)
        if depths is None:
            axes.set_yticks(y[::step], [str(layer) for layer in layers][::step])
        axes.set_xlabel(textwrap.fill(xlabel, 56))
        if len(runs) > 1:  # the foot names a single one
            axes.set_title(textwrap.fill(name, 56), fontsize=10)
            axes.legend(frameon=False, fontsize=7, loc="upper right")
        else:
            legend_above(axes)
    for axes in panels[::columns]:
        axes.set_ylabel("layer" if depths is None else "relative depth\n(0: first layer, 1: last)")
    assert mesh is not None
    figure.colorbar(mesh, ax=panels, label="density over neurons")
    set_title(figure, title, detail)
    return figure


def densities_at_depths(
    runs: Sequence[tuple[str, np.ndarray, Sequence[np.ndarray]]], title: str, detail: str, xlabel: str
) -> Figure:
    """The densities of several runs over each other, a panel for each third of the way through the models.

    A run is drawn in a panel by its layer nearest to the panel's depth, and left out where none is near. The panel's
    heading has the depths of the layers that are drawn.

    Args:
        runs: (name, relative depth `[layers]`, `[neurons]` values of each layer).
        title, detail, xlabel: texts.
    """
    limit = max(_limit(values) for _, _, values in runs)
    # A panel is a place where a run has a layer, named by the first run's depth there
    first = np.asarray(runs[0][1])
    wanted = [int(np.abs(first - depth).argmin()) for depth in (0, 1 / 3, 2 / 3, 1)]
    shown = [float(first[index]) for index in dict.fromkeys(wanted)]
    labels = [textwrap.fill(name, int(30 * len(shown))) for name, _, _ in runs]
    room = 0.15 * sum(1 + label.count("\n") for label in labels)  # inches above the lines, for the legend
    figure = new_figure(max(5.5, 2.75 * len(shown)), PANEL + room + 1.3)
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, depth in zip(panels, shown, strict=True):
        own = []  # the depths of the layers that are drawn here
        for index, (_, depths, values) in enumerate(runs):
            nearest = int(np.abs(np.asarray(depths) - depth).argmin())
            if abs(float(depths[nearest]) - depth) > NEAR:
                continue
            own.append(float(depths[nearest]))
            places, densities = _densities([values[nearest]], limit)
            axes.plot(places, densities[0], **_style_of_run(index))
        axes.axvline(0, ymax=PANEL / (PANEL + room), color="black", linewidth=0.6)
        low, high = f"{min(own):.2f}", f"{max(own):.2f}"
        axes.set_xlabel(textwrap.fill(xlabel, 32), fontsize=8)
        axes.set_title(f"depth {low}" + (f" to {high}" if high != low else ""))
        axes.patch.set_visible(False)  # the first panel's legend reaches over the next ones
        bare(axes)
        if axes is not panels[0]:
            axes.spines["left"].set_visible(False)
            axes.tick_params(left=False)
    panels[0].set_ylabel("density over neurons")
    panels[0].set_ylim(0, panels[0].get_ylim()[1] * (PANEL + room) / PANEL)
    for index, label in enumerate(labels):  # of every run, though it may not be drawn in the first panel
        panels[0].plot([], [], label=label, **_style_of_run(index))
    panels[0].legend(frameon=False, fontsize=7, loc="upper left").set_in_layout(False)
    set_title(figure, title, detail)
    return figure


def curves_by_layer(
    values: np.ndarray, curves: np.ndarray, layers: Sequence[int], weights: np.ndarray, title: str, detail: str,
    xlabel: str, ylabel: str,
) -> Figure:  # fmt: skip
    """A mean per category, a line per layer; below, how many tokens each category rests on.

    Args:
        values: `[categories]`.
        curves: `[layers, categories]`.
        layers: their indices.
        weights: `[categories]` numbers of tokens.
        title, detail, xlabel, ylabel: texts.
    """
    figure = new_figure(8, 5.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    shades = _shades(layers)
    for index, layer in enumerate(layers):
        above.plot(values, curves[index], "o-", ms=2.5, color=shades[index], label=layer)
    above.axhline(0, color="black", linewidth=0.6)
    above.set_ylabel(ylabel)
    _name_layers(figure, [above, below], layers)
    below.bar(values, weights, color=GROUP_STYLES[1]["color"])
    below.set_yscale("log")
    below.set(xlabel=xlabel, ylabel="tokens")
    bare(above)
    bare(below)
    set_title(figure, title, detail)
    return figure


def quantiles_by_layer(
    layers: Sequence[int], series: Mapping[str, Sequence[np.ndarray]], title: str, detail: str, ylabel: str
) -> Figure:
    """Median and middle half over neurons of up to three statistics, side by side at each layer.

    Args:
        layers: their indices.
        series: name → `[neurons]` values of each layer.
        title, detail, ylabel: texts.
    """
    figure = new_figure(min(max(6.5, 0.6 * len(layers) + 2), WIDEST), 4.4)
    axes = figure.add_subplot()
    markers = ("o", "s", "^")
    for index, (name, values) in enumerate(series.items()):
        place = np.arange(len(layers)) + (index - (len(series) - 1) / 2) * 0.22
        quartiles = np.array(
            [np.nanquantile(row, (0.25, 0.5, 0.75)) if np.isfinite(row).any() else [np.nan] * 3 for row in values]
        )
        color, style = GROUP_STYLES[index]["color"], GROUP_STYLES[index]["linestyle"]
        axes.vlines(place, quartiles[:, 0], quartiles[:, 2], color=color, linestyle=style)
        size = 6 if len(layers) <= MOST_IN_LEGEND else 3
        axes.plot(place, quartiles[:, 1], markers[index], color=color, ms=size, label=name)
    axes.axhline(0, color="black", linewidth=0.6)
    shown = range(0, len(layers), 1 + len(layers) // 25)
    axes.set_xticks(shown, [str(layers[index]) for index in shown])
    axes.set(xlabel="layer", ylabel=textwrap.fill(ylabel, 42))
    legend_above(axes)
    bare(axes)
    set_title(figure, title, detail)
    return figure


def over_depth(runs: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, detail: str, ylabel: str) -> Figure:
    """A layer's median and middle half over relative depth, a line per run: models of any depth side by side.

    Args:
        runs: name → (relative depth `[layers]` from 0 to 1, quartiles `[layers, 3]`).
        title, detail, ylabel: texts.
    """
    figure = new_figure(7.5, 4.4)
    axes = figure.add_subplot()
    for index, (name, (depth, quartiles)) in enumerate(runs.items()):
        style = _style_of_run(index)
        axes.fill_between(depth, quartiles[:, 0], quartiles[:, 2], color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(depth, quartiles[:, 1], marker="os^Dvx"[index % 6], label=textwrap.fill(name, 60), **style)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="relative depth (0: first layer, 1: last)", ylabel=textwrap.fill(ylabel, 42))
    legend_above(axes, columns=1)
    bare(axes)
    set_title(figure, title, detail)
    return figure
