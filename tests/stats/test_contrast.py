"""The statistics of a contrast, against scipy, brute force and numbers worked out by hand. Float64."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from neurexp.stats import contrast, nulls
from neurexp.stats import units as units_of
from neurexp.stats.association import q_values

NEURONS = 5
SIZES = [(12, 12), (7, 20), (20, 7), (2, 9), (4, 4)]  # of category 0 and of category 1


def sample(sizes, neurons=NEURONS, seed=0, offset=0.3):
    """Rows of unequal variances, in a mixed order; each category lies a bit above the one before."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    scale = np.array([1.0, 2.5, 0.4])[labels][:, None]
    x = random.normal(size=(len(labels), neurons)) * scale + offset * labels[:, None] + random.normal(size=neurons) * 5
    return x, labels


def t_of(x, labels):
    """Welch's t by scipy, positive where category 1 is higher."""
    return stats.ttest_ind(x[labels == 1], x[labels == 0], equal_var=False, axis=0)


def masks(labels, *categories):
    return tuple(labels == category for category in categories)


# Welch's t


@pytest.mark.parametrize("sizes", SIZES)
def test_welch_is_scipys_with_positive_t_where_category_1_is_higher(sizes):
    x, labels = sample(sizes)
    ours, theirs = contrast.welch(x, *masks(labels, 0, 1)), t_of(x, labels)
    np.testing.assert_allclose(ours.statistic, theirs.statistic, rtol=1e-9)
    np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-8)
    higher = contrast.welch(x + 100 * labels[:, None], *masks(labels, 0, 1))
    assert (higher.statistic > 0).all()
    lower = contrast.welch(x - 100 * labels[:, None], *masks(labels, 0, 1))
    assert (lower.statistic < 0).all()


def test_welch_by_hand():
    """Means 2 and 6, variances 1 and 4, three rows each: t = 4 / sqrt(5/3), degrees (5/3)² / (1/18 + 16/18)."""
    x, labels = np.array([[1.0], [2.0], [3.0], [4.0], [6.0], [8.0]]), np.array([0, 0, 0, 1, 1, 1])
    tested = contrast.welch(x, *masks(labels, 0, 1))
    assert tested.statistic[0] == pytest.approx(4 / np.sqrt(5 / 3), rel=1e-12)
    assert tested.p[0] == pytest.approx(2 * stats.t.sf(4 / np.sqrt(5 / 3), (25 / 9) / (17 / 18)), rel=1e-10)


def test_welch_of_values_far_from_zero_and_in_any_unit():
    x, labels = sample((30, 40))
    plain = contrast.compare(x, labels)
    moved = contrast.compare(x * 1e-6 + 3.0, labels)
    np.testing.assert_allclose(moved.statistic, t_of(x, labels).statistic, rtol=1e-7)
    np.testing.assert_allclose(moved.p, plain.p, rtol=1e-6)


def test_welch_of_very_small_p():
    x, labels = sample((60, 60), offset=15)
    ours, theirs = contrast.compare(x, labels), t_of(x, labels)
    assert theirs.pvalue.max() < 1e-30
    np.testing.assert_allclose(ours.statistic, theirs.statistic, rtol=1e-9)
    np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-6)


def test_welch_takes_many_pairs_of_groups_at_once_and_leaves_other_rows_out():
    x, _ = sample((20, 20))
    random = np.random.default_rng(1)
    groups = random.integers(0, 3, (2, 3, 40))  # 2: in neither group
    tested = contrast.welch(x, groups == 0, groups == 1)
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
    ours, theirs = contrast.compare(x[:, fine], labels), t_of(x[:, fine], labels)
    np.testing.assert_allclose(ours.statistic, theirs.statistic, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-6, atol=1e-12)


# The one-way F


@pytest.mark.parametrize("sizes", [(10, 10, 10), (4, 9, 30), (5, 5, 5, 2)])
def test_anova_is_scipys(sizes):
    x, labels = sample(sizes[:3])
    if len(sizes) == 4:
        x, labels = np.concatenate([x, x[:2] + 1]), np.concatenate([labels, [3, 3]])
    theirs = stats.f_oneway(*(x[labels == one] for one in range(len(sizes))), axis=0)
    for ours in (contrast.anova(x, labels), contrast.compare(x, labels)):
        np.testing.assert_allclose(ours.statistic, theirs.statistic, rtol=1e-9)
        np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-8)


def test_anova_takes_many_labellings_at_once():
    x, labels = sample((6, 9, 12))
    random = np.random.default_rng(3)
    many = np.stack([random.permutation(labels) for _ in range(4)])
    tested = contrast.anova(x, many)
    assert tested.p.shape == (4, NEURONS)
    for index, one in enumerate(many):
        theirs = stats.f_oneway(*(x[one == category] for category in range(3)), axis=0)
        np.testing.assert_allclose(tested.statistic[index], theirs.statistic, rtol=1e-9)
        np.testing.assert_allclose(tested.p[index], theirs.pvalue, rtol=1e-8)


@pytest.mark.parametrize("sizes", [(10, 14), (8, 8, 11)])
def test_eta_squared_is_the_share_of_the_sums_of_squares_and_agrees_with_f(sizes):
    x, labels = sample(sizes)
    within = sum(((x[labels == one] - x[labels == one].mean(0)) ** 2).sum(0) for one in range(len(sizes)))
    eta = contrast.eta_squared(x, labels)
    np.testing.assert_allclose(eta, 1 - within / ((x - x.mean(0)) ** 2).sum(0), rtol=1e-10)
    f = stats.f_oneway(*(x[labels == one] for one in range(len(sizes))), axis=0).statistic
    between, degrees = len(sizes) - 1, len(x) - len(sizes)
    np.testing.assert_allclose(eta, between * f / (between * f + degrees), rtol=1e-9)


# Pairs


def test_paired_t_is_scipys_with_positive_t_where_the_second_is_higher():
    x, labels = sample((15, 15))
    first, second = np.flatnonzero(labels == 0), np.random.default_rng(2).permutation(np.flatnonzero(labels == 1))
    theirs = stats.ttest_rel(x[second], x[first], axis=0)
    t, p = contrast.paired_t(x, first, second)
    np.testing.assert_allclose(t, theirs.statistic, rtol=1e-10)
    np.testing.assert_allclose(p, theirs.pvalue, rtol=1e-10)
    assert (contrast.paired_t(x + 100 * labels[:, None], first, second)[0] > 0).all()
    other = contrast.paired_t(x, second, first)
    np.testing.assert_allclose(other[0], -t, rtol=1e-12)
    np.testing.assert_allclose(other[1], p, rtol=1e-12)


def test_paired_t_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3)."""
    x = np.array([[0.0], [10.0], [20.0], [1.0], [12.0], [23.0]])
    t, p = contrast.paired_t(x, np.array([0, 1, 2]), np.array([3, 4, 5]))
    assert t[0] == pytest.approx(2 * np.sqrt(3), rel=1e-12)
    assert p[0] == pytest.approx(2 * stats.t.sf(2 * np.sqrt(3), 2), rel=1e-10)


# Permutation


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
    batches = list(units_of.shuffles(labels, draws, np.random.default_rng(5)))
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
    null, welch = nulls.permutation(x, labels, 4000, 0), contrast.compare(x, labels)
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
        nulls._welch_over(x)(many), contrast.welch(x, many == 0, many == 1).statistic, rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("sizes", SIZES)
def test_the_fast_statistic_is_scipys_on_every_labelling(sizes):
    x, labels = sample(sizes)
    random = np.random.default_rng(0)
    many = np.stack([random.permutation(labels) for _ in range(20)])
    expected = [t_of(x, one).statistic for one in many]
    np.testing.assert_allclose(nulls._welch_over(x)(many), expected, rtol=1e-9, atol=1e-12)


def test_p_of_the_largest_counts_draws_by_hand():
    largest = np.array([1.0, 2.0, 3.0, 4.0])
    observed = np.array([-2.5, 4.0, 5.0, np.nan, 0.0])
    np.testing.assert_allclose(nulls.p_of_largest(observed, largest, exact=False), [3 / 5, 2 / 5, 1 / 5, 1, 1])
    np.testing.assert_allclose(nulls.p_of_largest(observed, largest, exact=True), [2 / 4, 1 / 4, 0, 1, 1])


# Effect sizes


@pytest.mark.parametrize("sizes", [(10, 10), (5, 30), (100, 100)])
@pytest.mark.parametrize("offset", [0.0, 0.5, -3.0])
def test_cohens_d_and_its_interval_by_the_noncentral_t(sizes, offset):
    x, labels = sample(sizes, offset=offset)
    one, zero = x[labels == 1], x[labels == 0]
    n1, n0 = len(one), len(zero)
    pooled = ((n1 - 1) * one.var(0, ddof=1) + (n0 - 1) * zero.var(0, ddof=1)) / (n1 + n0 - 2)
    d, low, high = contrast.cohens_d(x, labels)
    np.testing.assert_allclose(d, (one.mean(0) - zero.mean(0)) / np.sqrt(pooled), rtol=1e-10)
    scale = np.sqrt(n1 * n0 / (n1 + n0))
    np.testing.assert_allclose(d * scale, stats.ttest_ind(one, zero, axis=0).statistic, rtol=1e-9)
    np.testing.assert_allclose(stats.nct.cdf(d * scale, n1 + n0 - 2, low * scale), 0.975, rtol=1e-6)
    np.testing.assert_allclose(stats.nct.cdf(d * scale, n1 + n0 - 2, high * scale), 0.025, rtol=1e-5)
    assert ((low < d) & (d < high)).all()


def test_the_interval_of_d_turns_round_with_the_labels():
    x, labels = sample((20, 30), offset=1.0)
    d, low, high = contrast.cohens_d(x, labels)
    other, other_low, other_high = contrast.cohens_d(x, 1 - labels)
    np.testing.assert_allclose(other, -d, rtol=1e-10)
    np.testing.assert_allclose(other_low, -high, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(other_high, -low, rtol=1e-6, atol=1e-9)


def test_the_interval_of_d_covers_the_truth_in_95_of_100_samples():
    random = np.random.default_rng(4)
    labels = np.repeat([0, 1], [15, 25])
    x = random.normal(size=(40, 4000)) + 0.8 * labels[:, None]
    _, low, high = contrast.cohens_d(x, labels)
    covered = int(((low < 0.8) & (high > 0.8)).sum())
    assert stats.binomtest(covered, 4000, 0.95).pvalue > 1e-4


def test_the_interval_of_a_very_large_d_is_finite_and_holds_it():
    x, labels = sample((100, 100), offset=0.0)
    for apart in (5.0, 20.0, 100.0):
        d, low, high = contrast.cohens_d(x + apart * labels[:, None], labels)
        assert np.isfinite(low).all()
        assert np.isfinite(high).all()
        assert ((low < d) & (d < high)).all()


@given(
    arrays(np.int64, (6, 2), elements=st.integers(0, 5)),
    arrays(np.int64, (9, 2), elements=st.integers(0, 5)),
)
def test_auroc_counts_pairs_and_ties_half(one, zero):
    expected = [
        np.mean([[1.0 if a > b else 0.5 if a == b else 0.0 for b in zero[:, index]] for a in one[:, index]])
        for index in range(2)
    ]
    x = np.concatenate([one, zero]).astype(float)
    labels = np.array([1] * 6 + [0] * 9)
    np.testing.assert_allclose(contrast.auroc(x, labels), expected, rtol=1e-12, atol=1e-15)


def test_auroc_of_many_labellings_at_once_and_without_a_category():
    x, labels = sample((10, 10))
    random = np.random.default_rng(0)
    many = np.stack([labels, random.permutation(labels), np.zeros(20, dtype=int), np.ones(20, dtype=int)])
    found = contrast.auroc(x, many)
    np.testing.assert_array_equal(found[0], contrast.auroc(x, labels))
    np.testing.assert_array_equal(found[1], contrast.auroc(x, many[1]))
    assert np.isnan(found[2:]).all()


def test_bands_are_means_beyond_three_and_a_half_robust_deviations_by_hand():
    """Median 0, median absolute deviation 2: beyond 3.5 × 1.4826 × 2 = 10.378."""
    means = np.array([0, 0, -1, 1, 2, -2, 3, -3, 10.3, -10.4, 50])
    assert np.median(means) == 0
    assert np.median(np.abs(means)) == 2
    np.testing.assert_array_equal(contrast.bands(means), [False] * 9 + [True, True])
    np.testing.assert_array_equal(contrast.bands(means * 7 - 100), [False] * 9 + [True, True])


def test_few_neurons_of_a_normal_sample_are_bands():
    means = np.random.default_rng(0).normal(3, 2, 20_000)
    expected = 2 * stats.norm.sf(3.5)
    assert stats.binomtest(int(contrast.bands(means).sum()), 20_000, expected).pvalue > 1e-4


# Degenerate neurons


def degenerate(labels):
    """A dead neuron, a constant one, one that differs by float32 rounding only, one constant within its groups."""
    value = np.float32(100.1)
    rounding = np.where(np.arange(len(labels)) % 2 == 0, value, np.nextafter(value, np.float32(200)))
    with_labels = np.where(labels == 0, value, np.nextafter(value, np.float32(200)))
    constant = np.full(len(labels), 0.1)
    perfect = 0.1 + 0.7 * labels
    return np.stack([np.zeros(len(labels)), constant, rounding, with_labels, perfect], axis=1).astype(float)


DEAD = slice(0, 4)  # of `degenerate`


@pytest.mark.parametrize("sizes", [(10, 10), (9, 14)])
def test_a_neuron_that_never_varies_has_no_t_and_a_p_of_one(sizes):
    _, labels = sample(sizes)
    x = degenerate(labels)
    tested = contrast.compare(x, labels)
    assert np.isnan(tested.statistic[DEAD]).all()
    assert (tested.p[DEAD] == 1).all()
    null = nulls.permutation(x, labels, 200, seed=0)
    assert (null.p[DEAD] == 1).all()
    assert (null.p_max[DEAD] == 1).all()
    assert np.isfinite(null.largest).all()
    for values in (*contrast.cohens_d(x, labels), contrast.eta_squared(x, labels)):
        assert np.isnan(values[DEAD]).all()
    np.testing.assert_array_equal(contrast.auroc(x, labels)[:2], 0.5)
    assert np.isfinite(q_values(tested.p)).all()


def test_a_neuron_that_never_varies_has_no_paired_t():
    _, labels = sample((10, 10))
    first, second = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    t, p = contrast.paired_t(degenerate(labels), first, second)
    assert np.isnan(t[DEAD]).all()
    assert (p[DEAD] == 1).all()
    assert np.isfinite(p).all()


@pytest.mark.parametrize("sizes", [(10, 10, 10), (5, 9, 14)])
def test_a_neuron_that_never_varies_has_no_f(sizes):
    _, labels = sample(sizes)
    x = degenerate(labels)
    tested = contrast.compare(x, labels)
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
    tested = contrast.compare(x, labels)
    assert 1e5 < tested.statistic[0] < 1e8
    assert tested.p[0] < 1e-30
    assert contrast.compare(-x, labels).statistic[0] == pytest.approx(-tested.statistic[0], rel=1e-3)
    null = nulls.permutation(x, labels, 200, seed=0)
    assert null.p[0] == null.p_max[0] == 1 / 201
    # There is no deviation within the groups to measure a difference by
    assert np.isnan([bound[0] for bound in contrast.cohens_d(x, labels)]).all()
    assert contrast.auroc(x, labels)[0] == 1
    assert contrast.eta_squared(x, labels)[0] == pytest.approx(1)


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
    before, after = contrast.compare(x, labels), contrast.compare(with_dead, labels)
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
    replication = contrast.replicate(x, labels, splits=3, seed=0)
    assert not replication.selected.any()
    assert np.isnan(replication.rate)
    np.testing.assert_array_equal(replication.heldout, 0.5)


# Within some of the rows


def test_compare_within_is_scipys_welch_among_the_rows():
    x, labels = sample((20, 24), offset=1.0)
    random = np.random.default_rng(0)
    given_labels = np.stack([labels, *(random.permutation(labels) for _ in range(4))])
    inside = random.random(given_labels.shape) < 0.6
    within = contrast.compare_within(x, given_labels, inside)
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
    within = contrast.compare_within(x, given_labels, inside)
    for index in range(4):
        groups = [x[inside[index] & (given_labels[index] == category)] for category in range(3)]
        theirs = stats.f_oneway(*groups, axis=0)
        np.testing.assert_allclose(within.statistic[index], theirs.statistic, rtol=1e-9)
        np.testing.assert_allclose(within.p[index], theirs.pvalue, rtol=1e-8)
        np.testing.assert_array_equal(within.direction[index], np.argmax([one.mean(0) for one in groups], axis=0))


# Replication


def planted(sizes, strong, neurons, seed=0, size=1.5):
    """Noise; the first `strong` neurons tell the last category from the others, every second one of two by lying lower.

    (Of three categories a neuron's direction is its highest one, which must not be left to chance.)
    """
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = random.normal(size=(len(labels), neurons))
    lower = (np.arange(strong) % 2 == 1) & (len(sizes) == 2)
    x[:, :strong] += np.where(lower, -size, size) * (labels == len(sizes) - 1)[:, None]
    return x, labels


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("sizes", [(13, 20), (8, 9, 11)])
def test_selection_and_test_share_no_row_and_each_half_has_half_of_each_category(sizes, shuffle, monkeypatch):
    x, labels = planted(sizes, 2, 4)
    calls, compare_within = [], contrast.compare_within
    monkeypatch.setattr(contrast, "compare_within", lambda *given: calls.append(given[1:]) or compare_within(*given))
    contrast.replicate(x, labels, splits=1 if shuffle else 6, seed=0, shuffles=6 if shuffle else 0)
    (given_labels, first), (same_labels, second), (dealt, again) = calls
    np.testing.assert_array_equal(given_labels, same_labels)
    np.testing.assert_array_equal(second, ~first)
    np.testing.assert_array_equal(again, second)
    assert len(np.unique(first, axis=0)) == 6
    for one, inside, other in zip(given_labels, first, dealt, strict=True):
        assert (one == labels).all() != shuffle
        np.testing.assert_array_equal(np.bincount(one), sizes)
        np.testing.assert_array_equal(np.bincount(one[inside]), np.array(sizes) // 2)
        np.testing.assert_array_equal(other[inside], one[inside])
        np.testing.assert_array_equal(np.bincount(other[~inside]), np.bincount(one[~inside]))
    assert not np.array_equal(dealt, given_labels)


@pytest.mark.parametrize("sizes", [(60, 60), (40, 80), (50, 50, 50)])
def test_planted_effects_are_selected_and_replicate(sizes):
    x, labels = planted(sizes, 10, 60)
    replication = contrast.replicate(x, labels, splits=20, seed=0)
    assert replication.selected.shape == replication.replicated.shape == (60,)
    assert replication.by_chance.shape == replication.heldout.shape == replication.found.shape == (20,)
    assert replication.selected[:10].mean() > 0.95
    assert replication.selected[10:].mean() < 0.05
    assert replication.replicated[:10].mean() > 0.95
    assert (replication.replicated <= replication.selected).all()
    assert replication.selected.sum() * 20 == pytest.approx(replication.found.sum())
    assert replication.replicated.sum() * 20 == pytest.approx(replication.kept.sum())
    assert (replication.by_chance <= replication.found).all()
    assert replication.rate > 0.9
    assert replication.rate == replication.kept.sum() / replication.found.sum()
    # Two normals 1.5 standard deviations apart
    assert replication.heldout.mean() == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(2)), abs=0.05)


def test_replication_follows_the_seed_only():
    x, labels = planted((20, 20), 5, 20)
    one, again, other = (contrast.replicate(x, labels, 5, seed) for seed in (1, 1, 2))
    for name in ("selected", "replicated", "found", "kept", "by_chance", "heldout"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.heldout, other.heldout)


def test_selection_is_benjamini_hochberg_in_the_first_half_and_replication_p_and_direction_in_the_second(monkeypatch):
    x, labels = planted((24, 24), 6, 12, size=1.0)
    calls, compare_within = [], contrast.compare_within
    monkeypatch.setattr(contrast, "compare_within", lambda *given: calls.append(given[1:]) or compare_within(*given))
    replication = contrast.replicate(x, labels, splits=4, seed=3)
    (_, first), _, (dealt, _) = calls
    selected, replicated = np.zeros(12), np.zeros(12)
    for split, inside in enumerate(first):
        found, again = t_of(x[inside], labels[inside]), t_of(x[~inside], labels[~inside])
        chosen = stats.false_discovery_control(found.pvalue) < 0.05
        same = np.sign(found.statistic) == np.sign(again.statistic)
        kept = chosen & same & (again.pvalue < 0.05)
        assert replication.found[split] == chosen.sum()
        assert replication.kept[split] == kept.sum()
        selected += chosen
        replicated += kept
        shuffled = t_of(x[~inside], dealt[split][~inside])
        same = np.sign(found.statistic) == np.sign(shuffled.statistic)
        assert replication.by_chance[split] == (chosen & same & (shuffled.pvalue < 0.05)).sum()
        best = np.abs(found.statistic).argmax()
        one, zero = (x[~inside & (labels == category), best] for category in (1, 0))
        higher = (one[:, None] > zero).mean()
        expected = higher if found.statistic[best] > 0 else 1 - higher
        assert replication.heldout[split] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(replication.selected, selected / 4)
    np.testing.assert_array_equal(replication.replicated, replicated / 4)


@pytest.mark.parametrize("sizes", [(40, 40), (30, 30, 30)])
def test_shuffled_labels_select_about_nothing(sizes):
    x, labels = planted(sizes, 40, 80)
    replication = contrast.replicate(x, labels, splits=1, seed=0, shuffles=60)
    # Benjamini-Hochberg: a share of 5 % of the splits selects anything if neurons were independent
    assert (replication.found > 0).mean() < 0.2
    assert replication.selected.mean() < 0.02
    assert abs(replication.heldout.mean() - 0.5) < 0.05


def test_by_chance_a_fortieth_of_the_selected_replicates():
    x, labels = planted((60, 60), 60, 60)
    replication = contrast.replicate(x, labels, splits=400, seed=0)
    selected = replication.found
    assert selected.mean() > 50
    rates = replication.by_chance / selected
    assert abs(rates.mean() - 0.025) < 4 * rates.std(ddof=1) / np.sqrt(400)
    assert rates.std(ddof=1) / np.sqrt(400) < 0.005


def test_an_f_without_two_categories_or_without_rows_to_spare_is_undefined():
    x, labels = sample((5, 5, 5), 3)
    alone, each = labels == 1, np.isin(np.arange(15), [np.flatnonzero(labels == one)[0] for one in range(3)])
    found = contrast.compare_within(x, np.stack([labels, labels]), np.stack([alone, each]))
    assert np.isnan(found.statistic).all()
    assert (found.p == 1).all()
