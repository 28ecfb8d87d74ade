"""Regressions with comparisons of one's own: units without a category, one type of a category, any order."""

import numpy as np
import pytest
from scipy import stats

from neurexp.experiments.base import Inputs
from neurexp.experiments.regression import Between, Comparison, Options, RegressionData, RegressionPlan, Verdict
from neurexp.experiments.regression.report import write
from neurexp.text.spans import Selection
from neurexp.text.tokens import Tokens

ROWS, NEURONS = 24, 6
TOKENS = Tokens(np.zeros((ROWS, 4), np.int32), np.ones((ROWS, 4), bool), ROWS)
LABELS = np.arange(ROWS) % 2
WORDS = [f"{'ab'[label]}{place % 3}" for place, label in enumerate(LABELS.tolist())]


def comparison(words=WORDS, name="here", units=None):
    place = np.arange(ROWS)
    rows = Selection(TOKENS, place, np.ones(ROWS, np.int64), np.full(ROWS, 2), LABELS, list(words))
    return Comparison(rows, "ones", "zeros", name, units=units)


def data(comparisons, x, between=None):
    names = list(comparisons)
    plan = RegressionPlan(
        inputs=Inputs(None, "model", "text", lambda: TOKENS),
        passes=(),
        tokens=TOKENS,
        comparisons=comparisons,
        verdict=Verdict(names[0], names[:2], "found neurons", "capitals"),
        sources=dict.fromkeys(names, "text"),
        places=dict.fromkeys(names, np.arange(ROWS)),
        layers=(0,),
        text=None,
        shown=(),
        counts={},
        about=("Made rows.",),
        between=between or {},
    )
    options = Options(name="made", plugin="", shuffles=1, permutations=100)
    return RegressionData(options, plan, {"text": {0: x.astype(np.float32)}})


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(ROWS, NEURONS)) + 5 * LABELS[:, None]


def test_a_unit_without_one_of_the_categories_is_left_out_of_the_paired_test(x):
    units = np.array([f"verb {place // 4}" for place in range(ROWS)])
    units[LABELS == 1] = np.where(units[LABELS == 1] == "verb 5", "verb 0", units[LABELS == 1])
    found = write(data({"a": comparison(units=units), "b": comparison()}, x)).neurons
    both = [f"verb {one}" for one in range(5)]
    one, zero = (np.stack([x[(units == unit) & (label == LABELS)].mean(0) for unit in both]) for label in (1, 0))
    expected = stats.ttest_rel(one, zero)
    assert found["t_units_a"] == pytest.approx(expected.statistic, rel=1e-4)
    assert found["p_units_a"] == pytest.approx(expected.pvalue, rel=1e-3)


def test_with_one_unit_in_both_categories_there_is_no_paired_test(x):
    units = np.where(LABELS == 1, "verb 1", "verb 0")
    units[0] = "verb 1"
    found = write(data({"a": comparison(units=units), "b": comparison()}, x)).neurons
    assert np.isnan(found["t_units_a"]).all()


def test_the_only_type_of_a_category_has_no_place_between_others(x):
    words = ["only" if label else word for word, label in zip(WORDS, LABELS.tolist(), strict=True)]
    comparisons = {"a": comparison(words), "b": comparison(words), "third": comparison()}
    report = write(data(comparisons, x, {"a": Between("third", "third kind")}))
    table = report.tables["positions"]
    assert "only" not in table["word"]
    assert {"a0", "a1", "a2", "b0", "b1", "b2"} <= set(table["word"].tolist())


def test_positions_between_the_categories_of_what_was_left_out_are_not_measured(x):
    between = {"rare": Between("third", "third kind"), "a": Between("too few", "others")}
    report = write(data({"a": comparison(), "b": comparison(), "third": comparison()}, x, between))
    assert "positions" not in report.tables


def test_the_panels_of_positions_are_named_by_their_own_comparisons(x):
    comparisons = {name: comparison(name=f"by {name}") for name in ("a", "b", "third")}
    report = write(data(comparisons, x, {"b": Between("third", "kind"), "a": Between("third", "kind")}))
    figure = report.figures["positions"]()
    assert [axes.get_xlabel().split(" (")[0] for axes in figure.axes] == ["position by b", "position by a"]
