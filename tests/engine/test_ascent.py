"""Gradient ascent on embeddings, against a loop by hand, and as a pass that can be interrupted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, build

from neurexp.engine.ascent import Ascent, ascend, decode, deviation, random_starts, run_ascent
from neurexp.engine.checkpoint import Checkpoints
from neurexp.engine.one_unit import embedding_table, unit_of_embeddings
from neurexp.engine.reducers.by_unit import ByUnit
from neurexp.errors import UserError
from neurexp.models.sites import find_sites

LAYER, NEURON = 1, 3
ALLOWED = torch.arange(1, VOCABULARY)
FEW = Ascent(length=4, starts=3, steps=25, rate=0.01, penalty=0.002, every=10, directions=50)


def plain(network, before, start, ascent):
    """The embeddings and the mean activations by step: transformers' own forward, and Adam as in Kingma and Ba."""
    theta, first, second, curve = start.clone(), torch.zeros_like(start), torch.zeros_like(start), []
    fixed = network.get_input_embeddings()(torch.tensor([before] * len(start), dtype=torch.long).view(len(start), -1))

    def mean(of):
        hidden = network.base_model(inputs_embeds=torch.cat([fixed, of], 1), output_hidden_states=True)
        return hidden.hidden_states[LAYER + 1][:, len(before) :, NEURON].mean(1)

    for step in range(1, ascent.steps + 1):
        theta = theta.detach().requires_grad_()
        reached = mean(theta)
        curve.append(reached.detach())
        loss = sum(-reached[one] + ascent.penalty * (theta[one] ** 2).sum() for one in range(len(start)))
        (gradient,) = torch.autograd.grad(loss, theta)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        change = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        theta = theta.detach() - ascent.rate * change
    return theta, torch.stack([*curve, mean(theta).detach()], 1)


# Gemma multiplies what it embeds in the model, Gemma 3 in the embedding; OPT's blocks join all sequences
@pytest.mark.parametrize(
    ("family", "prefix"), [("gpt_neo", []), ("gpt_neo", [0]), ("gemma", [2]), ("gemma3_text", [2]), ("llama", [0, 5])]
)
def test_the_optima_are_those_of_a_loop_by_hand(family, prefix):
    network = build(family)
    found = ByUnit()
    run_ascent(network, "RESID_POST", [(LAYER, NEURON)], FEW, ALLOWED, found, prefix)
    table = network.get_input_embeddings()(torch.arange(VOCABULARY)).detach()
    start = found.of(0, "start")
    assert start.std() / table.std() == pytest.approx(1, abs=0.15)
    theta, curve = plain(network, prefix, start, FEW)
    assert torch.allclose(found.of(0, "end"), theta, rtol=0, atol=1e-5)
    assert torch.allclose(found.of(0, "curve"), curve[:, FEW.points], rtol=1e-4, atol=1e-5)
    assert bool((found.of(0, "curve")[:, -1] > found.of(0, "curve")[:, 0]).all())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_a_start_alone_reaches_what_it_reaches_among_others():
    network, results = build("gpt_neo"), []
    for starts in (1, 4):
        found = ByUnit()
        ascent = Ascent(length=3, starts=starts, steps=20, rate=0.01, directions=1)
        run_ascent(network, "NEURON", [(LAYER, NEURON)], ascent, ALLOWED, found)
        results.append(found)
    alone, among = results
    assert torch.equal(alone.of(0, "start"), among.of(0, "start")[:1])
    assert torch.allclose(alone.of(0, "end"), among.of(0, "end")[:1], rtol=0, atol=1e-5)


def test_tokens_are_starts_where_they_are_given():
    network, found, ids = build("gpt2"), ByUnit(), torch.tensor([[5, 6, 7], [8, 9, 10]])
    ascent = Ascent(length=3, starts=2, steps=1, directions=1)
    run_ascent(network, "MLP", [(0, 1)], ascent, ALLOWED, found, starts=[ids])
    assert torch.equal(found.of(0, "start"), network.get_input_embeddings().weight[ids])


@pytest.mark.parametrize("at_once", [2**27, 70])  # cosines: all, or of seven tokens with the ten vectors
def test_the_nearest_token_is_that_of_numpy(at_once, monkeypatch):
    monkeypatch.setattr("neurexp.engine.ascent.AT_ONCE", at_once)
    random = np.random.default_rng(0)
    vectors, table, allowed = random.normal(size=(2, 5, 8)), random.normal(size=(40, 8)), np.arange(3, 40)
    ids, cosines = decode(torch.tensor(vectors).float(), torch.tensor(table).float(), torch.tensor(allowed))
    scores = vectors @ table.T / np.linalg.norm(vectors, axis=-1, keepdims=True) / np.linalg.norm(table, axis=1)
    assert np.array_equal(ids, allowed[scores[..., allowed].argmax(-1)])
    assert np.allclose(cosines, scores[..., allowed].max(-1), atol=1e-6)
    assert deviation(torch.tensor(table)) == pytest.approx(table.std())


def test_an_interrupted_ascent_goes_on_after_its_last_unit_to_the_same_bits(tmp_path):
    network, units = build("gpt_neo"), [(0, 1), (1, 3), (2, 5)]

    class Often(Checkpoints):
        def due(self):
            return True

    class Broken(Often):
        def save(self, reducers, batches, covered=None):
            super().save(reducers, batches)
            raise KeyboardInterrupt

    def run(checkpoints=None):
        found = ByUnit()
        run_ascent(network, "RESID_POST", units, replace(FEW, steps=5), ALLOWED, found, checkpoints=checkpoints)
        return found.state()

    with pytest.raises(KeyboardInterrupt):
        run(Broken(tmp_path, "ascent", {"a": 1}, 1))
    resumed = Often(tmp_path, "ascent", {"a": 1}, 1)
    found, whole = run(resumed), run()
    assert resumed.resumed_at == 1
    assert found.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in found.items())


def test_another_seed_or_unit_has_other_starts():
    table = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    starts = [random_starts(table, Ascent(seed=seed), unit) for seed, unit in ((0, (1, 2)), (1, (1, 2)), (0, (2, 1)))]
    assert all(not torch.equal(starts[0], other) for other in starts[1:])


def test_what_has_no_number_or_no_gradient_is_one_line():
    network = build("gpt_neo")
    (site,) = find_sites(network, "RESID_POST", [LAYER])
    table = embedding_table(network)
    with unit_of_embeddings(network, site, NEURON) as unit, pytest.raises(UserError, match=r"^experiment\.rate: "):
        ascend(unit, torch.full((1, 2, table.shape[1]), torch.inf), FEW)
    network.get_input_embeddings().register_forward_hook(lambda module, arguments, output: output.detach())
    with unit_of_embeddings(network, site, NEURON) as unit:
        assert unit(table[None, :2]).shape == (1, 2)
