"""Reducers against float64 numpy over all activations, merged in any split and order, saved and taken up again.

Sums by group are those of a `Gram` whose columns say which group a token is in: given as a matrix, or as cells of
tokens that have their group in common.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import batch_of, feed

from neurexp.engine.reducers.base import NotFiniteError
from neurexp.engine.reducers.extremes import Extremes
from neurexp.engine.reducers.gram import Cells, Gram
from neurexp.engine.reducers.histogram import Histogram
from neurexp.engine.reducers.moments import Moments
from neurexp.engine.reducers.neuron_histogram import NeuronHistogram
from neurexp.engine.reducers.rows import Rows
from neurexp.stats.groups import GroupSums

SITES, GROUPS, NEURONS = 2, 3, 5
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


def new_gram(shift=0.0, groups=GROUPS):
    """Of indicators of groups, with squares and magnitudes wanted of each."""
    return Gram(groups, SITES, slice(None), slice(None), torch.full((SITES, NEURONS), shift))


def new_histogram(low=-3.0, high=3.0, bins=16, groups=GROUPS, sites=SITES):
    histogram = Histogram(groups, sites, bins)
    for site in range(sites):
        histogram.set_edges(site, low, high)
    return histogram


def matrix(group, groups=GROUPS):
    """`[tokens, groups]`"""
    return torch.from_numpy(np.eye(groups, dtype=np.float32)[np.asarray(group)])


def in_cells(group, groups=GROUPS):
    """A cell for every group, whether or not it has tokens, and a second one for every other token of a group."""
    of_token = torch.from_numpy(np.asarray(group) + groups * (np.arange(len(group)) % 2))
    return [Cells(of_token, torch.eye(groups).repeat(2, 1), torch.arange(groups))]


DESIGNS = {"matrix": matrix, "cells": in_cells}


def show(reducer, values, group, design=matrix):
    """Shows either reducer one batch, all of it valid, as a pass would."""
    group = np.asarray(group, dtype=np.int64)
    return feed(reducer, values, group=group, design=design(group))


def summary_of(gram, *groups):
    state = {name: tensor.numpy() for name, tensor in gram.state().items()}
    count = np.diag(state["zz"])
    assert np.array_equal(state["zz"], np.diag(count.round()))  # no token is in two groups
    return GroupSums(count.astype(np.int64), state["zx"], state["qxx"], state["magnitudes"], state["shift"]).summary(
        *groups
    )


def counts_by_numpy(values, edges):
    """Counts of [edge, next edge) in float64, with underflow first and overflow last."""
    wide = np.concatenate([[-np.inf], edges, [np.inf]])
    return np.histogram(np.asarray(values, dtype=np.float64).ravel(), bins=wide)[0]


def assert_counts_equal_numpy_of_site(histogram, site, sites, group):
    values, edges = sites[site].double().numpy(), histogram.edges[site].numpy()
    for index in range(histogram.groups):
        expected = counts_by_numpy(values[np.asarray(group) == index], edges)
        assert np.array_equal(histogram.counts[site, index].numpy(), expected)


def assert_counts_equal_numpy(histogram, sites, group):
    for site in range(len(sites)):
        assert_counts_equal_numpy_of_site(histogram, site, sites, group)


def same(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items()) and list(first) == list(second)


# Sums by group


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_moments_against_numpy(dtype, design):
    values, group = sample(scale=2.0, offset=0.7)
    values = values.to(dtype)
    gram = show(new_gram(shift=0.5), values, group, design)
    exact = values.double().numpy()
    for index in range(GROUPS):
        chosen, found = exact[:, group == index], summary_of(gram, index)
        assert found.tokens == (group == index).sum()
        np.testing.assert_allclose(found.mean, chosen.mean(1), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.std, chosen.std(1), rtol=1e-6)
        np.testing.assert_allclose(found.mean_abs, np.abs(chosen).mean(1), rtol=1e-6)
    everything = summary_of(gram)
    np.testing.assert_allclose(everything.mean, exact.mean(1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(everything.std, exact.std(1), rtol=1e-6)


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_moments_that_are_exact_in_float32_are_exact(design):
    values, group = exact_sample(300, seed=1)
    gram, exact = show(new_gram(shift=0.25), values, group, design), values.double().numpy()
    for index in range(GROUPS):
        chosen = exact[:, group == index]
        assert np.array_equal(gram.zx[:, index], (chosen - 0.25).sum(1))
        assert np.array_equal(gram.qxx[:, index], ((chosen - 0.25) ** 2).sum(1))
        assert np.array_equal(gram.magnitudes[:, index], np.abs(chosen).sum(1))


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_a_neuron_far_from_zero_loses_no_digits(design):
    """Mean 1e4 and standard deviation 1e-2 in float32, ten steps of which are one standard deviation."""
    values, group = sample(tokens=4000, scale=1e-2, offset=1e4)
    gram = Gram(GROUPS, SITES, slice(None), slice(None))
    for site in range(SITES):
        gram.calibrate(site, values[site, :100])
    for start in range(0, 4000, 1000):
        show(gram, values[:, start : start + 1000], group[start : start + 1000], design)
    exact, found = values.double().numpy(), summary_of(gram)
    np.testing.assert_allclose(found.std, exact.std(1), rtol=1e-6)
    assert np.abs(found.mean - exact.mean(1)).max() < 1e-6 * 1e-2
    for index in range(GROUPS):
        np.testing.assert_allclose(summary_of(gram, index).std, exact[:, group == index].std(1), rtol=1e-6)


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_the_shift_changes_no_result(design):
    values, group = sample()
    plain, shifted = (summary_of(show(new_gram(shift), values, group, design)) for shift in (0.0, 1.5))
    np.testing.assert_allclose(shifted.mean, plain.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(shifted.std, plain.std, rtol=1e-6)
    np.testing.assert_allclose(shifted.mean_abs, plain.mean_abs, rtol=1e-6)


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_a_group_without_tokens_is_zero_and_disturbs_no_other(design):
    values, group = sample()
    group = np.where(group == 1, 2, group)
    gram = show(new_gram(), values, group, design)
    assert gram.zz.diagonal().tolist() == [(group == 0).sum(), 0, (group == 2).sum()]
    assert not gram.zx[:, 1].any()
    assert not gram.qxx[:, 1].any()
    assert not gram.magnitudes[:, 1].any()


# Histogram


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_counts_equal_numpys_in_every_group(dtype):
    values, group = sample(tokens=2000, scale=4.0)
    values = values.to(dtype)
    histogram = show(new_histogram(), values, group)
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
    assert_counts_equal_numpy(show(histogram, sites, group), sites, group)


def test_signed_zeros_and_the_smallest_numbers():
    values = torch.tensor([0.0, -0.0, float(SMALL), -float(SMALL), float("inf"), -float("inf"), 3e38, -3e38])
    histogram = show(new_histogram(sites=1), values[None, :, None], np.zeros(8))
    assert_counts_equal_numpy(histogram, values[None, :, None], np.zeros(8))
    zero = int(np.searchsorted(histogram.edges[0].numpy(), 0.0)) + 1
    assert histogram.counts[0, 0, zero].item() == 3
    assert histogram.counts[0, 0, zero - 1].item() == 1


@settings(deadline=None, max_examples=40)
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
    assert_counts_equal_numpy(show(histogram, values, group), values, group)


@pytest.mark.parametrize(("centre", "spread"), [(1.0, 0.0), (1e4, 2e-3), (-300.0, 1e-5)])
def test_counts_equal_numpys_for_a_narrow_site_far_from_zero(centre, spread):
    values = (centre + spread * torch.linspace(-1, 1, 101)).float()[None, :, None]
    histogram = new_histogram(float(values.min()), float(values.max()), 96, groups=1, sites=1)
    group = np.zeros(101, dtype=np.int64)
    assert_counts_equal_numpy(show(histogram, values, group), values, group)


@settings(deadline=None, max_examples=40)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_counts_equal_numpys_with_more_bins_than_a_byte_can_number(dtype):
    values, group = sample(tokens=2000, scale=4.0)
    values = values.to(dtype)
    for bins in (127, 128, 4096):  # with underflow and overflow 256 numbers, then more
        histogram = show(new_histogram(bins=bins), values, group)
        assert_counts_equal_numpy(histogram, values, group)
        assert histogram.counts.sum().item() == values.numel()


@pytest.mark.parametrize("bins", [8, 127, 128])
@pytest.mark.parametrize("neurons", [1, 7, 8, 24])
def test_counts_equal_numpys_in_rows_of_any_width(neurons, bins):
    """Eight numbers of a row are moved at once where they are bytes and their number allows it."""
    values = torch.randn(SITES, 50, neurons, generator=torch.Generator().manual_seed(3)) * 4
    group = np.random.default_rng(3).integers(0, GROUPS, 50)
    assert_counts_equal_numpy(show(new_histogram(bins=bins), values, group), values, group)


@pytest.mark.parametrize("bins", [16, 200])
@pytest.mark.parametrize("part", range(3))
def test_counts_equal_numpys_where_a_site_is_a_part_of_a_module(part, bins):
    """Queries, keys and values of GPT-2 lie side by side: rows that do not follow one another in memory."""
    whole = torch.randn(50, 3 * 16, generator=torch.Generator().manual_seed(4)) * 4
    group = np.random.default_rng(4).integers(0, GROUPS, 50)
    values = whole.chunk(3, dim=-1)[part][None]
    assert not values[0].is_contiguous()
    assert_counts_equal_numpy(show(new_histogram(bins=bins, sites=1), values, group), values, group)


# As it counts on a GPU, but here


def both_counts(histogram, values, group):
    """What either way of counting makes of one site's activations `[tokens, neurons]`."""
    batch = batch_of(group=np.asarray(group, dtype=np.int64))
    histogram.begin(batch)
    place = float(int(histogram.start[0]) - 1), 1.0 / float(histogram.width[0])
    place += batch.shared[histogram]
    found = histogram._count(values, *place), histogram._count_on_device(values, *place)
    assert all(counts.dtype is torch.int64 for counts in found)
    return found


@settings(deadline=None, max_examples=40)
@given(
    tokens=st.integers(0, 60),
    neurons=st.integers(1, 20),
    groups=st.integers(1, 5),
    bins=st.sampled_from([8, 96, 127, 128, 300]),
    centre=st.sampled_from([0.0, 1e-3, 7.0, -4e5]),
    seed=st.integers(0, 10_000),
)
def test_counting_as_on_a_gpu_counts_the_same(tokens, neurons, groups, bins, centre, seed):
    rng = np.random.default_rng(seed)
    values = torch.from_numpy((centre + rng.normal(0, 2, (tokens, neurons))).astype(np.float32))
    group = rng.integers(0, groups, tokens)
    group[group == 1] = 0  # a group may be empty
    histogram = new_histogram(centre - 3, centre + 3, bins, groups, sites=1)
    plain, on_device = both_counts(histogram, values, group)
    assert torch.equal(plain, on_device)
    assert plain.sum().item() == values.numel()


def test_counting_as_on_a_gpu_gives_the_same_of_the_same_updates():
    values, group = sample(tokens=500, scale=4.0)
    plain, other = new_histogram(), new_histogram()
    other._count = other._count_on_device
    for histogram in (plain, other):
        show(histogram, values[:, :300], group[:300])
        show(histogram, values[:, 300:], group[300:])
    assert same(plain.state(), other.state())


def test_counting_as_on_a_gpu_counts_on_beyond_what_float32_can_count():
    """An odd number above 2 ** 24 in one bin, which no float32 is; rows so wide that each is counted alone."""
    values = torch.zeros(3, 2**23 + 1)
    plain, on_device = both_counts(new_histogram(groups=2, sites=1), values, [1, 1, 1])
    assert plain.sum().item() == plain.max().item() == 3 * (2**23 + 1)
    assert torch.equal(plain, on_device)


def test_counting_as_on_a_gpu_in_pieces_of_some_rows():
    """Three rows of a group, counted two at a time, between groups without any."""
    values = torch.tensor([-2.0, 0.0, 100.0])[:, None].expand(3, 2**23).contiguous()
    plain, on_device = both_counts(new_histogram(groups=3, sites=1), values, [1, 1, 1])
    assert torch.equal(plain, on_device)
    assert on_device.sum(1).tolist() == [0, 3 * 2**23, 0]
    assert sorted(on_device[1].tolist())[-4:] == [0, 2**23, 2**23, 2**23]


# Calibration by the first sequence


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_shift_is_the_mean_of_the_first_sequence(dtype):
    values, _ = sample(tokens=2000, scale=3.0, offset=1.0)
    values = values.to(dtype)
    gram = Gram(GROUPS, SITES)
    assert not gram.is_calibrated
    for site in range(SITES):
        assert not gram.is_calibrated
        gram.calibrate(site, values[site])
    assert gram.is_calibrated
    assert gram.shift.dtype is torch.float32
    np.testing.assert_allclose(gram.shift.numpy(), values.double().numpy().mean(1), rtol=1e-7)
    assert not any(gram.state()[name].any() for name in ("zz", "zx", "qxx", "magnitudes"))


def test_a_shift_that_is_given_is_not_measured():
    gram = Gram(GROUPS, SITES, shift=torch.full((SITES, NEURONS), 0.5))
    assert gram.is_calibrated
    assert (gram.shift == 0.5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "every"), [(50, 1), (64, 1), (2000, 31)])
def test_edges_are_set_by_the_quantiles_of_the_first_sequence(dtype, tokens, every):
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(1, 3, (SITES, tokens, 200)).astype(np.float32)).to(dtype)
    histogram = Histogram(GROUPS, SITES, 4096)
    for site in range(SITES):
        assert not histogram.is_calibrated
        histogram.calibrate(site, values[site])
    assert histogram.is_calibrated
    exact = values.double().numpy()
    for site in range(SITES):
        ordered = np.sort(exact[site, ::every].ravel())
        rank = -(-len(ordered) // 1000)  # 0.1 % of 10,000 values are 10
        expected = Histogram(GROUPS, 1, 4096)  # so fine that the edges tell one value from the next
        expected.set_edges(0, ordered[rank - 1], ordered[-rank])
        assert torch.equal(histogram.edges[site], expected.edges[0])
        inside = (exact[site] >= histogram.edges[site, 0].item()) & (exact[site] < histogram.edges[site, -1].item())
        assert inside.mean() > 0.998
    assert not histogram.counts.any()


def test_calibration_by_a_single_value():
    gram, histogram = Gram(GROUPS, 1), Histogram(GROUPS, 1, 16)
    for reducer in (gram, histogram):
        reducer.calibrate(0, torch.tensor([[-2.5]]))
    assert gram.shift.item() == -2.5
    expected = new_histogram(-2.5, -2.5, sites=1)
    assert torch.equal(histogram.edges, expected.edges)
    edges = histogram.edges[0]
    assert edges[0] < -2.5 < edges[-1]
    assert (edges[1] - edges[0]).item() <= 2.5 * 2.0**-21


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_first_sequence_that_is_not_finite_is_reported_with_its_site(bad):
    values, group = sample(tokens=64)
    values[1, 40, 2] = bad
    histogram = Histogram(GROUPS, SITES, 16)
    histogram.calibrate(0, values[0])
    with pytest.raises(NotFiniteError) as raised:
        histogram.calibrate(1, values[1])
    assert raised.value.site == 1
    gram = Gram(GROUPS, SITES)
    for site in range(SITES):
        gram.calibrate(site, values[site])
    show(gram, values, group)
    with pytest.raises(NotFiniteError) as raised:
        gram.check()
    assert raised.value.site == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
@pytest.mark.parametrize("site", range(SITES))
def test_a_batch_that_is_not_finite_is_reported_with_its_site_whatever_comes_after(site, design, bad):
    values, group = sample()
    gram = show(new_gram(), values, group, design)
    gram.check()
    spoilt = values.clone()
    spoilt[site, -1, 0] = bad
    show(gram, spoilt, group, design)
    for _ in range(2):
        show(gram, values, group, design)
    with pytest.raises(NotFiniteError) as raised:
        gram.check()
    assert raised.value.site == site


def test_plus_and_minus_infinity_do_not_hide_one_another():
    values, group = sample()
    values[0, 3, 1], values[0, 9, 1] = float("inf"), float("-inf")
    gram = show(new_gram(), values, group)
    with pytest.raises(NotFiniteError):
        gram.check()


@pytest.mark.parametrize("bins", [16, 200])
def test_the_histogram_accepts_values_that_are_not_finite(bins):
    """Gram tells of it, batches later; until then nothing may break, and the others are counted."""
    values, group = sample()
    values[1, 7, 2] = float("nan")
    histogram = show(new_histogram(bins=bins), values, group)
    histogram.check()
    assert_counts_equal_numpy_of_site(histogram, 0, values, group)
    assert values[1].numel() - 1 <= histogram.counts[1].sum().item() <= values[1].numel()


# Merging and saving


def split_in_parts(values, group, cuts, order):
    """The pieces of a text between `cuts`, in another order; some may be empty."""
    places = [0, *sorted(cuts), values.shape[1]]
    parts = [(values[:, start:end], group[start:end]) for start, end in pairwise(places)]
    return [parts[index] for index in np.random.default_rng(order).permutation(len(parts))]


def new_wide_histogram(low=-3.0, high=3.0):
    return new_histogram(low, high, bins=200)


# name → how it is made, and how it is told which token is in which group
KINDS = {
    "gram": (new_gram, matrix),
    "gram of cells": (new_gram, in_cells),
    "histogram": (new_histogram, matrix),
    "histogram of many bins": (new_wide_histogram, matrix),
}
every_kind = pytest.mark.parametrize(("make", "design"), KINDS.values(), ids=KINDS)
OTHERS = {  # the same with other settings, and the same uncalibrated
    new_gram: (lambda: new_gram(0.5), lambda: Gram(GROUPS, SITES, slice(None), slice(None))),
    new_histogram: (lambda: new_histogram(-9.0, 11.0), lambda: Histogram(GROUPS, SITES, 16)),
    new_wide_histogram: (lambda: new_wide_histogram(-9.0, 11.0), lambda: Histogram(GROUPS, SITES, 200)),
}
SPLITS = {
    "tokens": st.integers(1, 60),
    "seed": st.integers(0, 10_000),
    "cuts": st.lists(st.integers(0, 60), max_size=5),
    "order": st.integers(0, 10_000),
}


@every_kind
@settings(deadline=None, max_examples=40)
@given(**SPLITS)
def test_merging_in_any_split_and_order_is_the_whole(make, design, tokens, seed, cuts, order):
    values, group = exact_sample(tokens, seed)
    whole = show(make(), values, group, design).state()
    merged = make()
    for part, part_group in split_in_parts(values, group, [min(cut, tokens) for cut in cuts], order):
        merged.merge(show(make(), part, part_group, design))
    assert same(merged.state(), whole)


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
@settings(deadline=None, max_examples=40)
@given(**SPLITS)
def test_moments_of_any_values_merge_to_float64_rounding_in_any_order(design, tokens, seed, cuts, order):
    values, group = sample(tokens, seed)
    parts = [
        show(new_gram(), part, part_group, design)
        for part, part_group in split_in_parts(values, group, [min(cut, tokens) for cut in cuts], order)
    ]
    forwards, backwards = new_gram(), new_gram()
    for part in parts:
        forwards.merge(part)
    for part in reversed(parts):
        backwards.merge(part)
    assert torch.equal(forwards.zz, backwards.zz)
    for name in ("zx", "qxx", "magnitudes"):
        first, second = getattr(forwards, name).numpy(), getattr(backwards, name).numpy()
        np.testing.assert_allclose(first, second, rtol=1e-14, atol=1e-14 * tokens)


@every_kind
@settings(deadline=None, max_examples=40)
@given(**SPLITS)
def test_a_pass_in_parts_is_the_pass_in_one(make, design, tokens, seed, cuts, order):
    values, group = exact_sample(tokens, seed)
    whole = show(make(), values, group, design).state()
    one = make()
    for part, part_group in split_in_parts(values, group, [min(cut, tokens) for cut in cuts], order):
        show(one, part, part_group, design)
    assert same(one.state(), whole)


@every_kind
@settings(deadline=None, max_examples=40)
@given(tokens=st.integers(1, 60), seed=st.integers(0, 10_000), cut=st.integers(0, 60))
def test_going_on_from_a_saved_state_is_not_having_stopped(make, design, tokens, seed, cut):
    values, group = exact_sample(tokens, seed)
    whole = show(make(), values, group, design).state()
    saved = show(make(), values[:, :cut], group[:cut], design).state()
    resumed = make()
    resumed.load(saved)
    assert same(resumed.state(), saved)
    assert same(show(resumed, values[:, cut:], group[cut:], design).state(), whole)


@pytest.mark.parametrize("was_calibrated", [True, False])
@every_kind
def test_loading_takes_over_what_was_calibrated_before_the_pass(make, design, was_calibrated):
    values, group = sample()
    otherwise, uncalibrated = OTHERS[make]
    first, second = otherwise(), make() if was_calibrated else uncalibrated()
    assert second.is_calibrated is was_calibrated
    second.load(show(first, values, group, design).state())
    assert second.is_calibrated
    assert same(second.state(), first.state())
    assert same(show(second, values, group, design).state(), show(first, values, group, design).state())


@every_kind
def test_a_state_is_a_copy_that_later_tokens_do_not_change(make, design):
    values, group = sample()
    reducer = show(make(), values, group, design)
    state = reducer.state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    show(reducer, values, group, design)
    assert same(state, before)


@every_kind
def test_going_on_leaves_the_loaded_state_as_it_was(make, design):
    values, group = sample()
    state, resumed = show(make(), values, group, design).state(), make()
    before = {name: tensor.clone() for name, tensor in state.items()}
    resumed.load(state)
    show(resumed, values, group, design)
    assert same(state, before)


@every_kind
def test_merging_leaves_the_other_as_it_was(make, design):
    values, group = sample()
    one, other = make(), show(make(), values, group, design)
    before = {name: tensor.clone() for name, tensor in other.state().items()}
    one.merge(other)
    show(one, values, group, design)
    assert same(other.state(), before)


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (lambda: new_gram(0.0), lambda: new_gram(1.0), "shift"),
        (lambda: new_histogram(-3, 3), lambda: new_histogram(-3, 9), "width"),
        (lambda: new_histogram(-3, 3), lambda: new_histogram(-2, 4), "start"),
        (lambda: new_gram(groups=3), lambda: new_gram(groups=1), None),
        (lambda: new_histogram(groups=3), lambda: new_histogram(groups=1), None),
    ],
    ids=["shift", "width", "start", "groups of gram", "groups of histogram"],
)
def test_merging_what_was_taken_differently_is_refused(first, second, what):
    one, other = first(), second()
    before = {name: tensor.clone() for name, tensor in one.state().items()}
    groups = len(other.zz) if isinstance(other, Gram) else other.groups
    show(other, sample()[0], np.zeros(400), lambda group: matrix(group, groups))
    with pytest.raises(ValueError, match=what):
        one.merge(other)
    assert same(one.state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_float64_and_counts_int64(dtype):
    values, group = sample()
    state = show(new_gram(), values.to(dtype), group).state()
    assert {name: state[name].dtype for name in ("zz", "zx", "qxx", "magnitudes")} == {
        "zz": torch.float64,
        "zx": torch.float64,
        "qxx": torch.float64,
        "magnitudes": torch.float64,
    }
    assert state["zz"].diagonal().long().tolist() == np.bincount(group).tolist()
    histogram = show(new_histogram(), values.to(dtype), group).state()
    assert histogram["counts"].dtype is torch.int64
    assert histogram["width"].dtype is torch.float64


@every_kind
def test_the_state_does_not_grow_with_the_number_of_tokens(make, design):
    def shapes_after(tokens):
        values, group = sample(tokens)
        return {name: tensor.shape for name, tensor in show(make(), values, group, design).state().items()}

    assert shapes_after(10) == shapes_after(1000)


@every_kind
def test_the_activations_are_not_written_into(make, design):
    values, group = sample()
    before = values.clone()
    show(make(), values, group, design)
    assert torch.equal(values, before)


@every_kind
def test_a_batch_without_tokens_changes_nothing(make, design):
    values, group = sample()
    reducer = show(make(), values, group, design)
    before = {name: tensor.clone() for name, tensor in reducer.state().items()}
    show(reducer, values[:, :0], group[:0], design)
    assert same(reducer.state(), before)


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_sites_are_kept_apart(design):
    values, group = sample()
    values[1] += 10
    gram = show(new_gram(), values, group, design)
    apart = summary_of(gram).mean
    assert (apart[1] > 9).all()
    assert (apart[0] < 1).all()
    batch = batch_of(group=group, design=design(group))
    only_second = new_gram()
    only_second.begin(batch)
    only_second.update(1, values[1], batch)
    for name in ("zx", "qxx", "magnitudes"):
        found = getattr(only_second, name)
        assert not found[0].any()
        assert torch.equal(found[1], getattr(gram, name)[1])


def every_kind(sites):
    """A reducer of each kind whose state splits into those of single sites, for `sites` sites."""
    return [
        Gram(GROUPS, sites, slice(None), slice(None)),
        Histogram(GROUPS, sites, 16),
        Moments(sites),
        NeuronHistogram(sites, 16),
        Extremes(sites, 3, 400, 1, 1),
        Rows(*torch.tensor([[0, 0, 0], [0, 2, 3], [2, 3, 8]])),
    ]


def seen(reducers, values, group):
    for reducer in reducers:
        for site, activations in enumerate(values):
            reducer.calibrate(site, activations)
        show(reducer, values, group)
    return reducers


def test_the_state_of_a_site_is_that_of_a_reducer_of_the_site_alone():
    values, group = sample()
    both = seen(every_kind(SITES), values, group)
    for site in range(SITES):
        for reducer, alone in zip(both, seen(every_kind(1), values[site : site + 1], group), strict=True):
            assert reducer.by_site
            (common, parts), own = reducer.split(SITES), alone.state()
            part = common | parts[site]
            assert part.keys() == own.keys()
            assert all(torch.equal(part[name], own[name]) for name in own), type(reducer)


def test_states_of_sites_are_joined_in_any_order_and_from_several_passes():
    values, group = sample()
    swapped = values.flip(0)
    whole = seen(every_kind(SITES), swapped, group)
    for reducer, again, expected in zip(seen(every_kind(SITES), values, group), every_kind(SITES), whole, strict=True):
        common, parts = reducer.split(SITES)
        again.load(again.joined(common, parts[::-1]))
        for name, state in expected.state().items():
            assert torch.equal(again.state()[name], state), (type(reducer), name)


def test_a_subclass_with_a_state_of_its_own_does_not_split_unless_it_says_so():
    class More(Moments):
        pass

    class Splits(Moments):
        by_site = True

    assert (Moments(1).by_site, More(1).by_site, Splits(1).by_site) == (True, False, True)
