"""The benchmark's ablations: all sides do the same, and the costs follow from the seconds."""

from importlib import metadata

import numpy as np
import pytest
import tiny
import torch
from inprocess import text_of

from neurexp.experiments.benchmark import ablations as module
from neurexp.experiments.benchmark import edit_costs, peers
from neurexp.experiments.benchmark.ablations import Ablations, start_layers, token_losses
from neurexp.experiments.benchmark.edit_costs import EditCosts, measure
from neurexp.models.load import LanguageModel
from neurexp.models.sites import find_sites


def ablations_of(family="llama", sets=3, fast=True):
    network = tiny.build(family)
    model = LanguageModel(network, None, "tiny", "made here", "random", fast=fast)  # type: ignore[arg-type]
    text = text_of(np.arange(44) * 7 % 59 + 1, 16)
    return Ablations(model, text, 3, sets)  # the last sequence is padded


def by_weights(ablations, layer, neurons):
    """The losses if the neurons' rows of the down-projection are 0: another way to ablate them."""
    down = ablations.network.base_model.layers[layer].mlp.down_proj.weight
    kept = down.data.clone()
    down.data[:, neurons] = 0
    try:
        with torch.inference_mode():
            return token_losses(ablations.network(ablations.ids).logits, ablations.ids)
    finally:
        down.data.copy_(kept)


def test_ours_and_the_scripts_losses_are_those_of_a_model_without_the_neurons():
    ablations = ablations_of()
    assert ablations.counted.sum(1).tolist() == [15, 15, 11]
    ours = ablations.our_losses(1)
    expected = torch.stack([by_weights(ablations, 1, neurons) for neurons in ablations.sets])
    assert len({tuple(neurons) for neurons in ablations.sets}) == 3
    assert all(len(neurons) == tiny.EXPANSION // module.SHARE for neurons in ablations.sets)
    torch.testing.assert_close(ours[1:], expected[:, ablations.counted].double(), rtol=0, atol=1e-5)
    assert (ours[1:] - ours[0]).abs().amax(1).min() > 1e-3
    assert ablations.difference(ablations.with_hooks(1), ours) < 1e-5
    assert ablations.difference(lambda ids, neurons: by_weights(ablations, 2, neurons), ours) > 1e-3


def test_the_scripts_own_loss_leaves_pads_out(monkeypatch):
    ablations = ablations_of(sets=1)
    losses, network = [], ablations.network
    forward = network.forward

    def keep(*given, **named):
        output = forward(*given, **named)
        losses.append(float(output.loss))
        return output

    monkeypatch.setattr(network, "forward", keep)
    ablations.by_hooks(1)
    monkeypatch.undo()
    assert losses == pytest.approx([float(ablations.our_losses(1)[1].mean())], rel=1e-5)


def test_the_edited_blocks_are_run_for_all_sets_and_nothing_is_left_behind(monkeypatch):
    ablations = ablations_of(sets=5)
    monkeypatch.setattr(module, "SIDE_BY_SIDE", 2 * ablations.ids.numel())
    ran = []
    handles = [
        block.register_forward_hook(lambda block, given, output: ran.append(len(given[0])))
        for block in list(ablations.network.base_model.layers)[1:2]
    ]
    work = ablations.blocks_of_ours(1)
    ran.clear()
    work()
    assert ran == [6, 6, 3]  # two sets side by side, of three sequences each
    for handle in handles:
        handle.remove()
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in ablations.network.modules())


def test_layers_are_the_first_and_those_at_a_third_a_half_and_two_thirds():
    assert start_layers(30) == [0, 10, 15, 20]
    assert start_layers(2) == [0, 1]
    assert start_layers(1) == [0]


def test_costs_follow_from_the_seconds():
    ablations = ablations_of(sets=3)
    costs = EditCosts(ablations, [0, 1], 1, {"nnsight": "nnsight 1"}, {})
    costs.seconds = {
        "forward": np.array([10.0, 20.0, 10.0]),
        "blocks": np.array([8.0, 16.0, 8.0]),
        "script": np.array([33.0, 66.0, 36.0]),
        "nnsight": np.array([60.0, 120.0, 30.0]),
        "ours_0": np.array([50.0, 100.0, 40.0]), "one_0": np.array([30.0, 60.0, 20.0]),
        "blocks_0": np.array([24.0, 48.0, 12.0]),
        "ours_1": np.array([40.0, 80.0, 90.0]), "one_1": np.array([28.0, 56.0, 50.0]),
        "blocks_1": np.array([8.0, 16.0, 80.0]),
    }  # fmt: skip
    table = costs.table()
    assert table["case"].tolist() == ["ours", "ours", "script", "nnsight"]
    assert table["layer"].tolist() == [0, 1, 1, 1]
    np.testing.assert_allclose(table["seconds"], [10.0, 12.0, 12.0, 20.0])
    np.testing.assert_allclose(table["seconds_min"], [10.0, 6.0, 11.0, 10.0])
    np.testing.assert_allclose(table["seconds_max"], [20.0, 20.0, 22.0, 40.0])
    np.testing.assert_allclose(table["forwards"], [1.0, 0.6, 1.1, 2.0])
    np.testing.assert_allclose(table["cost"], [1.0, 0.9, 1.65, 3.0])  # 3 layers
    np.testing.assert_allclose(table["cost_with_head"], np.array([1.0, 0.6, 1.1, 2.0]) / [1, *[0.8 * 2 / 3 + 0.2] * 3])
    np.testing.assert_allclose(table["cost_of_blocks"], [1.0, 0.5, np.nan, np.nan])
    np.testing.assert_allclose(table["pass_forwards"], [5 / 3, 4 / 3, np.nan, np.nan])
    metrics = costs.metrics(table)
    assert metrics["edit_head_share"] == pytest.approx(0.2)
    assert (metrics["edit_cost_layer_1"], metrics["edit_forwards_nnsight"]) == (pytest.approx(0.9), pytest.approx(2.0))
    first, second = costs.findings(metrics)
    assert "costs 1.00, 0.60 plain forwards with their head: 1.00, 0.90 times (1 − l/L)" in first
    assert "The head is 20% of a forward" in first
    assert "plain transformers with hooks 1.10; nnsight 1 2.00 plain forwards each, ours 0.60" in second
    named = edit_costs.columns([0, 1])
    assert set(metrics) <= set(named)
    assert {f"ablations.{name}" for name in table} <= set(named)


def test_a_peer_that_predicts_something_else_is_left_out(monkeypatch, caplog):
    ablations = ablations_of(sets=2)
    monkeypatch.setattr(peers.metadata, "version", lambda package: "1.2.3")
    right = ablations.with_hooks(1)
    made = {"right": lambda network, site: right, "wrong": lambda network, site: ablations.with_hooks(2)}
    monkeypatch.setattr(peers, "ABLATING", {name: (name, name, make) for name, make in made.items()})
    costs = measure(ablations, 3, True, lambda case: case() or 1.0)
    assert costs.peers == {"right": "right 1.2.3"}
    assert [record.getMessage()[:28] for record in caplog.records if record.levelname == "WARNING"] == [
        "wrong: its losses differ fro"
    ]
    names = ["forward", "blocks", "script", "right"] + [
        f"{name}_{layer}" for layer in (0, 1, 2) for name in ("ours", "one", "blocks")
    ]
    assert list(costs.seconds) == names
    assert all(len(seconds) == 3 for seconds in costs.seconds.values())
    assert costs.more["edit_effect"] > 1e-3
    assert costs.more["edit_difference_right"] < 1e-5
    assert measure(ablations, 3, False, lambda case: 1.0).peers == {}


def test_a_difference_of_our_own_losses_stops_the_benchmark(monkeypatch):
    ablations = ablations_of(sets=2)
    wrong = ablations.with_hooks(2)
    monkeypatch.setattr(Ablations, "with_hooks", lambda self, layer: wrong)
    with pytest.raises(RuntimeError, match="differ from those by hooks on plain transformers by"):
        measure(ablations, 3, False, lambda case: 1.0)


def test_a_model_without_neurons_is_named():
    network = tiny.build("mixtral")
    model = LanguageModel(network, None, "tiny", "made here", "random")  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="no NEURON"):
        Ablations(model, text_of(np.arange(32), 16), 2, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(peers.ABLATING))
@pytest.mark.parametrize("family", ["gpt_neo", "gpt2", "llama"])
def test_an_installed_peer_predicts_what_we_do_and_leaves_the_network_as_it_was(case, family):
    name, package, make = peers.ABLATING[case]
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    ablations = ablations_of(family)
    before = {key: value.clone() for key, value in ablations.network.state_dict().items()}
    site = find_sites(ablations.network, "NEURON", [1])[0]
    assert ablations.difference(make(ablations.network, site), ablations.our_losses(1)) < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in ablations.network.state_dict().items())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in ablations.network.modules())
