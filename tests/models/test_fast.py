"""The fast forward computes what the eager one does, and the model is as it was once the context is left."""

import json

import numpy as np
import pytest
import torch
from pyarrow.parquet import read_table
from tiny import EXPANSION, WIDTH, build, difference, token_ids
from torch import nn
from transformers import AutoModelForCausalLM, GPTNeoConfig
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

import neurexp
from neurexp.models import fast
from neurexp.models.fast import fast_forward, gpt_neo
from neurexp.models.load import AGREEMENT


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


def long_model(window=256, dtype=torch.float32):
    """A global and a local layer of 4 heads of 16, with weights large enough that every part matters."""
    config = GPTNeoConfig(
        vocab_size=60,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=window,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.to(dtype).eval()


def hidden(model, ids):
    """What the last block puts out, and what MLP and PROJ put out on the way, `[sequences, length, …]`."""
    with torch.inference_mode():
        states = model.base_model(ids, use_cache=False, output_hidden_states=True).hidden_states[1:]
    activations = [neurexp.capture(model, ids, site)[f"{site}_{layer}"] for site in ("MLP", "PROJ") for layer in (0, 1)]
    return [values.float() for values in (*states, *activations)]


def assert_agrees(model, ids, rows=None, bound=1e-5):
    eager = hidden(model, ids)
    with fast_forward(model):
        found = hidden(model, ids)
    for one, other in zip(found, eager, strict=True):
        assert difference(one[rows], other[rows]) <= bound
        # and not only on the whole: no single token is off, which a norm over thousands might not see
        norms = torch.linalg.vector_norm(one - other, dim=-1) / torch.linalg.vector_norm(other, dim=-1)
        assert norms[rows].max() <= 10 * bound


@pytest.fixture(scope="module")
def long():
    return long_model()


@pytest.mark.parametrize("length", [1, 63, 64, 65, 255, 256, 257, 320, 321, 512, 1000, 1024])
def test_long_sequences(long, length):
    assert_agrees(long, token_ids(2 if length < 500 else 1, length))


@pytest.mark.parametrize("length", [512, pytest.param(1024, marks=pytest.mark.slow)])
def test_several_sequences_padded_on_the_right(long, length):
    """The pads come after all that is valid, and are never attended to: the valid tokens know nothing of them."""
    ids, valid = token_ids(4, length), torch.ones(4, length, dtype=torch.bool)
    for row, count in enumerate((length, length - 1, 300, 1)):
        valid[row, count:] = False
    ids[~valid] = 0
    assert_agrees(long, ids, valid)
    with fast_forward(long):
        padded = neurexp.capture(long, ids, valid=valid, batch_size=4)
        for row, count in enumerate((length, length - 1, 300, 1)):
            alone = neurexp.capture(long, ids[row, :count])
            for key, values in alone.items():
                assert difference(padded[key][row, :count], values[0]) <= 1e-5


# The step of queries is 64, and keys begin at multiples of 16
@pytest.mark.parametrize(
    "window",
    [
        *(1, 15, 16, 17, 64, 65, 200, 1024),
        *(pytest.param(more, marks=pytest.mark.slow) for more in (2, 63, 100, 128, 256, 1023, 2000)),
    ],
)
def test_windows_that_are_no_multiple_of_the_step_and_those_that_are(window):
    model = long_model(window)
    for length in (64, 65, 257, 400):
        assert_agrees(model, token_ids(2, length))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 255, 256, 257, 512, 513, pytest.param(1024, marks=pytest.mark.slow)])
def test_long_sequences_in_bfloat16(length):
    """Eager attends in float32 and rounds then; the fast one rounds its scores, and stays within the stated bound."""
    bound, model, ids = AGREEMENT[torch.bfloat16], long_model(dtype=torch.bfloat16), token_ids(2, length)
    eager = hidden(model, ids)
    with fast_forward(model):
        found = hidden(model, ids)
    for one, other in zip(found, eager, strict=True):
        assert difference(one, other) <= bound
    assert fast.difference_from_eager(model) <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_that_is_used_again_changes_nothing(dtype):
    """Longer, shorter and longer again within one context, and the same bits each time."""
    model = long_model(100, dtype)
    with fast_forward(model), torch.inference_mode():
        first = {length: model(token_ids(2, length)).logits for length in (300, 70, 513)}
        for length in (70, 513, 300, 70):
            assert torch.equal(model(token_ids(2, length)).logits, first[length])
    for length, found in first.items():
        with fast_forward(model), torch.inference_mode():
            assert torch.equal(model(token_ids(2, length)).logits, found)


def test_a_token_sees_its_window_and_nothing_else(long):
    """By what a change of one token changes: in the local layer alone, the 256 that end with it."""
    ids = token_ids(1, 600)
    other = ids.clone()
    other[0, 150] = (other[0, 150] + 1) % 60
    seen = []
    for attention in (long.transformer.h[0].attn.attention, long.transformer.h[1].attn.attention):
        with fast_forward(long), torch.inference_mode():
            inputs = [long.transformer.wte(some) for some in (ids, other)]
            outputs = [attention(some)[0] for some in inputs]
        changed = (outputs[0] != outputs[1]).any(-1)[0].nonzero().flatten().tolist()
        seen.append((changed[0], changed[-1], len(changed)))
    assert seen[0][:2] == (150, 599)
    assert seen[1] == (150, 405, 256)


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
    calls, attend = [], gpt_neo._attention_for(torch.device("cpu"))

    def counting(*arguments, **options):
        calls.append(1)
        return attend(*arguments, **options)

    monkeypatch.setattr(gpt_neo, "_attention_for", lambda device: counting)
    ids = token_ids(1, 12)
    with fast_forward(model):
        logits(model, ids)
        assert len(calls) == 3
        assert all(isinstance(block.mlp.act, gpt_neo._FastGelu) for block in model.transformer.h)
    logits(model, ids)
    assert len(calls) == 3


def linears(model):
    return [module for block in model.transformer.h for module in block.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize("with_gradients", [True, False])
def test_every_product_with_weights_of_a_block_is_swapped_inside_and_only_there(model, monkeypatch, with_gradients):
    """Q, K, V, the attention's output, and both of the MLP, with the weights and biases that they have."""
    shapes, multiply = [], gpt_neo.kernels.linear

    def counting(x, weight, bias):
        shapes.append((tuple(weight.shape), bias is not None))
        return multiply(x, weight, bias)

    monkeypatch.setattr(gpt_neo.kernels, "linear", counting)
    ids = token_ids(1, 12)
    with torch.set_grad_enabled(with_gradients):
        with fast_forward(model):
            assert all("forward" in module.__dict__ for module in linears(model))
            model(ids)
        square = (WIDTH, WIDTH)
        of_a_block = [(square, False)] * 3 + [(square, True), ((EXPANSION, WIDTH), True), ((WIDTH, EXPANSION), True)]
        assert shapes == of_a_block * 3
        model(ids)
        assert len(shapes) == len(of_a_block) * 3
    assert not any("forward" in module.__dict__ for module in linears(model))
    assert all(module.forward.__func__ is nn.Linear.forward for module in linears(model))


def test_hooks_on_a_linear_still_fire_on_what_the_fast_product_puts_out(model):
    seen = []
    module = model.transformer.h[1].mlp.c_fc
    module.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].clone(), output.clone())))
    with fast_forward(model), torch.no_grad():
        model(token_ids(2, 12))
        ((given, output),) = seen
        assert difference(output, nn.functional.linear(given, module.weight, module.bias)) <= 1e-6


def test_a_forward_of_the_callers_own_is_left_alone(model):
    """As an instance's attribute: a wrapper of a quantised or adapted layer, say."""
    calls, module = [], model.transformer.h[0].mlp.c_fc
    plain = module.forward

    def own(x):
        calls.append(1)
        return 2 * plain(x)

    module.forward = own
    ids = token_ids(2, 12)
    eager = logits(model, ids)
    with fast_forward(model):
        assert module.__dict__["forward"] is own
        assert difference(logits(model, ids), eager) <= 1e-5
        assert sum("forward" in one.__dict__ for one in linears(model)) == len(linears(model))
    assert calls == [1, 1]
    assert module.__dict__["forward"] is own
    assert sum("forward" in one.__dict__ for one in linears(model)) == 1
    assert difference(logits(model, ids), eager) == 0


def test_an_attention_of_the_callers_own_is_put_back(model):
    attention = model.transformer.h[1].attn.attention
    own = attention._attn
    attention._attn = own  # an instance's attribute, though it does what the class's does
    with fast_forward(model):
        assert attention.__dict__["_attn"] is not own
    assert attention.__dict__["_attn"] is own


def test_linears_are_restored_after_an_exception_amid_the_forward(model):
    def fail(module, arguments, output):
        raise ZeroDivisionError

    handle = model.transformer.h[1].mlp.c_fc.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError), fast_forward(model):
        logits(model, token_ids(1, 12))
    handle.remove()
    assert not any("forward" in module.__dict__ for module in linears(model))


def test_one_context_inside_another_restores_the_linears_last(model):
    with fast_forward(model):
        with fast_forward(model):
            pass
        assert all("forward" in module.__dict__ for module in linears(model))
    assert not any("forward" in module.__dict__ for module in linears(model))


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


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_families_without_a_fast_forward_run_as_they_did(family):
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

    monkeypatch.setattr(gpt_neo, "_attention_for", lambda device: without_window)
    assert fast.difference_from_eager(model) > 1e-3


def test_a_fast_forward_that_differs_is_not_used_and_that_is_said(monkeypatch, caplog):
    monkeypatch.setattr("neurexp.models.load.difference_from_eager", lambda network: 1e-3)
    assert not neurexp.load_model("mini", device="cpu", fast=True).fast
    assert "not used" in caplog.text


def test_it_is_used_only_where_it_is_asked_for():
    assert neurexp.load_model("mini", device="cpu", fast=True).fast
    assert not neurexp.load_model("mini", device="cpu").fast


def test_runs_with_it_and_without_it_agree_and_say_which(quick_cli, tmp_path):
    arguments = ("model=mini", "dataset=pydoc", "dataset.tokens=1024", "tracking=off", "experiment.layer=[0,1]")
    found = []
    for given in ("true", "false"):
        process = quick_cli(*arguments, f"model.fast={given}", f"hydra.run.dir=fast_{given}")
        assert process.returncode == 0, process.stderr
        folder = tmp_path / f"fast_{given}"
        summary = json.loads((folder / "summary.json").read_text("utf-8"))
        assert summary["provenance"]["fast_forward"] is (given == "true")
        found.append(read_table(folder / "neurons.parquet")["r_length"].to_numpy())
    np.testing.assert_allclose(*found, atol=1e-5)
