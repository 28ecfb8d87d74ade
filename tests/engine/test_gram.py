"""The Gram reducer against float64 numpy over all activations, split, merged in any order, saved and taken up again."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurexp.engine.reducers import Batch, Gram

torch.set_num_threads(1)  # with matrices this small, threads do little but wait for one another

SITES, NEURONS, COLUMNS = 2, 5, 6
SQUARED = slice(2, 5)


def sample(tokens=200, seed=0, offset=0.0, scale=1.0):
    """Activations `[sites, tokens, neurons]` and the design `[tokens, columns]`: two numbers, four indicators."""
    rng = np.random.default_rng(seed)
    values = rng.normal(offset, scale, (SITES, tokens, NEURONS)).astype(np.float32)
    indicators = np.eye(4)[rng.integers(0, 4, tokens)]
    design = np.column_stack([rng.normal(size=(tokens, 2)), indicators]).astype(np.float32)
    return torch.from_numpy(values), torch.from_numpy(design)


def exact_sample(tokens, seed):
    """Multiples of 1/8 below 8 in size: sums of their products are exact in any order."""
    rng = np.random.default_rng(seed)
    values, design = (
        torch.from_numpy(rng.integers(-63, 64, shape).astype(np.float32) / 8)
        for shape in ((SITES, tokens, NEURONS), (tokens, COLUMNS))
    )
    return values, design


def new_gram(shift=0.0):
    return Gram(COLUMNS, SQUARED, torch.full((SITES, NEURONS), shift))


def feed(gram, values, design):
    """Shows a reducer one batch, all of it valid, as a pass would."""
    tokens = len(design)
    ids = torch.zeros(1, tokens, dtype=torch.long)
    batch = Batch(ids, torch.ones(1, tokens, dtype=torch.bool), None, torch.arange(tokens)[None], 0, {"design": design})
    gram.begin(batch)
    for site, activations in enumerate(values):
        gram.update(site, activations, batch)
    return gram


def by_numpy(values, design, shift=0.0):
    x, z = values.double().numpy() - shift, design.double().numpy()
    q = z[:, SQUARED]
    return {"zz": z.T @ z, "zx": z.T @ x, "qxx": q.T @ x**2}


def assert_equals(gram, expected, rtol):
    for name, value in expected.items():
        found = gram.state()[name].numpy()
        assert found.shape == value.shape
        np.testing.assert_allclose(found, value, rtol=rtol, atol=rtol * np.abs(value).max(), err_msg=name)


def same(first, second):
    return list(first) == list(second) and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shift", [0.0, 0.75])
def test_gram_against_numpy(dtype, shift):
    values, design = sample()
    values = values.to(dtype)
    assert_equals(feed(new_gram(shift), values, design), by_numpy(values, design, shift), 2e-6)


def test_sums_that_are_exact_in_float32_are_exact():
    values, design = exact_sample(150, seed=1)
    gram = feed(new_gram(0.25), values, design)
    for name, value in by_numpy(values, design, 0.25).items():
        assert np.array_equal(gram.state()[name], value), name


def test_squares_are_those_of_the_columns_asked_for():
    """Of an indicator column, Σ z·x² is Σ x² over the tokens inside."""
    values, design = sample()
    gram = feed(new_gram(), values, design)
    for place, column in enumerate(range(2, 5)):
        inside = design[:, column].bool().numpy()
        expected = (values.double().numpy()[:, inside] ** 2).sum(1)
        np.testing.assert_allclose(gram.qxx[:, place], expected, rtol=1e-5)


def test_a_neuron_far_from_zero_loses_no_digits():
    """Mean 1e4 and standard deviation 1e-2 in float32: about the shift, correlations keep six digits."""
    values, design = sample(tokens=4000, offset=1e4, scale=1e-2)
    gram = new_gram(shift=1e4)
    for start in range(0, 4000, 500):
        feed(gram, values[:, start : start + 500], design[start : start + 500])
    assert_equals(gram, by_numpy(values, design, 1e4), 1e-6)


def test_state_is_float64_and_does_not_grow():
    gram = new_gram()
    shapes = []
    for seed in range(3):
        feed(gram, *sample(tokens=50 * (seed + 1), seed=seed))
        assert all(gram.state()[name].dtype == torch.float64 for name in ("zz", "zx", "qxx"))
        shapes.append([tuple(tensor.shape) for tensor in gram.state().values()])
    assert shapes == [[(6, 6), (2, 6, 5), (2, 3, 5), (2, 5)]] * 3


def test_many_small_numbers_do_not_drown():
    """Beside a sum of 2 ** 24 float32 no longer sees a 1; float64, which the batches are added up in, does."""
    gram = feed(new_gram(), torch.full((SITES, 1, NEURONS), 2.0**24), torch.ones(1, COLUMNS))
    for _ in range(3):
        feed(gram, torch.ones(SITES, 1, NEURONS), torch.ones(1, COLUMNS))
    assert (gram.zx == 2**24 + 3).all()
    assert (gram.qxx == 2**48 + 3).all()


@given(st.lists(st.integers(1, 120), max_size=4), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_any_split_merged_in_any_order_is_the_whole(cuts, random):
    values, design = exact_sample(120, seed=2)
    edges = sorted({0, 120, *cuts})
    parts = [feed(new_gram(0.25), values[:, start:stop], design[start:stop]) for start, stop in pairwise(edges)]
    random.shuffle(parts)
    merged = new_gram(0.25)
    for part in parts:
        merged.merge(part)
    assert same(merged.state(), feed(new_gram(0.25), values, design).state())


def test_merging_needs_the_same_shift_and_changes_nothing_without_it():
    values, design = sample()
    gram, other = feed(new_gram(0.0), values, design), feed(new_gram(0.5), values, design)
    before = {name: tensor.clone() for name, tensor in gram.state().items()}
    with pytest.raises(ValueError, match="shift"):
        gram.merge(other)
    assert same(gram.state(), before)


def test_merging_leaves_the_other_as_it_was():
    values, design = exact_sample(60, seed=3)
    gram, other = feed(new_gram(), values, design), feed(new_gram(), values, design)
    before = {name: tensor.clone() for name, tensor in other.state().items()}
    gram.merge(other)
    assert same(other.state(), before)
    assert torch.equal(gram.zx, 2 * other.zx)


def test_a_state_taken_up_goes_on_as_if_it_had_never_stopped():
    values, design = exact_sample(100, seed=4)
    first = feed(new_gram(0.25), values[:, :70], design[:70])
    taken_up = new_gram()
    taken_up.load(first.state())
    for gram in (first, taken_up):
        feed(gram, values[:, 70:], design[70:])
    assert same(first.state(), taken_up.state())
    assert same(first.state(), feed(new_gram(0.25), values, design).state())


def test_a_state_that_was_taken_up_is_not_shared():
    values, design = exact_sample(40, seed=5)
    state = {name: tensor.clone() for name, tensor in feed(new_gram(), values, design).state().items()}
    kept = {name: tensor.clone() for name, tensor in state.items()}
    gram = new_gram()
    gram.load(state)
    feed(gram, values, design)
    assert same(state, kept)


def test_the_activations_are_left_alone():
    values, design = sample()
    before = values.clone()
    feed(new_gram(0.5), values, design)
    assert torch.equal(values, before)
