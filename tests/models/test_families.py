"""Every family's sites against a recomputation from the saved weights and from what transformers itself reports.

The names of weights and the order of the operations are written here from transformers' model files, not taken from
`neurexp.models.families`.
"""

import pytest
import torch
from blocks import BLOCKS, EXPERTS, NO_MID, UNGATED, VARIANTS
from safetensors.torch import load_file
from tiny import CONFIGS, LAYERS, build, difference, token_ids
from torch.nn.functional import relu
from transformers import AutoModelForCausalLM
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

import neurexp
from neurexp.models.families import FAMILIES, SITES
from neurexp.models.sites import sites_of


@pytest.fixture(scope="module", params=VARIANTS)
def case(request, tmp_path_factory):
    """A saved model, read by transformers and by neurexp: its family, folder, both models, ids, and every site."""
    family, changes = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp("model")
    build(family, **changes).save_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ours = neurexp.load_model(str(folder), tokenizer="mini", device="cpu")
    ids = token_ids(2, 12)
    sites = {}
    for site in sites_of(ours.network):
        sites[site] = list(neurexp.capture(ours, ids, site=site, batch_size=1).values())
    return request.param, family, folder, plain, ids, sites, ours


def linear(weights, name, x, transposed=False):
    """x through the saved linear layer `name`."""
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    return x @ (weight if transposed else weight.T) + (0 if bias is None else bias)


def by_head(model, ids, site, layer):
    """A site's activations `[sequences, heads, length, head width]`."""
    (values,) = neurexp.capture(model, ids, site, layer).values()
    return values.unflatten(-1, (-1, 4)).transpose(1, 2)


def test_the_families_are_those_of_the_tests():
    assert set(BLOCKS) == set(FAMILIES) == set(CONFIGS)


def test_every_family_has_all_sites_but_those_that_it_cannot_have(case):
    name, family, *_, sites, _ = case
    absent = {"UP"} if family in UNGATED else set()
    if family in EXPERTS:
        absent = {"MLP", "UP", "ACT", "NEURON", "PROJ"}
    if name in NO_MID:
        absent |= {"RESID_MID"}
    assert set(sites) == set(SITES) - absent


def test_the_residual_stream_is_what_transformers_reports(case):
    _, _, _, plain, ids, sites, _ = case
    with torch.no_grad():
        hidden = plain(ids, output_hidden_states=True).hidden_states
    for layer in range(LAYERS):
        assert difference(sites["RESID_PRE"][layer], hidden[layer]) <= 1e-5
        if layer < LAYERS - 1:  # after the last block transformers reports the stream behind the final norm
            assert difference(sites["RESID_POST"][layer], hidden[layer + 1]) <= 1e-5


def test_the_expansion_and_its_non_linearity_give_what_the_block_adds(case):
    """MLP → ACT → NEURON → PROJ by the saved weights, and with attention's output the step of the residual stream."""
    name, family, folder, plain, _, sites, _ = case
    block, weights, config = BLOCKS[family], load_file(folder / "model.safetensors"), plain.config
    act = relu if name == "gpt2, relu" else block.act
    for layer in range(LAYERS):
        at = {site: values[layer] for site, values in sites.items()}
        own = f"{block.prefix}.{layer}."
        attention = linear(weights, own + block.out, at["Z"], block.transposed)
        assert difference(at["ATTN_OUT"], attention) <= 1e-5
        if family in EXPERTS:
            assert difference(at["RESID_MID"], at["RESID_PRE"] + attention) <= 1e-5
            continue
        assert difference(at["ACT"], act(at["MLP"])) <= 1e-5
        assert difference(at["NEURON"], act(at["MLP"]) * at.get("UP", 1.0)) <= 1e-5
        mlp = linear(weights, own + block.down, at["NEURON"], block.transposed)
        assert difference(at["PROJ"], mlp) <= 1e-5
        module = plain.get_submodule(own.rstrip("."))
        with torch.no_grad():
            if block.after_attention:
                attention = module.get_submodule(block.after_attention)(attention)
                mlp = module.get_submodule(block.after_mlp)(mlp)
            if block.factor:
                attention, mlp = (part * getattr(config, block.factor) for part in (attention, mlp))
            before = at["RESID_PRE"]
            if name == "bloom, stream of norms":
                middle = module.input_layernorm(before) + attention
                after = module.post_attention_layernorm(middle) + mlp
            elif name == "opt, norms last":
                middle = module.self_attn_layer_norm(before + attention)
                after = module.final_layer_norm(middle + mlp)
            else:
                middle, after = before + attention, before + attention + mlp
        if "RESID_MID" in at:
            assert difference(at["RESID_MID"], middle) <= 1e-5
        assert difference(at["RESID_POST"], after) <= 1e-5


def test_values_and_what_heads_put_out_fit_the_attention_weights(case):
    """Z is each head's attention weights, as transformers reports them, times that head's V."""
    _, _, _, plain, ids, sites, _ = case
    with torch.no_grad():
        weights = plain(ids, output_attentions=True).attentions
    for layer, weight in enumerate(weights):
        heads = weight.shape[1]
        z, v = (sites[site][layer].unflatten(-1, (-1, sites["Z"][layer].shape[-1] // heads)) for site in ("Z", "V"))
        v = v.repeat_interleave(heads // v.shape[2], dim=2)
        assert difference(z, torch.einsum("bhqk,bkhd->bqhd", weight, v)) <= 1e-5


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
def test_queries_and_keys_of_fused_projections_without_a_rotation(name):
    """The attention weights recomputed from Q and K."""
    family, changes = VARIANTS[name]
    model, ids = build(family, **changes), token_ids(2, 12)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        reference = model(ids, output_attentions=True).attentions
    for layer, weights in enumerate(reference):
        q, k = (by_head(model, ids, site, layer) for site in "QK")
        scores = q @ k.transpose(-1, -2) / 2
        if name == "bloom":
            scores = scores + build_alibi_tensor(torch.ones(2, 12), 4, torch.float32).view(2, 4, 1, 12)
        scores = scores.masked_fill(torch.ones(12, 12).triu(1).bool(), -torch.inf)
        assert difference(scores.softmax(-1), weights) <= 1e-5


@pytest.mark.parametrize(
    "name", ["gpt_neox", "gpt_neox, sequential", "phi3", "falcon", "falcon, heads of keys", "falcon, heads"]
)
def test_queries_and_keys_of_fused_projections_with_a_rotation(name, monkeypatch):
    """A rotation turns q and k of one token by one angle: each token's own score q·k is what it is without."""
    family, changes = VARIANTS[name]
    model, ids = build(family, **changes), token_ids(1, 12)
    heard = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def listening(query, key, value, *args, **kwargs):
        heard.append((query, key))
        return plain(query, key, value, *args, **kwargs)

    model.set_attn_implementation("sdpa")
    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", listening)
        model(ids)
    assert len(heard) == LAYERS
    for layer, (query, key) in enumerate(heard):
        query, key = (part.repeat_interleave(4 // part.shape[1], dim=1) for part in (query, key))
        q, k = (by_head(model, ids, site, layer) for site in "QK")
        own = (q * k.repeat_interleave(4 // k.shape[1], dim=1)).sum(-1)
        assert difference(own, (query * key).sum(-1)) <= 1e-5


def test_several_sites_at_once_are_each_of_them_alone(case):
    _, family, _, _, ids, sites, ours = case
    wanted = ["Q", "RESID_POST", "Z"] if family in EXPERTS else ["NEURON", "Q", "MLP", "RESID_PRE"]
    together = neurexp.capture(ours, ids, site=wanted, batch_size=1)
    assert list(together) == [f"{site}_{layer}" for site in wanted for layer in range(LAYERS)]
    for key, values in together.items():
        site, _, layer = key.rpartition("_")
        assert torch.equal(values, sites[site][int(layer)])
