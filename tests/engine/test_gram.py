"""The Gram reducer against float64 numpy over all activations, split, merged in any order, saved and taken up again.

Given as cells of tokens that have their covariates in common, the design gives what it gives token by token.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import feed as feed_covariates
from tiny import matrix_of

from neurexp.engine.reducers.gram import Cells, Gram

SITES, NEURONS, COLUMNS = 2, 5, 6
SQUARED, MAGNIFIED = slice(2, 5), slice(4, 6)


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


def shifts(about, neurons=NEURONS):
    """`[sites, neurons]`, all of them different unless they are about 0, and such that sums stay exact."""
    step = 0.125 if 0 < about < 1 else 0.0
    return about + step * torch.arange(SITES * neurons).reshape(SITES, neurons)


def new_gram(shift=0.0):
    return Gram(COLUMNS, SITES, SQUARED, MAGNIFIED, shifts(shift))


def feed(gram, values, design):
    """Shows a reducer one batch, all of it valid, as a pass would."""
    return feed_covariates(gram, values, design=design)


def by_numpy(values, design, shift=0.0, squared=SQUARED, magnified=MAGNIFIED):
    raw, z = values.double().numpy(), design.double().numpy()
    x = raw - shifts(shift, values.shape[2]).double().numpy()[:, None]
    return {
        "zz": z.T @ z,
        "zx": z.T @ x,
        "qxx": z[:, squared].T @ x**2,
        "magnitudes": z[:, magnified].T @ np.abs(raw),
    }


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


def test_magnitudes_are_those_of_the_columns_asked_for_and_know_no_shift():
    """Of an indicator column, Σ z·|x| is Σ |x| over the tokens inside, whatever x is taken about."""
    values, design = sample()
    gram = feed(new_gram(0.75), values, design)
    for place, column in enumerate(range(4, 6)):
        inside = design[:, column].bool().numpy()
        expected = np.abs(values.double().numpy()[:, inside]).sum(1)
        np.testing.assert_allclose(gram.magnitudes[:, place], expected, rtol=1e-5)


def test_squares_and_magnitudes_that_nobody_wants_are_not_taken():
    values, design = sample()
    gram = feed(Gram(COLUMNS, SITES, shift=torch.zeros(SITES, NEURONS)), values, design)
    assert gram.qxx.shape == gram.magnitudes.shape == (SITES, 0, NEURONS)
    assert torch.equal(gram.zx, feed(new_gram(), values, design).zx)


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
        assert all(gram.state()[name].dtype == torch.float64 for name in ("zz", "zx", "qxx", "magnitudes"))
        shapes.append([tuple(tensor.shape) for tensor in gram.state().values()])
    assert shapes == [[(6, 6), (2, 6, 5), (2, 3, 5), (2, 2, 5), (2, 5)]] * 3


def test_many_small_numbers_do_not_drown():
    """Beside a sum of 2 ** 24 float32 no longer sees a 1; float64, which the batches are added up in, does."""
    gram = feed(new_gram(), torch.full((SITES, 1, NEURONS), 2.0**24), torch.ones(1, COLUMNS))
    for _ in range(3):
        feed(gram, torch.ones(SITES, 1, NEURONS), torch.ones(1, COLUMNS))
    assert (gram.zx == 2**24 + 3).all()
    assert (gram.qxx == 2**48 + 3).all()
    assert (gram.magnitudes == 2**24 + 3).all()


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
    assert torch.equal(gram.magnitudes, 2 * other.magnitudes)


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


# Cells

WIDE = 12  # columns, some of which are given by cells


def feed_cells(gram, values, cells):
    return feed_covariates(gram, values, place=np.arange(values.shape[1]), design=cells)


def any_column(rng, cells):
    """Multiples of 1/8 in a column of a design: of nothing, a few entries, about a quarter of them, or all."""
    kept = rng.random(cells) < rng.choice([0.0, 0.05, 0.25, 0.6, 1.0])
    values = rng.integers(-63, 64, cells) / 8
    return np.where(kept, rng.choice([values, np.ones(cells)]), 0).astype(np.float32)


def any_cells(rng, tokens):
    """One to three blocks of cells with columns of their own; some cells have no tokens, some columns no block."""
    blocks = int(rng.integers(1, 4))
    block_of_column = rng.integers(-1, blocks, WIDE)
    found = []
    for block in range(blocks):
        columns = np.flatnonzero(block_of_column == block)
        if rng.random() < 0.2:  # every token a cell of its own
            of_token, cells = np.arange(tokens), tokens
        else:
            cells = int(rng.integers(1, max(2, tokens)))
            of_token = rng.integers(0, cells, tokens)
        design = np.zeros((cells, len(columns)), dtype=np.float32)
        for place in range(len(columns)):
            design[:, place] = any_column(rng, cells)
        found.append(Cells(*(torch.from_numpy(array) for array in (of_token, design, columns))))
    return found


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    batches=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    neurons=st.sampled_from([1, 3, 8, 17]),
    squared=st.tuples(st.integers(0, WIDE), st.integers(0, WIDE)).map(sorted),
    magnified=st.tuples(st.integers(0, WIDE), st.integers(0, WIDE)).map(sorted),
)
def test_any_cells_give_exactly_what_the_tokens_give_one_by_one(seed, batches, neurons, squared, magnified):
    rng, shift = np.random.default_rng(seed), 0.25
    parts = slice(*squared), slice(*magnified)
    by_cells, by_tokens = (Gram(WIDE, SITES, *parts, shift=shifts(shift, neurons)) for _ in range(2))
    seen = []
    for tokens in batches:
        values = torch.from_numpy(rng.integers(-63, 64, (SITES, tokens, neurons)).astype(np.float32) / 8)
        cells = any_cells(rng, tokens)
        matrix = matrix_of(cells, tokens, WIDE)
        feed_cells(by_cells, values, cells)
        feed(by_tokens, values, matrix)
        seen.append((values, matrix))
    assert same(by_cells.state(), by_tokens.state())
    values, matrix = torch.cat([values for values, _ in seen], 1), torch.cat([matrix for _, matrix in seen])
    for name, expected in by_numpy(values, matrix, shift, *parts).items():
        assert np.array_equal(by_cells.state()[name], expected), name
    by_cells.check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cells_as_many_as_a_text_has_types(dtype):
    """As a profile gives them: frequent and rare types, sparse and dense columns of either sign, bins of position."""
    rng, tokens, types, columns = np.random.default_rng(7), 1500, 300, 40
    of_token = rng.zipf(1.3, tokens).clip(max=types) - 1
    design = rng.normal(size=(types, columns - 4)).astype(np.float32)
    design[:, 5:20] = np.eye(15)[rng.integers(0, 15, types)]
    design[:, 20:30] *= rng.random((types, 10)) < 0.02
    bins = rng.integers(0, 4, tokens)
    own = rng.permutation(columns)
    first, second = np.sort(own[:-4]), np.sort(own[-4:])
    cells = [
        Cells(*map(torch.from_numpy, (of_token, design, first))),
        Cells(torch.from_numpy(bins), torch.eye(4), torch.from_numpy(second)),
    ]
    matrix = np.zeros((tokens, columns), np.float32)
    matrix[:, first], matrix[:, second] = design[of_token], np.eye(4)[bins]
    values = torch.from_numpy(rng.normal(0.4, 1, (SITES, tokens, NEURONS)).astype(np.float32)).to(dtype)
    gram = Gram(columns, SITES, slice(3, 25), slice(10, 40), shifts(0.25))
    feed_cells(gram, values, cells)
    expected = by_numpy(values, torch.from_numpy(matrix), 0.25, slice(3, 25), slice(10, 40))
    assert_equals(gram, expected, 2e-6)
    np.testing.assert_allclose(gram.zz, expected["zz"], rtol=1e-12, atol=1e-9)


def test_products_between_two_blocks_of_cells():
    """Six tokens by hand: columns 0 and 3 by one block, 1 and 4 by another, 2 by nobody."""
    first = Cells(
        torch.tensor([0, 0, 1, 1, 2, 0]), torch.tensor([[1.0, 2.0], [-3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 3])
    )
    second = Cells(torch.tensor([1, 0, 1, 1, 0, 0]), torch.tensor([[0.0, 1.0], [7.0, -2.0]]), torch.tensor([1, 4]))
    for cells in ([first, second], [second, first]):
        gram = Gram(5, 1, shift=torch.zeros(1, 1))
        feed_cells(gram, torch.ones(1, 6, 1), cells)
        assert gram.zz.tolist() == [
            [3 * 1 + 2 * 9, 7 - 3 * 7 * 2, 0, 3 * 2, (-2 + 1 + 1) - 3 * -2 * 2],
            [7 - 3 * 7 * 2, 3 * 49, 0, 2 * 7, 3 * 7 * -2],
            [0, 0, 0, 0, 0],
            [3 * 2, 2 * 7, 0, 3 * 4 + 25, 2 * (-2 + 1 + 1) + 5],
            [(-2 + 1 + 1) - 3 * -2 * 2, 3 * 7 * -2, 0, 2 * (-2 + 1 + 1) + 5, 3 * 1 + 3 * 4],
        ]
        assert gram.zx.flatten().tolist() == [3 - 3 * 2, 3 * 7, 0, 3 * 2 + 5, 3 - 3 * 2]


def test_cells_without_tokens_and_tokens_without_columns():
    """A cell that no token of the batch is in adds nothing; a block without columns is none."""
    values = torch.arange(1.0, 4.0).reshape(1, 3, 1)
    cells = [
        Cells(torch.tensor([3, 1, 3]), torch.tensor([[9.0], [1.0], [9.0], [-1.0], [9.0]]), torch.tensor([1])),
        Cells(torch.tensor([0, 0, 0]), torch.zeros(1, 0), torch.tensor([], dtype=torch.int64)),
    ]
    gram = feed_cells(Gram(3, 1, slice(None), slice(None), torch.zeros(1, 1)), values, cells)
    assert gram.zz.tolist() == [[0, 0, 0], [0, 3, 0], [0, 0, 0]]
    assert gram.zx.flatten().tolist() == [0, 2 - 1 - 3, 0]
    assert gram.qxx.flatten().tolist() == [0, 4 - 1 - 9, 0]
    assert gram.magnitudes.flatten().tolist() == [0, 2 - 1 - 3, 0]


def test_the_cells_are_left_alone():
    rng = np.random.default_rng(0)
    cells = any_cells(rng, 30)
    before = [[tensor.clone() for tensor in (one.of_token, one.design, one.columns)] for one in cells]
    gram = Gram(WIDE, 1, slice(None), slice(None), torch.zeros(1, 3))
    feed_cells(gram, torch.randn(1, 30, 3, generator=torch.Generator().manual_seed(0)), cells)
    for one, tensors in zip(cells, before, strict=True):
        assert all(map(torch.equal, (one.of_token, one.design, one.columns), tensors))
