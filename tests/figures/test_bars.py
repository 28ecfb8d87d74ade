"""The bars of a benchmark: their lengths, whiskers and words, drawn without a warning."""

import io

import numpy as np
import pytest

from neurexp.figures.bars import KINDS, ratio_bars

TEXTS = {"title": "What was found", "detail": "On what it was measured", "xlabel": "time relative to the plain one"}


def draw(names, kinds, ratios, low, high):
    notes = [f"{ratio:.2f}" for ratio in ratios]
    figure = ratio_bars(
        names, kinds, np.array(ratios), np.array(low), np.array(high), notes, "plain forward pass = 1", **TEXTS
    )
    target = io.BytesIO()
    figure.savefig(target, format="png")
    assert target.getvalue().startswith(b"\x89PNG")
    assert figure.get_suptitle() == TEXTS["title"]
    assert figure.get_supxlabel() == TEXTS["detail"]
    (axes,) = figure.axes
    return axes


def test_a_bar_a_case_from_the_top_with_its_spread_and_the_reference_at_one():
    names, kinds = ["bare", "pass", "recipe", "floor"], ["reference", "ours", "others", "limit"]
    axes = draw(names, kinds, [1.0, 0.6, 1.5, 0.4], [np.nan, 0.55, 1.2, np.nan], [np.nan, 0.7, 2.5, np.nan])
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is on top
    assert [bar.get_width() for bar in axes.patches] == [1.0, 0.6, 1.5, 0.4]
    (whiskers,) = axes.collections
    assert [[tuple(point) for point in segment] for segment in whiskers.get_segments()] == [
        [(0.55, 1), (0.7, 1)],
        [(1.2, 2), (2.5, 2)],
    ]
    assert axes.lines[0].get_xdata()[0] == 1 or any(list(line.get_xdata()) == [1, 1] for line in axes.lines)
    assert axes.get_xlim()[0] == 0  # a bar's length is its value
    assert axes.get_xlim()[1] > 2.5
    assert axes.get_xlabel() == TEXTS["xlabel"]
    assert "plain forward pass = 1" in [text.get_text() for text in axes.texts]


def test_kinds_differ_in_lightness_or_hatching():
    from matplotlib.colors import to_rgb

    looks = {(round(float(np.dot(to_rgb(color), (0.2, 0.7, 0.1))), 1), hatch) for color, hatch in KINDS.values()}
    assert len(looks) == len(KINDS)


@pytest.mark.parametrize("ratio", [1e-4, 0.999, 250.0])
def test_any_ratio_can_be_drawn_and_so_can_one_case_alone(ratio):
    axes = draw(["only"], ["ours"], [ratio], [np.nan], [np.nan])
    assert axes.get_xlim()[1] >= 1
    assert not axes.collections
