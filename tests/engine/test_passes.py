"""The one pass: how it is cut changes no result, pads count nowhere, covariates and activations stay aligned."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EXPANSION, LAYERS, VOCABULARY, build, difference, token_ids

import neurexp
from neurexp.engine.passes import CHECKED_EVERY, run_pass
from neurexp.engine.reducers.base import NotFiniteError, Reducer
from neurexp.engine.reducers.gram import Gram
from neurexp.engine.reducers.histogram import Histogram
from neurexp.engine.reducers.keep import Keep
from neurexp.models.sites import find_sites

MODEL = build("gpt_neo")
SITES = find_sites(MODEL, "MLP")
GROUPS = 4


class Spy(Reducer):
    """Records everything that it gets."""

    def __init__(self):
        self.batches, self.seen = [], []

    def begin(self, batch):
        self.batches.append(batch)

    def update(self, site, activations, batch):
        assert batch is self.batches[-1]  # one at a time, because it is not `concurrent`
        self.seen.append((site, activations.clone()))

    def activations(self, site):
        return torch.cat([values for index, values in self.seen if index == site])

    def covariate(self, name):
        return torch.cat([batch.covariates[name] for batch in self.batches])


class Calibrating(Spy):
    """A spy that the first sequence alone must calibrate before any update."""

    is_calibrated = False

    def __init__(self):
        super().__init__()
        self.calibrated_by = []

    def calibrate(self, site, activations):
        assert not any(index == site for index, _ in self.seen)
        self.calibrated_by.append((site, activations.clone()))
        self.is_calibrated = len(self.calibrated_by) == len(SITES)


def by_id(ids, *_):
    group = ids % GROUPS
    return {"group": group, "design": torch.nn.functional.one_hot(group, GROUPS).float()}


def partial(sequences, length, last):
    """Sequences of which the last one holds `last` valid tokens, then pads of id 0."""
    ids, valid = token_ids(sequences, length), torch.ones(sequences, length, dtype=torch.bool)
    ids[-1, last:], valid[-1, last:] = 0, False
    return ids, valid


def new_reducers(sites=LAYERS):
    """Sums by group and a histogram, with shift and edges left to the first sequence."""
    return Gram(GROUPS, sites, slice(None), slice(None)), Histogram(GROUPS, sites, 32)


def reduce(ids, valid, batch_size, **options):
    """Sums by group and a histogram of one pass; their shift and edges come from the first sequence alone."""
    gram, histogram = new_reducers()
    run_pass(MODEL, SITES, ids, valid, [gram, histogram], by_id, batch_size, **options)
    return gram, histogram


def counts_of(gram):
    return gram.zz.diagonal().tolist()


def same(first, second):
    first, second = first.state(), second.state()
    return list(first) == list(second) and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_how_the_pass_is_cut_changes_no_result(batch_size):
    ids, valid = partial(5, 16, last=9)
    (gram, histogram), (alone, alone_histogram) = reduce(ids, valid, batch_size), reduce(ids, valid, 1)
    assert torch.equal(gram.zz, alone.zz)
    assert torch.equal(gram.shift, alone.shift)
    for name in ("zx", "qxx", "magnitudes"):
        assert difference(getattr(gram, name), getattr(alone, name)) <= 1e-5
    assert torch.equal(histogram.edges, alone_histogram.edges)
    # The forward's own rounding may carry a value over an edge, but no value may be lost
    moved = (histogram.counts - alone_histogram.counts).abs().sum().item() / 2
    assert moved <= 1e-3 * histogram.counts.sum().item()
    assert torch.equal(histogram.counts.sum(-1), alone_histogram.counts.sum(-1))


@pytest.mark.parametrize("calibrated_before", [True, False])
def test_the_pass_against_everything_that_was_captured(calibrated_before):
    """Exactly, against the activations of the same forwards; those of a capture if nothing is left to calibrate."""
    ids, valid = partial(5, 16, last=9)
    captured = neurexp.capture(MODEL, ids, valid=valid, batch_size=2)
    gram, histogram = new_reducers()
    keep = Keep(LAYERS, *ids.shape, 2**30)
    if calibrated_before:
        for reducer, measured in zip((gram, histogram), reduce(ids[:1], valid[:1], 1), strict=True):
            state = measured.state()
            reducer.load({name: state[name] if name in reducer.calibrated else 0 * state[name] for name in state})
    run_pass(MODEL, SITES, ids, valid, [gram, histogram, keep], by_id, 2)
    group = ids[valid].numpy() % GROUPS
    assert counts_of(gram) == np.bincount(group, minlength=GROUPS).tolist()
    for layer in range(LAYERS):
        kept = keep.kept[layer][valid]
        assert difference(kept, captured[f"MLP_{layer}"][valid]) <= 1e-5
        if calibrated_before:
            assert torch.equal(kept, captured[f"MLP_{layer}"][valid])
        values = kept.double().numpy()
        edges = np.concatenate([[-np.inf], histogram.edges[layer].numpy(), [np.inf]])
        for index in range(GROUPS):
            chosen, shift = values[group == index], gram.shift[layer].double().numpy()
            sums = gram.zx[layer, index].numpy() + len(chosen) * shift
            np.testing.assert_allclose(sums, chosen.sum(0), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(gram.qxx[layer, index], ((chosen - shift) ** 2).sum(0), rtol=1e-5)
            np.testing.assert_allclose(gram.magnitudes[layer, index], np.abs(chosen).sum(0), rtol=1e-5)
            assert np.array_equal(histogram.counts[layer, index], np.histogram(chosen, edges)[0])


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_partial_last_sequence_counts_with_its_valid_tokens_only(batch_size):
    ids, valid = partial(3, 16, last=5)
    spy = Spy()
    run_pass(MODEL, SITES, ids, valid, [spy], batch_size=batch_size)
    reference = neurexp.capture(MODEL, ids[:2]), neurexp.capture(MODEL, ids[2, :5])
    for layer in range(LAYERS):
        expected = torch.cat([part[f"MLP_{layer}"].flatten(0, 1) for part in reference])
        assert difference(spy.activations(layer), expected) <= 1e-5


def test_the_same_cuts_give_the_same_bits():
    ids, valid = partial(5, 16, last=9)
    first, second = (reduce(ids, valid, batch_size=2) for _ in range(2))
    assert all(map(same, first, second))


@settings(max_examples=20, deadline=None)
@given(valid=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=5), size=st.integers(1, 3))
def test_covariates_are_those_of_the_tokens_that_are_seen(valid, size):
    valid = torch.tensor(valid)
    ids, spy = token_ids(len(valid), 6), Spy()
    run_pass(MODEL, SITES[:1], ids, valid, [spy], lambda ids, positions, *_: {"id": ids, "place": positions}, size)
    assert spy.covariate("id").tolist() == ids[valid].tolist()
    assert spy.covariate("place").tolist() == (valid.cumsum(1) - 1)[valid].tolist()
    assert [batch.first for batch in spy.batches] == list(range(0, len(valid), size))
    assert sum(batch.tokens for batch in spy.batches) == int(valid.sum())
    captured = neurexp.capture(MODEL, ids, layers=0, valid=valid, batch_size=size)["MLP_0"]
    assert torch.equal(spy.activations(0), captured[valid])


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_sums_by_token_id_are_sums_over_that_tokens_places(batch_size):
    """Token id as the group; at layer 0's Q, in a model whose positions are silenced, only the id matters."""
    model = build("gpt_neo")
    torch.nn.init.zeros_(model.transformer.wpe.weight)
    (site,) = find_sites(model, "Q", [0])
    ids, valid = partial(4, 16, last=3)
    gram = Gram(VOCABULARY, 1, shift=torch.zeros(1, 16))
    one_hot = torch.nn.functional.one_hot
    run_pass(
        model, [site], ids, valid, [gram], lambda ids, *_: {"design": one_hot(ids, VOCABULARY).float()}, batch_size
    )
    every_id = torch.arange(VOCABULARY)
    with torch.no_grad():
        embedded = model.transformer.h[0].ln_1(model.transformer.wte(every_id))
        of_id = model.transformer.h[0].attn.attention.q_proj(embedded).double()
    occurrences = torch.bincount(ids[valid], minlength=VOCABULARY)
    assert torch.equal(gram.zz.diagonal(), occurrences.double())
    assert difference(gram.zx[0], occurrences[:, None] * of_id) <= 1e-5


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_first_sequence_alone_calibrates(batch_size):
    ids, valid = partial(3, 16, last=5)
    captured = neurexp.capture(MODEL, ids[0])
    gram, histogram = reduce(ids, valid, batch_size)
    expected = Histogram(GROUPS, LAYERS, 32)
    for layer in range(LAYERS):
        values = captured[f"MLP_{layer}"].flatten(0, 1)
        assert difference(gram.shift[layer], values.double().mean(0)) <= 1e-6
        expected.set_edges(layer, values.min().item(), values.max().item())  # 0.1 % of 640 values is the first of them
    assert torch.equal(histogram.edges, expected.edges)


def test_calibration_leaves_out_the_pads_of_the_first_sequence():
    ids, valid = partial(1, 16, last=5)
    (gram, histogram), (plain, plain_histogram) = reduce(ids, valid, 1), reduce(ids[:, :5], None, 1)
    assert difference(gram.shift, plain.shift) <= 1e-5
    assert difference(histogram.edges, plain_histogram.edges) <= 1e-5


@pytest.mark.parametrize(("batch_size", "firsts"), [(1, [0, 1, 2, 3, 4]), (2, [0, 1, 3]), (3, [0, 1, 4]), (9, [0, 1])])
def test_the_first_sequence_runs_alone_if_a_reducer_must_be_calibrated(batch_size, firsts):
    ids, spy, other = token_ids(5, 8), Calibrating(), Spy()
    run_pass(MODEL, SITES, ids, None, [other, spy], batch_size=batch_size)
    assert [batch.first for batch in spy.batches] == [batch.first for batch in other.batches] == firsts
    assert torch.cat([batch.input_ids for batch in spy.batches]).tolist() == ids.tolist()
    assert [site for site, _ in spy.calibrated_by] == [0, 1, 2]
    for (_, pilot), (_, seen) in zip(spy.calibrated_by, spy.seen[:LAYERS], strict=True):
        assert torch.equal(pilot, seen)  # the first sequence runs once, and is both calibrated on and reduced


def test_a_calibrated_reducer_is_not_calibrated_again_and_the_first_batch_is_whole():
    ids, spy = token_ids(5, 8), Calibrating()
    spy.is_calibrated = True
    run_pass(MODEL, SITES, ids, None, [spy], batch_size=2)
    assert [batch.first for batch in spy.batches] == [0, 2, 4]
    assert spy.calibrated_by == []


def test_a_second_pass_keeps_the_calibration_of_the_first():
    ids = token_ids(4, 8)
    gram, histogram = reduce(ids[:3], None, 1)
    before = gram.shift.clone(), histogram.edges.clone()
    run_pass(MODEL, SITES, ids[3:], None, [gram, histogram], by_id, 1)
    assert torch.equal(gram.shift, before[0])
    assert torch.equal(histogram.edges, before[1])
    assert all(map(same, (gram, histogram), reduce(ids, None, 1)))


def test_the_reducers_of_a_pass_hold_ordinary_tensors():
    """They can be added to after it: what was made inside the pass's inference mode could not be."""
    ids = token_ids(2, 8)
    for reducer in reduce(ids, None, 1):
        for name in reducer.summed + reducer.calibrated:
            assert not getattr(reducer, name).is_inference(), name
    gram, histogram = reduce(ids, None, 1)
    gram.merge(reduce(ids, None, 1)[0])
    histogram.merge(reduce(ids, None, 1)[1])


# Parts


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("batches", [0, 1, 2])
def test_parts_of_the_sequences_merge_to_the_whole(batch_size, batches):
    """Cut where the whole pass begins a batch: after the first sequence, which runs alone, and some batches."""
    ids, valid = partial(8, 16, last=9)
    cut = 1 + batches * batch_size
    whole, whole_histogram = reduce(ids, valid, batch_size)
    parts = [reduce(ids, valid, batch_size, part=part) for part in (slice(0, cut), slice(cut, 8))]
    for gram, histogram in parts:
        assert torch.equal(gram.shift, whole.shift)
        assert torch.equal(histogram.edges, whole_histogram.edges)
    assert [sum(counts_of(gram)) for gram, _ in parts] == [valid[:cut].sum(), valid[cut:].sum()]
    for one, other in (parts, parts[::-1]):
        gram, histogram = new_reducers()
        gram.load(one[0].state())
        histogram.load(one[1].state())
        gram.merge(other[0])
        histogram.merge(other[1])
        assert torch.equal(histogram.counts, whole_histogram.counts)
        assert torch.equal(gram.zz, whole.zz)
        for name in ("zx", "qxx", "magnitudes"):
            found, expected = getattr(gram, name).numpy(), getattr(whole, name).numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13 * np.abs(expected).max())


def test_the_sequences_one_by_one_in_any_order_merge_to_the_whole():
    ids, valid = partial(5, 16, last=3)
    whole, whole_histogram = reduce(ids, valid, 1)
    gram, histogram = reduce(ids, valid, 1, part=slice(3, 4))
    for index in (4, 0, 2, 1):
        one, one_histogram = reduce(ids, valid, 1, part=slice(index, index + 1))
        gram.merge(one)
        histogram.merge(one_histogram)
    assert torch.equal(gram.zz, whole.zz)
    assert torch.equal(histogram.counts, whole_histogram.counts)
    for name in ("zx", "qxx", "magnitudes"):
        assert difference(getattr(gram, name), getattr(whole, name)) <= 1e-14


@pytest.mark.parametrize(
    ("part", "firsts"),
    [
        (slice(None), [0, 1, 3]),
        (slice(0, 3), [0, 1]),
        (slice(0, 1), [0]),
        (slice(1, 4), [1, 3]),
        (slice(2, None), [2, 4]),
        (slice(-2, None), [3]),
        (slice(4, 99), [4]),
        (slice(2, 2), []),
        (slice(0, 0), []),
    ],
    ids=str,
)
def test_only_the_part_is_reduced_but_the_first_sequence_always_calibrates(part, firsts):
    ids, valid = partial(5, 8, last=3)
    whole, spy, plain = Calibrating(), Calibrating(), Spy()
    run_pass(MODEL, SITES, ids, valid, [whole], batch_size=2)
    run_pass(MODEL, SITES, ids, valid, [spy, plain], lambda ids, *_: {"id": ids}, batch_size=2, part=part)
    assert [batch.first for batch in spy.batches] == [batch.first for batch in plain.batches] == firsts
    assert all(
        torch.equal(found, expected)
        for (_, found), (_, expected) in zip(spy.calibrated_by, whole.calibrated_by, strict=True)
    )
    assert sum(batch.tokens for batch in spy.batches) == valid[part].sum()
    if firsts:
        assert spy.covariate("id").tolist() == ids[part][valid[part]].tolist()
        assert len(spy.activations(2)) == valid[part].sum()


@pytest.mark.parametrize(("part", "firsts"), [(slice(0, 3), [0, 2]), (slice(2, 5), [2, 4]), (slice(5, 5), [])], ids=str)
def test_a_part_of_calibrated_reducers_does_not_run_the_first_sequence(part, firsts):
    ids, spy, forwards = token_ids(5, 8), Spy(), []
    model = build("gpt_neo")
    model.transformer.register_forward_pre_hook(lambda *_: forwards.append(1))
    run_pass(model, find_sites(model, "MLP"), ids, None, [spy], batch_size=2, part=part)
    assert [batch.first for batch in spy.batches] == firsts
    assert len(forwards) == len(firsts)


# NaN and infinity


def spoil(model, layer, batch, value=float("nan"), token=3, beyond=False):
    """Lets layer `layer`'s expansion put out `value` at one neuron of one token of the last sequence of one forward.

    Unless `beyond`, the block's output hides it, so that no later layer knows of it.
    """
    forwards = []

    def expansion(module, arguments, output):
        forwards.append(1)
        if len(forwards) == batch + 1:
            output[-1, token, 5] = value
        return output

    model.transformer.h[layer].mlp.c_fc.register_forward_hook(expansion)
    if not beyond:
        last = model.transformer.h[layer].mlp
        last.register_forward_hook(lambda module, arguments, output: output.nan_to_num(0.0, 0.0, 0.0))
    return forwards


@pytest.mark.parametrize("bins", [32, 200])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("layer", "beyond"), [(0, False), (1, False), (2, False), (1, True)])
def test_a_late_batch_that_is_not_finite_is_reported_with_its_site(layer, beyond, value, bins):
    model = build("gpt_neo")
    forwards = spoil(model, layer, 2 * CHECKED_EVERY + 1, value, beyond=beyond)
    spy = Spy()
    gram, histogram = new_reducers()[0], Histogram(GROUPS, LAYERS, bins)
    ids = token_ids(5 * CHECKED_EVERY, 8)
    with pytest.raises(NotFiniteError) as raised:
        run_pass(model, find_sites(model, "MLP"), ids, None, [histogram, gram, spy], by_id, 1)
    assert raised.value.site == layer
    assert len(forwards) == 3 * CHECKED_EVERY + 1  # told at the next check, not at the end
    assert len(spy.batches) == 3 * CHECKED_EVERY + 1
    assert len(model.transformer.h[layer].mlp.c_fc._forward_hooks) == 1  # the one that spoils it


@pytest.mark.parametrize("at", [0, 1, CHECKED_EVERY, 10, 11])
def test_any_batch_that_is_not_finite_is_reported_even_the_last(at):
    model = build("gpt_neo")
    spoil(model, 2, at)
    gram = Gram(GROUPS, LAYERS, shift=torch.zeros(LAYERS, EXPANSION))
    with pytest.raises(NotFiniteError) as raised:
        run_pass(model, find_sites(model, "MLP"), token_ids(12, 8), None, [gram], by_id, 1)
    assert raised.value.site == 2


def test_a_first_sequence_that_is_not_finite_is_reported_at_once_by_either_reducer():
    for reducer in new_reducers():
        model = build("gpt_neo")
        forwards = spoil(model, 1, 0)
        with pytest.raises(NotFiniteError) as raised:
            run_pass(model, find_sites(model, "MLP"), token_ids(6, 8), None, [reducer], by_id, 1)
        assert raised.value.site == 1
        assert len(forwards) == 1


def test_the_first_of_several_sites_that_are_not_finite_is_reported():
    model = build("gpt_neo")
    spoil(model, 2, 3)
    spoil(model, 1, 4)
    with pytest.raises(NotFiniteError) as raised:
        run_pass(model, find_sites(model, "MLP"), token_ids(6, 8), None, [new_reducers()[0]], by_id, 1)
    assert raised.value.site == 1


def test_a_pad_may_put_out_anything_and_a_pass_without_nan_raises_nothing():
    model = build("gpt_neo")
    spoil(model, 1, 3, token=15)
    ids, valid = partial(4, 16, last=9)
    gram, histogram = new_reducers()
    run_pass(model, find_sites(model, "MLP"), ids, valid, [gram, histogram], by_id, 1)
    gram.check()
    assert all(map(same, (gram, histogram), reduce(ids, valid, 1)))


def test_tokens_that_the_part_leaves_out_may_put_out_anything():
    model = build("gpt_neo")
    spoil(model, 1, 3)
    gram, histogram = new_reducers()
    run_pass(model, find_sites(model, "MLP"), token_ids(6, 8), None, [gram, histogram], by_id, 1, part=slice(0, 3))
    gram.check()


def test_every_reducer_sees_every_site_once_a_batch():
    first, second = Spy(), Spy()
    run_pass(MODEL, SITES, token_ids(5, 8), None, [first, second], batch_size=2)
    assert [site for site, _ in first.seen] == [0, 1, 2] * 3
    assert [tuple(values.shape) for _, values in first.seen[::3]] == [(16, EXPANSION), (16, EXPANSION), (8, EXPANSION)]
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(first.seen, second.seen, strict=True))


def test_numpy_arrays_and_tensors_give_the_same():
    ids, valid = partial(3, 16, last=5)
    of_tensors, of_arrays = reduce(ids, valid, 2), reduce(ids.numpy(), valid.numpy(), 2)
    assert all(map(same, of_tensors, of_arrays))


@pytest.mark.parametrize("spy", [Spy(), Calibrating()], ids=["calibrated", "not calibrated"])
def test_no_sequences_is_nothing_seen(spy):
    run_pass(MODEL, SITES, token_ids(1, 8)[:0], None, [spy])
    assert spy.batches == spy.seen == []


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_sequence_of_pads_alone_adds_nothing(batch_size):
    ids, valid = partial(4, 8, last=3)
    ids, valid = (
        torch.cat([ids[:2], torch.zeros_like(ids[:1]), ids[2:]]),
        torch.cat([valid[:2], valid[:1] & False, valid[2:]]),
    )
    kept = [0, 1, 3, 4]
    (gram, histogram), (plain, plain_histogram) = reduce(ids, valid, batch_size), reduce(ids[kept], valid[kept], 1)
    assert torch.equal(gram.zz, plain.zz)
    assert torch.equal(histogram.counts.sum(-1), plain_histogram.counts.sum(-1))
    for name in ("zx", "qxx", "magnitudes"):
        assert difference(getattr(gram, name), getattr(plain, name)) <= 1e-5


def test_the_batch_is_on_the_cpu_and_names_the_device_of_the_activations():
    ids, valid = partial(3, 8, last=3)
    spy = Spy()
    run_pass(MODEL, SITES, ids, valid, [spy], by_id, 2)
    for batch in spy.batches:
        assert batch.device == MODEL.device
        told = [batch.input_ids, batch.valid, batch.positions, *batch.covariates.values()]
        assert all(tensor.device.type == "cpu" for tensor in told + [batch.rows] * (batch.rows is not None))
    assert spy.batches[0].rows is None
    assert spy.batches[1].rows.tolist() == [0, 1, 2]


def test_gradients_are_neither_kept_nor_switched_off_for_good():
    spy = Spy()
    run_pass(MODEL, SITES, token_ids(1, 8), None, [spy])
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert not any(values.requires_grad for _, values in spy.seen)


def test_a_failing_reducer_leaves_no_hooks():
    class Fails(Spy):
        def update(self, site, activations, batch):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_pass(MODEL, SITES, token_ids(1, 8), None, [Fails()])
    assert not any(module._forward_hooks for module in MODEL.modules())


def test_the_forecast_is_made_once_by_the_second_batch():
    model, told = build("gpt_neo"), []
    sites = find_sites(model, "MLP", [0])
    for sequences, expected in ((2, 0), (3, 1), (9, 1), (40, 1)):
        told.clear()
        tell = lambda seconds, neurons: told.append((seconds, neurons))  # noqa: E731
        run_pass(model, sites, token_ids(sequences, 8), None, [], batch_size=2, forecast=tell)
        assert len(told) == expected
        assert all(seconds > 0 and neurons == EXPANSION for seconds, neurons in told)


def test_the_forecast_is_of_the_part_that_is_reduced():
    """The forecast uses the second batch, not a first sequence that only calibrates."""
    told = []
    for part in (slice(0, 4), slice(2, 6), slice(1, 2)):
        gram, histogram = new_reducers()
        tell = lambda seconds, neurons: told.append((seconds, neurons))  # noqa: E731
        run_pass(MODEL, SITES, token_ids(8, 8), None, [gram, histogram], by_id, 2, forecast=tell, part=part)
    assert [neurons for _, neurons in told] == [LAYERS * EXPANSION] * 3
    assert all(seconds > 0 for seconds, _ in told)
