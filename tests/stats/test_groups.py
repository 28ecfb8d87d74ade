"""The median split, group sums, the law of total variance and the overlap, against numpy over the values themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from neurexp.stats.groups import EQUAL, HIGH, LOW, GroupSums, Summary, median_split, overlap

LAYERS, NEURONS, GROUPS = 2, 4, 3


def histogram_of(values):
    return np.bincount(np.array(values, dtype=np.int64))


def group_sums(values, group, shift):
    """What a pass over activations `[layers, tokens, neurons]` in `group` `[tokens]` would leave."""
    members = (group == np.arange(GROUPS)[:, None]).astype(float)
    centred = values - shift[:, None]
    return GroupSums(
        members.sum(1).astype(np.int64), members @ centred, members @ centred**2, members @ np.abs(values), shift
    )


@pytest.fixture
def sample():
    rng = np.random.default_rng(3)
    values = rng.normal(rng.normal(size=(LAYERS, 1, NEURONS)), 2.0, size=(LAYERS, 200, NEURONS))
    group = rng.integers(0, GROUPS, 200)
    return values, group, group_sums(values, group, shift=rng.normal(size=(LAYERS, NEURONS)))


# The median split


@pytest.mark.parametrize(
    ("values", "median", "counts"),
    [
        ([1, 2, 3, 4, 5], 3, (2, 1, 2)),  # an odd number
        ([1, 2, 2, 4], 2, (1, 2, 1)),  # an even number, whose middle two agree
        ([1, 2, 3, 4], 2.5, (2, 0, 2)),  # … and whose middle two do not: no value is at the median
        ([1, 5], 3, (1, 0, 1)),
        ([1, 1, 4, 9], 2.5, (2, 0, 2)),
        ([4, 4, 4, 4], 4, (0, 4, 0)),
        ([7], 7, (0, 1, 0)),
        ([0], 0, (0, 1, 0)),
        ([0, 0, 1], 0, (0, 2, 1)),
        ([1, 4, 4, 4, 4, 4, 9, 9], 4, (1, 5, 2)),
    ],
)
def test_the_median_and_the_three_groups(values, median, counts):
    split = median_split(histogram_of(values))
    assert split.median == median
    assert split.counts == counts


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200))
def test_the_median_is_numpys_and_the_groups_are_a_partition(values):
    split, values = median_split(histogram_of(values)), np.array(values)
    median = np.median(values)
    assert split.median == median
    assert split.counts == ((values < median).sum(), (values == median).sum(), (values > median).sum())
    assert sum(split.shares) == pytest.approx(1)
    assert split.shares == tuple(count / len(values) for count in split.counts)
    assert np.bincount(split.group(values), minlength=3).tolist() == list(split.counts)


def test_the_group_of_each_value():
    split = median_split(histogram_of([1, 2, 3, 4]))
    assert split.group(np.array([4, 1, 3, 2])).tolist() == [HIGH, LOW, HIGH, LOW]
    assert median_split(histogram_of([1, 2, 3])).group(np.arange(5)).tolist() == [
        LOW,
        LOW,
        EQUAL,
        HIGH,
        HIGH,
    ]
    assert split.group(np.array([2])).dtype == np.int64


def test_trailing_empty_bins_do_not_matter():
    counts = np.concatenate([histogram_of([1, 2, 5]), np.zeros(10, dtype=np.int64)])
    assert median_split(counts) == median_split(histogram_of([1, 2, 5]))


def test_counts_too_large_to_lay_out():
    split = median_split(np.array([0, 3 * 10**12, 10**12, 2 * 10**12]))
    assert split.median == 1.5
    assert split.counts == (3 * 10**12, 0, 3 * 10**12)


@pytest.mark.parametrize("histogram", [np.zeros(5, dtype=np.int64), np.zeros(0, dtype=np.int64)])
def test_no_values_have_no_median(histogram):
    with pytest.raises(ValueError, match="median"):
        median_split(histogram)


# Sums over groups


def test_a_groups_mean_spread_and_magnitude(sample):
    values, group, sums = sample
    for index in range(GROUPS):
        summary, chosen = sums.summary(index), values[:, group == index]
        assert summary.tokens == chosen.shape[1]
        np.testing.assert_allclose(summary.mean, chosen.mean(1), rtol=1e-12)
        np.testing.assert_allclose(summary.std, chosen.std(1), rtol=1e-12)
        np.testing.assert_allclose(summary.mean_abs, np.abs(chosen).mean(1), rtol=1e-12)


def test_several_groups_and_all_of_them(sample):
    values, group, sums = sample
    for found, chosen in ((sums.summary(0, 2), values[:, group != 1]), (sums.summary(), values)):
        assert found.tokens == chosen.shape[1]
        np.testing.assert_allclose(found.mean, chosen.mean(1), rtol=1e-12)
        np.testing.assert_allclose(found.std, chosen.std(1), rtol=1e-12)
        np.testing.assert_allclose(found.mean_abs, np.abs(chosen).mean(1), rtol=1e-12)


def test_a_neuron_far_from_zero():
    rng = np.random.default_rng(5)
    values, group = rng.normal(1e6, 1e-3, size=(1, 500, 3)), rng.integers(0, GROUPS, 500)
    summary = group_sums(values, group, shift=values[:, 0]).summary()
    np.testing.assert_allclose(summary.std, values.std(1), rtol=1e-6)
    assert np.abs(summary.mean - values.mean(1)).max() < 1e-8


def test_a_constant_neuron_has_no_spread():
    values = np.full((1, 7, 2), 0.1)
    summary = group_sums(values, np.arange(7) % GROUPS, shift=np.full((1, 2), 0.3)).summary()
    np.testing.assert_allclose(summary.mean, 0.1)
    assert np.isfinite(summary.std).all()
    assert summary.std.max() < 1e-7
    exact = group_sums(values, np.arange(7) % GROUPS, shift=np.full((1, 2), 0.1)).summary()
    assert not exact.std.any()


def test_an_empty_group_is_nan_and_warns_of_nothing(sample):
    values, group, _ = sample
    group = np.where(group == 1, 0, group)
    sums = group_sums(values, group, shift=np.zeros((LAYERS, NEURONS)))
    empty = sums.summary(1)
    assert empty.tokens == 0
    assert all(np.isnan(each).all() for each in (empty.mean, empty.std, empty.mean_abs, *empty.per_layer()))
    assert sums.summary(0, 1).tokens == sums.summary(0).tokens
    np.testing.assert_array_equal(sums.summary(0, 1).mean, sums.summary(0).mean)


def test_the_law_of_total_variance(sample):
    """Over all tokens and neurons of a layer at once, by numpy, against what per-neuron summaries give."""
    values, group, sums = sample
    for summary, chosen in ((sums.summary(), values), (sums.summary(2), values[:, group == 2])):
        mean, std, mean_abs = summary.per_layer()
        flat = chosen.reshape(LAYERS, -1)
        np.testing.assert_allclose(mean, flat.mean(1), rtol=1e-12)
        np.testing.assert_allclose(std, flat.std(1), rtol=1e-12)
        np.testing.assert_allclose(mean_abs, np.abs(flat).mean(1), rtol=1e-12)


def test_neurons_that_differ_only_in_their_means_still_spread_over_the_layer():
    summary = Summary(10, mean=np.array([[-1.0, 1.0]]), std=np.zeros((1, 2)), mean_abs=np.ones((1, 2)))
    assert [each.item() for each in summary.per_layer()] == [0.0, 1.0, 1.0]


# Overlap


def test_overlap_of_equal_apart_and_half_shared():
    first = np.array([2, 2, 0, 0])
    assert overlap(first, first * 7) == pytest.approx(1)
    assert overlap(first, np.array([0, 0, 1, 5])) == 0
    assert overlap(first, np.array([0, 3, 3, 0])) == pytest.approx(0.5)


def test_overlap_is_taken_along_the_last_axis():
    first, second = np.array([[[1, 1], [1, 0]]]), np.array([[[1, 1], [0, 1]]])
    assert overlap(first, second).tolist() == [[1, 0]]


@pytest.mark.parametrize("swap", [False, True])
def test_overlap_with_an_empty_histogram_is_nan_and_warns_of_nothing(swap):
    first, second = np.array([[0, 0], [1, 3]]), np.array([[1, 1], [1, 3]])
    found = overlap(second, first) if swap else overlap(first, second)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(1)
    assert np.isnan(overlap(first[0], first[0]))


@given(arrays(np.int64, (2, 6), elements=st.integers(0, 1000)))
def test_overlap_is_symmetric_and_between_none_and_all(counts):
    first, second = counts
    there, back = overlap(first, second), overlap(second, first)
    np.testing.assert_array_equal(there, back)
    if first.any() and second.any():
        assert -1e-12 <= there <= 1 + 1e-12
    else:
        assert np.isnan(there)
