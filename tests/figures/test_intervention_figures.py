"""Figures of ablations: what is drawn where, and that any numbers and names are drawn without a warning."""

import io

import numpy as np
import pytest

from neurexp.figures.interventions import Doses, TokenEffect, dose_response, effects_by_tokens

TEXTS = {"title": "What was found", "detail": "On what it was measured"}
UNIT = "change of the loss (nats per token)"
MATH = r"$\frac$ _^{"  # what would be a broken formula
LONG = "next token begins a listed verb " * 4


def draw(figure):
    """Draws it, so that whatever matplotlib would warn of comes out."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=50)
    assert target.getvalue().startswith(b"\x89PNG")
    assert figure.get_suptitle() == TEXTS["title"]
    assert figure.get_supxlabel() == TEXTS["detail"]
    return figure


def legend_of(axes):
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


# Dose and response


def doses(ks, kind="mean", null=True):
    effect, empty = 0.02 * np.array(ks, dtype=float), np.full(len(ks), np.nan)
    band = (0.3 * effect, 0.1 * effect, 0.5 * effect) if null else (empty,) * 3
    return Doses(kind, ks, effect, 0.8 * effect, 1.2 * effect, *band)


def panels_of(figure):
    return figure.axes[:-1]  # the last one holds the legend


def by_dose(panels):
    return draw(dose_response(panels, **TEXTS, ylabel=UNIT))


def test_the_effect_is_drawn_over_k_with_its_interval_and_the_band_of_random_neurons():
    ks = [1, 2, 4, 8, 16, 32]
    figure = by_dose({"verbs": [doses(ks)]})
    (axes,) = panels_of(figure)
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "neurons ablated (k)"
    assert axes.get_ylabel() == UNIT
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(k) for k in ks]
    drawn = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(drawn["found neurons, 95 % interval"].get_ydata(), doses(ks).effect)
    np.testing.assert_array_equal(drawn["their mean"].get_ydata(), doses(ks).null_mean)
    band, whiskers = axes.collections
    edge = band.get_paths()[0].vertices
    assert (edge[:, 1].min(), edge[:, 1].max()) == (pytest.approx(0.002), pytest.approx(0.32))
    assert [tuple(segment[:, 1]) for segment in whiskers.get_segments()] == [
        pytest.approx((0.016 * k, 0.024 * k)) for k in ks
    ]
    assert axes.get_ylim()[0] < 0
    assert len(legend_of(figure.axes[-1])) == 3


def test_a_single_k_has_a_band_that_can_be_seen():
    (axes,) = panels_of(by_dose({"verbs": [doses([4])]}))
    edge = axes.collections[0].get_paths()[0].vertices
    assert np.ptp(edge[:, 0]) > 0.3
    assert axes.get_xlim()[0] < 4 < axes.get_xlim()[1]
    assert axes.get_ylim()[0] < -0.03 * axes.get_ylim()[1]  # the line at 0 is not on the edge


def test_each_kind_is_a_row_with_a_marker_of_its_own():
    figure = by_dose({name: [doses([1, 2], kind) for kind in ("mean", "zero")] for name in ("verbs", "nouns")})
    titles = [axes.get_title() for axes in panels_of(figure)]
    assert sorted(titles) == sorted(
        f"{name}\nreplaced by: {kind}" for name in ("verbs", "nouns") for kind in ("mean", "zero")
    )
    markers = {title.split(": ")[1]: set() for title in titles}
    for axes in panels_of(figure):
        markers[axes.get_title().split(": ")[1]] |= {line.get_marker() for line in axes.lines} - {"None"}
    assert markers == {"mean": {"o"}, "zero": {"s"}}
    assert [axes.get_ylabel() for axes in panels_of(figure)].count(UNIT) == 2


@pytest.mark.parametrize("sets", [2, 4])
def test_sets_of_one_kind_are_wrapped(sets):
    figure = by_dose({f"{LONG}{index}{MATH}": [doses([1, 2, 3, 4, 5, 6])] for index in range(sets)})
    assert len(panels_of(figure)) == sets
    assert figure.get_figwidth() < 12


def test_no_null_draws_no_band_and_an_undefined_effect_no_dot():
    curve = doses([1, 2, 4], null=False)
    curve.effect[1] = curve.low[1] = curve.high[1] = np.nan
    figure = by_dose({"verbs": [curve]})
    (axes,) = panels_of(figure)
    (whiskers,) = axes.collections
    assert len(whiskers.get_segments()) == 2
    assert legend_of(figure.axes[-1]) == ["found neurons, 95 % interval"]


def test_numbers_of_k_that_are_close_do_not_run_into_each_other():
    (axes,) = panels_of(by_dose({"verbs": [doses([1, 2, 4, 8, 16, 32, 64, 65])]}))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4", "8", "16", "32", "", "65"]


# Effects by group of tokens


def effect(neurons, tokens, value, p=0.005, null=True):
    band = (0.01, -0.01, 0.03) if null else (np.nan,) * 3
    return TokenEffect(neurons, tokens, value, value - 0.02, value + 0.03, *band, p)


def by_tokens(rows):
    (axes,) = draw(effects_by_tokens(rows, **TEXTS, xlabel=UNIT)).axes
    return axes


def test_a_row_for_each_group_under_the_name_of_its_neurons():
    rows = [effect(name, tokens, value) for name in ("verbs", "nouns") for tokens, value in (("all", 0.1), ("x", 0.2))]
    axes = by_tokens(rows)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all", "x"] * 2
    assert list(axes.get_yticks()) == [1, 2, 4, 5]
    assert [(text.get_text(), text.get_position()[1]) for text in axes.texts if "p =" not in text.get_text()] == [
        ("verbs", 0),
        ("nouns", 3),
    ]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    dots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]
    assert dots == [(0.1, 1), (0.2, 2), (0.1, 4), (0.2, 5)]
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [pytest.approx((-0.01, 0.04))] * 4
    assert axes.get_xlabel() == UNIT
    assert len(legend_of(axes)) == 3


def test_p_is_written_and_so_is_what_has_no_token():
    nothing = TokenEffect("verbs", "none", *[np.nan] * 7)
    rows = [effect("verbs", "a", 0.1), effect("verbs", "b", 0.1, 0.4321), effect("verbs", "c", 0.1, np.nan), nothing]
    notes = [text.get_text() for text in by_tokens(rows).texts]
    assert {"p = 0.005", "p = 0.43", "no tokens"} < set(notes)
    assert notes.count("") == 1


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("null", [True, False])
def test_any_names_are_drawn_and_no_null_draws_no_bar(groups, null):
    axes = by_tokens([effect(LONG, f"{LONG}\n{MATH} {index}"[-index * 9 :], 0.1, null=null) for index in range(groups)])
    assert len(axes.patches) == groups * null
    assert max(len(label.get_text()) for label in axes.get_yticklabels()) <= 46
