"""Models as they are published: what `load_model` makes of them computes what plain transformers computes.

Each is a tiny random one of the shape in question, saved with `save_pretrained`.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny import VOCABULARY, build, difference, token_ids
from transformers import AutoModelForCausalLM

from neurexp.engine.notebook import capture
from neurexp.errors import UserError
from neurexp.models.fast import fast_forward
from neurexp.models.load import LanguageModel, load_model
from neurexp.models.locations import MINI

CLOSE = 1e-6  # the largest accepted norm-relative difference from plain transformers
IDS = token_ids(3, 24)
MINI_VOCABULARY = json.loads((MINI / "config.json").read_text("utf-8"))["vocab_size"]


def load(folder: Path, **options) -> LanguageModel:
    return load_model(str(folder), tokenizer="mini", device="cpu", **options)


def saved(folder: Path, family: str, **changes) -> Path:
    """A tiny model of the family in `folder`."""
    build(family, **changes).save_pretrained(folder)
    return folder


def outputs_of(network, ids=IDS):
    """The hidden states before and after each block, and the logits."""
    with torch.inference_mode():
        found = network(ids, output_hidden_states=True, use_cache=False)
    return [*found.hidden_states, found.logits]


def check_equal_to_plain(folder: Path, ids=IDS, **options) -> LanguageModel:
    """Loads a folder by neurexp and by plain transformers, and compares all that the two put out."""
    model = load(folder, **options)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours, theirs = outputs_of(model.network, ids), outputs_of(plain, ids)
    assert len(ours) == len(theirs) == plain.config.num_hidden_layers + 2
    for one, other in zip(ours, theirs, strict=True):
        assert float(torch.linalg.vector_norm(other)) > 0
        assert difference(one, other) <= CLOSE
    return model


@pytest.mark.parametrize("family", ["gpt_neo", "llama", "gemma2"])
def test_sharded_weights_are_put_together(tmp_path, family):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    network = build(family)
    network.save_pretrained(whole)
    network.save_pretrained(parts, max_shard_size="5KB")
    shards = sorted(parts.glob("model-*-of-*.safetensors"))
    assert len(shards) > 3
    assert not (parts / "model.safetensors").exists()
    model = check_equal_to_plain(parts)
    assert model.weights_hash == load(whole).weights_hash
    shards[1].unlink()
    with pytest.raises(UserError) as error:
        load(parts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma", "opt"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_tied_to_the_embedding_or_is_not(tmp_path, family, tied):
    folder = saved(tmp_path, family, tie_word_embeddings=tied)
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        heads = [name for name in tensors.keys() if name in ("lm_head.weight", "embed_out.weight")]  # noqa: SIM118
    assert len(heads) == (0 if tied else 1)
    model = check_equal_to_plain(folder)
    head, embedding = (part.weight for part in (_head(model), model.network.get_input_embeddings()))
    assert (head.data_ptr() == embedding.data_ptr()) == tied
    assert torch.equal(head, embedding) == tied


def _head(model: LanguageModel):
    return model.network.get_output_embeddings()


@pytest.mark.parametrize("family", ["llama", "gpt_neo"])
def test_more_embeddings_than_tokens_are_no_matter(tmp_path, family):
    """Vocabularies are padded for the sake of speed: Pythia's 50,277 tokens have 50,304 embeddings."""
    folder = saved(tmp_path, family, vocab_size=MINI_VOCABULARY + 51)
    ids = torch.arange(MINI_VOCABULARY - 24, MINI_VOCABULARY).view(2, 12)  # the last tokens that there are
    model = check_equal_to_plain(folder, ids)
    assert len(model.tokenizer) < MINI_VOCABULARY + 51
    model.check_ids(ids.numpy())


@pytest.mark.parametrize("family", ["llama", "gpt_neo"])
def test_fewer_embeddings_than_tokens_are_refused_where_such_a_token_occurs(tmp_path, family):
    model = check_equal_to_plain(saved(tmp_path, family))
    assert len(model.tokenizer) > VOCABULARY
    model.check_ids(IDS.numpy())
    with pytest.raises(UserError, match=f"has an embedding for ids below {VOCABULARY} only"):
        model.check_ids(torch.tensor([[1, VOCABULARY]]).numpy())


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text", "olmo3", "cohere2"])
def test_a_sliding_window_shorter_than_the_sequences(tmp_path, family):
    """The window matters: without it, the tokens beyond it have other activations, and those within it the same."""
    window = 5
    model = check_equal_to_plain(saved(tmp_path / "short", family, sliding_window=window))
    wide = load(saved(tmp_path / "wide", family, sliding_window=64))
    assert wide.network.state_dict().keys() == model.network.state_dict().keys()
    narrow, whole = (capture(one.network, IDS.numpy(), "RESID_POST", layers=0)["RESID_POST_0"] for one in (model, wide))
    assert difference(narrow[:, :window], whole[:, :window]) < 1e-5
    assert difference(narrow[:, window:], whole[:, window:]) > 1e-3


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_a_sliding_window_under_the_fast_forward(tmp_path, family):
    more = {"use_sliding_window": True, "max_window_layers": 1} if family == "qwen2" else {}
    model = check_equal_to_plain(saved(tmp_path, family, sliding_window=5, **more), fast=True)
    assert model.fast
    plain = outputs_of(model.network)
    with fast_forward(model.network):
        fast = outputs_of(model.network)
    for one, other in zip(fast, plain, strict=True):
        assert difference(one, other) < 1e-5


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_queries_that_share_keys_and_values(tmp_path, groups):
    """Multi-query (1), grouped-query (2) and plain attention (4 heads)."""
    model = check_equal_to_plain(saved(tmp_path, "llama", num_key_value_heads=groups), fast=True)
    attention = model.network.base_model.layers[0].self_attn
    assert attention.k_proj.out_features == groups * 4
    assert attention.q_proj.out_features == 16


@pytest.mark.parametrize("cap", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_soft_capped_logits(tmp_path, cap):
    """gemma2's: cap·tanh(x / cap) of the attention's logits and of the last ones."""
    model = check_equal_to_plain(saved(tmp_path / "capped", "gemma2", **{cap: 0.3}))
    loose = load(saved(tmp_path / "loose", "gemma2", **{cap: 1000.0}))
    capped, free = outputs_of(model.network)[-1], outputs_of(loose.network)[-1]
    assert difference(capped, free) > 1e-3
    if cap == "final_logit_softcapping":
        assert float(capped.abs().max()) <= 0.3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_option_says_the_number_format_and_not_the_config(tmp_path, family):
    build(family).to(torch.bfloat16).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["dtype"] == "bfloat16"
    model = check_equal_to_plain(tmp_path, dtype="float32")
    assert {one.dtype for one in model.network.parameters()} == {torch.float32}
    assert {one.dtype for one in load(tmp_path, dtype="bfloat16").network.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "quantisation",
    [
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quant_method": "awq", "bits": 4, "zero_point": True},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
    ],
    ids=lambda one: one.get("quant_method", "unnamed"),
)
def test_quantised_weights_are_refused_in_one_line(tmp_path, quantisation, nested):
    config = json.loads((saved(tmp_path, "llama") / "config.json").read_text("utf-8"))
    (config.setdefault("text_config", {}) if nested else config)["quantization_config"] = quantisation
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    method = quantisation.get("quant_method", "quantization_config")
    for weights in ("pretrained", "random"):
        with pytest.raises(UserError) as error:
            load(tmp_path, weights=weights)
        answer = f"model.name={tmp_path}: its weights are quantised ({method}), which neurexp does not load; give"
        assert str(error.value).startswith(answer)
        assert "\n" not in str(error.value)
