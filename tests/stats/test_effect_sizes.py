"""Effect sizes of every neuron, against scipy, brute force and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from labelled_rows import sample
from scipy import stats

from neurexp.stats import effect_sizes


@pytest.mark.parametrize("sizes", [(10, 14), (8, 8, 11)])
def test_eta_squared_is_the_share_of_the_sums_of_squares_and_agrees_with_f(sizes):
    x, labels = sample(sizes)
    within = sum(((x[labels == one] - x[labels == one].mean(0)) ** 2).sum(0) for one in range(len(sizes)))
    eta = effect_sizes.eta_squared(x, labels)
    np.testing.assert_allclose(eta, 1 - within / ((x - x.mean(0)) ** 2).sum(0), rtol=1e-10)
    f = stats.f_oneway(*(x[labels == one] for one in range(len(sizes))), axis=0).statistic
    between, degrees = len(sizes) - 1, len(x) - len(sizes)
    np.testing.assert_allclose(eta, between * f / (between * f + degrees), rtol=1e-9)


@pytest.mark.parametrize("sizes", [(10, 10), (5, 30), (100, 100)])
@pytest.mark.parametrize("offset", [0.0, 0.5, -3.0])
def test_cohens_d_and_its_interval_by_the_noncentral_t(sizes, offset):
    x, labels = sample(sizes, offset=offset)
    one, zero = x[labels == 1], x[labels == 0]
    n1, n0 = len(one), len(zero)
    pooled = ((n1 - 1) * one.var(0, ddof=1) + (n0 - 1) * zero.var(0, ddof=1)) / (n1 + n0 - 2)
    d, low, high = effect_sizes.cohens_d(x, labels)
    np.testing.assert_allclose(d, (one.mean(0) - zero.mean(0)) / np.sqrt(pooled), rtol=1e-10)
    scale = np.sqrt(n1 * n0 / (n1 + n0))
    np.testing.assert_allclose(d * scale, stats.ttest_ind(one, zero, axis=0).statistic, rtol=1e-9)
    np.testing.assert_allclose(stats.nct.cdf(d * scale, n1 + n0 - 2, low * scale), 0.975, rtol=1e-6)
    np.testing.assert_allclose(stats.nct.cdf(d * scale, n1 + n0 - 2, high * scale), 0.025, rtol=1e-5)
    assert ((low < d) & (d < high)).all()


def test_the_interval_of_d_turns_round_with_the_labels():
    x, labels = sample((20, 30), offset=1.0)
    d, low, high = effect_sizes.cohens_d(x, labels)
    other, other_low, other_high = effect_sizes.cohens_d(x, 1 - labels)
    np.testing.assert_allclose(other, -d, rtol=1e-10)
    np.testing.assert_allclose(other_low, -high, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(other_high, -low, rtol=1e-6, atol=1e-9)


def test_the_interval_of_d_covers_the_truth_in_95_of_100_samples():
    random = np.random.default_rng(4)
    labels = np.repeat([0, 1], [15, 25])
    x = random.normal(size=(40, 4000)) + 0.8 * labels[:, None]
    _, low, high = effect_sizes.cohens_d(x, labels)
    covered = int(((low < 0.8) & (high > 0.8)).sum())
    assert stats.binomtest(covered, 4000, 0.95).pvalue > 1e-4


def test_the_interval_of_a_very_large_d_is_finite_and_holds_it():
    x, labels = sample((100, 100), offset=0.0)
    for apart in (5.0, 20.0, 100.0):
        d, low, high = effect_sizes.cohens_d(x + apart * labels[:, None], labels)
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
    np.testing.assert_allclose(effect_sizes.auroc(x, labels), expected, rtol=1e-12, atol=1e-15)


def test_auroc_of_many_labellings_at_once_and_without_a_category():
    x, labels = sample((10, 10))
    random = np.random.default_rng(0)
    many = np.stack([labels, random.permutation(labels), np.zeros(20, dtype=int), np.ones(20, dtype=int)])
    found = effect_sizes.auroc(x, many)
    np.testing.assert_array_equal(found[0], effect_sizes.auroc(x, labels))
    np.testing.assert_array_equal(found[1], effect_sizes.auroc(x, many[1]))
    assert np.isnan(found[2:]).all()


def test_bands_are_means_beyond_three_and_a_half_robust_deviations_by_hand():
    """Median 0, median absolute deviation 2: beyond 3.5 × 1.4826 × 2 = 10.378."""
    means = np.array([0, 0, -1, 1, 2, -2, 3, -3, 10.3, -10.4, 50])
    assert np.median(means) == 0
    assert np.median(np.abs(means)) == 2
    np.testing.assert_array_equal(effect_sizes.bands(means), [False] * 9 + [True, True])
    np.testing.assert_array_equal(effect_sizes.bands(means * 7 - 100), [False] * 9 + [True, True])


def test_bands_are_those_of_the_median_absolute_deviation_by_hand_to_the_bit():
    random = np.random.default_rng(0)
    for size in (1, 2, 7, 768, 3072):
        means = random.standard_t(2, size).astype(np.float32).astype(float)
        distance = np.abs(means - np.median(means))
        np.testing.assert_array_equal(effect_sizes.bands(means), distance > 3.5 * 1.4826 * np.median(distance))
        assert stats.median_abs_deviation(means) == np.median(distance)


def test_few_neurons_of_a_normal_sample_are_bands():
    means = np.random.default_rng(0).normal(3, 2, 20_000)
    expected = 2 * stats.norm.sf(3.5)
    assert stats.binomtest(int(effect_sizes.bands(means).sum()), 20_000, expected).pvalue > 1e-4
