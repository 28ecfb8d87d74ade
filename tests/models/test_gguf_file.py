"""GGUF files: read with the numbers that went in, alone, and refused in one line where they cannot be read whole."""

import logging
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tiny import VOCABULARY, build, token_ids

import neurexp
from neurexp.errors import UserError
from neurexp.models import contents
from neurexp.models.load import load_model
from neurexp.models.locations import locate_parts

KINDS = gguf.GGMLQuantizationType


def as_llama_cpp_orders(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key projection as llama.cpp wants them: the halves of each head interleaved."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write(
    file: Path, network, kind: KINDS = KINDS.F32, more: dict[str, np.ndarray] | None = None, scaling: str | None = None
) -> Path:
    """A Llama as GGUF, by the format's own writer, with a byte-level tokenizer whose 60 tokens fit it."""
    config, writer = network.config, gguf.GGUFWriter(file, "llama")
    writer.add_name("Tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(VOCABULARY)
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
    tokens = ["<|endoftext|>", *(chr(ord("!") + index) for index in range(VOCABULARY - 3)), "Ġ", "AB"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (VOCABULARY - 1)])
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tensors = {}
    for name, tensor in network.state_dict().items():
        values = tensor.float().numpy()
        if "q_proj" in name:
            values = as_llama_cpp_orders(values, config.num_attention_heads)
        if "k_proj" in name:
            values = as_llama_cpp_orders(values, config.num_key_value_heads)
        if not (config.tie_word_embeddings and name == "lm_head.weight"):
            tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))] = values
    for name, values in (tensors | (more or {})).items():
        if kind is KINDS.F32 or values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def llama(**changes):
    """A tiny Llama, wide enough for blocks of 32 numbers."""
    wide = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    return build("llama", **(wide | changes))


@pytest.fixture(scope="module")
def original():
    return llama()


@pytest.fixture(scope="module")
def file(original, tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "Tiny-1M.F32.gguf", original)


def refusal(name, **options) -> str:
    with pytest.raises(UserError) as error:
        load_model(str(name), device="cpu", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def logits(network, ids):
    with torch.no_grad():
        return network(ids).logits


@pytest.mark.parametrize("tied", [False, True])
def test_its_numbers_are_those_that_went_in(tmp_path, tied):
    original, ids = llama(tie_word_embeddings=tied), token_ids(2, 12)
    model = load_model(str(write(tmp_path / "a.gguf", original)), device="cpu")
    assert (model.network.lm_head.weight is model.network.model.embed_tokens.weight) is tied
    assert torch.equal(logits(model.network, ids), logits(original, ids))
    site = neurexp.capture(model, ids, layers=1)["MLP_1"]
    assert torch.equal(site, neurexp.capture(original, ids, layers=1)["MLP_1"])


def test_its_tokenizer_is_read_too(file):
    model = load_model(str(file), device="cpu")
    assert len(model.tokenizer) == VOCABULARY
    ids = model.tokenizer("BAB A!").input_ids
    assert [model.tokenizer.decode([one]) for one in ids] == ["B", "AB", " ", "A", "!"]
    assert (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id) == (0, 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantised_weights_become_plain_numbers_and_the_log_says_so(caplog, tmp_path, original, dtype):
    file = write(tmp_path / "a.gguf", original, KINDS.Q8_0)
    with caplog.at_level(logging.INFO, logger="neurexp"):
        network = load_model(str(file), device="cpu", dtype=dtype).network
    assert f"Weights: a.gguf (Q8_0, GGUF), dequantised to {dtype}" in caplog.text
    wanted = getattr(torch, dtype)
    assert {parameter.dtype for parameter in network.parameters()} == {wanted}
    weight = original.model.layers[1].mlp.up_proj.weight.detach().numpy()
    rounded = gguf.dequantize(gguf.quantize(weight, KINDS.Q8_0), KINDS.Q8_0)
    assert 0 < np.abs(rounded - weight).max() < 0.01
    assert torch.equal(network.model.layers[1].mlp.up_proj.weight, torch.from_numpy(rounded).to(wanted))


def test_no_bar_and_nothing_else_is_printed(capfd, file):
    load_model(str(file), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_it_is_its_path_and_hashes_alike_under_another_name(file, tmp_path):
    copy = Path(shutil.copy(file, tmp_path / "other.gguf"))
    first, second = load_model(str(file), device="cpu"), load_model(str(copy), device="cpu")
    assert (first.revision, second.revision) == (str(file), str(copy))
    assert first.weights_hash == second.weights_hash
    assert load_model(str(file), device="cpu", dtype="bfloat16").weights_hash != first.weights_hash


def test_what_lies_beside_it_has_no_part(file, tmp_path):
    copy = Path(shutil.copy(file, tmp_path / "model.gguf"))
    for name in ("adapter_config.json", "config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text('{"model_type": "bert", "base_model_name_or_path": "x/y"}')
    ids = token_ids(1, 9)
    network = load_model(str(copy), device="cpu").network
    assert torch.equal(logits(network, ids), logits(load_model(str(file), device="cpu").network, ids))


def test_random_weights_of_its_architecture(file):
    model = load_model(str(file), device="cpu", weights="random", seed=3)
    assert model.network.config.hidden_size == 32
    assert model.weights == "random"
    assert model.weights_hash != load_model(str(file), device="cpu").weights_hash


def test_another_models_tokenizer_from_a_gguf_file(file):
    assert len(load_model("mini", tokenizer=str(file), device="cpu").tokenizer) == VOCABULARY


# What cannot be read


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_a_package_that_is_missing_is_named_before_anything_is_loaded(monkeypatch, file, missing):
    found = contents.find_spec
    monkeypatch.setattr(contents, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(UserError, match=rf"needs {missing}: pip install {missing}$"):
        locate_parts(str(file), "main", None, "pretrained", False)


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04 a zip"])
def test_a_file_of_another_kind(tmp_path, content):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(UserError, match="is no GGUF file"):
        locate_parts(str(tmp_path / "a.gguf"), "main", None, "pretrained", False)


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.02, 0.05, 0.5, 0.999])
def test_a_file_that_is_cut_short(file, tmp_path, share):
    whole = file.read_bytes()
    (tmp_path / "a.gguf").write_bytes(whole[: max(5, int(share * len(whole)))])
    message = refusal(tmp_path / "a.gguf")
    assert message.startswith(f"model.name={tmp_path / 'a.gguf'}: ")
    assert "cut short" in message or "cannot be read as a GGUF file" in message
    assert "fetch it again" in message


def test_noise_in_the_header(file, tmp_path):
    whole = bytearray(file.read_bytes())
    whole[30:90] = b"\xff" * 60
    (tmp_path / "a.gguf").write_bytes(whole)
    assert "cannot be read as a GGUF file" in refusal(tmp_path / "a.gguf")


def test_an_architecture_that_transformers_does_not_know(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "unheard-of")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "unheard-of" in refusal(tmp_path / "a.gguf")


def test_a_tensor_that_is_not_there(tmp_path, original):
    lacking = llama(num_hidden_layers=3)
    del lacking.model.layers[2].mlp.up_proj
    assert "lack 1 tensors, model.layers.2.mlp.up_proj.weight" in refusal(write(tmp_path / "a.gguf", lacking))


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.7.ffn_up.weight", "rope_freqs.weight"])
def test_a_tensor_that_transformers_would_leave_out(tmp_path, original, name):
    more = {name: np.full(32 if "attn" in name else 4, 1.5, np.float32)}
    message = refusal(write(tmp_path / "a.gguf", original, more=more))
    assert "holds" in message
    assert name in message or "ffn_up" in name


def test_frequencies_that_are_scaled_by_one_are_none(tmp_path, original):
    load_model(str(write(tmp_path / "a.gguf", original, more={"rope_freqs.weight": np.ones(4, np.float32)})))


def test_rotary_scaling_that_transformers_does_not_read(tmp_path, original):
    assert "rotary positions are scaled (yarn)" in refusal(write(tmp_path / "a.gguf", original, scaling="yarn"))


def test_a_file_that_is_not_there():
    message = refusal("/nowhere/model.gguf")
    assert message.startswith("model.name=/nowhere/model.gguf: no such file")
    assert "on the Hub, download the file first" in refusal("some/repository/model.gguf")
