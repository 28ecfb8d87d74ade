"""Permutation tests, against scipy's statistic of every shuffle, exact fractions and by hand."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from labelled_rows import SIZES, sample, t_of
from scipy import stats

from neurexp.stats import hypothesis_tests, nulls, shuffling


def every_labelling(rows, ones):
    for chosen in combinations(range(rows), ones):
        labels = np.zeros(rows, dtype=int)
        labels[list(chosen)] = 1
        yield labels


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5), (5, 3), (2, 6)])
def test_with_few_rows_every_labelling_is_tried_once(sizes):
    x, labels = sample(sizes, offset=2.0)
    drawn = np.abs([t_of(x, one).statistic for one in every_labelling(len(labels), sizes[1])])
    observed = np.abs(t_of(x, labels).statistic)
    null = nulls.permutation(x, labels, draws=100, seed=0)
    assert null.exact
    assert len(null.largest) == len(drawn)
    np.testing.assert_allclose(null.p, (drawn >= observed * (1 - 1e-9)).mean(0), rtol=1e-12)
    np.testing.assert_allclose(null.p_max, (drawn.max(1)[:, None] >= observed * (1 - 1e-9)).mean(0), rtol=1e-12)
    np.testing.assert_allclose(np.sort(null.largest), np.sort(drawn.max(1)), rtol=1e-9)


def squared_t(values, labels):
    """Exactly; infinite where nothing varies within the groups and they differ."""
    error, means = Fraction(0), []
    for category in (0, 1):
        own = [Fraction(int(value)) for value, label in zip(values, labels, strict=True) if label == category]
        mean = sum(own) / len(own)
        means.append(mean)
        error += sum((value - mean) ** 2 for value in own) / (len(own) - 1) / len(own)
    difference = (means[1] - means[0]) ** 2
    return difference / error if error else float("inf") if difference else Fraction(0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=7, max_size=7), st.integers(2, 5))
def test_statistics_that_are_equal_but_for_rounding_count_as_equal(values, ones):
    labels = np.array([1] * ones + [0] * (7 - ones))
    assume(squared_t(values, labels) > 0)
    drawn = [squared_t(values, one) for one in every_labelling(7, ones)]
    observed = squared_t(values, labels)
    expected = sum(one >= observed for one in drawn) / len(drawn)
    null = nulls.permutation(np.array(values, dtype=float)[:, None] * 0.1 + 0.7, labels, draws=100, seed=0)
    assert null.p[0] == pytest.approx(expected, rel=1e-12)
    assert null.p_max[0] == pytest.approx(expected, rel=1e-12)


def test_a_t_of_zero_but_for_rounding_has_a_p_of_one():
    """Both means are 0.7 in exact arithmetic: every labelling is as extreme or more."""
    values, labels = np.array([0, 3, -3, 0, 1, 1, -2]), np.array([1, 1, 1, 0, 0, 0, 0])
    assert squared_t(values, labels) == 0
    null = nulls.permutation(values[:, None] * 0.1 + 0.7, labels, draws=100, seed=0)
    assert null.p[0] == 1


@pytest.mark.parametrize("apart", [10.0, 1e3, 1e5])
@pytest.mark.parametrize("sizes", [(4, 4), (3, 5)])
def test_the_observed_labelling_itself_always_counts_in_an_exact_p(sizes, apart):
    x, labels = sample(sizes, neurons=50)
    labelled = np.sort(labels)
    null = nulls.permutation(x + apart * labelled[:, None], labelled, draws=100, seed=0)
    assert null.exact
    assert null.p.min() >= 1 / len(null.largest)
    assert null.p_max.min() >= 1 / len(null.largest)


@pytest.mark.parametrize("sizes", [(15, 15), (10, 25), (8, 9, 10)])
def test_p_is_one_and_the_exceedances_over_one_and_the_draws(sizes):
    x, labels = sample(sizes, offset=1.0)
    draws = 620  # more than one chunk, and not a whole number of them
    batches = list(shuffling.shuffles(labels, draws, np.random.default_rng(5)))
    dealt = np.concatenate(batches)
    assert len(dealt) == draws
    assert all((np.bincount(one) == sizes).all() for one in dealt)
    assert len(np.unique(dealt, axis=0)) == draws

    def statistic(one):
        if len(sizes) == 2:
            return np.abs(t_of(x, one).statistic)
        return stats.f_oneway(*(x[one == category] for category in range(3)), axis=0).statistic

    drawn, observed = np.array([statistic(one) for one in dealt]), statistic(labels)
    null = nulls.permutation(x, labels, draws, seed=5)
    assert not null.exact
    np.testing.assert_allclose(null.p, (1 + (drawn >= observed).sum(0)) / (draws + 1), rtol=1e-12)
    exceed = (drawn.max(1)[:, None] >= observed).sum(0)
    np.testing.assert_allclose(null.p_max, (1 + exceed) / (draws + 1), rtol=1e-12)
    np.testing.assert_allclose(null.largest, drawn.max(1), rtol=1e-9)
    assert (null.p_max >= null.p).all()
    signed = drawn if len(sizes) == 3 else np.array([t_of(x, one).statistic for one in dealt])
    np.testing.assert_array_equal(null.counts, np.histogram(signed, null.edges)[0])


def test_p_is_never_below_one_over_the_draws_and_one():
    x, labels = sample((20, 20), offset=50.0)
    null = nulls.permutation(x, labels, 199, seed=0)
    np.testing.assert_allclose(null.p, 1 / 200)
    np.testing.assert_allclose(null.p_max, 1 / 200)


def test_the_permutations_follow_the_seed_only():
    x, labels = sample((20, 20))
    one, again, other = (nulls.permutation(x, labels, 300, seed) for seed in (1, 1, 2))
    for name in ("p", "p_max", "largest", "counts", "edges"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.largest, other.largest)
    # The same shuffles whatever the neurons: a maximum over layers may be taken draw by draw
    part = nulls.permutation(x[:, :2], labels, 300, 1)
    np.testing.assert_allclose(part.p, one.p[:2], rtol=1e-12)
    assert (part.largest <= one.largest + 1e-12).all()


def test_p_of_permutations_agrees_with_welchs_where_values_are_normal():
    random = np.random.default_rng(8)
    x, labels = random.normal(size=(60, 40)), np.repeat([0, 1], 30)
    null, welch = nulls.permutation(x, labels, 4000, 0), hypothesis_tests.compare(x, labels)
    np.testing.assert_allclose(null.p, welch.p, atol=4 * np.sqrt(0.25 / 4000) + 0.005)


@given(
    st.tuples(st.integers(2, 12), st.integers(2, 12)),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 1.0, 50.0]),
)
def test_the_fast_statistic_is_welchs_on_every_labelling(sizes, seed, offset):
    x, labels = sample(sizes, neurons=3, seed=seed, offset=offset)
    random = np.random.default_rng(seed)
    many = np.stack([labels, *(random.permutation(labels) for _ in range(6))])
    np.testing.assert_allclose(
        nulls._welch_of(x)(many), hypothesis_tests.welch(x, many == 0, many == 1).statistic, rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("sizes", SIZES)
def test_the_fast_statistic_is_scipys_on_every_labelling(sizes):
    x, labels = sample(sizes)
    random = np.random.default_rng(0)
    many = np.stack([random.permutation(labels) for _ in range(20)])
    expected = [t_of(x, one).statistic for one in many]
    np.testing.assert_allclose(nulls._welch_of(x)(many), expected, rtol=1e-9, atol=1e-12)


def test_p_of_the_largest_counts_draws_by_hand():
    largest = np.array([1.0, 2.0, 3.0, 4.0])
    observed = np.array([-2.5, 4.0, 5.0, np.nan, 0.0])
    np.testing.assert_allclose(nulls.p_of_largest(observed, largest, exact=False), [3 / 5, 2 / 5, 1 / 5, 1, 1])
    np.testing.assert_allclose(nulls.p_of_largest(observed, largest, exact=True), [2 / 4, 1 / 4, 0, 1, 1])
