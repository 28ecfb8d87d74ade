"""The Moments reducer, and the statistics from its sums, against scipy in float64."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import feed

from neurexp.engine.reducers import Moments, NotFiniteError
from neurexp.stats.moments import moments_of

SITES, NEURONS = 2, 6


def sample(tokens=3000, seed=0, offset=0.0, scale=1.0):
    """Activations `[sites, tokens, neurons]`: normal, skewed, long-tailed, two-valued, rectified and uniform ones."""
    rng = np.random.default_rng(seed)
    shape = (SITES, tokens)
    kinds = [
        rng.normal(size=shape),
        rng.exponential(size=shape),
        rng.standard_t(5, shape),
        (rng.random(shape) < 0.1) * 1.0,
        np.maximum(rng.normal(size=shape), 0),
        rng.random(shape),
    ]
    return torch.from_numpy((offset + scale * np.stack(kinds, -1)).astype(np.float32))


def calibrated(values):
    moments = Moments(SITES)
    for site in range(SITES):
        moments.calibrate(site, values[site, :100])
    return moments


def statistics(moments):
    state = {name: tensor.numpy() for name, tensor in moments.state().items()}
    return moments_of(state["n"], state["sums"], state["positive"], state["shift"])


def assert_is_scipys(moments, values, rtol=1e-5, atol=1e-5):
    """Up to 1e-5, of skewness and kurtosis absolutely where they are near zero."""
    x, found = values.double().numpy(), statistics(moments)
    assert moments.state()["n"].tolist() == [values.shape[1]] * SITES
    assert np.array_equal(found.share_positive, (x > 0).mean(1))
    np.testing.assert_allclose(found.std, x.std(1), rtol=rtol)
    assert (np.abs(found.mean - x.mean(1)) <= 1e-6 * x.std(1)).all()
    np.testing.assert_allclose(found.skewness, scipy.stats.skew(x, axis=1), rtol=rtol, atol=atol)
    np.testing.assert_allclose(found.kurtosis, scipy.stats.kurtosis(x, axis=1), rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_moments_are_scipys(dtype):
    values = sample().to(dtype)
    moments = calibrated(values)
    for part in values.split(700, dim=1):
        feed(moments, part, any=np.zeros(part.shape[1]))
    assert_is_scipys(moments, values)


@pytest.mark.parametrize(("offset", "scale"), [(1e4, 1e-1), (-300.0, 1e-3), (1e-6, 1e-7), (0.0, 1e6)])
def test_a_neuron_far_from_zero_loses_no_digits(offset, scale):
    """The float32 activations themselves have few digits here; their moments keep all of these."""
    values = sample(offset=offset, scale=scale)
    moments = calibrated(values)
    for part in values.split(1000, dim=1):
        feed(moments, part, any=np.zeros(part.shape[1]))
    assert_is_scipys(moments, values)


def test_one_huge_activation_in_the_first_sequence_spoils_no_digits():
    """As the first token's in many models: it is not counted, but may be in the sequence that sets the shift."""
    values = sample()
    values[:, 0] = 1e4
    moments, counted = calibrated(values), np.ones(values.shape[1], dtype=bool)
    counted[0] = False
    feed(moments, values, counted=counted)
    assert_is_scipys(moments, values[:, 1:])


def test_tokens_that_are_not_counted_are_not_added_up():
    values, counted = sample(), np.random.default_rng(1).random(3000) < 0.8
    feed(moments := calibrated(values), values, counted=counted)
    assert_is_scipys(moments, values[:, counted])


def test_a_constant_neuron_has_no_skewness():
    values = torch.full((SITES, 50, NEURONS), 0.3)
    found = statistics(feed(calibrated(values), values, any=np.zeros(50)))
    assert (found.std == 0).all()
    assert np.isnan([found.skewness, found.kurtosis]).all()
    assert (found.share_positive == 1).all()
    np.testing.assert_array_equal(found.mean, np.float32(0.3))


def test_without_tokens_nothing_is_known():
    found = statistics(calibrated(sample()))
    assert np.isnan([found.mean, found.std, found.skewness, found.kurtosis, found.share_positive]).all()


def exact_sample(tokens, seed):
    """Multiples of 1/2 below 4 in size: sums of their powers are exact in any order."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(-7, 8, (SITES, tokens, NEURONS)).astype(np.float32) / 2)


def new():
    return Moments(SITES, torch.full((SITES, NEURONS), 0.5))


@settings(deadline=None, max_examples=40)
@given(
    tokens=st.integers(1, 60),
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    order=st.integers(0, 100),
)
def test_parts_merged_in_any_order_are_the_whole(tokens, seed, cuts, order):
    values = exact_sample(tokens, seed)
    counted = np.random.default_rng(seed).random(tokens) < 0.7
    stops = [0, *sorted(min(cut, tokens) for cut in cuts), tokens]
    parts = [slice(*pair) for pair in itertools.pairwise(stops)]
    merged, resumed = new(), new()
    for index in np.random.default_rng(order).permutation(len(parts)):
        part = parts[index]
        merged.merge(feed(new(), values[:, part], counted=counted[part]))
        state = resumed.state()
        resumed = new()
        resumed.load(state)
        feed(resumed, values[:, part], counted=counted[part])
    shifted = values.double().numpy()[:, counted] - 0.5
    expected = np.stack([(shifted**power).sum(1) for power in range(1, 5)], 1)
    for moments in (merged, resumed):
        assert moments.state()["n"].tolist() == [counted.sum()] * SITES
        assert np.array_equal(moments.state()["sums"], expected)
        assert np.array_equal(moments.state()["positive"], (shifted + 0.5 > 0).sum(1))


def test_merging_what_was_taken_about_another_shift_is_refused():
    with pytest.raises(ValueError, match="shift"):
        new().merge(Moments(SITES, torch.zeros(SITES, NEURONS)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("site", range(SITES))
@pytest.mark.parametrize("counted", [True, False])
def test_what_is_not_finite_is_reported_with_its_site(site, bad, counted):
    values = sample(tokens=300)
    moments = feed(calibrated(values), values, any=np.zeros(300))
    moments.check()
    values[site, 200, 3] = bad
    feed(moments, values, counted=np.arange(300) != (-1 if counted else 200))
    with pytest.raises(NotFiniteError) as raised:
        moments.check()
    assert raised.value.site == site


def test_the_activations_are_not_written_into():
    values = sample()
    before = values.clone()
    feed(calibrated(values), values, counted=np.arange(3000) % 2 == 0)
    assert torch.equal(values, before)


def test_a_variance_that_is_only_rounding_is_none():
    values = np.full((1, 1000), 3.0) + 3e-7 * (np.arange(1000) % 100 == 0)
    shifted = values.astype(np.float32).astype(np.float64)[..., None] - 3.0
    sums = np.stack([(shifted**power).sum(1) for power in range(1, 5)], 1)
    found = moments_of(np.array([1000]), sums, np.full((1, 1), 1000), np.full((1, 1), 3.0, dtype=np.float32))
    assert found.std.tolist() == [[0.0]]
    assert np.isnan([found.skewness, found.kurtosis]).all()
    assert np.isclose(found.mean, 3.0)


def test_a_power_that_is_too_large_is_missing_and_not_infinite():
    x = np.zeros(1000)
    x[7] = 6e9
    sums = np.array([[[(x**power).sum()] for power in range(1, 4)] + [[np.inf]]])
    found = moments_of(np.array([1000]), sums, np.ones((1, 1)), np.zeros((1, 1), dtype=np.float32))
    assert np.allclose(found.std, x.std())
    assert np.isnan(found.kurtosis).all()
    assert np.isfinite(found.skewness).all()
