"""The one pass: how it is cut changes no result, pads count nowhere, covariates and activations stay aligned."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EXPANSION, LAYERS, VOCABULARY, build, difference, token_ids

import neurexp
from neurexp.engine.passes import measure_pilot, run_pass
from neurexp.engine.reducers import Histogram, Moments, Reducer
from neurexp.models.sites import find_sites

MODEL = build("gpt_neo")
SITES = find_sites(MODEL, "MLP")
GROUPS = 4


class Spy(Reducer):
    """Writes down everything that it is shown."""

    def __init__(self):
        self.batches, self.seen = [], []

    def begin(self, batch):
        self.batches.append(batch)

    def update(self, site, activations, batch):
        assert batch is self.batches[-1]
        self.seen.append((site, activations.clone()))

    def activations(self, site):
        return torch.cat([values for index, values in self.seen if index == site])

    def covariate(self, name):
        return torch.cat([batch.covariates[name] for batch in self.batches])


def by_id(ids, *_):
    return {"group": ids % GROUPS}


def partial(sequences, length, last):
    """Sequences of which the last one holds `last` valid tokens, then pads of id 0."""
    ids, valid = token_ids(sequences, length), torch.ones(sequences, length, dtype=torch.bool)
    ids[-1, last:], valid[-1, last:] = 0, False
    return ids, valid


def reduce(ids, valid, batch_size, pilot=None):
    """Moments and a histogram of one pass; their shift and edges come from the first sequence alone."""
    pilot = pilot or measure_pilot(MODEL, SITES, ids, valid)
    moments = Moments(GROUPS, pilot.shift)
    histogram = Histogram(GROUPS, pilot.low, pilot.high, 32, torch.device("cpu"))
    run_pass(MODEL, SITES, ids, valid, [moments, histogram], by_id, batch_size)
    return moments, histogram


@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_how_the_pass_is_cut_changes_no_result(batch_size):
    ids, valid = partial(5, 16, last=9)
    (moments, histogram), (alone, alone_histogram) = reduce(ids, valid, batch_size), reduce(ids, valid, 1)
    assert torch.equal(moments.count, alone.count)
    for name in ("sums", "squares", "magnitudes"):
        assert difference(getattr(moments, name), getattr(alone, name)) <= 1e-5
    assert torch.equal(histogram.edges, alone_histogram.edges)
    # The forward's own rounding may carry a value over an edge, but no value may be lost
    moved = (histogram.counts - alone_histogram.counts).abs().sum().item() / 2
    assert moved <= 1e-3 * histogram.counts.sum().item()
    assert torch.equal(histogram.counts.sum(-1), alone_histogram.counts.sum(-1))


def test_the_pass_against_everything_that_was_captured():
    ids, valid = partial(5, 16, last=9)
    captured = neurexp.capture(MODEL, ids, valid=valid, batch_size=2)
    moments, histogram = reduce(ids, valid, batch_size=2)
    group = ids[valid].numpy() % GROUPS
    assert moments.count.tolist() == np.bincount(group, minlength=GROUPS).tolist()
    for layer in range(LAYERS):
        values = captured[f"MLP_{layer}"][valid].double().numpy()
        edges = np.concatenate([[-np.inf], histogram.edges[layer].numpy(), [np.inf]])
        for index in range(GROUPS):
            chosen = values[group == index]
            sums = moments.sums[layer, index].numpy() + len(chosen) * moments.shift[layer].double().numpy()
            np.testing.assert_allclose(sums, chosen.sum(0), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(moments.magnitudes[layer, index], np.abs(chosen).sum(0), rtol=1e-5)
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
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(tensor, other.state()[name]) for name, tensor in one.state().items())


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
    moments = Moments(VOCABULARY, torch.zeros(1, 16))
    run_pass(model, [site], ids, valid, [moments], lambda ids, *_: {"group": ids}, batch_size)
    every_id = torch.arange(VOCABULARY)
    with torch.no_grad():
        embedded = model.transformer.h[0].ln_1(model.transformer.wte(every_id))
        of_id = model.transformer.h[0].attn.attention.q_proj(embedded).double()
    occurrences = torch.bincount(ids[valid], minlength=VOCABULARY)
    assert torch.equal(moments.count, occurrences)
    assert difference(moments.sums[0], occurrences[:, None] * of_id) <= 1e-5


def test_the_pilot_is_the_first_sequence_alone():
    ids, valid = partial(3, 16, last=5)
    captured = neurexp.capture(MODEL, ids[0])
    pilot = measure_pilot(MODEL, SITES, ids, valid)
    for layer in range(LAYERS):
        values = captured[f"MLP_{layer}"].flatten(0, 1)
        assert difference(pilot.shift[layer], values.double().mean(0)) <= 1e-6
        assert pilot.low[layer] == values.min()  # 0.1 % of 640 values is the first of them
        assert pilot.high[layer] == values.max()


def test_the_pilot_leaves_the_pads_of_the_first_sequence_out():
    ids, valid = partial(1, 16, last=5)
    pilot, unpadded = measure_pilot(MODEL, SITES, ids, valid), measure_pilot(MODEL, SITES, ids[:, :5], None)
    assert difference(pilot.shift, unpadded.shift) <= 1e-5
    assert difference(pilot.low, unpadded.low) <= 1e-5


def test_every_reducer_sees_every_site_once_a_batch():
    first, second = Spy(), Spy()
    run_pass(MODEL, SITES, token_ids(5, 8), None, [first, second], batch_size=2)
    assert [site for site, _ in first.seen] == [0, 1, 2] * 3
    assert [tuple(values.shape) for _, values in first.seen[::3]] == [(16, EXPANSION), (16, EXPANSION), (8, EXPANSION)]
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(first.seen, second.seen, strict=True))


def test_numpy_arrays_and_tensors_give_the_same():
    ids, valid = partial(3, 16, last=5)
    of_tensors, of_arrays = reduce(ids, valid, 2), reduce(ids.numpy(), valid.numpy(), 2)
    assert all(torch.equal(of_tensors[0].state()[name], tensor) for name, tensor in of_arrays[0].state().items())


def test_no_sequences_is_nothing_seen():
    spy = Spy()
    run_pass(MODEL, SITES, token_ids(1, 8)[:0], None, [spy])
    assert spy.batches == []


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
    for sequences, expected in ((2, 0), (3, 1), (9, 1)):
        told.clear()
        tell = lambda seconds, neurons: told.append((seconds, neurons))  # noqa: E731
        run_pass(model, sites, token_ids(sequences, 8), None, [], batch_size=2, forecast=tell)
        assert len(told) == expected
        assert all(seconds > 0 and neurons == EXPANSION for seconds, neurons in told)
