"""Figures of models with many layers: legends off the data, widths of a page, one title, true minus signs."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import gaussian_kde

from neurexp.figures.contrasts import over_layers, volcano
from neurexp.figures.distributions import group_histograms
from neurexp.figures.neurons import means_of_neurons
from neurexp.figures.profiles import curves_by_layer, density_by_layer, density_map, quantiles_by_layer
from neurexp.figures.style import WIDEST

LAYERS = list(range(48))
TEXTS = ("The median is -0.1 (-0.2 to 0.3) in a-1", "smollm2-135M on pydoc")
RANDOM = np.random.default_rng(0)
R = [RANDOM.normal(0.02 * layer, 0.1 + 0.001 * layer, 300) for layer in LAYERS]


def map_of_r():
    return density_map([("a run", LAYERS, R)], *TEXTS, "r")


def densities():
    return density_by_layer([("a run", LAYERS, R)], *TEXTS, "r")


def curves():
    tokens = np.full(9, 40)
    return curves_by_layer(np.arange(9), RANDOM.normal(size=(48, 9)), LAYERS, tokens, *TEXTS, "length", "mean")


def quantiles():
    return quantiles_by_layer(LAYERS, {"r": R, "partial r": R}, *TEXTS, "correlation")


def histograms():
    counts, edges = RANDOM.poisson(50, size=(48, 3, 40)), np.tile(np.linspace(-2, 2, 41), (48, 1))
    names = [f"MLP_{layer}" for layer in LAYERS]
    return group_histograms(edges, counts, ("shorter", "equal", "longer"), names, names, *TEXTS, "activation")


def panels():
    shares = np.linspace(0, 1, 48)
    return over_layers(LAYERS, {"share": (shares, shares / 2), "AUROC": (shares, None), "r": (shares, None)}, *TEXTS)


def volcanoes():
    d, p = np.array([-2.0, -1.5, -1.0, -0.5, 1.0, 0.4]), np.array([1e-9, 1e-8, 1e-7, 1e-6, 0.2, 0.3])
    return volcano(d, p, 0.01, None, [f"20.{index}" for index in range(6)], *TEXTS, "d")


def neurons():
    means = [(f"3.{index} (r = -0.4)", RANDOM.normal(size=9)) for index in range(4)]
    return means_of_neurons(np.arange(9), np.full(9, 40), {"longer": means, "shorter": means}, *TEXTS, "length", "mean")


ALL = [map_of_r, densities, curves, quantiles, histograms, panels, volcanoes, neurons]


@pytest.fixture(params=ALL, ids=lambda draw: draw.__name__, scope="module")
def figure(request):
    figure = request.param()
    figure.draw_without_rendering()
    return figure


def test_it_fits_a_page(figure):
    assert figure.get_figwidth() <= WIDEST


def test_no_legend_stands_on_the_data(figure):
    for axes in figure.axes:
        if axes.get_legend() is not None and axes.has_data():
            box, data = axes.get_legend().get_window_extent(), axes.get_window_extent()
            assert box.x0 >= data.x1 - 1 or box.y0 >= data.y1 - 1


def test_every_legend_lies_within_the_figure(figure):
    box = figure.bbox.padded(2)
    for axes in figure.axes:
        if axes.get_legend() is not None:
            extent = axes.get_legend().get_window_extent()
            assert box.contains(extent.x0, extent.y0) and box.contains(extent.x1, extent.y1)


def test_a_legend_with_long_names_has_fewer_columns():
    names = ("r with length", "r with log frequency", "r with length, given all that is known of the token")
    values = [np.random.default_rng(0).normal(size=50) for _ in range(2)]
    figure = quantiles_by_layer([0, 1], dict.fromkeys(names, values), "A title", "a foot", "r")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    extent = axes.get_legend().get_window_extent()
    assert figure.bbox.contains(extent.x1, extent.y1)
    assert axes.get_window_extent().width > 0.8 * figure.bbox.width


def test_every_text_lies_within_the_figure(figure):
    box = figure.bbox.padded(2)
    for text in [figure._suptitle, figure._supxlabel, *(axes.title for axes in figure.axes)]:
        extent = text.get_window_extent()
        assert not text.get_text() or (box.contains(extent.x0, extent.y0) and box.contains(extent.x1, extent.y1))


def test_minus_signs_are_true_and_hyphens_in_names_stay(figure):
    assert figure.get_suptitle() == "The median is −0.1 (−0.2 to 0.3) in a-1"
    assert figure.get_supxlabel() == "smollm2-135M on pydoc"
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend() is not None]
    assert not any("-0" in text.get_text() for legend in legends for text in legend.get_texts())


def test_a_single_run_has_no_second_title():
    for draw in (densities, map_of_r):
        assert not draw().axes[0].get_title()


def test_densities_are_those_of_a_kernel_for_each_neuron():
    line = densities().axes[0].lines[7]
    places, found = (np.asarray(one, dtype=float) for one in line.get_data())
    expected = gaussian_kde(R[7])(places)
    np.testing.assert_allclose(found, expected, atol=2e-3 * expected.max())


def test_the_volcano_names_the_outermost_of_both_signs():
    named = [text.get_text() for text in volcanoes().axes[0].texts if text.get_text().startswith("20.")]
    assert named == ["20.4", "20.5", "20.0", "20.1", "20.2"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_each_panel_over_layers_has_room_for_its_layers(count):
    """Panels side by side on one page would have numbers of layers above each other."""
    shares = np.linspace(0, 0.3, len(LAYERS))
    figure = over_layers(LAYERS, {f"share {number}": (shares, shares / 2) for number in range(count)}, *TEXTS)
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == count
    for axes in panels:
        assert axes.get_window_extent().width / figure.dpi >= 2.4  # inches
        numbers = [text.get_window_extent() for text in axes.get_xticklabels() if text.get_text()]
        assert all(one.x1 < other.x0 for one, other in pairwise(numbers))
