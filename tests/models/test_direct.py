"""The direct path from a neuron to the logits, against the weights by hand and against whole forwards."""

import pytest
import torch
from conftest import sampled
from test_families import BLOCKS, EXPERTS, UNGATED, VARIANTS
from tiny import EXPANSION, LAYERS, VOCABULARY, WIDTH, build, difference, token_ids
from torch import nn

from neurexp.errors import UserError
from neurexp.models.direct import direct_effects, output_weights, why_no_direct_path
from neurexp.models.fast import fast_forward
from neurexp.models.sites import blocks_of, sites_of

LAYER_NORMS = (
    "gpt_neo", "gpt2", "gptj", "gpt_neox", "opt", "bloom", "falcon", "phi", "starcoder2", "stablelm", "olmo", "cohere",
    "cohere2",
)  # fmt: skip
STREAM_OF_NORMS = ("opt, norms last", "bloom, stream of norms")
CASES = {
    **{name: case for name, case in VARIANTS.items() if name not in STREAM_OF_NORMS},
    "granite, scaled": ("granite", {"logits_scaling": 3.0}),
    "cohere, scaled": ("cohere", {"logit_scale": 0.2}),
    "opt, projected": ("opt", {"word_embed_proj_dim": 8}),
    "qwen3, untied": ("qwen3", {"tie_word_embeddings": False}),
    "qwen3, odd width": ("qwen3", {"hidden_size": 17}),
}


def by_case(every):
    return pytest.mark.parametrize("name", sampled([pytest.param(name, id=name) for name in CASES], every))


@by_case(3)
def test_output_weights_are_those_of_the_file(name):
    family, changes = CASES[name]
    network, block = build(family, **changes), BLOCKS[family]
    weights = {key.removeprefix("model."): value for key, value in network.state_dict().items()}

    def by_hand(path, layer, norm):
        own = f"{block.prefix.removeprefix('model.')}.{layer}."
        expected = weights[f"{own}{path}.weight"] if block.transposed else weights[f"{own}{path}.weight"].T
        if norm:
            expected = expected * (weights[f"{own}{norm}.weight"] + ("gemma" in family))
        return expected * (network.config.residual_multiplier if block.factor else 1.0)

    for layer in (0, LAYERS - 1):
        found = output_weights(network, "Z", layer)
        torch.testing.assert_close(found, by_hand(block.out, layer, block.after_attention), rtol=1e-5, atol=1e-6)
        if family in EXPERTS:
            with pytest.raises(UserError, match="mixture of experts"):
                output_weights(network, "NEURON", layer)
            continue
        found = output_weights(network, "NEURON", layer)
        torch.testing.assert_close(found, by_hand(block.down, layer, block.after_mlp), rtol=1e-5, atol=1e-6)
        for site in ("MLP", "ACT", *([] if family in UNGATED else ["UP"])):
            assert torch.equal(output_weights(network, site, layer), found)
    assert output_weights(network, "Q", 0) is None
    assert output_weights(network, "RESID_POST", 0) is None


@by_case(2)
def test_effects_are_what_the_model_makes_of_a_stream_times_its_spread(name):
    """Logits of a stream h, less those of −h, hold no bias; times the spread of h they are linear in h."""
    family, changes = CASES[name]
    network = build(family, **changes, **({"final_logit_softcapping": None} if family == "gemma2" else {})).double()
    width = network.config.hidden_size
    stream = torch.randn(9, width, generator=torch.Generator().manual_seed(2)).double()

    def logits(values):
        def give(module, arguments, output):
            return (values[None], *output[1:]) if isinstance(output, tuple) else values[None]

        handle = blocks_of(network)[-1].register_forward_hook(give)
        try:
            with torch.no_grad():
                return network(token_ids(1, 9), use_cache=False).logits[0]
        finally:
            handle.remove()

    spread = stream.std(-1, unbiased=False) if family in LAYER_NORMS else stream.square().mean(-1).sqrt()
    network.set_experts_implementation("eager")  # others have no float64
    expected = (logits(stream) - logits(-stream)) / 2 * spread[:, None]
    found = direct_effects(network, stream)
    assert found.dtype == torch.float32
    assert found.shape == (9, VOCABULARY)
    assert why_no_direct_path(network) is None
    assert difference(found, expected) <= 2e-4  # the norm's small constant beside the variance


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_effects_of_neurons_by_hand(family, dtype):
    network, neurons = build(family, dtype=dtype), [3, 17]
    rows = output_weights(network, "NEURON", 1)[neurons]
    assert rows.shape == (2, WIDTH)
    weights = {key: value.double() for key, value in network.state_dict().items()}
    if family == "gpt2":
        by_hand = weights["transformer.h.1.mlp.c_proj.weight"][neurons]
        by_hand = (by_hand - by_hand.mean(1, keepdim=True)) * weights["transformer.ln_f.weight"]
    else:
        by_hand = weights["model.layers.1.mlp.down_proj.weight"].T[neurons]
        by_hand = by_hand * (weights["model.norm.weight"] + (family == "gemma"))
    expected = by_hand @ weights["lm_head.weight"].T
    with fast_forward(network):
        assert difference(direct_effects(network, rows), expected) <= 1e-5


def test_the_soft_cap_is_left_out():
    plain, capped = (build("gemma2", final_logit_softcapping=cap) for cap in (None, 0.5))
    weights = torch.randn(4, WIDTH)
    assert torch.equal(direct_effects(capped, weights), direct_effects(plain, weights))


@pytest.mark.parametrize("name", STREAM_OF_NORMS)
def test_a_stream_that_goes_through_norms_has_no_direct_path(name):
    family, changes = VARIANTS[name]
    network = build(family, **changes)
    assert direct_effects(network, torch.randn(4, WIDTH)) is None
    assert "every later block's norm" in why_no_direct_path(network)


class Halves(nn.Module):
    def forward(self, x):
        return x.tanh()


def test_what_is_no_norm_or_leads_nowhere_is_said():
    network = build("llama")
    network.model.norm = Halves()
    assert direct_effects(network, torch.randn(4, WIDTH)) is None
    assert why_no_direct_path(network) == "what follows the blocks, model.norm, is no LayerNorm and no RMSNorm"
    network.lm_head.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    assert why_no_direct_path(network) == "no module that reads what model.norm puts out leads to the unembedding"
    assert why_no_direct_path(build("gpt2").transformer) == "the model has no unembedding"


def test_the_model_is_left_as_it_was():
    network = build("llama")
    parameters = {name: (id(value), value.clone()) for name, value in network.named_parameters()}
    direct_effects(network, output_weights(network, "NEURON", 0))
    assert all(id(value) == parameters[name][0] for name, value in network.named_parameters())
    assert all(torch.equal(value, parameters[name][1]) for name, value in network.named_parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_layer_or_site_that_is_not_there():
    network = build("gpt2")
    assert output_weights(network, "NEURON", 2).shape == (EXPANSION, WIDTH)
    with pytest.raises(UserError, match=r"experiment\.layer=.*layers 0 to 2"):
        output_weights(network, "NEURON", 3)
    with pytest.raises(UserError, match=r"experiment\.site=UP: gpt2 has"):
        output_weights(network, "UP", 0)
    assert "UP" not in sites_of(network)
