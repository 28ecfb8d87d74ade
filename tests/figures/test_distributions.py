"""Figures of distributions: drawn without a display or a warning, with titles, labels, units and the right shapes."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import neurexp
from neurexp.figures.distributions import group_histograms, split_counts

LABELS = ("shorter", "equal", "longer")
TEXTS = {"title": "What was found", "detail": "On what it was measured", "xlabel": "activation (model's own units)"}


def draw(figure):
    """The pixels, so that whatever matplotlib would warn of when drawing comes out."""
    target = io.BytesIO()
    figure.savefig(target, format="png")
    assert target.getvalue().startswith(b"\x89PNG")
    assert target.tell() > 5000


def grid(layers, counts=None, bins=40, groups=3):
    if counts is None:
        counts = np.random.default_rng(0).poisson(50, size=(layers, groups, bins))
    edges = np.stack([np.linspace(-layer - 1.0, layer + 2.0, counts.shape[2] + 1) for layer in range(layers)])
    names = [f"MLP_{layer}" for layer in range(layers)]
    notes = [f"d = {layer}" for layer in range(layers)]
    return edges, counts, group_histograms(edges, counts, LABELS, names, notes, **TEXTS)


def used(figure):
    return [axes for axes in figure.axes if axes.axison]


def assert_texts(figure):
    assert figure.get_suptitle() == TEXTS["title"]
    assert figure.get_supxlabel() == TEXTS["detail"]


# The grid of histograms


@pytest.mark.parametrize("layers", [1, 7, *(pytest.param(layers, marks=pytest.mark.slow) for layers in (6, 12, 24))])
def test_a_panel_for_every_layer(layers):
    _, _, figure = grid(layers)
    draw(figure)
    assert_texts(figure)
    panels = used(figure)
    assert [axes.get_title() for axes in panels] == [f"MLP_{layer}" for layer in range(layers)]
    assert [axes.texts[0].get_text() for axes in panels] == [f"d = {layer}" for layer in range(layers)]
    assert len(panels[0].get_legend().get_texts()) == 3
    assert any(axes.get_ylabel().startswith("density") for axes in panels)


@pytest.mark.parametrize("layers", [1, 6, 7, 13])
def test_the_lowest_panel_of_every_column_says_what_is_on_its_axis(layers):
    _, _, figure = grid(layers)
    lowest = {}
    for axes in used(figure):
        lowest[axes.get_subplotspec().colspan.start] = axes
    assert [axes.get_xlabel().replace("\n", " ") for axes in lowest.values()] == [TEXTS["xlabel"]] * len(lowest)


def test_every_curve_is_the_density_of_its_group():
    edges, counts, figure = grid(2)
    for layer, axes in enumerate(used(figure)):
        assert [patch.get_label() for patch in axes.patches] == list(LABELS)
        for group, patch in enumerate(axes.patches):
            data = patch.get_data()
            expected = np.histogram(edges[layer, :-1], edges[layer], weights=counts[layer, group], density=True)[0]
            np.testing.assert_allclose(data.values, expected)
            np.testing.assert_array_equal(data.edges, edges[layer])


def test_the_groups_differ_in_more_than_their_colour():
    _, _, figure = grid(1)
    styles = [(patch.get_edgecolor(), patch.get_linestyle()) for patch in used(figure)[0].patches]
    assert len({colour for colour, _ in styles}) == len({line for _, line in styles}) == 3


def test_the_view_holds_the_bulk_and_not_the_far_tail():
    counts = np.zeros((1, 3, 40), dtype=np.int64)
    counts[0, :, 18:22], counts[0, 0, 0] = 10_000, 1
    edges, _, figure = grid(1, counts)
    low, high = used(figure)[0].get_xlim()
    assert edges[0, 0] < low <= edges[0, 18]
    assert edges[0, 22] <= high < edges[0, -1]


@pytest.mark.parametrize("empty", [[0], [1], [0, 2], [0, 1, 2]], ids=str)
def test_groups_without_tokens(empty):
    counts = np.random.default_rng(0).poisson(50, size=(2, 3, 40))
    counts[:, empty] = 0
    _, _, figure = grid(2, counts)
    draw(figure)
    assert [patch.get_label() for patch in used(figure)[0].patches] == [
        label for group, label in enumerate(LABELS) if group not in empty
    ]


def test_a_layer_without_any_value_within_its_edges():
    counts = np.random.default_rng(0).poisson(50, size=(3, 3, 40))
    counts[0] = 0
    _, _, figure = grid(3, counts)
    draw(figure)
    assert len(used(figure)) == 3


@pytest.mark.parametrize("place", [0, 20, 39])
def test_a_layer_whose_values_all_lie_in_one_bin(place):
    counts = np.zeros((2, 3, 40), dtype=np.int64)
    counts[:, :, place] = 7
    edges, _, figure = grid(2, counts)
    draw(figure)
    low, high = used(figure)[0].get_xlim()
    assert low <= edges[0, place] < edges[0, place + 1] <= high


# The distribution of a count


def bars(figure):
    """Value → height of every bar."""
    (axes,) = figure.axes
    return {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for group in axes.containers for bar in group}


def split(values, median=None, title=TEXTS["title"]):
    histogram = np.bincount(values)
    median = np.median(values) if median is None else median
    return split_counts(histogram, float(median), title, TEXTS["detail"], "token length (characters)")


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 2, 4],
        [1, 2, 3, 4],
        [4],
        [0, 0, 1],
        [1, 200],
        list(range(41)),
        *(pytest.param(more, marks=pytest.mark.slow) for more in ([1, 2, 3, 4, 5], [4] * 9, [1, 40], [3, 120])),
    ],
    ids=str,
)
def test_a_distribution_with_its_median(values):
    figure = split(values)
    draw(figure)
    assert_texts(figure)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "token length (characters)"
    assert axes.get_ylabel() == "share of tokens (%)"
    assert axes.lines[0].get_xdata()[0] == np.median(values)
    assert axes.texts[0].get_text() == f"median {np.median(values):g}"
    occurring, counts = np.unique(values, return_counts=True)
    found = bars(figure)
    assert sorted(found) == occurring.tolist()
    np.testing.assert_allclose([found[value] for value in occurring], counts / len(values) * 100)


@pytest.mark.parametrize(
    ("values", "legend"),
    [
        ([1, 2, 2, 4], ["shorter than the median: 25.0 %", "equal: 50.0 %", "longer: 25.0 %"]),
        ([1, 2, 3, 4], ["shorter than the median: 50.0 %", "longer: 50.0 %"]),
        ([4, 4, 4], ["equal: 100.0 %"]),
    ],
)
def test_the_legend_gives_the_shares_of_the_sides_that_occur(values, legend):
    (axes,) = split(values).figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"{line} of tokens" for line in legend]


def test_a_long_title_is_wrapped_into_the_figure():
    figure = split([1, 2, 3], title="a finding of many words " * 12)
    draw(figure)
    lines = figure.get_suptitle().splitlines()
    assert len(lines) > 1
    assert " ".join(lines) == ("a finding of many words " * 12).strip()


def test_figures_need_no_display_and_no_backend(tmp_path):
    """In a fresh process without DISPLAY: pyplot, which would choose a backend and keep figures, is never imported."""
    code = (
        "import sys, numpy\n"
        "from neurexp.figures.distributions import split_counts\n"
        "split_counts(numpy.array([0, 3, 4]), 2.0, 't', 'd', 'x').savefig(sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(neurexp.__file__).parents[1]
    environment = {"PYTHONPATH": str(root), "MPLCONFIGDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "figure.png")], check=True, env=environment)
