"""Gradient passes in a plan: run as other passes are, resumed from checkpoints, and with mistakes in one line."""

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import build, difference, token_ids

import neurexp
from neurexp.engine import checkpoint, plan
from neurexp.engine.checkpoint import Checkpoints
from neurexp.engine.gradients import run_gradient_pass
from neurexp.engine.plan import GradientPass, Pass, run, run_together
from neurexp.engine.reducers.attribution import Attribution
from neurexp.errors import UserError
from neurexp.models.sites import find_sites
from neurexp.text.tokens import Tokens

LAYERS = (0, 2)


@pytest.fixture(scope="module")
def mini():
    return neurexp.load_model("mini", device="cpu")


@pytest.fixture(scope="module")
def text(mini):
    """Four sequences of the model's own documentation, the last one padded."""
    ids = np.zeros((4, 48), dtype=np.int32)
    words = mini.tokenizer("\n".join(str(one.__doc__) for one in (np, torch, neurexp, stats))).input_ids
    ids.flat[:] = words[: ids.size]
    valid = np.ones(ids.shape, dtype=bool)
    valid[-1, 30:] = False
    return Tokens(ids, valid, 1)


def planned(tokens, site="NEURON", kind=GradientPass, **options):
    return kind("attribution", tokens, site, LAYERS, lambda _: {"sums": Attribution(len(LAYERS))}, **options)


def same(one, other):
    return all(torch.equal(value, other.state()[name]) for name, value in one.state().items())


def test_a_planned_pass_is_the_gradient_pass(mini, text):
    found = run(planned(text), mini, batch_size=2)["sums"]
    alone = Attribution(len(LAYERS))
    sites = find_sites(mini.network, "NEURON", LAYERS)
    run_gradient_pass(mini.network, sites, text.input_ids, text.valid, [alone], batch_size=2)
    for name in Attribution.summed:
        assert difference(getattr(found, name), getattr(alone, name)) <= 1e-5  # the fast forward rounds differently
    assert not any(parameter.grad is not None for parameter in mini.network.parameters())


def test_several_sites_share_a_pass(mini, text):
    together = run_together([planned(text), planned(text, "MLP")], mini, batch_size=2)
    for site, found in zip(("NEURON", "MLP"), together, strict=True):
        assert same(found["sums"], run(planned(text, site), mini, batch_size=2)["sums"])


def test_passes_of_two_kinds_do_not_run_together(mini, text):
    with pytest.raises(ValueError, match="of one kind"):
        run_together([planned(text), planned(text, kind=Pass)], mini)


def test_a_store_tells_a_gradient_pass_from_others(mini, text):
    keys = [plan.activation_key(mini, planned(text, kind=kind), 2) for kind in (Pass, GradientPass)]
    assert keys[0] != keys[1]


def test_a_gradient_without_numbers_is_told_from_such_activations(mini, text):
    weight, kept = mini.network.lm_head.weight, mini.network.lm_head.weight.detach().clone()
    unused = sorted(set(range(1, len(kept))) - set(text.input_ids.flat))[0]  # 0 stands at pads
    with torch.no_grad():
        weight[unused] = torch.inf  # of a token that the text does not have, but that it might predict
    try:
        with pytest.raises(UserError, match=r"device\.dtype=float32: the loss, or its gradient at NEURON_0, is NaN"):
            run(planned(text), mini)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


@pytest.mark.parametrize("cut_after", [1, 3])
def test_a_resumed_pass_ends_with_the_same_bits(tmp_path, monkeypatch, cut_after):
    monkeypatch.setattr(checkpoint, "MIN_WAIT", 0)
    network, ids = build("llama"), token_ids(7, 12)

    class CutError(Exception):
        pass

    def attribute(checkpoints=None, stop=None):
        begun = 0

        def covariates(*_):
            nonlocal begun
            begun += 1
            if stop is not None and begun > stop:
                raise CutError
            return {}

        found = Attribution(3)
        sites = find_sites(network, "NEURON")
        run_gradient_pass(network, sites, ids, None, [found], covariates, 2, checkpoints=checkpoints)
        return found

    def checkpoints():
        return Checkpoints(tmp_path, "pass", {"key": 1}, 1e-9)

    with pytest.raises(CutError):
        attribute(checkpoints(), cut_after)
    resumed = checkpoints()
    found = attribute(resumed)
    assert resumed.resumed_at == cut_after
    assert same(found, attribute())


def test_a_forecast_comes_once(mini):
    told, ids = [], token_ids(6, 12)
    sites = find_sites(mini.network, "NEURON", LAYERS)
    options = {"batch_size": 2, "forecast": lambda seconds, neurons: told.append((seconds, neurons))}
    run_gradient_pass(mini.network, sites, ids, None, [Attribution(2)], **options)
    ((seconds, neurons),) = told
    assert seconds > 0
    assert neurons == sum(site.module.weight.numel() // mini.network.config.hidden_size for site in sites)


def test_the_estimate_ranks_neurons_of_a_trained_model_as_their_ablation_does(mini, text):
    """Each of some neurons is set to 0 at every token, in a forward of its own."""
    found = run(planned(text), mini)["sums"]
    estimate = found.estimate()[1].numpy()
    ids, valid = torch.from_numpy(text.input_ids).long(), torch.from_numpy(text.valid)
    down = find_sites(mini.network, "NEURON", [LAYERS[1]])[0].module

    def loss(neuron=None):
        def without(module, given):
            values = given[0].clone()
            values[..., neuron] = 0
            return (values,)

        handle = None if neuron is None else down.register_forward_pre_hook(without)
        with torch.inference_mode():
            chances = mini.network(ids).logits[:, :-1].double().log_softmax(-1)
        if handle is not None:
            handle.remove()
        losses = -chances.gather(-1, ids[:, 1:, None])[..., 0]
        return float(losses[valid[:, 1:]].mean())

    neurons = np.argsort(-np.abs(estimate))[:24]
    before = loss()
    exact = np.array([loss(neuron) - before for neuron in neurons])
    assert np.corrcoef(exact, estimate[neurons])[0, 1] > 0.8
