"""Rows: the pooled activations of chosen spans are those that Keep has, however the pass is cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIGS, EXPANSION, LAYERS, build, difference, token_ids

from neurexp.engine.passes import run_pass
from neurexp.engine.reducers.base import Batch, NotFiniteError
from neurexp.engine.reducers.keep import Keep
from neurexp.engine.reducers.rows import Rows
from neurexp.models.families import FAMILIES
from neurexp.models.sites import find_sites

MODEL = build("gpt_neo")
SITES = find_sites(MODEL, "MLP")
POOL = {
    "mean": lambda values: values.double().mean(0).float(),
    "first": lambda values: values[0].float(),
    "last": lambda values: values[-1].float(),
    "max": lambda values: values.float().max(0).values,
}
SEQUENCES, LENGTH = 7, 12
# Several in one sequence, overlapping, equal, at both ends, of one token, out of order, and a sequence without any
SPANS = [
    (3, 0, 12),
    (0, 0, 1),
    (6, 11, 12),
    (2, 3, 7),
    (2, 5, 9),
    (2, 5, 9),
    (5, 2, 4),
    (0, 1, 2),
    (1, 4, 5),
    (2, 0, 2),
]


def columns(spans):
    return (torch.tensor(column, dtype=torch.int64) for column in zip(*spans, strict=True))


def rows_of(spans, pooling="mean"):
    return Rows(*columns(spans), pooling)


def padded(side, lengths, width=LENGTH):
    """Ids and validity of sequences of these lengths, padded on one side."""
    ids = token_ids(len(lengths), width)
    valid = torch.arange(width) < torch.tensor(lengths)[:, None]
    valid = valid if side == "right" else valid.flip(1)
    ids[~valid] = 0
    return ids, valid


def both(model, ids, valid, spans, pooling, batch_size, site="MLP"):
    """Rows, and what Keep gives for the same pass: `[sites, rows, neurons]` each."""
    sites = find_sites(model, site)
    keep, rows = Keep(len(sites), *ids.shape, 2**30), rows_of(spans, pooling)
    run_pass(model, sites, ids, valid, [keep, rows], batch_size=batch_size)
    expected = [
        torch.stack([POOL[pooling](keep.kept[index][row, start:stop]) for row, start, stop in spans])
        for index in range(len(sites))
    ]
    return torch.stack([rows.rows(index) for index in range(len(sites))]), torch.stack(expected)


def close(found, expected, pooling):
    """Exactly equal but for the order in which a mean adds up."""
    if pooling == "mean":
        return torch.allclose(found, expected, rtol=2e-7, atol=1e-9)
    return torch.equal(found, expected)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("pooling", POOL)
def test_a_row_is_its_span_pooled(pooling, batch_size):
    found, expected = both(MODEL, token_ids(SEQUENCES, LENGTH), None, SPANS, pooling, batch_size)
    assert found.shape == (LAYERS, len(SPANS), EXPANSION)
    assert found.dtype is torch.float32
    assert close(found, expected, pooling)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_row_is_its_span_pooled_in_every_family(family):
    model, spans = build(family), [(0, 1, 4), (1, 0, 12), (2, 11, 12), (0, 3, 5)]
    for pooling in POOL:
        site = "RESID_POST" if FAMILIES[family].experts else "MLP"
        found, expected = both(model, token_ids(3, LENGTH), None, spans, pooling, 2, site)
        assert close(found, expected, pooling)


@pytest.mark.parametrize("site", ["ACT", "PROJ", "Q"])
def test_a_row_is_its_span_pooled_at_other_sites(site):
    found, expected = both(MODEL, token_ids(SEQUENCES, LENGTH), None, SPANS, "mean", 3, site)
    assert close(found, expected, "mean")


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("pooling", POOL)
@pytest.mark.parametrize("side", ["right", "left"])
def test_pads_on_either_side_shift_no_row(side, pooling, batch_size):
    lengths = [12, 3, 7, 1, 12]
    ids, valid = padded(side, lengths)
    first = [0 if side == "right" else LENGTH - length for length in lengths]
    spans = [(4, 0, 12), (1, first[1], first[1] + 3), (2, first[2] + 2, first[2] + 5), (3, first[3], first[3] + 1)]
    spans += [(2, first[2], first[2] + 3), (0, 11, 12)]
    found, expected = both(MODEL, ids, valid, spans, pooling, batch_size)
    assert expected.isfinite().all()
    assert close(found, expected, pooling)


def test_pads_on_the_left_and_on_the_right_give_the_same_rows():
    ids = token_ids(1, 5)
    right, left = (torch.nn.functional.pad(ids, pad) for pad in ((0, 4), (4, 0)))
    found = [
        both(MODEL, padded_ids, mask, [(0, start, start + 3)], "mean", 1)[0]
        for padded_ids, mask, start in (
            (right, torch.arange(9)[None] < 5, 1),
            (left, torch.arange(9)[None] >= 4, 5),
        )
    ]
    assert difference(found[0], found[1]) < 1e-5


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_spans_in_any_batches(data):
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    side = data.draw(st.sampled_from(["left", "right"]))
    pooling = data.draw(st.sampled_from(sorted(POOL)))
    spans = []
    for _ in range(data.draw(st.integers(1, 8))):
        row = data.draw(st.integers(0, len(lengths) - 1))
        start = data.draw(st.integers(0, lengths[row] - 1))
        stop = data.draw(st.integers(start + 1, lengths[row]))
        shift = 0 if side == "right" else 9 - lengths[row]
        spans.append((row, start + shift, stop + shift))
    ids, valid = padded(side, lengths, 9)
    found, expected = both(MODEL, ids, valid, spans, pooling, data.draw(st.integers(1, 7)))
    assert close(found, expected, pooling)


@pytest.mark.parametrize("pooling", POOL)
def test_a_model_in_bfloat16_gives_float32_rows_whose_mean_is_taken_in_float64(pooling):
    model = build("gpt_neo", dtype=torch.bfloat16)
    ids = token_ids(SEQUENCES, LENGTH)
    found, expected = both(model, ids, None, SPANS, pooling, 2)
    assert found.dtype is torch.float32
    assert close(found, expected, pooling)
    if pooling == "mean":  # finer than bfloat16 could hold
        assert not torch.equal(found, found.bfloat16().float())


def show(reducer, values, first=0, sites=1):
    """One batch of full sequences, `[sequences, length, neurons]`, shown to a reducer."""
    sequences, length, _ = values.shape
    valid = torch.ones(sequences, length, dtype=torch.bool)
    positions = torch.arange(length).repeat(sequences, 1)
    batch = Batch(torch.zeros(sequences, length, dtype=torch.long), valid, None, positions, first)
    reducer.begin(batch)
    for site in range(sites):
        reducer.update(site, values.flatten(0, 1), batch)
    return reducer


def test_the_mean_does_not_lose_what_float32_would():
    values = torch.tensor([1e8, 1.0, -1e8, 1.0]).reshape(1, 4, 1)
    assert show(rows_of([(0, 0, 4)]), values).rows(0).item() == 0.5


def test_the_max_of_negative_values_is_negative():
    values = torch.tensor([-3.0, -1.0, -2.0]).reshape(1, 3, 1)
    assert show(rows_of([(0, 0, 3)], "max"), values).rows(0).item() == -1.0


def test_rows_that_the_pass_has_not_come_to_are_nan_and_the_others_are_there():
    rows = rows_of([(0, 0, 1), (3, 0, 2), (1, 1, 2)])
    show(rows, torch.ones(2, 4, 5))
    assert rows.rows(0).isnan().all(1).tolist() == [False, True, False]
    show(rows, torch.ones(2, 4, 5), first=2)
    assert rows.rows(0).isfinite().all()


def test_a_batch_without_a_row_says_how_wide_the_rows_are():
    rows = show(rows_of([(5, 0, 1)]), torch.ones(2, 4, 6))
    assert rows.rows(0).shape == (1, 6)
    assert rows.rows(0).isnan().all()


def test_the_rows_are_ordinary_tensors_of_their_own():
    rows = rows_of(SPANS)
    run_pass(MODEL, SITES, token_ids(SEQUENCES, LENGTH), None, [rows])
    found = rows.rows(0)
    assert not found.is_inference()
    assert found.device.type == "cpu"
    found += 1


@pytest.mark.parametrize("pooling", POOL)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_is_reported_with_its_site(pooling, bad):
    values = torch.ones(2, 3, 4)
    values[1, 2, 3] = bad
    rows, other = rows_of([(0, 0, 3), (1, 2, 3)], pooling), torch.ones(2, 3, 4)
    show(rows, other)
    valid = torch.ones(2, 3, dtype=torch.bool)
    batch = Batch(torch.zeros(2, 3, dtype=torch.long), valid, None, torch.zeros(2, 3, dtype=torch.long), 0)
    rows.begin(batch)
    rows.update(0, other.flatten(0, 1), batch)
    with pytest.raises(NotFiniteError) as raised:
        rows.update(1, values.flatten(0, 1), batch)
    assert raised.value.site == 1


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_token_of_a_span_that_is_not_finite_is_enough(pooling, bad):
    values = torch.ones(1, 3, 2)
    values[0, 1, 0] = bad
    with pytest.raises(NotFiniteError):
        show(rows_of([(0, 0, 3)], pooling), values)


def test_tokens_outside_the_rows_may_be_not_finite():
    values = torch.ones(2, 3, 2)
    values[0, 0] = values[1] = torch.nan
    assert show(rows_of([(0, 1, 3)]), values).rows(0).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("span", [(0, 3, 3), (0, 3, 2)])
@pytest.mark.parametrize("pooling", POOL)
def test_a_row_without_tokens_is_refused(span, pooling):
    with pytest.raises(ValueError, match="a row has no tokens: stop must be greater than start"):
        rows_of([(0, 0, 1), span], pooling)


@pytest.mark.parametrize("pooling", ["avg", "", "MEAN", None])
def test_an_unknown_pooling_is_refused_with_what_there_is(pooling):
    with pytest.raises(ValueError, match=r"give one of mean, first, last, max$"):
        rows_of([(0, 0, 1)], pooling)


def halves(pooling="mean"):
    """Rows that saw the first three sequences, rows that saw the others, and rows that saw all."""
    found = []
    for seen in (range(3), range(3, SEQUENCES), range(SEQUENCES)):
        rows = rows_of(SPANS, pooling)
        values = torch.randn(SEQUENCES, LENGTH, 5, generator=torch.Generator().manual_seed(0))
        show(rows, values[list(seen)], first=seen[0], sites=2)
        found.append(rows)
    return found


@pytest.mark.parametrize("pooling", POOL)
def test_two_halves_merge_to_the_whole_in_either_order(pooling):
    for order in (0, 1):
        *parts, whole = halves(pooling)
        one, other = parts[order], parts[1 - order]
        before = {site: rows.clone() for site, rows in other.kept.items()}
        one.merge(other)
        for site in (0, 1):
            assert torch.equal(one.rows(site), whole.rows(site))
            assert torch.equal(other.rows(site).nan_to_num(), before[site].nan_to_num())


def test_merging_into_rows_that_saw_nothing_gives_the_other_and_shares_nothing_with_it():
    _, _, whole = halves()
    fresh = rows_of(SPANS)
    fresh.merge(whole)
    assert torch.equal(fresh.rows(1), whole.rows(1))
    fresh.rows(1)[0] = 0
    assert not torch.equal(fresh.rows(1), whole.rows(1))


@pytest.mark.parametrize(
    "spans", [SPANS[:-1], [*SPANS[:-1], (2, 0, 3)], [*SPANS[:-1], (1, 0, 2)], [*SPANS[:-1], (2, 1, 2)], SPANS[::-1]]
)
def test_merging_other_rows_is_refused(spans):
    one, other = rows_of(SPANS), rows_of(spans)
    show(other, torch.ones(SEQUENCES, LENGTH, 5))
    with pytest.raises(ValueError, match="cannot merge"):
        one.merge(other)
    assert one.kept == {}


@pytest.mark.parametrize(("one", "other"), [("mean", "max"), ("max", "mean"), ("mean", "first"), ("last", "max")])
def test_merging_rows_that_were_pooled_otherwise_is_refused(one, other):
    with pytest.raises(ValueError, match="cannot merge"):
        rows_of(SPANS, one).merge(rows_of(SPANS, other))


def test_loading_a_state_goes_on_from_there():
    first, second, whole = halves()
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    resumed = rows_of(SPANS)
    resumed.load(state)
    resumed.merge(second)
    assert torch.equal(resumed.rows(0), whole.rows(0))
    assert torch.equal(resumed.rows(1), whole.rows(1))


def test_a_state_takes_no_second_memory():
    """The rows may be as large as the machine's memory; those of a stored pass are mapped from its file."""
    reducer, _, _ = halves()
    again = rows_of(SPANS)
    again.load(reducer.state())
    assert again.rows(0).data_ptr() == reducer.rows(0).data_ptr()


def test_memory_is_that_of_the_rows():
    rows = show(rows_of([(40, 3, 5)]), torch.ones(50, 100, 8))
    assert sum(tensor.numel() for tensor in rows.state().values()) == 8
