"""The fast forward computes what the eager one does, and the model is as it was once the context is left."""

import json

import numpy as np
import pytest
import torch
from pyarrow.parquet import read_table
from tiny import CONFIGS, build, difference, token_ids
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

import neurexp
from neurexp.models import fast
from neurexp.models.fast import fast_forward


@pytest.fixture
def model():
    return build("gpt_neo")


def parts(model):
    """The attention function and the non-linearity of every block, as objects."""
    blocks = model.base_model.h
    return [
        (block.attn.attention._attn.__func__, block.mlp.act, dict(block.attn.attention.__dict__)) for block in blocks
    ]


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


# The local window is 5 tokens; at 40 nearly everything is beyond it
@pytest.mark.parametrize("length", [1, 4, 5, 6, 40])
def test_the_fast_forward_is_the_eager_one(model, length):
    ids = token_ids(3, length)
    eager, eager_activations = logits(model, ids), neurexp.capture(model, ids)
    with fast_forward(model):
        found, activations = logits(model, ids), neurexp.capture(model, ids)
    assert difference(found, eager) <= 1e-5
    assert all(difference(activations[key], values) <= 1e-5 for key, values in eager_activations.items())


def test_mini_beyond_its_window():
    model = neurexp.load_model("mini", device="cpu").network
    length = min(2 * model.config.window_size, model.config.max_position_embeddings)
    assert length > model.config.window_size
    ids = torch.randint(model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    eager = neurexp.capture(model, ids, layers=[1, model.config.num_layers - 1])
    with fast_forward(model):
        found = neurexp.capture(model, ids, layers=[1, model.config.num_layers - 1])
    assert all(difference(found[key], values) <= 1e-5 for key, values in eager.items())


def test_gradients_are_those_of_the_eager_forward(model):
    ids = token_ids(2, 20)

    def gradients():
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    eager = gradients()
    with fast_forward(model):
        assert difference(gradients(), eager) <= 1e-5


def test_it_is_really_used_inside_and_only_there(model, monkeypatch):
    calls, attend = [], fast._attention_for(torch.device("cpu"))

    def counting(*arguments, **options):
        calls.append(1)
        return attend(*arguments, **options)

    monkeypatch.setattr(fast, "_attention_for", lambda device: counting)
    ids = token_ids(1, 12)
    with fast_forward(model):
        logits(model, ids)
        assert len(calls) == 3
        assert all(isinstance(block.mlp.act, torch.nn.GELU) for block in model.transformer.h)
    logits(model, ids)
    assert len(calls) == 3


def test_everything_is_restored(model):
    ids = token_ids(2, 20)
    before, outputs = parts(model), logits(model, ids)
    with fast_forward(model):
        logits(model, ids)
    assert parts(model) == before
    assert torch.equal(logits(model, ids), outputs)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_everything_is_restored_after_an_exception(model, error):
    before = parts(model)
    with pytest.raises(error), fast_forward(model):
        raise error
    assert parts(model) == before


def test_everything_is_restored_after_an_exception_inside_the_forward(model):
    before = parts(model)
    with pytest.raises(IndexError), fast_forward(model):
        logits(model, torch.tensor([[10**6]]))
    assert parts(model) == before


def test_one_context_inside_another(model):
    ids, before = token_ids(2, 20), parts(model)
    eager = logits(model, ids)
    with fast_forward(model):
        with fast_forward(model):
            assert difference(logits(model, ids), eager) <= 1e-5
        assert difference(logits(model, ids), eager) <= 1e-5
    assert parts(model) == before


def test_another_model_of_the_same_family_is_not_touched(model):
    other = build("gpt_neo", seed=5)
    before, function = parts(other), GPTNeoSelfAttention._attn
    with fast_forward(model):
        assert parts(other) == before
        assert GPTNeoSelfAttention._attn is function


def test_another_non_linearity_is_left_alone(model):
    model.config.activation_function = "relu"
    for block in model.transformer.h:
        block.mlp.act = torch.nn.ReLU()
    ids, eager = token_ids(2, 12), logits(model, token_ids(2, 12))
    with fast_forward(model):
        assert all(isinstance(block.mlp.act, torch.nn.ReLU) for block in model.transformer.h)
        assert difference(logits(model, ids), eager) <= 1e-5


@pytest.mark.parametrize("family", [family for family in CONFIGS if family != "gpt_neo"])
def test_other_families_run_as_they_did(family):
    model, ids = build(family), token_ids(2, 12)
    eager = logits(model, ids)
    with fast_forward(model):
        assert torch.equal(logits(model, ids), eager)


def test_the_difference_is_of_rounding_for_gpt_neo_and_there_is_none_for_others(model):
    assert 0 <= fast.difference_from_eager(model) <= 1e-5
    assert fast.difference_from_eager(build("gpt2")) is None
    assert not model.base_model.h[0]._forward_hooks


def test_a_fast_forward_that_forgets_the_window_is_seen(model, monkeypatch):
    def without_window(module, query, key, value, attention_mask=None):
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0), None

    monkeypatch.setattr(fast, "_attention_for", lambda device: without_window)
    assert fast.difference_from_eager(model) > 1e-3


def test_a_fast_forward_that_differs_is_not_used_and_that_is_said(monkeypatch, caplog):
    monkeypatch.setattr("neurexp.models.load.difference_from_eager", lambda network: 1e-3)
    assert not neurexp.load_model("mini", device="cpu", fast=True).fast
    assert "not used" in caplog.text


def test_it_is_used_only_where_it_is_asked_for():
    assert neurexp.load_model("mini", device="cpu", fast=True).fast
    assert not neurexp.load_model("mini", device="cpu").fast


def test_runs_with_it_and_without_it_agree_and_say_which(quick_cli, tmp_path):
    arguments = ("model=mini", "dataset=pydoc", "dataset.tokens=1024", "tracking=off")
    found = []
    for given in ("true", "false"):
        process = quick_cli(*arguments, f"model.fast={given}", f"hydra.run.dir=fast_{given}")
        assert process.returncode == 0, process.stderr
        folder = tmp_path / f"fast_{given}"
        summary = json.loads((folder / "summary.json").read_text("utf-8"))
        assert summary["provenance"]["fast_forward"] is (given == "true")
        found.append(read_table(folder / "neurons.parquet")["r_length"].to_numpy())
    np.testing.assert_allclose(*found, atol=1e-5)
