"""The fast forward of the gated families computes what transformers' own does, at every place that a hook can see."""

import threading
from contextlib import nullcontext

import pytest
import torch
from tiny import LAYERS, build, difference
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaForCausalLM, LlamaMLP

import neurexp
from neurexp.engine.passes import run_pass
from neurexp.engine.reducers.gram import Gram
from neurexp.models import fast
from neurexp.models.fast import fast_forward, gated
from neurexp.models.load import AGREEMENT
from neurexp.models.sites import find_sites, sites_of

VOCABULARY = 60
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
MIXED = ["full_attention", "sliding_attention", "full_attention"]
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}

SHAPES = {
    "llama": lambda: LlamaConfig(**SIZES),
    "llama, a head of its own keys for each": lambda: LlamaConfig(**SIZES | {"num_key_value_heads": 6}),
    "llama, one head of keys": lambda: LlamaConfig(**SIZES | {"num_key_value_heads": 1}),
    "llama, wide heads": lambda: LlamaConfig(**SIZES, head_dim=20),
    "llama, biases": lambda: LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama, tied": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama, gelu": lambda: LlamaConfig(**SIZES, hidden_act="gelu"),
    "llama, relu": lambda: LlamaConfig(**SIZES, hidden_act="relu"),
    "llama, swish": lambda: LlamaConfig(**SIZES, hidden_act="swish"),
    "llama, eager": lambda: LlamaConfig(**SIZES, attn_implementation="eager"),
    "llama, yarn": lambda: LlamaConfig(**SIZES, rope_parameters=YARN),
    "llama, llama3": lambda: LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama, dynamic": lambda: LlamaConfig(**SIZES | {"max_position_embeddings": 64}, rope_parameters=DYNAMIC),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=21),
    "mistral, eager": lambda: MistralConfig(**SIZES, sliding_window=21, attn_implementation="eager"),
    "mistral, no window": lambda: MistralConfig(**SIZES, sliding_window=None),
    "mistral, wide heads": lambda: MistralConfig(**SIZES, sliding_window=32, head_dim=24),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen2, some layers with a window": lambda: Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=21, layer_types=MIXED
    ),
    "qwen2, windows from a layer on": lambda: Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=33, max_window_layers=1
    ),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=16),
    "qwen3, window and biases": lambda: Qwen3Config(
        **SIZES, head_dim=8, attention_bias=True, use_sliding_window=True, sliding_window=21, layer_types=MIXED
    ),
    "smollm3": lambda: SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1]),
    "smollm3, windows": lambda: SmolLM3Config(
        **SIZES, no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=21, layer_types=MIXED
    ),
    "granite": lambda: GraniteConfig(
        **SIZES, attention_multiplier=0.2, residual_multiplier=0.3, embedding_multiplier=2.0, attention_bias=True
    ),
    "gemma": lambda: GemmaConfig(**SIZES, head_dim=16),
}
WINDOWS = {name for name in SHAPES if "window" in name or (name.startswith("mistral"))} - {"mistral, no window"}


def made(name, dtype=torch.float32):
    """A model whose weights are large enough that every part matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(SHAPES[name](), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype).eval()


def some_ids(sequences=2, length=90, seed=1):
    return torch.randint(1, VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(seed))


def seen(model, ids, only=None, context=None, **inputs):
    """What every module gets and puts out, by name: the tensors themselves, not copies, as a hook might keep them."""
    found, handles = {}, []

    def keep(name):
        def hook(module, arguments, named, output):
            given = next((value for value in (*arguments, *named.values()) if isinstance(value, torch.Tensor)), None)
            if given is not None and given.is_floating_point():
                found[f"{name} in"] = given
            found[f"{name} out"] = output[0] if isinstance(output, tuple) else output

        return hook

    for name, module in model.base_model.named_modules():
        if name and not isinstance(module, nn.ModuleList) and "rotary" not in name and (only is None or only(name)):
            handles.append(module.register_forward_hook(keep(name), with_kwargs=True))
    try:
        with torch.inference_mode(), context or nullcontext():
            found["hidden"] = model.base_model(ids, use_cache=False, **inputs).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    return found


def assert_equal(found, expected, bound=1e-5, rows=None):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if rows is None:
            assert difference(found[name], values) <= bound, name
        elif values.shape[:2] == rows.shape:
            assert difference(found[name][rows], values[rows]) <= bound, name


def calls_of_attention(monkeypatch):
    """The calls of the blocked attention, to know that it was really used."""
    calls, attend = [], gated.BlockedAttention.__call__

    def counting(self, *arguments):
        calls.append(1)
        return attend(self, *arguments)

    monkeypatch.setattr(gated.BlockedAttention, "__call__", counting)
    return calls


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("length", [1, 31, 33, 90])
def test_every_place_that_a_hook_can_see(name, length, monkeypatch):
    calls = calls_of_attention(monkeypatch)
    model, ids = made(name), some_ids(2, length)
    expected = seen(model, ids)
    assert len(expected) > 30 * 2
    assert not calls
    found = seen(model, ids, context=fast_forward(model))
    assert len(calls) == 2 * 3
    assert_equal(found, expected)


@pytest.mark.parametrize("name", SHAPES)
def test_without_hooks_the_hidden_states_are_the_same(name):
    """Then sums and products are written over outputs that nobody has seen."""
    model, ids = made(name), some_ids()
    expected = seen(model, ids, only=lambda name: False)
    assert_equal(seen(model, ids, only=lambda name: False, context=fast_forward(model)), expected)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "gemma"])
def test_every_site(name):
    """Each alone, so that the others' outputs may be written over."""
    model, ids = made(name), some_ids()
    sites = sites_of(model)
    assert {"MLP", "UP", "ACT", "NEURON", "PROJ", "RESID_PRE", "RESID_MID", "RESID_POST", "Z", "ATTN_OUT"} < set(sites)
    for site in sites:
        expected = neurexp.capture(model, ids, site)
        with fast_forward(model):
            assert_equal(neurexp.capture(model, ids, site), expected)


PARTS = ["gate_proj", "up_proj", "act_fn", "down_proj", "mlp", "o_proj", "q_proj", "k_proj", "v_proj", "self_attn"]
PARTS += ["input_layernorm", "post_attention_layernorm", "layers.1"]


@pytest.mark.parametrize("name", ["llama", "llama, gelu", "granite"])
@pytest.mark.parametrize("part", PARTS)
def test_what_one_hook_keeps_is_never_written_over(name, part):
    """A hook on this part alone, which keeps the tensors that it saw until the forward is over."""
    model, ids = made(name), some_ids()
    expected = seen(model, ids, only=lambda module: module.endswith(part))
    assert len(expected) >= 3
    assert_equal(seen(model, ids, only=lambda module: module.endswith(part), context=fast_forward(model)), expected)


def test_a_hook_that_replaces_an_output_or_an_input_is_obeyed():
    model, ids = made("llama"), some_ids()
    layer = model.model.layers[1]
    kept = torch.randn(2, 90, 80)
    handles = [
        layer.mlp.up_proj.register_forward_hook(lambda module, arguments, output: kept),
        layer.mlp.act_fn.register_forward_hook(lambda module, arguments, output: output * 2),
        layer.self_attn.o_proj.register_forward_pre_hook(lambda module, arguments: (arguments[0] * 3,)),
        layer.mlp.down_proj.register_forward_pre_hook(lambda module, arguments: (arguments[0] + 1,)),
        layer.post_attention_layernorm.register_forward_hook(lambda module, arguments, output: output - 1),
    ]
    before = kept.clone()
    expected = seen(model, ids, only=lambda name: False)
    found = seen(model, ids, only=lambda name: False, context=fast_forward(model))
    for handle in handles:
        handle.remove()
    assert difference(seen(model, ids, only=lambda name: False)["hidden"], expected["hidden"]) > 0.01
    assert_equal(found, expected)
    assert torch.equal(kept, before)


def test_a_hook_on_all_modules_keeps_what_it_saw():
    model, ids = made("llama"), some_ids()
    results = []
    for context in (nullcontext(), fast_forward(model)):
        kept = []
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, arguments, output, kept=kept: (
                kept.append(output) if isinstance(module, nn.Linear | LlamaMLP) else None
            )
        )
        try:
            with torch.inference_mode(), context:
                model.base_model(ids, use_cache=False)
        finally:
            handle.remove()
        results.append(kept)
    assert len(results[0]) == len(results[1]) == 3 * 8
    assert all(difference(found, expected) <= 1e-5 for expected, found in zip(*results, strict=True))


@pytest.mark.parametrize("name", SHAPES)
def test_bfloat16_stays_within_the_stated_bound(name):
    model, ids, bound = made(name, torch.bfloat16), some_ids(), AGREEMENT[torch.bfloat16]
    found = seen(model, ids, context=fast_forward(model))
    # Later blocks see other inputs by then, whose rounding adds up in both; each is held against float32 by its norm
    expected = seen(model, ids)
    first = {key for key in expected if key.startswith(("layers.0", "embed"))}
    assert_equal({key: found[key].float() for key in first}, {key: expected[key].float() for key in first}, bound)
    assert fast.difference_from_eager(model) <= bound


@pytest.mark.parametrize("name", SHAPES)
def test_the_difference_is_of_rounding(name):
    model = made(name)
    assert 0 <= fast.difference_from_eager(model) <= 1e-5
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", sorted(WINDOWS))
def test_a_window_that_is_forgotten_is_seen(name, monkeypatch):
    monkeypatch.setattr(gated, "_window", lambda module, family: 0)
    kinds = gated.kinds
    monkeypatch.setattr(
        gated, "kinds", lambda model: [(block, index, 21) for index, (block, *_) in enumerate(kinds(model))]
    )
    assert fast.difference_from_eager(made(name)) > 1e-3


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2, some layers with a window", "smollm3"])
def test_left_padded_batches(name, monkeypatch):
    """They come with a mask: transformers' own attention takes it."""
    calls = calls_of_attention(monkeypatch)
    model, ids = made(name), some_ids(3)
    valid = torch.ones(3, 90, dtype=torch.bool)
    valid[0, :40] = valid[1, :1] = False
    inputs = {"attention_mask": valid.long(), "position_ids": (valid.cumsum(1) - 1).clamp(min=0)}
    found = seen(model, ids, context=fast_forward(model), **inputs)
    assert not calls
    assert_equal(found, seen(model, ids, **inputs), rows=valid)
    with fast_forward(model):
        alone = neurexp.capture(model, ids[0, 40:], "PROJ") if name != "smollm3" else None
    if alone is not None:
        assert difference(found["layers.1.mlp.down_proj out"][0, 40:], alone["PROJ_1"][0]) <= 1e-5


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2, some layers with a window"])
def test_right_padded_batches(name, monkeypatch):
    calls = calls_of_attention(monkeypatch)
    model, ids, valid = made(name), some_ids(3), torch.ones(3, 90, dtype=torch.bool)
    valid[0, 50:] = valid[1, 1:] = False
    expected = neurexp.capture(model, ids, "PROJ", valid=valid)
    with fast_forward(model):
        found = neurexp.capture(model, ids, "PROJ", valid=valid)
    assert calls
    assert all(difference(found[key][valid], values[valid]) <= 1e-5 for key, values in expected.items())


def test_a_cache_goes_through_transformers_own_attention():
    model, ids = made("mistral"), some_ids(1, 40)
    with torch.inference_mode():
        expected = model(ids).logits
        with fast_forward(model):
            first = model(ids[:, :30], use_cache=True)
            rest = model(ids[:, 30:], past_key_values=first.past_key_values, use_cache=True)
            assert difference(model(ids).logits, expected) <= 1e-5
    assert difference(torch.cat([first.logits, rest.logits], 1), expected) <= 1e-5


def test_packed_positions_and_wanted_attentions_go_through_transformers_own(monkeypatch):
    calls = calls_of_attention(monkeypatch)
    model, ids = made("llama, eager"), some_ids(1, 40)
    positions = torch.cat([torch.arange(15), torch.arange(25)])[None]
    with torch.inference_mode():
        expected = [model(ids, position_ids=positions).logits, model(ids, output_attentions=True).attentions[1]]
        with fast_forward(model):
            found = [model(ids, position_ids=positions).logits, model(ids, output_attentions=True).attentions[1]]
    assert not calls
    assert all(difference(one, other) <= 1e-5 for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "granite", "gemma"])
def test_gradients_are_transformers_own(name, monkeypatch):
    calls = calls_of_attention(monkeypatch)
    model, ids = made(name), some_ids(2, 40)

    def gradients():
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    expected = gradients()
    with fast_forward(model):
        assert difference(gradients(), expected) <= 1e-6
    assert not calls


def forwards(model):
    return {name: module.__dict__["forward"] for name, module in model.named_modules() if "forward" in module.__dict__}


@pytest.mark.parametrize("name", ["llama", "qwen3", "granite"])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_everything_is_restored(name, error):
    model, ids = made(name), some_ids()
    expected = seen(model, ids)
    dictionaries = {name: dict(module.__dict__) for name, module in model.named_modules()}

    def fail(module, arguments, output):
        raise error

    handle = model.model.layers[1].mlp.up_proj.register_forward_hook(fail) if error else None
    with pytest.raises(error) if error else nullcontext(), fast_forward(model), torch.inference_mode():
        assert len(forwards(model)) > 30
        model(ids)
    if handle:
        handle.remove()
    assert not forwards(model)
    assert {name: dict(module.__dict__) for name, module in model.named_modules()} == dictionaries
    found = seen(model, ids)
    assert all(torch.equal(found[key], values) for key, values in expected.items())


def test_one_context_inside_another():
    model, ids = made("mistral"), some_ids()
    expected = seen(model, ids)
    with fast_forward(model):
        outer = forwards(model)
        with fast_forward(model):
            assert_equal(seen(model, ids), expected)
        assert forwards(model) == outer
        assert_equal(seen(model, ids), expected)
    assert not forwards(model)


@pytest.mark.parametrize("part", ["self_attn", "mlp", "input_layernorm", "mlp.gate_proj", "mlp.act_fn", ""])
def test_a_forward_of_the_callers_own_is_left_alone(part):
    model, ids = made("llama"), some_ids()
    module, calls = model.model.layers[1].get_submodule(part), []
    plain = module.forward

    def own(*arguments, **named):
        calls.append(1)
        output = plain(*arguments, **named)
        return (output[0] * 1.5, *output[1:]) if isinstance(output, tuple) else output * 1.5

    module.forward = own
    expected = seen(model, ids, only=lambda name: False)
    found = seen(model, ids, only=lambda name: False, context=fast_forward(model))
    assert calls == [1, 1]
    assert_equal(found, expected)
    assert forwards(model.model.layers[1]) == {part: own}
    module.__dict__.pop("forward")
    assert difference(seen(model, ids, only=lambda name: False)["hidden"], expected["hidden"]) > 1e-3


@pytest.mark.parametrize("part", ["mlp.up_proj", "mlp", "mlp.down_proj", "self_attn.o_proj"])
def test_a_tensor_that_the_callers_own_forward_keeps_is_never_written_over(part):
    model, ids = made("llama"), some_ids()
    module = model.model.layers[1].get_submodule(part)
    kept = torch.randn(2, 90, 80 if part == "mlp.up_proj" else 48)
    before = kept.clone()
    module.forward = lambda x: kept
    expected = seen(model, ids, only=lambda name: False)
    assert_equal(seen(model, ids, only=lambda name: False, context=fast_forward(model)), expected)
    assert torch.equal(kept, before)


def test_a_class_of_the_callers_own_is_left_alone():
    class Attention(LlamaAttention):
        def forward(self, *arguments, **named):
            output, weights = super().forward(*arguments, **named)
            return output * 1.5, weights

    model, ids = made("llama"), some_ids()
    model.model.layers[1].self_attn.__class__ = Attention
    expected = seen(model, ids)
    assert_equal(seen(model, ids, context=fast_forward(model)), expected)
    assert fast.difference_from_eager(model) is None


def test_a_class_that_another_library_has_changed_is_left_alone(monkeypatch):
    original = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: original(self, x) * 1.5)
    model, ids = made("llama"), some_ids()
    assert_equal(seen(model, ids, context=fast_forward(model)), seen(model, ids))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_other_families_are_not_touched(family):
    model = build(family)
    with fast_forward(model):
        assert not forwards(model)
    assert fast.difference_from_eager(model) is None


def test_threads_that_run_one_model_at_once():
    """Sequences of other lengths in each, so that memory that they shared would be seen."""
    model = made("mistral")
    lengths = [90, 64, 33, 7]
    with fast_forward(model):
        expected = [seen(model, some_ids(2, length, seed=length), only=lambda name: False) for length in lengths]
        found, failures = [[] for _ in lengths], []

        def work(index):
            try:
                with torch.inference_mode():
                    for _ in range(20):
                        ids = some_ids(2, lengths[index], seed=lengths[index])
                        found[index].append(model.base_model(ids, use_cache=False).last_hidden_state)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(lengths))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    for one, values in zip(found, expected, strict=True):
        assert len(one) == 20
        assert all(torch.equal(hidden, values["hidden"]) for hidden in one)


def test_a_plain_forward_in_one_thread_does_not_unmask_another():
    """One thread always gives a mask; the other never does."""
    model, ids = made("llama"), some_ids(2, 60)
    valid = torch.ones(2, 60, dtype=torch.long)
    valid[:, :20] = 0
    inputs = {"attention_mask": valid}
    with fast_forward(model):
        expected = [seen(model, ids, only=lambda name: False, **some)["hidden"] for some in ({}, inputs)]
        found = [[], []]

        def work(index, some):
            with torch.inference_mode():
                for _ in range(30):
                    found[index].append(model.base_model(ids, use_cache=False, **some).last_hidden_state)

        threads = [threading.Thread(target=work, args=(index, some)) for index, some in enumerate(({}, inputs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert difference(expected[0], expected[1]) > 1e-3
    assert all(torch.equal(one, values) for some, values in zip(found, expected, strict=True) for one in some)
    assert all(len(some) == 30 for some in found)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("site", ["MLP", "UP", "ACT", "PROJ"])
def test_one_lane_and_two_give_the_same_bits(name, site):
    model, ids = made(name), some_ids(8, 70)
    states, threads = [], torch.get_num_threads()

    def covariates(ids, positions, sequences):
        return {"design": torch.stack([torch.ones(len(ids)), ids.float()], 1)}

    try:
        with fast_forward(model):
            sites = find_sites(model, site)
            for lanes in (1, 2):
                torch.set_num_threads(lanes)  # a lane has one thread in both
                gram = Gram(2, len(sites), slice(2), slice(2))
                run_pass(model, sites, ids, None, [gram], covariates, batch_size=2, lanes=lanes)
                states.append(gram.state())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert states[0]["zx"].abs().sum() > 0


def test_it_is_used_by_a_loaded_model(tmp_path):
    model = made("llama")
    model.save_pretrained(tmp_path)
    assert isinstance(model, LlamaForCausalLM)
    loaded = neurexp.load_model(str(tmp_path), tokenizer="mini", device="cpu", fast=True)
    assert loaded.fast
    assert not forwards(loaded.network)
    assert loaded.layers == LAYERS
