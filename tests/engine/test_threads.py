"""Several threads at once: each gets what it would get alone, and a forward that is not ours is left alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import LAYERS, build, token_ids

import neurexp
from neurexp.engine.hooks import hooked
from neurexp.models.sites import find_sites


def same(found: dict[str, torch.Tensor], alone: dict[str, torch.Tensor]) -> bool:
    return found.keys() == alone.keys() and all(torch.equal(found[key], alone[key]) for key in alone)


def in_a_thread(function):
    """The result of the function, or what it raised, from a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(timeout=60)


def test_captures_of_one_model_and_of_another_with_their_own_sites_layers_and_texts():
    models = [build("gpt_neo"), build("llama")]
    asked = [
        (models[index % 2], token_ids(3, 4 + index), {"site": site, "layers": layers, "batch_size": 1 + index % 2})
        for index, (site, layers) in enumerate(
            [("MLP", "all"), ("MLP", "all"), ("ACT", [0, 2]), ("NEURON", 1), ("MLP", [1]), ("RESID_PRE", "all")] * 4
        )
    ]
    alone = [neurexp.capture(model, ids, **options) for model, ids, options in asked]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: neurexp.capture(one[0], one[1], **one[2]), asked))
    assert all(map(same, found, alone))
    assert not any(module._forward_hooks for model in models for module in model.modules())


def test_a_forward_while_another_thread_registers_hooks():
    """PyTorch registers a hook in two steps. Between them it calls the hook without the named arguments."""
    model = build("gpt2")
    with torch.no_grad():
        whole = model(token_ids(2, 9)).logits
        edits = [neurexp.Edit(site, 1, [2]) for site in ("NEURON", "RESID_MID", "RESID_PRE")]
        heard = []
        with (
            hooked(model, find_sites(model, ["NEURON", "RESID_PRE"]), lambda index, values: heard.append(index)),
            neurexp.edited(model, edits),
        ):
            for module in model.modules():
                module._forward_pre_hooks_with_kwargs.clear()
            assert torch.equal(in_a_thread(lambda: model(token_ids(2, 9)).logits), whole)
        assert heard == []
        with neurexp.edited(model, edits[1:2]):
            module = model.transformer.h[1].ln_2
            hooks = dict(module._forward_pre_hooks)
            module._forward_pre_hooks.clear()  # as of a forward that was behind it already
            assert torch.equal(model(token_ids(2, 9)).logits, whole)
            module._forward_pre_hooks.update(hooks)


def test_the_callers_own_forward_is_neither_heard_nor_stopped():
    """In another thread while the hooks are on, and in the same thread between two forwards of ours."""
    model, heard = build("gpt_neo"), []
    with torch.no_grad():
        whole = model(token_ids(2, 9)).logits

    def own():
        with torch.no_grad():
            return model(token_ids(2, 9)).logits

    with (
        hooked(model, find_sites(model, "MLP", [0]), lambda index, values: heard.append(index)) as forward,
        torch.no_grad(),
    ):
        assert torch.equal(in_a_thread(own), whole)
        forward(input_ids=token_ids(1, 5))
        assert torch.equal(own(), whole)
    assert heard == [0]


def test_a_forward_in_the_middle_of_another_threads_forward():
    """Each is heard by its own context only, though one begins and ends while the other is between two sites."""
    model, heard = build("gpt_neo"), {"outer": [], "inner": []}
    sites = find_sites(model, "MLP")

    def inner():
        with (
            torch.no_grad(),
            hooked(model, sites[:2], lambda index, values: heard["inner"].append((index, len(values)))) as forward,
        ):
            forward(input_ids=token_ids(3, 5))

    def outer(index, values):
        heard["outer"].append((index, len(values)))
        if index == 1:
            in_a_thread(inner)

    with torch.no_grad(), hooked(model, sites, outer) as forward:
        forward(input_ids=token_ids(1, 5))
    assert heard == {"outer": [(index, 1) for index in range(LAYERS)], "inner": [(0, 3), (1, 3)]}


def test_captures_and_the_callers_own_forwards_at_once():
    model, ids = build("gpt2"), token_ids(2, 12)
    alone = neurexp.capture(model, ids)
    with torch.no_grad():
        whole = model(ids).logits
    start = threading.Barrier(6)

    def own():
        start.wait()
        with torch.no_grad():
            return all(torch.equal(model(ids).logits, whole) for _ in range(30))

    def capture():
        start.wait()
        return all(same(neurexp.capture(model, ids), alone) for _ in range(30))

    with ThreadPoolExecutor(6) as pool:
        assert all(future.result() for future in [pool.submit(work) for work in (own, capture) * 3])


@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_models_loaded_in_several_threads_are_those_loaded_one_after_the_other(weights):
    def load(seed_and_dtype):
        seed, dtype = seed_and_dtype
        return neurexp.load_model("mini", weights=weights, seed=seed, dtype=dtype, device="cpu").weights_hash

    asked = list(enumerate(("float32", "bfloat16") * 2))
    alone = [load(one) for one in asked]
    assert len(set(alone)) == (4 if weights == "random" else 2)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, asked)) == alone
    assert torch.get_default_dtype() == torch.float32
