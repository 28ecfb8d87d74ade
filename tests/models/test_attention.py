"""`model.attention`: the chosen implementation is the one that computes, or the mistake is one line."""

import json

import numpy as np
import pytest
import torch
from tiny import build, difference, token_ids
from transformers import AutoModelForCausalLM

from neurexp.engine.notebook import capture
from neurexp.engine.plan import Pass, activation_key
from neurexp.errors import UserError
from neurexp.models.load import load_model
from neurexp.text.tokens import Tokens

IDS = token_ids(2, 12).numpy()


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    build("llama").save_pretrained(folder)
    return str(folder)


def load(folder, **options):
    return load_model(folder, tokenizer="mini", device="cpu", **options)


def test_the_chosen_attention_computes_and_the_fast_forward_does_not(llama):
    assert load(llama, fast=True).attention == "sdpa"
    assert load(llama, fast=True).fast
    found, loaded = {}, {}
    for name in ("eager", "sdpa"):
        loaded[name] = load(llama, attention=name, fast=True)
        assert (loaded[name].attention, loaded[name].fast) == (name, False)
        plain = AutoModelForCausalLM.from_pretrained(llama, attn_implementation=name, dtype=torch.float32).eval()
        found[name] = capture(loaded[name].network, IDS, "MLP", layers=2)["MLP_2"]
        assert difference(found[name], capture(plain, IDS, "MLP", layers=2)["MLP_2"]) == 0
    assert difference(found["eager"], found["sdpa"]) < 1e-5
    assert loaded["eager"].weights_hash == loaded["sdpa"].weights_hash


def test_only_eager_gives_weights_of_attention(llama):
    """The forward is really another: sdpa has no weights to give."""
    chosen = load(llama, attention="eager").network(torch.as_tensor(IDS), output_attentions=True)
    assert len(chosen.attentions) == 3
    assert all(weights is not None for weights in chosen.attentions)


def test_results_of_one_attention_do_not_stand_for_those_of_another(llama):
    tokens = Tokens(IDS.astype(np.int32), np.ones(IDS.shape, dtype=bool), documents=1)
    planned = Pass("text", tokens, "MLP", (0,), dict)
    keys = [activation_key(load(llama, attention=name), planned, 2) for name in ("eager", "sdpa")]
    assert keys[0] != keys[1]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"attention"}


def test_random_weights_take_it_too(llama):
    random = load(llama, attention="eager", weights="random")
    assert random.attention == "eager"
    assert random.weights_hash == load(llama, weights="random").weights_hash


@pytest.mark.parametrize(
    ("family", "attention", "dtype", "answer"),
    [
        ("llama", "sdpaa", "float32",
         "transformers has no such attention for llama; give eager, sdpa, flex_attention, or null"),
        ("gpt_neo", "sdpa", "float32", "transformers has no such attention for gpt_neo; give eager, or null"),
        ("llama", "kernels-community/flash-attn", "float32", "transformers has no such attention for llama"),
        ("llama", "flash_attention_2", "float32",
         "needs a GPU (device=cuda) and device.dtype=bfloat16 or float16 and the package flash_attn; give eager,"),
        ("bloom", "flash_attention_2", "float32", "transformers has no such attention for bloom; give eager, or null"),
    ],
)  # fmt: skip
def test_an_attention_that_there_is_not_is_one_line(tmp_path, family, attention, dtype, answer):
    build(family).save_pretrained(tmp_path)
    with pytest.raises(UserError) as error:
        load(str(tmp_path), attention=attention, dtype=dtype)
    assert str(error.value).startswith(f"model.attention={attention}: {answer}")
    assert "\n" not in str(error.value)


def test_an_attention_that_fails_here_is_one_line(llama, monkeypatch):
    """Such as one whose kernel cannot be compiled on this machine."""
    from transformers.models.llama import modeling_llama

    def fail(*given, **named):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setitem(modeling_llama.ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", fail)
    with pytest.raises(UserError) as error:
        load(llama, attention="sdpa")
    assert str(error.value).startswith("model.attention=sdpa: its forward fails here (no compiler")
    assert "\n" not in str(error.value)


def test_the_command_line_takes_it_and_keeps_what_was_used(quick_cli, tmp_path):
    common = ("model=mini", "dataset=pydoc", "device=cpu", "dataset.tokens=300", "dataset.sequence_length=64")
    wanted = ("tracking=off", "model.attention=eager", "hydra.run.dir=run")
    process = quick_cli(*common, *wanted)
    assert process.returncode == 0, process.stderr
    facts = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))["provenance"]
    assert (facts["attention"], facts["fast_forward"]) == ("eager", False)
    process = quick_cli(*common, "tracking=off", "model.attention=sdpa")
    assert process.returncode == 1
    assert process.stderr.startswith(
        "error: model.attention=sdpa: transformers has no such attention for gpt_neo; give"
    )
