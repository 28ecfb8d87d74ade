"""Loading: the embedded model, folders and random weights are what they say; what is damaged is told in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import VOCABULARY, WIDTH, build, token_ids

import neurexp
from neurexp.errors import UserError
from neurexp.models.load import choose_device, load_model

MINI = Path(neurexp.__file__).resolve().parent / "mini"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
ARCHITECTURE = {
    "model_type": "gpt_neo",
    "num_layers": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "vocab_size": 9000,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a tiny GPT-Neo, and mini's tokenizer files, which do not fit its vocabulary."""
    folder = tmp_path_factory.mktemp("saved")
    build("gpt_neo").save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MINI / name, folder / name)
    return folder


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded model that a test may damage."""
    for name in FILES:
        shutil.copy(MINI / name, tmp_path / name)
    return tmp_path


def random_model(**options):
    arguments = {"weights": "random", "tokenizer": "mini", "architecture": ARCHITECTURE, "device": "cpu"}
    return load_model("EleutherAI/gpt-neo-125m", **(arguments | options))


def tensors_of(model):
    return model.network.state_dict()


def equal(first, second):
    first, second = tensors_of(first), tensors_of(second)
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def refusal(name, **options):
    """The message of the UserError that loading ends in, which is one line."""
    with pytest.raises(UserError) as error:
        load_model(str(name), device="cpu", **options)
    message = str(error.value)
    assert "\n" not in message
    return message


# The embedded model


def test_mini_is_ready_to_be_measured():
    model = load_model("mini", device="cpu")
    assert (model.name, model.weights, model.network.config.model_type) == ("mini", "pretrained", "gpt_neo")
    assert not any(module.training for module in model.network.modules())
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.float32}
    assert model.device == torch.device("cpu")
    assert model.layers == model.network.config.num_hidden_layers == len(model.network.transformer.h)
    assert not model.begins_with_bos


def test_mini_is_the_default_and_the_public_name_is_this_function():
    assert neurexp.load_model is load_model
    assert equal(neurexp.load_model(device="cpu"), load_model("mini", device="cpu"))


def test_minis_tokenizer_fits_it():
    model, text = load_model("mini", device="cpu"), "Hello world, the river rose."
    assert model.tokenizer.decode(model.tokenizer(text).input_ids) == text
    assert len(model.tokenizer) <= model.network.config.vocab_size
    assert model.tokenizer.eos_token_id is not None


def test_a_local_folder_is_loaded_and_is_its_own_revision(folder):
    model = load_model(str(folder), device="cpu")
    assert equal(model, load_model("mini", device="cpu"))
    assert model.revision == str(folder.resolve())
    assert load_model("mini", device="cpu").revision == str(MINI)


def test_a_folder_by_its_relative_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert load_model(f"./{folder.name}", device="cpu").revision == str(folder.resolve())


def test_weights_are_loaded_as_they_were_saved(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    original = build("gpt_neo")
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    assert config["vocab_size"] == VOCABULARY
    _save_small_tokenizer(tmp_path)
    loaded, ids = load_model(str(tmp_path), device="cpu").network, token_ids(2, 8)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, original(ids).logits)


def _save_small_tokenizer(folder):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    letters = {letter: index for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(letters, []))).save_pretrained(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_that_was_asked_for(dtype):
    for model in (load_model("mini", dtype=dtype, device="cpu"), random_model(dtype=dtype)):
        assert {parameter.dtype for parameter in model.network.parameters()} == {getattr(torch, dtype)}
        captured = neurexp.capture(model, token_ids(1, 8), layers=0)
        assert captured["MLP_0"].dtype is getattr(torch, dtype)


# Random weights


def test_random_weights_are_those_of_their_seed():
    assert equal(random_model(seed=3), random_model(seed=3))
    assert not equal(random_model(seed=3), random_model(seed=4))


def test_random_weights_do_not_depend_on_the_global_generator_and_leave_it_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = random_model(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    assert equal(random_model(seed=3), first)


def test_random_weights_in_bfloat16_are_those_of_float32_rounded():
    exact, rounded = tensors_of(random_model(seed=3)), tensors_of(random_model(seed=3, dtype="bfloat16"))
    assert all(
        torch.equal(rounded[name], tensor.bfloat16()) for name, tensor in exact.items() if tensor.is_floating_point()
    )


def test_random_weights_are_the_same_architecture_and_differ_from_the_trained():
    trained, random = load_model("mini", device="cpu"), load_model("mini", weights="random", device="cpu")
    assert {name: tensor.shape for name, tensor in tensors_of(trained).items()} == {
        name: tensor.shape for name, tensor in tensors_of(random).items()
    }
    assert not torch.equal(trained.network.transformer.wte.weight, random.network.transformer.wte.weight)
    assert not torch.equal(
        trained.network.transformer.h[0].mlp.c_fc.weight, random.network.transformer.h[0].mlp.c_fc.weight
    )


def test_random_weights_say_so_and_carry_their_seed():
    model = random_model(seed=41)
    assert (model.name, model.weights) == ("EleutherAI/gpt-neo-125m", "random")
    assert "random" in model.revision
    assert "41" in model.revision


def test_random_weights_are_ready_to_be_measured_too():
    model = random_model()
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert model.layers == 2
    assert model.network.config.hidden_size == 32


def test_random_weights_need_no_weight_file(folder):
    (folder / "model.safetensors").unlink()
    model = load_model(str(folder), weights="random", device="cpu")
    assert equal(model, load_model("mini", weights="random", device="cpu"))


def test_building_leaves_the_given_architecture_as_it_was():
    before = json.dumps(ARCHITECTURE)
    random_model()
    assert json.dumps(ARCHITECTURE) == before


# What cannot be loaded


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "nowhere/at/all"])
def test_a_folder_that_is_not_there(name):
    message = refusal(name)
    assert message.startswith(f"model.name={name}:")
    assert "mini works offline" in message


def test_a_file_in_place_of_a_folder(folder):
    message = refusal(folder / "model.safetensors")
    assert message.startswith(f"model.name={folder / 'model.safetensors'}:")
    assert "is a file; give the folder" in message


def test_an_empty_folder(tmp_path):
    assert refusal(tmp_path).startswith(f"model.name={tmp_path}:")


def test_a_folder_without_config(folder):
    (folder / "config.json").unlink()
    message = refusal(folder)
    assert message.startswith(f"model.name={folder}:")
    assert "config.json" in message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe\x00"])
def test_a_damaged_config(folder, content):
    (folder / "config.json").write_bytes(content)
    assert refusal(folder).startswith(f"model.name={folder}:")


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": "wide"}, {"num_heads": 7}, {"num_layers": 4}, {"hidden_size": 96}],
    ids=["no number", "heads", "layers", "other shape"],
)
def test_a_config_that_does_not_fit_itself_or_the_weights(folder, change):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | change), "utf-8")
    assert refusal(folder).startswith(f"model.name={folder}:")


def test_an_architecture_that_is_not_known(tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, is_decoder=True)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    message = refusal(tmp_path, tokenizer="mini")
    assert "'bert'" in message
    assert "gpt_neo" in message
    assert "model.blocks=" in message
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert "'t5'" in refusal(tmp_path)  # no causal language model: said before any weights are read


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside an adapter"])
def test_weights_in_another_format_only(folder, beside):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    if beside:
        save_file({"lora": torch.zeros(2)}, folder / "adapter_model.safetensors")
    message = refusal(folder)
    assert message.startswith(f"model.name={folder}:")
    assert "safetensors" in message


@pytest.mark.parametrize("damage", ["empty", "cut in the header", "cut in half", "noise"])
def test_a_damaged_weight_file(folder, damage):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    damaged = {
        "empty": b"",
        "cut in the header": content[:100],
        "cut in half": content[: len(content) // 2],
        "noise": b"\xff" * 5000,
    }
    path.write_bytes(damaged[damage])
    message = refusal(folder)
    assert message.startswith(f"model.name={folder}:")
    assert "a weight file is damaged" in message


def test_weights_that_lack_a_tensor(folder):
    path, absent = folder / "model.safetensors", "transformer.h.1.mlp.c_fc.weight"
    tensors = load_file(path)
    del tensors[absent]
    save_file(tensors, path, metadata={"format": "pt"})
    message = refusal(folder)
    assert message.startswith(f"model.name={folder}:")
    assert absent in message


def test_a_folder_without_a_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert refusal(folder).startswith(f"model.tokenizer={folder}:")


@pytest.mark.parametrize("content", ["", "{", "{}", "null"])
def test_a_damaged_tokenizer(folder, content):
    (folder / "tokenizer.json").write_text(content, "utf-8")
    assert refusal(folder).startswith(f"model.tokenizer={folder}:")


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_a_tokenizer_that_is_not_there(weights):
    assert refusal("mini", tokenizer="/nowhere/tokenizer", weights=weights).startswith("model.tokenizer=/nowhere")


def test_a_smaller_tokenizer_is_taken(tmp_path):
    _save_small_tokenizer(tmp_path)
    assert len(load_model("mini", tokenizer=str(tmp_path), device="cpu").tokenizer) == 26


@pytest.mark.parametrize(
    "change",
    [{"model_type": "unheard_of"}, {"hidden_size": WIDTH + 1}],
    ids=["model type", "width that the heads do not divide"],
)
def test_an_architecture_that_cannot_be_built(change):
    with pytest.raises(UserError, match="architecture"):
        random_model(architecture=ARCHITECTURE | change)


def test_code_that_comes_with_a_model_is_never_run_nor_asked_for(folder, monkeypatch):
    config = {"model_type": "own_code", "auto_map": {"AutoConfig": "own_code.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    trace = folder / "was_run"
    (folder / "own_code.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PreTrainedConfig\n"
        f"Path({str(trace)!r}).touch()\n"
        "class OwnConfig(PreTrainedConfig):\n    model_type = 'own_code'\n",
        "utf-8",
    )
    questions = []
    monkeypatch.setattr("builtins.input", lambda *question: questions.append(question) or "y")
    refusal(folder)
    assert questions == []
    assert not trace.exists()


@pytest.mark.parametrize("option", [{"dtype": "float8"}, {"dtype": "nn"}, {"weights": "trained"}], ids=str)
def test_an_option_that_there_is_not(option):
    ((name, value),) = option.items()
    message = refusal("mini", **option)
    assert f"{name}={value}" in message


# Devices


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "cpu0", "CPU"])
def test_a_device_that_there_is_not(name):
    with pytest.raises(UserError, match=f"device={name}:") as error:
        choose_device(name)
    assert "cpu" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["mps", "meta", "xla"])
def test_a_device_that_is_not_supported(name):
    with pytest.raises(UserError, match=f"device={name}: not supported"):
        choose_device(name)


def test_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(UserError, match=f"device={name}:") as error:
            choose_device(name)
        assert "device=cpu" in str(error.value)


def test_a_gpu_beyond_the_last(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cuda") == torch.device("cuda")
    with pytest.raises(UserError, match="device=cuda:2"):
        choose_device("cuda:2")


@pytest.mark.parametrize(("there_is", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_where_there_is_one(monkeypatch, there_is, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there_is)
    assert choose_device("auto") == torch.device(chosen)
    assert choose_device("cpu") == torch.device("cpu")


def test_the_device_is_refused_before_anything_is_loaded():
    with pytest.raises(UserError, match="device=gpu"):
        load_model("/nowhere/model", device="gpu")
