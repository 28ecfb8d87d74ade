"""Tests of every neuron, against scipy and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from labelled_rows import DEAD, NEURONS, SIZES, degenerate, masks, sample, t_of
from scipy import stats

from neurexp.stats import effect_sizes, hypothesis_tests, nulls, replication
from neurexp.stats.association import q_values

# Welch's t


@pytest.mark.parametrize("sizes", SIZES)
def test_welch_is_scipys_with_positive_t_where_category_1_is_higher(sizes):
    x, labels = sample(sizes)
    ours, theirs = hypothesis_tests.welch(x, *masks(labels, 0, 1)), t_of(x, labels)
    np.testing.assert_allclose(ours.statistic, theirs.statistic, rtol=1e-9)
    np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-8)
    higher = hypothesis_tests.welch(x + 100 * labels[:, None], *masks(labels, 0, 1))
    assert (higher.statistic > 0).all()
    lower = hypothesis_tests.welch(x - 100 * labels[:, None], *masks(labels, 0, 1))
    assert (lower.statistic < 0).all()


def test_welch_by_hand():
    """Means 2 and 6, variances 1 and 4, three rows each: t = 4 / sqrt(5/3), degrees (5/3)² / (1/18 + 16/18)."""
    x, labels = np.array([[1.0], [2.0], [3.0], [4.0], [6.0], [8.0]]), np.array([0, 0, 0, 1, 1, 1])
    tested = hypothesis_tests.welch(x, *masks(labels, 0, 1))
    assert tested.statistic[0] == pytest.approx(4 / np.sqrt(5 / 3), rel=1e-12)
    assert tested.p[0] == pytest.approx(2 * stats.t.sf(4 / np.sqrt(5 / 3), (25 / 9) / (17 / 18)), rel=1e-10)


def test_welch_of_values_far_from_zero_and_in_any_unit():
    x, labels = sample((30, 40))
    plain = hypothesis_tests.compare(x, labels)
    moved = hypothesis_tests.compare(x * 1e-6 + 3.0, labels)
    np.testing.assert_allclose(moved.statistic, t_of(x, labels).statistic, rtol=1e-7)
    np.testing.assert_allclose(moved.p, plain.p, rtol=1e-6)


def test_welch_of_very_small_p():
    x, labels = sample((60, 60), offset=15)
    ours, theirs = hypothesis_tests.compare(x, labels), t_of(x, labels)
    assert theirs.pvalue.max() < 1e-30
    np.testing.assert_allclose(ours.statistic, theirs.statistic, rtol=1e-9)
    np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-6)


def test_welch_takes_many_pairs_of_groups_at_once_and_leaves_other_rows_out():
    x, _ = sample((20, 20))
    random = np.random.default_rng(1)
    groups = random.integers(0, 3, (2, 3, 40))  # 2: in neither group
    tested = hypothesis_tests.welch(x, groups == 0, groups == 1)
    assert tested.statistic.shape == tested.p.shape == (2, 3, NEURONS)
    for index in np.ndindex(2, 3):
        theirs = t_of(x[groups[index] < 2], groups[index][groups[index] < 2])
        np.testing.assert_allclose(tested.statistic[index], theirs.statistic, rtol=1e-9)
        np.testing.assert_allclose(tested.p[index], theirs.pvalue, rtol=1e-8)


@given(
    arrays(np.float64, (11, 2), elements=st.floats(-100, 100, width=32).map(lambda v: round(v, 2))),
    st.integers(2, 9),
)
def test_welch_is_scipys_for_any_values(x, ones):
    labels = (np.arange(11) < ones).astype(int)
    within = np.minimum(x[labels == 1].var(0), x[labels == 0].var(0))
    fine = within > 1e-6 * (x.var(0) + 1e-9)  # else the documented limits take over
    ours, theirs = hypothesis_tests.compare(x[:, fine], labels), t_of(x[:, fine], labels)
    np.testing.assert_allclose(ours.statistic, theirs.statistic, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-6, atol=1e-12)


# The one-way F


@pytest.mark.parametrize("sizes", [(10, 10, 10), (4, 9, 30), (5, 5, 5, 2)])
def test_anova_is_scipys(sizes):
    x, labels = sample(sizes[:3])
    if len(sizes) == 4:
        x, labels = np.concatenate([x, x[:2] + 1]), np.concatenate([labels, [3, 3]])
    theirs = stats.f_oneway(*(x[labels == one] for one in range(len(sizes))), axis=0)
    for ours in (hypothesis_tests.anova(x, labels), hypothesis_tests.compare(x, labels)):
        np.testing.assert_allclose(ours.statistic, theirs.statistic, rtol=1e-9)
        np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-8)


def test_anova_takes_many_labellings_at_once():
    x, labels = sample((6, 9, 12))
    random = np.random.default_rng(3)
    many = np.stack([random.permutation(labels) for _ in range(4)])
    tested = hypothesis_tests.anova(x, many)
    assert tested.p.shape == (4, NEURONS)
    for index, one in enumerate(many):
        theirs = stats.f_oneway(*(x[one == category] for category in range(3)), axis=0)
        np.testing.assert_allclose(tested.statistic[index], theirs.statistic, rtol=1e-9)
        np.testing.assert_allclose(tested.p[index], theirs.pvalue, rtol=1e-8)


# Pairs


def test_paired_t_is_scipys_with_positive_t_where_the_second_is_higher():
    x, labels = sample((15, 15))
    first, second = np.flatnonzero(labels == 0), np.random.default_rng(2).permutation(np.flatnonzero(labels == 1))
    theirs = stats.ttest_rel(x[second], x[first], axis=0)
    ours = hypothesis_tests.paired_t(x, first, second)
    np.testing.assert_allclose(ours.statistic, theirs.statistic, rtol=1e-10)
    np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-10)
    assert (hypothesis_tests.paired_t(x + 100 * labels[:, None], first, second).statistic > 0).all()
    other = hypothesis_tests.paired_t(x, second, first)
    np.testing.assert_allclose(other.statistic, -ours.statistic, rtol=1e-12)
    np.testing.assert_allclose(other.p, ours.p, rtol=1e-12)


def test_paired_t_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3)."""
    x = np.array([[0.0], [10.0], [20.0], [1.0], [12.0], [23.0]])
    tested = hypothesis_tests.paired_t(x, np.array([0, 1, 2]), np.array([3, 4, 5]))
    assert tested.statistic[0] == pytest.approx(2 * np.sqrt(3), rel=1e-12)
    assert tested.p[0] == pytest.approx(2 * stats.t.sf(2 * np.sqrt(3), 2), rel=1e-10)


# Within some of the rows


def test_compare_within_is_scipys_welch_among_the_rows():
    x, labels = sample((20, 24), offset=1.0)
    random = np.random.default_rng(0)
    given_labels = np.stack([labels, *(random.permutation(labels) for _ in range(4))])
    inside = random.random(given_labels.shape) < 0.6
    within = hypothesis_tests.compare_within(x, given_labels, inside)
    for index in range(5):
        rows = inside[index]
        theirs = t_of(x[rows], given_labels[index][rows])
        np.testing.assert_allclose(within.statistic[index], theirs.statistic, rtol=1e-9)
        np.testing.assert_allclose(within.p[index], theirs.pvalue, rtol=1e-8)
        np.testing.assert_array_equal(within.direction[index], np.sign(theirs.statistic))


def test_compare_within_three_categories_is_scipys_f_and_names_the_highest_category():
    x, labels = sample((20, 24, 16), offset=1.0)
    random = np.random.default_rng(0)
    given_labels = np.stack([labels, *(random.permutation(labels) for _ in range(3))])
    inside = random.random(given_labels.shape) < 0.7
    within = hypothesis_tests.compare_within(x, given_labels, inside)
    for index in range(4):
        groups = [x[inside[index] & (given_labels[index] == category)] for category in range(3)]
        theirs = stats.f_oneway(*groups, axis=0)
        np.testing.assert_allclose(within.statistic[index], theirs.statistic, rtol=1e-9)
        np.testing.assert_allclose(within.p[index], theirs.pvalue, rtol=1e-8)
        np.testing.assert_array_equal(within.direction[index], np.argmax([one.mean(0) for one in groups], axis=0))


def test_an_f_without_two_categories_or_without_rows_to_spare_is_undefined():
    x, labels = sample((5, 5, 5), 3)
    alone, each = labels == 1, np.isin(np.arange(15), [np.flatnonzero(labels == one)[0] for one in range(3)])
    found = hypothesis_tests.compare_within(x, np.stack([labels, labels]), np.stack([alone, each]))
    assert np.isnan(found.statistic).all()
    assert (found.p == 1).all()


# Neurons that do not vary


@pytest.mark.parametrize("sizes", [(10, 10), (9, 14)])
def test_a_neuron_that_never_varies_has_no_t_and_a_p_of_one(sizes):
    _, labels = sample(sizes)
    x = degenerate(labels)
    tested = hypothesis_tests.compare(x, labels)
    assert np.isnan(tested.statistic[DEAD]).all()
    assert (tested.p[DEAD] == 1).all()
    null = nulls.permutation(x, labels, 200, seed=0)
    assert (null.p[DEAD] == 1).all()
    assert (null.p_max[DEAD] == 1).all()
    assert np.isfinite(null.largest).all()
    for values in (*effect_sizes.cohens_d(x, labels), effect_sizes.eta_squared(x, labels)):
        assert np.isnan(values[DEAD]).all()
    np.testing.assert_array_equal(effect_sizes.auroc(x, labels)[:2], 0.5)
    assert np.isfinite(q_values(tested.p)).all()


def test_a_neuron_that_never_varies_has_no_paired_t():
    _, labels = sample((10, 10))
    first, second = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    tested = hypothesis_tests.paired_t(degenerate(labels), first, second)
    assert np.isnan(tested.statistic[DEAD]).all()
    assert (tested.p[DEAD] == 1).all()
    assert np.isfinite(tested.p).all()


@pytest.mark.parametrize("sizes", [(10, 10, 10), (5, 9, 14)])
def test_a_neuron_that_never_varies_has_no_f(sizes):
    _, labels = sample(sizes)
    x = degenerate(labels)
    tested = hypothesis_tests.compare(x, labels)
    assert np.isnan(tested.statistic[:3]).all()
    assert (tested.p[:3] == 1).all()
    assert np.isfinite(tested.statistic[4])
    assert tested.p[4] < 1e-50
    null = nulls.permutation(x, labels, 200, seed=0)
    assert (null.p[:3] == 1).all()
    assert null.p[4] == 1 / 201


@pytest.mark.parametrize("sizes", [(10, 10), (9, 14)])
def test_a_neuron_constant_within_its_groups_has_a_very_large_t(sizes):
    _, labels = sample(sizes)
    x = degenerate(labels)[:, 4:]
    tested = hypothesis_tests.compare(x, labels)
    assert 1e5 < tested.statistic[0] < 1e8
    assert tested.p[0] < 1e-30
    assert hypothesis_tests.compare(-x, labels).statistic[0] == pytest.approx(-tested.statistic[0], rel=1e-3)
    null = nulls.permutation(x, labels, 200, seed=0)
    assert null.p[0] == null.p_max[0] == 1 / 201
    # There is no deviation within the groups to measure a difference by
    assert np.isnan([bound[0] for bound in effect_sizes.cohens_d(x, labels)]).all()
    assert effect_sizes.auroc(x, labels)[0] == 1
    assert effect_sizes.eta_squared(x, labels)[0] == pytest.approx(1)


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5)])
def test_a_neuron_constant_within_its_groups_has_the_smallest_exact_p(sizes):
    labels = np.repeat([0, 1], sizes)
    null = nulls.permutation(degenerate(labels)[:, 4:], labels, 100, seed=0)
    ways = 2 if sizes[0] == sizes[1] else 1  # the mirrored labelling is as extreme
    assert null.p[0] == pytest.approx(ways / len(null.largest))


def test_a_dead_neuron_leaves_the_others_as_they_are():
    x, labels = sample((12, 15))
    with_dead = np.concatenate([x[:, :2], degenerate(labels)[:, DEAD], x[:, 2:]], axis=1)
    alive = [0, 1, 6, 7, 8]
    before, after = hypothesis_tests.compare(x, labels), hypothesis_tests.compare(with_dead, labels)
    np.testing.assert_allclose(after.statistic[alive], before.statistic, rtol=1e-12)
    np.testing.assert_allclose(after.p[alive], before.p, rtol=1e-12)
    one, other = nulls.permutation(x, labels, 300, 1), nulls.permutation(with_dead, labels, 300, 1)
    np.testing.assert_allclose(other.p[alive], one.p, rtol=1e-12)
    np.testing.assert_allclose(other.p_max[alive], one.p_max, rtol=1e-12)
    np.testing.assert_allclose(other.largest, one.largest, rtol=1e-10)
    np.testing.assert_array_equal(one.counts, other.counts)


def test_where_every_neuron_is_dead_nothing_is_found_and_nothing_fails():
    labels = np.repeat([0, 1], 10)
    x = np.zeros((20, 3))
    null = nulls.permutation(x, labels, 100, seed=0)
    assert (null.p == 1).all()
    assert (null.p_max == 1).all()
    result = replication.replicate(x, labels, splits=3, seed=0)
    assert not result.selected.any()
    assert np.isnan(result.rate)
    np.testing.assert_array_equal(result.heldout, 0.5)
