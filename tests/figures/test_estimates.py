"""Estimates against exact effects, and the tokens that neurons write: drawn without a warning from any numbers."""

import io

import numpy as np
import pytest

from neurexp.figures.estimates import LONGEST, DirectPath, direct_path, estimate_against_exact

TEXTS = {"title": "What was found", "detail": "On what it was measured"}
MATH = r"$\frac$ _^{"  # what would be a broken formula


def draw(figure):
    """Draws it, so that whatever matplotlib would warn of comes out."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=50)
    assert target.getvalue().startswith(b"\x89PNG")
    assert figure.get_suptitle() == TEXTS["title"]
    assert figure.get_supxlabel() == TEXTS["detail"]
    return figure


# Estimate against exact


def against(estimate, exact, found):
    names = [f"15:{index}" for index in range(len(exact))]
    (axes,) = draw(estimate_against_exact(estimate, exact, found, names, **TEXTS, unit="nats")).axes
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xscale() == axes.get_yscale()
    low, high = axes.get_xlim()
    drawn = np.concatenate([estimate, exact])
    drawn = drawn[np.isfinite(drawn)]
    assert low < min(0, drawn.min(initial=0)) <= max(0, drawn.max(initial=0)) < high
    return axes


def test_found_neurons_are_marked_apart_and_named():
    exact = np.array([0.1, -0.2, 0.3, 0.05, np.nan])
    axes = against(exact * 0.9, exact, np.array([True, False, True, False, True]))
    random, found = axes.collections
    np.testing.assert_allclose(found.get_offsets(), [[0.1, 0.09], [0.3, 0.27]])
    assert len(random.get_offsets()) == 2
    assert [text.get_text() for text in axes.texts] == ["15:2", "15:0"]
    assert axes.get_xscale() == "linear"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "estimate = exact",
        "random neurons",
        "found neurons",
    ]


def test_magnitudes_far_apart_get_logarithmic_axes():
    exact = 10.0 ** np.linspace(-7, -2, 60) * np.where(np.arange(60) % 3, 1, -1)
    assert against(exact, exact, np.arange(60) < 5).get_xscale() == "symlog"


def test_names_that_would_overlap_are_left_out():
    exact = np.concatenate([np.full(5, 0.2), [-0.1]])
    axes = against(exact, exact, np.ones(6, dtype=bool))
    assert [text.get_text() for text in axes.texts] == ["15:0", "15:5"]


@pytest.mark.parametrize("values", [np.zeros(3), np.full(3, np.nan), np.array([2e-9, -1e-9, 0]), np.full(1, 5e3)])
@pytest.mark.parametrize("found", [True, False])
def test_any_values_are_drawn(values, found):
    against(values, values, np.full(len(values), found))


# The direct path


def path(name="neuron 3", promoted=(" the", "\n", "a b"), suppressed=("was", MATH)):
    falling = [3.0 - 0.5 * place for place in range(9)]
    return DirectPath(
        name,
        list(zip(promoted, falling, strict=False)),
        [(token, -value) for token, value in zip(suppressed, falling, strict=False)],
    )


def test_promoted_tokens_are_above_and_the_most_suppressed_is_the_last():
    (axes,) = draw(direct_path([path()], **TEXTS, xlabel="effect")).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["␣the", "⏎", "a␣b", MATH.replace(" ", "␣"), "was"]
    assert [bar.get_width() for bar in axes.patches] == [3.0, 2.5, 2.0, -2.5, -3.0]
    centres = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]
    np.testing.assert_allclose(centres, axes.get_yticks())
    assert centres[3] - centres[2] > centres[1] - centres[0]
    assert axes.yaxis_inverted()
    assert axes.get_title() == "neuron 3"
    assert {bar.get_hatch() for bar in axes.patches[:3]}.isdisjoint(bar.get_hatch() for bar in axes.patches[3:])


@pytest.mark.parametrize(("given", "drawn"), [(4, 4), (9, 6)])
def test_no_more_than_six_neurons_are_drawn(given, drawn):
    figure = draw(direct_path([path(f"n{index}{MATH}") for index in range(given)], **TEXTS, xlabel="effect"))
    assert [axes.get_title() for axes in figure.axes if axes.axison] == [f"n{index}{MATH}" for index in range(drawn)]


def test_odd_tokens_are_drawn():
    odd = ("", "   ", "\t\r", "\u0301", "\u200b", "\ufffd", "مرحبا", "a" * 50)
    (axes,) = draw(direct_path([path(promoted=odd, suppressed=odd[:2])], **TEXTS, xlabel="effect")).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[1] == "␣␣␣"
    assert max(map(len, labels)) == LONGEST
    (axes,) = draw(direct_path([path(promoted=(), suppressed=odd)], **TEXTS, xlabel="effect")).axes
    assert len(axes.patches) == len(odd)
