"""Reducers against float64 numpy over all activations, merged in any split and order, saved and taken up again."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import batch_of, feed

from neurexp.engine.reducers import Histogram, Moments, Pilot
from neurexp.stats.groups import GroupSums

SITES, GROUPS, NEURONS = 2, 3, 5
CPU = torch.device("cpu")
SMALL = np.finfo(np.float32).smallest_subnormal
NUMBERS = st.floats(width=32, allow_nan=False, allow_subnormal=False)


def sample(tokens=400, seed=0, scale=1.0, offset=0.0):
    """Activations `[sites, tokens, neurons]` in float32 and the group of each token."""
    rng = np.random.default_rng(seed)
    values = rng.normal(offset, scale, (SITES, tokens, NEURONS)).astype(np.float32)
    return torch.from_numpy(values), rng.integers(0, GROUPS, tokens)


def exact_sample(tokens, seed):
    """As `sample`, but multiples of 1/8 below 8 in size: sums of them, and of their squares, are exact in any order."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-63, 64, (SITES, tokens, NEURONS)).astype(np.float32) / 8
    return torch.from_numpy(values), rng.integers(0, GROUPS, tokens)


def new_moments(shift=0.0, groups=GROUPS):
    return Moments(groups, torch.full((SITES, NEURONS), shift))


def new_histogram(low=-3.0, high=3.0, bins=16, groups=GROUPS, sites=SITES):
    return Histogram(groups, torch.full((sites,), low), torch.full((sites,), high), bins, CPU)


def summary_of(moments, *groups):
    return GroupSums(**{name: tensor.numpy() for name, tensor in moments.state().items()}).of(*groups)


def counts_by_numpy(values, edges):
    """Counts of [edge, next edge) in float64, with underflow first and overflow last."""
    wide = np.concatenate([[-np.inf], edges, [np.inf]])
    return np.histogram(np.asarray(values, dtype=np.float64).ravel(), bins=wide)[0]


def assert_counts_equal_numpy(histogram, sites, group):
    edges = histogram.edges.numpy()
    for site, values in enumerate(sites):
        values = values.double().numpy()
        for index in range(histogram.groups):
            expected = counts_by_numpy(values[np.asarray(group) == index], edges[site])
            assert np.array_equal(histogram.counts[site, index].numpy(), expected)


def same(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items()) and list(first) == list(second)


# Moments


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_moments_against_numpy(dtype):
    values, group = sample(scale=2.0, offset=0.7)
    values = values.to(dtype)
    moments = feed(new_moments(shift=0.5), values, group=group)
    exact = values.double().numpy()
    for index in range(GROUPS):
        chosen, found = exact[:, group == index], summary_of(moments, index)
        assert found.tokens == (group == index).sum()
        np.testing.assert_allclose(found.mean, chosen.mean(1), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.std, chosen.std(1), rtol=1e-6)
        np.testing.assert_allclose(found.mean_abs, np.abs(chosen).mean(1), rtol=1e-6)
    everything = summary_of(moments)
    np.testing.assert_allclose(everything.mean, exact.mean(1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(everything.std, exact.std(1), rtol=1e-6)


def test_moments_that_are_exact_in_float32_are_exact():
    values, group = exact_sample(300, seed=1)
    moments, exact = feed(new_moments(shift=0.25), values, group=group), values.double().numpy()
    for index in range(GROUPS):
        chosen = exact[:, group == index]
        assert np.array_equal(moments.sums[:, index], (chosen - 0.25).sum(1))
        assert np.array_equal(moments.squares[:, index], ((chosen - 0.25) ** 2).sum(1))
        assert np.array_equal(moments.magnitudes[:, index], np.abs(chosen).sum(1))


def test_a_neuron_far_from_zero_loses_no_digits():
    """Mean 1e4 and standard deviation 1e-2 in float32, ten steps of which are one standard deviation."""
    values, group = sample(tokens=4000, scale=1e-2, offset=1e4)
    pilot = feed(Pilot(SITES, CPU), values[:, :100], group=group[:100])
    moments = Moments(GROUPS, pilot.shift)
    for start in range(0, 4000, 1000):
        feed(moments, values[:, start : start + 1000], group=group[start : start + 1000])
    exact, found = values.double().numpy(), summary_of(moments)
    np.testing.assert_allclose(found.std, exact.std(1), rtol=1e-6)
    assert np.abs(found.mean - exact.mean(1)).max() < 1e-6 * 1e-2
    for index in range(GROUPS):
        np.testing.assert_allclose(summary_of(moments, index).std, exact[:, group == index].std(1), rtol=1e-6)


def test_the_shift_changes_no_result():
    values, group = sample()
    plain, shifted = (summary_of(feed(new_moments(shift), values, group=group)) for shift in (0.0, 1.5))
    np.testing.assert_allclose(shifted.mean, plain.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(shifted.std, plain.std, rtol=1e-6)
    np.testing.assert_allclose(shifted.mean_abs, plain.mean_abs, rtol=1e-6)


def test_a_group_without_tokens_is_zero_and_disturbs_no_other():
    values, group = sample()
    group = np.where(group == 1, 2, group)
    moments = feed(new_moments(), values, group=group)
    assert moments.count.tolist() == [(group == 0).sum(), 0, (group == 2).sum()]
    assert not moments.sums[:, 1].any()
    assert not moments.magnitudes[:, 1].any()


# Histogram


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_counts_equal_numpys_in_every_group(dtype):
    values, group = sample(tokens=2000, scale=4.0)
    values = values.to(dtype)
    histogram = feed(new_histogram(), values, group=group)
    assert_counts_equal_numpy(histogram, values, group)
    counts = histogram.counts
    assert counts.sum().item() == values.numel()
    assert counts[:, :, 0].sum() > 0
    assert counts[:, :, -1].sum() > 0


def test_values_on_and_beside_every_edge():
    histogram = new_histogram(low=-1.0, high=2.0, bins=12, sites=1)
    edges = histogram.edges[0].numpy().astype(np.float32)
    assert np.array_equal(edges, histogram.edges[0].numpy())
    values = np.concatenate([edges, np.nextafter(edges, np.float32(-np.inf)), np.nextafter(edges, np.float32(np.inf))])
    sites, group = torch.from_numpy(values)[None, :, None], np.arange(len(values)) % GROUPS
    assert_counts_equal_numpy(feed(histogram, sites, group=group), sites, group)


def test_signed_zeros_and_the_smallest_numbers():
    values = torch.tensor([0.0, -0.0, float(SMALL), -float(SMALL), float("inf"), -float("inf"), 3e38, -3e38])
    histogram = feed(new_histogram(sites=1), values[None, :, None], group=np.zeros(8, dtype=np.int64))
    assert_counts_equal_numpy(histogram, values[None, :, None], np.zeros(8))
    zero = int(np.searchsorted(histogram.edges[0].numpy(), 0.0)) + 1
    assert histogram.counts[0, 0, zero].item() == 3
    assert histogram.counts[0, 0, zero - 1].item() == 1


@settings(deadline=None)
@given(
    values=arrays(np.float32, st.integers(1, 40), elements=NUMBERS),
    low=st.floats(-100, 100, width=32),
    spread=st.floats(0.25, 1000, width=32),
    bins=st.integers(8, 200),
    places=st.lists(st.integers(0, 400), max_size=10),
)
def test_counts_equal_numpys_whatever_the_values(values, low, spread, bins, places):
    histogram = new_histogram(low, low + spread, bins, groups=1, sites=1)
    edges = histogram.edges[0].numpy()
    on_edges = [edges[place % len(edges)] for place in places]
    values = torch.from_numpy(np.concatenate([values, np.array(on_edges, dtype=np.float32)]))[None, :, None]
    group = np.zeros(values.shape[1], dtype=np.int64)
    assert_counts_equal_numpy(feed(histogram, values, group=group), values, group)


@pytest.mark.parametrize(("centre", "spread"), [(1.0, 0.0), (1e4, 2e-3), (-300.0, 1e-5)])
def test_counts_equal_numpys_for_a_narrow_site_far_from_zero(centre, spread):
    values = (centre + spread * torch.linspace(-1, 1, 101)).float()[None, :, None]
    histogram = new_histogram(float(values.min()), float(values.max()), 96, groups=1, sites=1)
    group = np.zeros(101, dtype=np.int64)
    assert_counts_equal_numpy(feed(histogram, values, group=group), values, group)


@settings(deadline=None)
@given(low=st.floats(-100, 100, width=32), spread=st.floats(0.25, 1000, width=32), bins=st.integers(8, 200))
def test_the_bulk_gets_half_of_the_bins_or_more_and_a_margin(low, spread, bins):
    histogram = new_histogram(low, low + spread, bins, groups=1, sites=1)
    edges = histogram.edges[0].numpy()
    width = edges[1] - edges[0]
    assert len(edges) == 2 * bins + 1
    assert np.array_equal(np.diff(edges), np.full(2 * bins, width))
    assert np.log2(width) == np.round(np.log2(width))
    high = float(np.float32(low + spread))
    assert bins / 2 - 1 <= (high - low) / width <= bins + 1
    assert edges[0] <= low
    assert high <= edges[-1]


# Pilot


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pilots_shift_and_quantiles(dtype):
    values, group = sample(tokens=2000, scale=3.0, offset=1.0)
    values = values.to(dtype)
    pilot = feed(Pilot(SITES, CPU), values, group=group)
    exact = values.double().numpy()
    np.testing.assert_allclose(pilot.shift.numpy(), exact.mean(1), rtol=1e-7)
    for site in range(SITES):
        ordered = np.sort(exact[site].ravel())  # 10,000 of them, so that 0.1 % are 10
        assert pilot.low[site].item() == ordered[9]
        assert pilot.high[site].item() == ordered[-10]


def test_the_pilot_of_a_single_value():
    pilot = feed(Pilot(1, CPU), torch.tensor([[[-2.5]]]), group=[0])
    assert (pilot.shift.item(), pilot.low.item(), pilot.high.item()) == (-2.5, -2.5, -2.5)


# Merging and saving


def split_in_parts(values, group, cuts, order):
    """The pieces of a text between `cuts`, in another order; some may be empty."""
    places = [0, *sorted(cuts), values.shape[1]]
    parts = [(values[:, start:end], group[start:end]) for start, end in pairwise(places)]
    return [parts[index] for index in np.random.default_rng(order).permutation(len(parts))]


MAKERS = {"moments": new_moments, "histogram": new_histogram}
SPLITS = {
    "tokens": st.integers(1, 60),
    "seed": st.integers(0, 10_000),
    "cuts": st.lists(st.integers(0, 60), max_size=5),
    "order": st.integers(0, 10_000),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@settings(deadline=None)
@given(**SPLITS)
def test_merging_in_any_split_and_order_is_the_whole(make, tokens, seed, cuts, order):
    values, group = exact_sample(tokens, seed)
    whole = feed(make(), values, group=group).state()
    merged = make()
    for part, part_group in split_in_parts(values, group, [min(cut, tokens) for cut in cuts], order):
        merged.merge(feed(make(), part, group=part_group))
    assert same(merged.state(), whole)


@settings(deadline=None)
@given(**SPLITS)
def test_moments_of_any_values_merge_to_float64_rounding_in_any_order(tokens, seed, cuts, order):
    values, group = sample(tokens, seed)
    parts = [
        feed(new_moments(), part, group=part_group)
        for part, part_group in split_in_parts(values, group, [min(cut, tokens) for cut in cuts], order)
    ]
    forwards, backwards = new_moments(), new_moments()
    for part in parts:
        forwards.merge(part)
    for part in reversed(parts):
        backwards.merge(part)
    assert torch.equal(forwards.count, backwards.count)
    for name in ("sums", "squares", "magnitudes"):
        first, second = getattr(forwards, name).numpy(), getattr(backwards, name).numpy()
        np.testing.assert_allclose(first, second, rtol=1e-14, atol=1e-14 * tokens)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@settings(deadline=None)
@given(**SPLITS)
def test_a_pass_in_parts_is_the_pass_in_one(make, tokens, seed, cuts, order):
    values, group = exact_sample(tokens, seed)
    whole = feed(make(), values, group=group).state()
    one = make()
    for part, part_group in split_in_parts(values, group, [min(cut, tokens) for cut in cuts], order):
        feed(one, part, group=part_group)
    assert same(one.state(), whole)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@settings(deadline=None)
@given(tokens=st.integers(1, 60), seed=st.integers(0, 10_000), cut=st.integers(0, 60))
def test_going_on_from_a_saved_state_is_not_having_stopped(make, tokens, seed, cut):
    values, group = exact_sample(tokens, seed)
    whole = feed(make(), values, group=group).state()
    saved = feed(make(), values[:, :cut], group=group[:cut]).state()
    resumed = make()
    resumed.load(saved)
    assert same(resumed.state(), saved)
    assert same(feed(resumed, values[:, cut:], group=group[cut:]).state(), whole)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_loading_takes_over_what_was_fixed_before_the_pass(make):
    values, group = sample()
    other = {"moments": lambda: new_moments(0.5), "histogram": lambda: new_histogram(-9.0, 11.0)}
    first = next(other[name] for name in MAKERS if MAKERS[name] is make)()
    second = make()
    second.load(feed(first, values, group=group).state())
    assert same(second.state(), first.state())
    assert same(feed(second, values, group=group).state(), feed(first, values, group=group).state())


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_state_is_a_copy_that_later_tokens_do_not_change(make):
    values, group = sample()
    reducer = feed(make(), values, group=group)
    state = reducer.state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    feed(reducer, values, group=group)
    assert same(state, before)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_going_on_leaves_the_loaded_state_as_it_was(make):
    values, group = sample()
    state, resumed = feed(make(), values, group=group).state(), make()
    before = {name: tensor.clone() for name, tensor in state.items()}
    resumed.load(state)
    feed(resumed, values, group=group)
    assert same(state, before)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_merging_leaves_the_other_as_it_was(make):
    values, group = sample()
    one, other = make(), feed(make(), values, group=group)
    before = {name: tensor.clone() for name, tensor in other.state().items()}
    one.merge(other)
    feed(one, values, group=group)
    assert same(other.state(), before)


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (lambda: new_moments(0.0), lambda: new_moments(1.0), "shift"),
        (lambda: new_histogram(-3, 3), lambda: new_histogram(-3, 9), "width"),
        (lambda: new_histogram(-3, 3), lambda: new_histogram(-2, 4), "start"),
        (lambda: new_moments(groups=3), lambda: new_moments(groups=1), None),
        (lambda: new_histogram(groups=3), lambda: new_histogram(groups=1), None),
    ],
    ids=["shift", "width", "start", "groups of moments", "groups of histogram"],
)
def test_merging_what_was_taken_differently_is_refused(first, second, what):
    one, other = first(), second()
    before = {name: tensor.clone() for name, tensor in one.state().items()}
    feed(other, sample()[0], group=np.zeros(400, dtype=np.int64))
    with pytest.raises(ValueError, match=what):
        one.merge(other)
    assert same(one.state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_float64_and_counts_int64(dtype):
    values, group = sample()
    moments = feed(new_moments(), values.to(dtype), group=group).state()
    assert {name: moments[name].dtype for name in ("sums", "squares", "magnitudes", "count")} == {
        "sums": torch.float64,
        "squares": torch.float64,
        "magnitudes": torch.float64,
        "count": torch.int64,
    }
    histogram = feed(new_histogram(), values.to(dtype), group=group).state()
    assert histogram["counts"].dtype is torch.int64
    assert histogram["width"].dtype is torch.float64


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_state_does_not_grow_with_the_number_of_tokens(make):
    def shapes_after(tokens):
        values, group = sample(tokens)
        return {name: tensor.shape for name, tensor in feed(make(), values, group=group).state().items()}

    assert shapes_after(10) == shapes_after(1000)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_activations_are_not_written_into(make):
    values, group = sample()
    before = values.clone()
    feed(make(), values, group=group)
    assert torch.equal(values, before)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_batch_without_tokens_changes_nothing(make):
    values, group = sample()
    reducer = feed(make(), values, group=group)
    before = {name: tensor.clone() for name, tensor in reducer.state().items()}
    feed(reducer, values[:, :0], group=group[:0])
    assert same(reducer.state(), before)


def test_sites_are_kept_apart():
    values, group = sample()
    values[1] += 10
    moments = feed(new_moments(), values, group=group)
    apart = summary_of(moments).mean
    assert (apart[1] > 9).all()
    assert (apart[0] < 1).all()
    batch = batch_of(group=group)
    only_second = new_moments()
    only_second.begin(batch)
    only_second.update(1, values[1], batch)
    assert not only_second.sums[0].any()
    assert torch.equal(only_second.sums[1], moments.sums[1])
