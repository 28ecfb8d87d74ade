"""The search over token strings: its gradient, one step against all single swaps, and strings that can be typed."""

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, build

from neurexp.engine.one_unit import embedding_table, unit_of_embeddings
from neurexp.engine.search import Search, greedy_search, one_hot_gradient
from neurexp.models.sites import find_sites

LAYER, NEURON, PREFIX = 1, 3, [0]
ALLOWED = torch.arange(2, VOCABULARY)
STARTS = torch.tensor([[5, 9, 30], [44, 2, 17]])
ALL = Search(steps=1, top=VOCABULARY, candidates=10_000)


def every(strings):
    return np.ones(len(strings), dtype=bool)


@pytest.fixture(params=["gpt_neo", "gemma3_text"])
def network(request):
    return build(request.param)


@pytest.fixture
def unit(network):
    (site,) = find_sites(network, "RESID_POST", [LAYER])
    with unit_of_embeddings(network, site, NEURON, PREFIX) as unit:
        yield unit


def by_ids(network, ids):
    """The mean activation of each string by transformers' own forward, `[strings]`."""
    whole = torch.cat([torch.tensor(PREFIX).expand(len(ids), -1), torch.as_tensor(ids)], 1)
    with torch.no_grad():
        hidden = network.base_model(input_ids=whole, output_hidden_states=True).hidden_states[LAYER + 1]
    return hidden[:, len(PREFIX) :, NEURON].mean(1)


def test_the_one_hot_gradient_is_that_of_autograd(network, unit):
    table = embedding_table(network)
    hot = torch.nn.functional.one_hot(STARTS, VOCABULARY).float().requires_grad_()
    prefix = table[torch.tensor(PREFIX)].expand(2, -1, -1)
    with torch.enable_grad():
        embedded = torch.cat([prefix, hot @ table], 1)
        hidden = network.base_model(inputs_embeds=embedded, output_hidden_states=True).hidden_states[LAYER + 1]
        (expected,) = torch.autograd.grad(hidden[:, 1:, NEURON].mean(1).sum(), hot)
    assert torch.allclose(one_hot_gradient(unit, table, STARTS, ALLOWED), expected[..., ALLOWED], rtol=1e-4, atol=1e-6)


def test_one_step_finds_the_best_of_all_single_swaps(network, unit):
    best = greedy_search(unit, embedding_table(network), STARTS, ALLOWED, ALL, every)
    for start, found, curve in zip(STARTS.tolist(), best.ids.tolist(), best.curve, strict=True):
        swaps = [[*start[:at], new, *start[at + 1 :]] for at in range(3) for new in [start[at], *ALLOWED.tolist()]]
        values = by_ids(network, swaps)
        assert found == swaps[int(values.argmax())]
        assert float(curve[1]) == pytest.approx(float(values.max()), rel=1e-4)
        assert float(curve[0]) == pytest.approx(float(by_ids(network, [start])), rel=1e-4, abs=1e-5)


def test_more_steps_never_go_down_and_a_start_does_not_influence_others(network, unit):
    search = Search(steps=6, top=8, candidates=10, seed=4)
    together = greedy_search(unit, embedding_table(network), STARTS, ALLOWED, search, every)
    alone = greedy_search(unit, embedding_table(network), STARTS[:1], ALLOWED, search, every)
    assert torch.equal(alone.ids, together.ids[:1])
    assert bool((together.curve.diff(dim=1) >= 0).all())
    assert bool((together.curve[:, -1] > together.curve[:, 0]).all())
    assert together.tried == 2 + 6 * 2 * 10
    assert torch.allclose(together.curve[:, -1], by_ids(network, together.ids), rtol=1e-4, atol=1e-5)
    assert set(together.ids.flatten().tolist()) <= {*ALLOWED.tolist(), *STARTS.flatten().tolist()}


def test_strings_are_run_in_pieces_to_the_same_values(network, unit, monkeypatch):
    table, search = embedding_table(network), Search(steps=2, top=8, candidates=10)
    whole = greedy_search(unit, table, STARTS, ALLOWED, search, every)
    monkeypatch.setattr("neurexp.engine.search.TOKENS_AT_ONCE", 9)  # three strings, of 20
    pieces = greedy_search(unit, table, STARTS, ALLOWED, search, every)
    assert torch.equal(pieces.ids, whole.ids)
    assert torch.allclose(pieces.curve, whole.curve, rtol=1e-4, atol=1e-5)


def test_the_best_string_that_can_be_typed_is_kept_beside_the_best(network, unit):
    def even(strings):
        return strings.sum(1) % 2 == 0

    best = greedy_search(unit, embedding_table(network), STARTS, ALLOWED, Search(8, 8, 10), even)
    for ids, text in zip(best.ids.tolist(), best.text_ids.tolist(), strict=True):
        assert sum(text) % 2 == 0
        values = by_ids(network, [ids, text])
        assert values[1] <= values[0] + 1e-5
        assert ids == text or sum(ids) % 2
    none = greedy_search(unit, embedding_table(network), STARTS, ALLOWED, ALL, lambda strings: ~every(strings))
    assert bool((none.text_ids == -1).all())
