"""What lies in a model's folder beside what is measured: refused where it would change the result, else said."""

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import END_OF_TEXT, VOCABULARY, build
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from neurexp.errors import UserError
from neurexp.models import contents
from neurexp.models.load import load_model
from neurexp.models.locations import MINI, locate_parts

LETTERS = {"<e>": END_OF_TEXT} | {chr(ord("a") + index): index + 1 for index in range(26)}
SIZES = LETTERS | {f"w{index}": index + 27 for index in range(VOCABULARY - 27)}  # as many as the model's embeddings


def tokenizer_of(vocabulary: dict[str, int] = SIZES, **special: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<e>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **({"eos_token": "<e>", "bos_token": "<e>"} | special))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a tokenizer that fits it."""
    folder = tmp_path_factory.mktemp("saved")
    build("llama").save_pretrained(folder)
    tokenizer_of().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def refusal(folder: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        load_model(str(folder), device="cpu", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def said(caplog: pytest.LogCaptureFixture, folder: Path, **options) -> str:
    """What loading it says in the log."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="neurexp"):
        load_model(str(folder), device="cpu", **options)
    return caplog.text


def change(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | values), "utf-8")


def change_tensors(folder: Path, **tensors: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file(load_file(file) | named, file, metadata={"format": "pt"})


def test_a_folder_with_nothing_beside_the_model_says_nothing(caplog, saved):
    assert said(caplog, saved) == ""


# Adapters


@pytest.mark.parametrize("kind", ["LORA", "LOHA", "IA3", "PROMPT_TUNING"])
def test_an_adapter_beside_the_base_model_is_refused_with_what_to_do(folder, kind):
    adapter = {"peft_type": kind, "base_model_name_or_path": "some/base"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter), "utf-8")
    message = refusal(folder)
    assert message.startswith(f"model.name={folder}: adapter_config.json is of an adapter ({kind}) of some/base")
    assert "merge_and_unload" in message
    load_model(str(folder), device="cpu", weights="random")  # which an adapter has no part in


def test_an_adapter_alone_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "some/base"}')
    (tmp_path / "adapter_model.safetensors").touch()
    for weights in ("pretrained", "random"):
        with pytest.raises(UserError, match=r"an adapter \(LORA\) of some/base"):
            locate_parts(str(tmp_path), "main", "mini", weights, False)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors"])
def test_an_adapters_weights_without_its_config_are_refused_too(folder, name):
    (folder / name).touch()
    assert f"{name} is of an adapter" in refusal(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "\udcff"])
def test_an_adapters_config_that_cannot_be_read_is_one_nevertheless(folder, content):
    (folder / "adapter_config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "of a base model" in refusal(folder)


def test_an_adapter_in_a_folder_below_is_said(caplog, folder):
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "adapter_config.json").write_text("{}")
    assert "not used: checkpoint-5/adapter_config.json" in said(caplog, folder)


# Other weights


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "consolidated.safetensors", "model-q4.gguf", "tf_model.h5", "onnx/model.onnx"]
)
def test_a_second_set_of_weights_is_said_with_which_one_is_used(caplog, folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"other")
    assert f"Weights: model.safetensors; not used: {name}" in said(caplog, folder)


def test_a_second_set_that_was_saved_later_is_said_so(caplog, folder):
    (folder / "pytorch_model.bin").touch()
    os.utime(folder / "pytorch_model.bin", (0, 0))
    assert "after" not in said(caplog, folder)
    later = (folder / "model.safetensors").stat().st_mtime + 60
    os.utime(folder / "pytorch_model.bin", (later, later))
    assert "pytorch_model.bin was written after those that are used" in said(caplog, folder)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "base_model.model.", "module."])
def test_weights_of_a_wrapped_model_are_refused_with_a_name_that_tells(folder, prefix):
    file = folder / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    message = refusal(folder)
    assert "lack" in message
    assert f"others, {prefix}" in message


def test_a_trainers_own_files_are_no_weights(caplog, folder):
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth.tar", "training_args.bin", "trainer_state.json"):
        (folder / name).touch()
    assert said(caplog, folder) == ""


def in_shards(folder: Path) -> list[str]:
    """The weights cut in two shards with an index; their file names."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, files = sorted(tensors), [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    for part, file in enumerate(files):
        save_file({name: tensors[name] for name in names[part::2]}, folder / file, metadata={"format": "pt"})
    mapped = {name: files[index % 2] for index, name in enumerate(names)}
    (folder / contents.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": mapped}), "utf-8")
    return files


def test_an_index_that_names_other_files_than_the_single_one_is_said(caplog, folder):
    other = Path(shutil.copytree(folder, folder.parent / "other"))
    for file in [*in_shards(other), contents.INDEX]:
        shutil.copy(other / file, folder)
    assert "Weights: model.safetensors; not used: model-00001-of-00002.safetensors" in said(caplog, folder)
    assert said(caplog, other) == ""


def test_shards_of_another_save_are_said(caplog, folder):
    in_shards(folder)
    (folder / "model-00001-of-00003.safetensors").touch()
    assert "not used: model-00001-of-00003.safetensors" in said(caplog, folder)


def test_a_tensor_in_two_shards_is_refused(folder):
    first, second = in_shards(folder)
    doubled = load_file(folder / first)
    save_file(load_file(folder / second) | doubled, folder / second, metadata={"format": "pt"})
    message = refusal(folder)
    assert message.startswith(f"model.name={folder}:")
    assert f"is in {first} and in {second}" in message


def test_shards_without_their_index_are_refused(folder):
    (first, _) = in_shards(folder)
    (folder / contents.INDEX).unlink()
    message = refusal(folder)
    assert first in message
    assert contents.INDEX in message


def test_weights_in_other_formats_alone_are_refused_by_their_names(folder):
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    message = refusal(folder)
    assert f"no model.safetensors or {contents.INDEX} (there: consolidated.safetensors)" in message
    (folder / "consolidated.safetensors").rename(folder / "pytorch_model.bin")
    assert "no .safetensors file (there: pytorch_model.bin)" in refusal(folder)


# Weights that the model does not use


@pytest.mark.parametrize(
    "name", ["model__layers__9__mlp__gate_proj__weight", "model__layers__0__self_attn__q_proj__bias"]
)
def test_weights_within_the_blocks_without_a_place_are_refused(folder, name):
    change_tensors(folder, **{name: torch.zeros(3)})
    message = refusal(folder)
    assert message.startswith(f"model.name={folder}: its weight files hold 1 tensors")
    assert name.replace("__", ".") in message


def test_a_config_with_fewer_layers_than_the_weights_is_refused(folder):
    change(folder, num_hidden_layers=2)
    assert "model.layers.2." in refusal(folder)


def test_other_weights_without_a_place_are_said(caplog, folder):
    change_tensors(folder, v_head__summary__weight=torch.zeros(3))
    assert "Weights that the model does not use: v_head.summary.weight" in said(caplog, folder)


def test_constants_that_older_versions_saved_are_nothing_to_speak_of(caplog, folder):
    change_tensors(
        folder,
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(3),
        model__layers__0__self_attn__masked_bias=torch.zeros(1),
    )
    assert said(caplog, folder) == ""


def test_codes_in_place_of_numbers_are_refused(folder):
    name = "model__layers__0__mlp__gate_proj__weight"
    shape = load_file(folder / "model.safetensors")[name.replace("__", ".")].shape
    change_tensors(folder, **{name: torch.ones(shape, dtype=torch.int8)})
    message = refusal(folder)
    assert "holds I8" in message
    assert message.count(f"model.name={folder}") == 1  # it is not told within another refusal


# The config


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors"])
def test_quantised_weights_are_refused_with_their_method(folder, method):
    change(folder, quantization_config={"quant_method": method, "load_in_4bit": True, "bits": 4})
    message = refusal(folder)
    assert message.startswith(f"model.name={folder}: its weights are quantised ({method})")
    assert "dequantize()" in message


def test_code_of_a_repository_whose_architecture_is_known_is_said(caplog, folder):
    change(folder, auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    assert "modeling_own.Own" in said(caplog, folder)


def test_an_architecture_that_comes_as_code_is_refused_with_the_known_ones(folder):
    change(folder, model_type="own_code", auto_map={"AutoConfig": "own_code.Own"})
    message = refusal(folder)
    assert "'own_code' comes as code" in message
    assert "gpt_neo" in message


# The tokenizer


def test_a_tokenizer_with_tokens_that_have_no_embedding_is_said_and_only_those_that_occur_are_refused(caplog, folder):
    tokenizer = tokenizer_of()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    assert f"1 of its tokens have no embedding ('<pad>', id {VOCABULARY}" in said(caplog, folder)
    model = load_model(str(folder), device="cpu")
    model.check_ids(np.array([[0, VOCABULARY - 1]]))
    with pytest.raises(UserError, match=rf"^model\.tokenizer: .*'<pad>' \(id {VOCABULARY}\).*1 of 2 tokens"):
        model.check_ids(np.array([[0, VOCABULARY]]))


def test_a_much_smaller_tokenizer_is_said(caplog, folder):
    tokenizer_of(LETTERS).save_pretrained(folder)
    assert f"ids below 27, the model embeddings for {VOCABULARY}" in said(caplog, folder)


def test_special_ids_that_the_config_contradicts_are_said(caplog, folder):
    tokenizer_of(eos_token="b").save_pretrained(folder)
    assert "its eos_token_id is 2, the config says 0" in said(caplog, folder)
    change(folder, eos_token_id=[0, 2])
    (folder / "generation_config.json").unlink(missing_ok=True)
    assert said(caplog, folder) == ""


def test_sequences_begin_with_bos_where_the_tokenizer_puts_one_unless_told_otherwise(folder):
    from tokenizers.processors import TemplateProcessing

    assert not load_model(str(folder), device="cpu").begins_with_bos  # a Llama, whose tokenizer adds none
    assert load_model(str(folder), device="cpu", bos=True).begins_with_bos
    tokenizer = tokenizer_of()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<e> $A", special_tokens=[("<e>", 0)])
    tokenizer.save_pretrained(folder)
    assert load_model(str(folder), device="cpu").begins_with_bos
    assert not load_model(str(folder), device="cpu", bos=False).begins_with_bos


def test_a_bos_that_is_asked_for_must_be_there(folder):
    backend = Tokenizer(models.WordLevel(SIZES, unk_token="<e>"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    assert refusal(folder, bos=True).startswith("model.tokenizer: it has no beginning-of-text token, which dataset.bos")


@pytest.mark.parametrize(("content", "package"), [(b"\n\x0e\n\x05<unk>", "sentencepiece"), (b"IQ== 0\n", "tiktoken")])
def test_a_tokenizer_model_alone_names_the_package_that_is_missing(folder, monkeypatch, content, package):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "tokenizer.model").write_bytes(content)
    monkeypatch.setattr(contents, "find_spec", lambda name: None)
    message = refusal(folder)
    assert message.startswith(f"model.tokenizer={folder}:")
    assert f"pip install {package}" in message
    contents.check_tokenizer("", Path(__file__).parent)  # nothing of the kind
    monkeypatch.setattr(contents, "find_spec", lambda name: name == package)
    contents.check_tokenizer("", folder)


def test_counts_of_another_tokenizer_are_not_used(caplog, folder):
    counts = np.arange(VOCABULARY - 5)
    save_file({"counts": torch.from_numpy(counts)}, folder / "token_counts.safetensors")
    loaded = load_model(str(folder), device="cpu").token_counts
    assert loaded is not None
    assert loaded.tolist() == [*counts.tolist(), 0, 0, 0, 0, 0]  # tokens that were added since
    save_file({"counts": torch.ones(VOCABULARY + 1)}, folder / "token_counts.safetensors")
    assert "is of another tokenizer" in said(caplog, folder)
    assert load_model(str(folder), device="cpu").token_counts is None


def test_the_counts_of_tokens_beside_a_model_are_no_weights(caplog):
    """They are used, for frequencies; the embedded model has them."""
    assert "not used" not in said(caplog, MINI)
