"""The figures of tokens in their place and alone: what is drawn, for one layer, six and thirty."""

import numpy as np
import pytest

from neurexp.figures.in_context import ByLayer, Cloud, r_by_layer, stacked_shares, tokens_of_a_neuron


@pytest.mark.parametrize("count", [1, 6, 30])
def test_r_by_layer_has_a_panel_for_each_comparison(count):
    quartiles = np.linspace(0.2, 0.6, 3 * count).reshape(count, 3)
    one = ByLayer(quartiles, *(np.full(count, value) for value in (0.9, 0.4, 0.8)))
    figure = r_by_layer(range(count), {"space": one, "alone": one}, "title", "detail")
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    np.testing.assert_array_equal(lines["pooled over neurons and tokens"].get_ydata(), np.full(count, 0.9))
    np.testing.assert_array_equal(lines["pooled, tokens paired at random"].get_ydata(), np.full(count, 0.8))
    assert [axes.get_title() for axes in figure.axes] == ["space", "alone"]


def test_a_neurons_tokens_are_all_drawn_and_the_outermost_named():
    x = np.arange(30.0)
    y = 2 * x
    y[7] += 50
    tokens = [f" t{index}$_" for index in range(30)]
    figure = tokens_of_a_neuron([Cloud("alone", x, y, tokens, "alone", "in place")], "title", "detail")
    (axes,) = figure.axes
    assert len(axes.collections[0].get_offsets()) == 30
    assert axes.texts[0].get_text() == "“ t7$_”"
    constant = Cloud("alone", np.zeros(30), y, tokens, "alone", "in place")
    assert not tokens_of_a_neuron([constant], "title", "detail").axes[0].texts


def test_stacked_shares_fill_the_whole_and_leave_out_what_is_below_0():
    parts = {"type": np.array([0.7, 0.5]), "position": np.array([-0.1, 0.1]), "context": np.array([0.4, 0.4])}
    figure = stacked_shares([3, 5], parts, "title", "detail")
    heights = np.array([patch.get_height() for patch in figure.axes[0].patches if hasattr(patch, "get_height")])
    np.testing.assert_allclose(heights[:6].reshape(3, 2).sum(0), 1)
    np.testing.assert_allclose(heights[:6], [0.7 / 1.1, 0.5, 0, 0.1, 0.4 / 1.1, 0.4])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["3", "5"]
