"""A model that is spread over devices computes what it computes on one: CPU and disk, and two devices that pretend."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from pretend import pretending
from tiny import build, token_ids

import neurexp
from neurexp.engine.ascent import Ascent, run_ascent
from neurexp.engine.edited_pass import run_edited_pass
from neurexp.engine.gradients import run_gradient_pass
from neurexp.engine.passes import run_pass
from neurexp.engine.reducers import Attribution, Extremes, Histogram, Moments, Rows
from neurexp.engine.reducers.by_unit import ByUnit
from neurexp.engine.reducers.effects import Effects
from neurexp.errors import UserError
from neurexp.models import spread
from neurexp.models.sites import find_sites
from neurexp.models.spread import device_of, is_spread

LENGTH = 12
SPREAD = {"device_map": "auto", "max_memory": {"cpu": "9MB"}}


def looked_at(network, edits, backwards=True):
    """What passes of every kind find: name → tensor."""
    ids = token_ids(4, LENGTH)
    valid = torch.ones_like(ids, dtype=torch.bool)
    valid[2, :3] = False
    sites = find_sites(network, "MLP")
    count, device, row = len(sites), device_of(network), torch.arange(4)
    reducers = {
        "histogram": Histogram(1, count, 16, device),
        "moments": Moments(count, device=device),
        "extremes": Extremes(count, 3, LENGTH, 1, 1, device=device),
        "rows": Rows(row, row + 3, row + 5),
    }
    run_pass(network, sites, ids, valid, list(reducers.values()), lambda ids, *_: {"group": torch.zeros_like(ids)}, 2)
    reducers["effects"] = Effects(valid[None], torch.zeros(4, dtype=torch.int64), len(edits), 1)
    run_edited_pass(network, [[edit] for edit in edits], ids, valid, reducers["effects"], batch_size=2)
    if backwards:
        reducers["attribution"] = Attribution(count, device)
        run_gradient_pass(network, find_sites(network, "NEURON"), ids, valid, [reducers["attribution"]], batch_size=2)
        reducers["found"] = ByUnit()
        ascent = Ascent(length=3, starts=2, steps=3, every=3, directions=5)
        run_ascent(network, "RESID_POST", [(count - 1, 2)], ascent, torch.arange(50), reducers["found"], [0])
    found = {f"{reducer}.{name}": values for reducer, one in reducers.items() for name, values in one.state().items()}
    found |= neurexp.capture(network, ids, valid=valid, site=["NEURON", "RESID_POST"], edits=edits)
    return found | neurexp.predictions(network, ids, valid, edits[:1], [3, 4])


def edits_of(layers):
    return [
        neurexp.Edit("NEURON", 0, [1, 3], "scale", 0.5),
        neurexp.Edit("NEURON", layers - 1, [2, 7], "value", [0.5, 0.1]),
        neurexp.Edit("RESID_MID", layers // 2, [4], "add", 0.3),
    ]


def assert_same(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].double(), values.double(), rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_model_on_cpu_and_disk_computes_what_it_computes_in_memory(dtype):
    plain, model = (neurexp.load_model("mini", device="cpu", dtype=dtype, **options) for options in ({}, SPREAD))
    assert is_spread(model.network)
    assert set(model.network.hf_device_map.values()) == {"cpu", "disk"}
    assert (model.device, model.fast, is_spread(plain.network)) == (torch.device("cpu"), False, False)
    assert model.weights_hash == plain.weights_hash
    edits = edits_of(model.layers)
    # The losses of the plain model are added up in parts (`models.losses`); all else is the same to the bit
    assert_same(looked_at(model.network, edits), looked_at(plain.network, edits), 1e-6)


def test_a_model_on_two_devices_computes_what_it_computes_on_one():
    """Forwards only: PyTorch runs no backward on a second device that pretends."""
    from accelerate import dispatch_model

    network = build("llama", num_hidden_layers=4).requires_grad_(False)
    edits, devices = edits_of(4), set()
    expected = looked_at(network, edits, backwards=False)
    places = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 1, "lm_head": 1}
    places |= {f"model.layers.{layer}": layer // 2 for layer in range(4)}
    with pretending():
        dispatch_model(network, {name: torch.device("pretend", card) for name, card in places.items()})
        assert is_spread(network)
        assert device_of(network) == torch.device("pretend", 0)
        devices = {parameter.device for parameter in network.parameters()}
        assert devices == {torch.device("pretend", card) for card in (0, 1)}
        found = looked_at(network, edits, backwards=False)
    assert_same(found, expected, 2e-5)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"device_map": "even"}, "model.device_map=even: give auto, balanced, balanced_low_0, sequential, or null"),
        ({**SPREAD, "max_memory": {"cpu": "much"}}, "model.max_memory={cpu: much}: give the index of a GPU, or cpu"),
        ({**SPREAD, "max_memory": {"gpu": "1GB"}}, "model.max_memory={gpu: 1GB}: give the index of a GPU, or cpu"),
        ({**SPREAD, "max_memory": {0: "1GB"}}, "model.max_memory={0: 1GB}: device=cpu uses no GPU; give cpu alone"),
        ({**SPREAD, "max_memory": ["1GB"]}, "model.max_memory=['1GB']: give devices and sizes, such as {0: 70GiB"),
        ({"max_memory": {"cpu": "1GB"}}, "is for a model that is spread; give model.device_map=auto too"),
        ({**SPREAD, "weights": "random"}, "model.device_map=auto: cannot spread random weights; leave it out"),
    ],
)
def test_what_cannot_be_spread_is_told_in_one_line(options, line):
    with pytest.raises(UserError) as raised:
        neurexp.load_model("mini", device="cpu", **options)
    assert line in str(raised.value)


def test_without_accelerate_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(spread, "find_spec", lambda name: None if name == "accelerate" else find_spec(name))
    with pytest.raises(UserError, match="needs accelerate: pip install accelerate"):
        neurexp.load_model("mini", device="cpu", **SPREAD)
