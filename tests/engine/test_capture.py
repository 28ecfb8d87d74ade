"""`neurexp.capture` against independent recomputations, single sequences, unpadded ones, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny import CONFIGS, END_OF_TEXT, EXPANSION, LAYERS, VOCABULARY, WIDTH, build, difference, token_ids
from transformers import BertConfig, BertModel, GPTNeoModel

import neurexp
from neurexp.models.families import FAMILIES


def site_in(family):
    """A site for tests of the pass: a mixture of experts has no MLP."""
    return "RESID_POST" if FAMILIES[family].experts else "MLP"


@pytest.fixture
def model():
    return build("gpt_neo")


def by_plain_hooks(model, modules, **inputs):
    """What the modules put out in a forward of the whole model, by hooks of PyTorch alone."""
    heard = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: heard.append(output)) for module in modules
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return heard


def modules_at(model, family, site):
    """The site's module in every block, found by its path in the whole model and not by our code."""
    blocks = {"gpt_neo": "transformer.h", "gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}
    path = FAMILIES[family].sites[site].module
    return [model.get_submodule(f"{blocks.get(family, 'model.layers')}.{layer}.{path}") for layer in range(LAYERS)]


def pad(ids, lengths, side, length):
    """Sequences cut to `lengths` and padded with END_OF_TEXT on one side. Returns ids and their validity."""
    padded = torch.full((len(lengths), length), END_OF_TEXT)
    valid = torch.zeros(len(lengths), length, dtype=torch.bool)
    for row, count in enumerate(lengths):
        where = slice(0, count) if side == "right" else slice(length - count, length)
        padded[row, where] = ids[row, :count]
        valid[row, where] = True
    return padded, valid


def test_gpt_neo_against_the_recomputation_from_hidden_states(model):
    """MLP_i = c_fc(ln_2(h_i + attn(ln_1(h_i)))), from the residual stream that the model itself reports."""
    ids = token_ids(3, 20)
    captured = neurexp.capture(model, ids)
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states
        for layer, block in enumerate(model.transformer.h):
            stream = hidden[layer]
            stream = stream + block.attn(block.ln_1(stream))[0]
            reference = block.mlp.c_fc(block.ln_2(stream))
            assert difference(captured[f"MLP_{layer}"], reference) <= 1e-5


def test_mini_against_the_recomputation_from_hidden_states():
    model = neurexp.load_model("mini", device="cpu")
    ids = torch.as_tensor(model.tokenizer("The river rose in the night, and by morning it was gone.").input_ids)[None]
    captured = neurexp.capture(model, ids)
    with torch.no_grad():
        hidden = model.network(ids, output_hidden_states=True).hidden_states
        for layer, block in enumerate(model.network.transformer.h):
            stream = hidden[layer] + block.attn(block.ln_1(hidden[layer]))[0]
            assert difference(captured[f"MLP_{layer}"], block.mlp.c_fc(block.ln_2(stream))) <= 1e-5


@pytest.mark.parametrize("family", CONFIGS)
def test_a_batch_against_single_sequences(family):
    model, ids, site = build(family), token_ids(5, 16), site_in(family)
    together = neurexp.capture(model, ids, site, batch_size=5)
    in_batches = neurexp.capture(model, ids, site, batch_size=2)
    alone = [neurexp.capture(model, sequence, site) for sequence in ids]
    for key, values in together.items():
        assert difference(values, torch.cat([single[key] for single in alone])) <= 1e-5
        assert difference(in_batches[key], values) <= 1e-5


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", CONFIGS)
def test_padded_against_unpadded(family, side):
    """The pads have the id of tokens that occur inside; sequences are longer than the local attention's window."""
    model, lengths, site = build(family), [16, 9, 1, 12], site_in(family)
    ids = token_ids(4, 16)
    padded, valid = pad(ids, lengths, side, 20)
    captured = neurexp.capture(model, padded, site, valid=valid, batch_size=3)
    for row, count in enumerate(lengths):
        for key, reference in neurexp.capture(model, ids[row, :count], site).items():
            assert difference(captured[key][row][valid[row]], reference[0]) <= 1e-5
            assert captured[key][row][~valid[row]].isnan().all()


def test_both_sides_padded_in_one_batch(model):
    ids = token_ids(2, 12)
    (left, left_valid), (right, right_valid) = (pad(ids, [12, 7], side, 14) for side in ("left", "right"))
    padded, valid = torch.cat([left, right]), torch.cat([left_valid, right_valid])
    for values in neurexp.capture(model, padded, valid=valid).values():
        assert difference(values[:2][left_valid], values[2:][right_valid]) <= 1e-5


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_a_hole_inside_a_sequence_is_as_if_it_were_cut_out(family):
    model, ids = build(family), token_ids(1, 12)
    valid = torch.ones(1, 12, dtype=torch.bool)
    valid[0, 4:6] = False
    captured, reference = neurexp.capture(model, ids, valid=valid), neurexp.capture(model, ids[valid])
    assert all(difference(captured[key][valid], reference[key][0]) <= 1e-5 for key in captured)


@pytest.mark.parametrize("side", ["right", "left"])
def test_what_stands_in_the_pads_does_not_matter(model, side):
    ids, lengths = token_ids(3, 16), [16, 9, 5]
    padded, valid = pad(ids, lengths, side, 20)
    scrambled = torch.where(valid, padded, torch.randint(VOCABULARY, padded.shape))
    first, second = (neurexp.capture(model, tokens, valid=valid) for tokens in (padded, scrambled))
    assert all(difference(second[key][valid], first[key][valid]) <= 1e-5 for key in first)


def test_a_token_with_the_pads_id_is_kept(model):
    ids = torch.full((1, 6), END_OF_TEXT)
    captured = neurexp.capture(model, ids, valid=torch.tensor([[True, True, True, True, False, False]]))
    assert captured["MLP_0"].isnan().all(-1).tolist() == [[False] * 4 + [True] * 2]
    assert not any(values.isnan().any() for values in neurexp.capture(model, ids).values())


def test_validity_of_all_tokens_is_no_validity(model):
    ids = token_ids(3, 12)
    plain, masked = neurexp.capture(model, ids), neurexp.capture(model, ids, valid=torch.ones(3, 12, dtype=torch.bool))
    assert all(torch.equal(plain[key], masked[key]) for key in plain)


@pytest.mark.parametrize(
    ("layers", "keys"),
    [
        ("all", ["MLP_0", "MLP_1", "MLP_2"]),
        (1, ["MLP_1"]),
        ([2, 0], ["MLP_0", "MLP_2"]),
        ((0, 1), ["MLP_0", "MLP_1"]),
        (range(1, 3), ["MLP_1", "MLP_2"]),
        ([1, 1], ["MLP_1"]),
    ],
)
def test_layers(model, layers, keys):
    ids = token_ids(2, 8)
    everything = neurexp.capture(model, ids)
    captured = neurexp.capture(model, ids, layers=layers)
    assert list(captured) == keys
    assert all(torch.equal(values, everything[key]) for key, values in captured.items())


def test_shapes_are_sequences_length_neurons(model):
    shapes = {
        site: tuple(neurexp.capture(model, token_ids(3, 7), site=site)[f"{site}_2"].shape) for site in ("MLP", "Q")
    }
    assert shapes == {"MLP": (3, 7, EXPANSION), "Q": (3, 7, WIDTH)}


@pytest.mark.parametrize(
    "make", [lambda ids: ids, lambda ids: ids.numpy(), lambda ids: ids.tolist(), lambda ids: ids.int()]
)
def test_one_sequence_and_every_kind_of_array(model, make):
    ids = token_ids(1, 9)
    reference = neurexp.capture(model, ids)
    captured = neurexp.capture(model, make(ids[0]))
    assert captured["MLP_0"].shape == (1, 9, EXPANSION)
    assert all(torch.equal(captured[key], reference[key]) for key in reference)


def test_an_array_that_cannot_be_written_to(model):
    ids, valid = token_ids(2, 9).numpy(), np.ones((2, 9), dtype=bool)
    ids.flags.writeable = valid.flags.writeable = False
    assert neurexp.capture(model, ids, valid=valid)["MLP_0"].shape == (2, 9, EXPANSION)


def test_what_is_captured_is_an_ordinary_tensor(model):
    """It can be changed in place and be used to train a probe."""
    activations = neurexp.capture(model, token_ids(2, 8))["MLP_0"]
    activations -= 1.0
    weights = torch.zeros(EXPANSION, requires_grad=True)
    (activations @ weights).sum().backward()
    assert weights.grad is not None
    assert not activations.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_models_dtype_is_kept(dtype):
    model, ids = build("gpt_neo", dtype=dtype), token_ids(2, 12)
    captured = neurexp.capture(model, ids, batch_size=2)
    references = by_plain_hooks(model, modules_at(model, "gpt_neo", "MLP"), input_ids=ids)
    assert all(values.dtype is dtype for values in captured.values())
    assert all(
        difference(values, reference) == 0 for values, reference in zip(captured.values(), references, strict=True)
    )


def test_a_bfloat16_model_with_pads_keeps_nan_in_them():
    model = build("gpt_neo", dtype=torch.bfloat16)
    padded, valid = pad(token_ids(2, 9), [9, 4], "left", 9)
    captured = neurexp.capture(model, padded, valid=valid)
    assert all(torch.equal(values.isnan().any(-1), ~valid) for values in captured.values())


def test_the_bare_model_gives_what_the_one_with_a_head_gives(model):
    assert isinstance(model.base_model, GPTNeoModel)
    ids = token_ids(2, 12)
    headed, bare = neurexp.capture(model, ids), neurexp.capture(model.base_model, ids)
    assert list(headed) == list(bare)
    assert all(torch.equal(headed[key], bare[key]) for key in headed)


def test_a_loaded_model_and_its_network_give_the_same():
    model, ids = neurexp.load_model("mini", device="cpu"), token_ids(1, 8)
    ours, plain = neurexp.capture(model, ids, layers=0), neurexp.capture(model.network, ids, layers=0)
    assert torch.equal(ours["MLP_0"], plain["MLP_0"])


def test_the_budget_is_kept(model):
    ids = token_ids(2, 8)
    needed = LAYERS * 2 * 8 * EXPANSION * 4
    assert len(neurexp.capture(model, ids, budget_bytes=needed)) == LAYERS
    with pytest.raises(MemoryError, match=f"{needed:,}"):
        neurexp.capture(model, ids, budget_bytes=needed - 1)


def test_an_unknown_architecture_names_those_that_are_known():
    bert = BertModel(BertConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(neurexp.UserError, match="'bert'") as error:
        neurexp.capture(bert, token_ids(1, 8))
    assert all(family in str(error.value) for family in FAMILIES)


def test_an_unknown_site_names_the_familys_own(model):
    with pytest.raises(neurexp.UserError, match="UP") as error:
        neurexp.capture(model, token_ids(1, 8), site="UP")
    assert all(site in str(error.value) for site in ("MLP", "ACT", "PROJ", "Q", "K", "V"))
    with pytest.raises(neurexp.UserError, match="did you mean MLP"):
        neurexp.capture(model, token_ids(1, 8), site="mlp")


@pytest.mark.parametrize(
    "layers",
    [LAYERS, -1, True, [0, LAYERS], [0, -1], [True, 0], [], None, "0", "most", 1.0, [None], [[0]]],
    ids=repr,
)
def test_layers_that_are_none_name_those_there_are(model, layers):
    with pytest.raises(neurexp.UserError, match=f"0 to {LAYERS - 1}") as error:
        neurexp.capture(model, token_ids(1, 8), layers=layers)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("layers", "keys"), [(np.int64(1), ["MLP_1"]), (np.array([1]), ["MLP_1"]), (np.arange(2), ["MLP_0", "MLP_1"])]
)
def test_numpys_integers_are_layers_too(model, layers, keys):
    assert list(neurexp.capture(model, token_ids(1, 8), layers=layers)) == keys


@pytest.mark.parametrize(
    "ids",
    [torch.zeros(2, 8), torch.zeros(1, 2, 8, dtype=torch.long), torch.zeros(2, 0, dtype=torch.long), 3, [], [[True]]],
    ids=["floats", "three axes", "no tokens", "a number", "empty list", "booleans"],
)
def test_ids_that_are_no_sequences_are_refused(model, ids):
    with pytest.raises(ValueError, match="input_ids"):
        neurexp.capture(model, ids)


@pytest.mark.parametrize("shape", [(2, 7), (3, 8), (8,), (1, 8), (8, 2), (16,)])
def test_a_validity_of_another_shape_is_refused(model, shape):
    with pytest.raises(ValueError, match="valid"):
        neurexp.capture(model, token_ids(2, 8), valid=torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("token", [VOCABULARY, -1])
def test_ids_outside_the_vocabulary_are_refused_with_its_size(model, token):
    with pytest.raises(ValueError, match=str(VOCABULARY)):
        neurexp.capture(model, torch.tensor([1, token]))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_without_sequences_is_refused(model, batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        neurexp.capture(model, token_ids(1, 8), batch_size=batch_size)


@pytest.mark.slow
def test_gpt_neo_125m_keeps_what_the_documents_say():
    """12 tensors of [16, 512, 3072], and the first and last of them are what a plain hook hears."""
    settings = yaml.safe_load((Path(__file__).parents[2] / "conf" / "model" / "gpt_neo_125m.yaml").read_text("utf-8"))
    model = neurexp.load_model(
        settings["name"], weights="random", tokenizer="mini", architecture=settings["architecture"], device="cpu"
    )
    ids = torch.randint(50257, (16, 512), generator=torch.Generator().manual_seed(0))
    captured = neurexp.capture(model, ids)
    assert list(captured) == [f"MLP_{layer}" for layer in range(12)]
    assert {tuple(values.shape) for values in captured.values()} == {(16, 512, 3072)}
    assert not any(values.isnan().any() for values in captured.values())
    modules = [model.network.transformer.h[layer].mlp.c_fc for layer in (0, 11)]
    first, last = by_plain_hooks(model.network, modules, input_ids=ids[-1:])
    assert difference(captured["MLP_0"][-1:], first) <= 1e-5
    assert difference(captured["MLP_11"][-1:], last) <= 1e-5
