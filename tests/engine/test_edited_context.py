"""Edits live in a context: what is left behind, other hooks, threads, nesting, generation, gradients, no edits."""

import copy
import threading
from contextlib import nullcontext

import pytest
import torch
from test_hooks import StopTestError, hooks_on
from test_threads import in_a_thread, same
from tiny import build, difference, token_ids

import neurexp
from neurexp.engine import hooks as hooks_module
from neurexp.engine.hooks import hooked
from neurexp.models.sites import find_sites

Edit = neurexp.Edit
IDS = token_ids(2, 10)
CHOSEN = [5, 7]
ZERO = Edit("NEURON", 1, CHOSEN)


@pytest.fixture
def model():
    return build("gpt2")


def logits(model, ids=IDS, **named):
    with torch.no_grad():
        return model(ids, **named).logits


def cut(model, layer, columns):
    """A copy of GPT-2 without the output weights of neurons."""
    other = copy.deepcopy(model)
    other.transformer.h[layer].mlp.c_proj.weight.data[columns] = 0.0  # saved as [in, out]
    return other


def raise_an_error(*_, **__):
    raise StopTestError


@pytest.mark.parametrize("where", ["inside the context", "inside the forward", "inside the edit", "nowhere"])
def test_nothing_is_left_behind(model, where):
    weights, plain = copy.deepcopy(model.state_dict()), logits(model)
    handles = [model.transformer.h[2].register_forward_hook(raise_an_error)] if where == "inside the forward" else []
    before = hooks_on(model)
    edits = [ZERO, Edit("RESID_MID", 0, [1], "add", 3.0), Edit("RESID_POST", 2, [1], "mean")]
    edits += [Edit("NEURON", 2, [10**4])] if where == "inside the edit" else []
    failing = nullcontext() if where == "nowhere" else pytest.raises((StopTestError, neurexp.UserError))
    with failing, neurexp.edited(model, edits) as given:
        assert given is model
        assert hooks_on(model) != before
        if where == "inside the context":
            raise StopTestError
        logits(model)
    if where in ("inside the forward", "inside the edit"):
        with pytest.raises((StopTestError, neurexp.UserError)):
            neurexp.capture(model, IDS, "RESID_POST", edits=edits)
    if where == "nowhere":
        neurexp.capture(model, IDS, "RESID_POST", edits=edits)
    assert hooks_on(model) == before
    for handle in handles:
        handle.remove()
    assert torch.equal(logits(model), plain)
    assert all(torch.equal(values, weights[name]) for name, values in model.state_dict().items())


@pytest.mark.parametrize("edit", [ZERO, Edit("RESID_MID", 1, [3], "add", 1.0)], ids=["one hook", "two hooks"])
def test_hooks_are_gone_when_a_later_one_cannot_be_registered(model, monkeypatch, edit):
    before = hooks_on(model)
    monkeypatch.setattr(model.transformer.h[1], "register_forward_hook", raise_an_error)
    with pytest.raises(StopTestError), neurexp.edited(model, [edit, Edit("RESID_POST", 1, [3])]):
        pass
    assert hooks_on(model) == before


def test_the_users_hooks_see_the_module_in_the_order_in_which_they_were_registered_and_stay(model):
    """What a hook has kept is not written into: neither the edited module's output nor what that reads."""
    down, heard = model.transformer.h[1].mlp.c_proj, {}

    def keep(name):
        return lambda module, arguments, output: heard.__setitem__(name, (arguments[0], output))

    def keep_input(name):
        return lambda module, arguments: heard.__setitem__(name, arguments[0])

    handles = [down.register_forward_hook(keep("alone")), down.register_forward_pre_hook(keep_input("input"))]
    logits(model)
    alone = {name: copy.deepcopy(values) for name, values in heard.items()}
    handles.append(down.register_forward_hook(keep("before")))
    edits = [Edit("PROJ", 1, [2, 3], "value", 7.0), Edit("RESID_PRE", 2, [1], "add", 5.0)]
    with neurexp.edited(model, edits):
        handles.append(down.register_forward_hook(keep("after")))
        found = logits(model)
        assert torch.equal(heard["before"][1], alone["alone"][1])
        assert (heard["after"][1][..., [2, 3]] == 7.0).all()
    with neurexp.edited(model, [Edit("NEURON", 1, CHOSEN, "value", 4.0)]):
        logits(model)
        assert torch.equal(heard["input"], alone["input"])
        assert (heard["before"][0][..., CHOSEN] == 4.0).all()
    logits(model)
    assert torch.equal(heard["after"][1], alone["alone"][1])
    assert all(handle.id in {**down._forward_hooks, **down._forward_pre_hooks} for handle in handles)
    for handle in handles:
        handle.remove()
    with neurexp.edited(model, edits):
        assert torch.equal(logits(model), found)


def test_hidden_states_of_transformers_have_an_edit_in_the_middle_of_a_block(model):
    """Also if transformers' own hooks were there first."""
    model(IDS, output_hidden_states=True)
    edit = Edit("RESID_MID", 0, [3], "add", 2.0)
    captured = neurexp.capture(model, IDS, "RESID_POST", 0, edits=[edit])["RESID_POST_0"]
    with neurexp.edited(model, [edit]), torch.no_grad():
        assert difference(model(IDS, output_hidden_states=True).hidden_states[1], captured) <= 1e-6


def test_contexts_in_contexts_add_their_edits_and_take_only_their_own_away(model):
    outer, inner = Edit("NEURON", 0, [3]), Edit("NEURON", 1, CHOSEN)
    both = logits(cut(cut(model, 0, [3]), 1, CHOSEN))
    with neurexp.edited(model, [outer]):
        with neurexp.edited(model, [inner]):
            assert difference(logits(model), both) <= 1e-6
            captured = neurexp.capture(model, IDS, "NEURON", [0, 1])
            assert (captured["NEURON_0"][..., [3]] == 0).all()
            assert (captured["NEURON_1"][..., CHOSEN] == 0).all()
        assert difference(logits(model), logits(cut(model, 0, [3]))) <= 1e-6
    first, second = (Edit("NEURON", 0, [3], kind, 1.0) for kind in ("value", "add"))
    with neurexp.edited(model, [first]), neurexp.edited(model, [second]):
        assert (neurexp.capture(model, IDS, "NEURON", 0)["NEURON_0"][..., 3] == 2.0).all()


def test_edited_acts_in_every_thread_and_capture_on_its_own_forwards_only(model):
    plain, reference = logits(model), logits(cut(model, 1, CHOSEN))
    with neurexp.edited(model, [ZERO]):
        assert difference(in_a_thread(lambda: logits(model)), reference) <= 1e-6
    others = []

    def in_the_middle(module, arguments, output):
        handle.remove()
        others.append(in_a_thread(lambda: logits(model)))

    handle = model.transformer.h[0].register_forward_hook(in_the_middle)
    captured = neurexp.capture(model, IDS, "NEURON", 1, edits=[ZERO])["NEURON_1"]
    assert (captured[..., CHOSEN] == 0).all()
    assert torch.equal(others[0], plain)


def test_captures_with_different_edits_at_once(model):
    texts = [token_ids(3, 6 + index) for index in range(4)]
    kinds = [("zero", None), ("mean", None), ("resample", 5), ("add", 2.0)]
    sites = ["NEURON", "RESID_MID", "V", "RESID_POST"]

    def one(index):
        edits = [Edit(sites[index], 1, CHOSEN, *kinds[index]), Edit("NEURON", 0, [index], "scale", 3.0)]
        return neurexp.capture(model, texts[index], ["NEURON", "RESID_POST"], edits=edits, batch_size=2)

    alone, start, found = [one(index) for index in range(4)], threading.Barrier(4), {}

    def repeatedly(index):
        start.wait()
        found[index] = all(same(one(index), alone[index]) for _ in range(5))

    threads = [threading.Thread(target=repeatedly, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(4), True)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generation_with_a_cache_is_that_without(family):
    model = build(family)
    edits = [Edit("NEURON", 1, CHOSEN, "value", 3.0), Edit("K", 0, [1], "scale", -2.0), Edit("V", 2, [1], "add", 1.0)]
    ids, options = IDS[:1, :4], {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with neurexp.edited(model, edits):
        with_cache = model.generate(ids, max_new_tokens=8, use_cache=True, **options)
        step_by_step = ids
        for _ in range(8):
            following = logits(model, step_by_step, use_cache=False)[:, -1:].argmax(-1)
            step_by_step = torch.cat([step_by_step, following], dim=1)
    assert torch.equal(with_cache, step_by_step)
    assert not torch.equal(with_cache, model.generate(ids, max_new_tokens=8, **options))


def test_with_a_cache_the_mask_of_earlier_tokens_is_left_out(model):
    """A mean of the second forward is over its own valid tokens."""
    mask = torch.ones_like(IDS)
    mask[1, 8:] = 0
    with torch.no_grad():
        past = model(IDS[:, :6], attention_mask=mask[:, :6], use_cache=True).past_key_values
        other, heard = copy.deepcopy(past), []
        handle = model.transformer.h[1].mlp.c_proj.register_forward_pre_hook(
            lambda module, arguments: heard.append(arguments[0][..., CHOSEN])
        )
        model(IDS[:, 6:], attention_mask=mask, past_key_values=past)
        handle.remove()
        mean = heard[0][mask[:, 6:].bool()].mean(0)
        with neurexp.edited(model, [Edit("NEURON", 1, CHOSEN, "value", mean)]):
            reference = model(IDS[:, 6:], attention_mask=mask, past_key_values=copy.deepcopy(other)).logits
        with neurexp.edited(model, [Edit("NEURON", 1, CHOSEN, "mean")]):
            found = model(IDS[:, 6:], attention_mask=mask, past_key_values=other).logits
    valid = mask[:, 6:].bool()
    assert difference(found[valid], reference[valid]) <= 1e-5


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_the_mask_is_found_however_the_forward_is_called(family):
    model, mask = build(family), torch.ones_like(IDS)
    mask[1, 4:] = 0
    bare, found = model.base_model, []
    with neurexp.edited(model, [Edit("NEURON", 1, CHOSEN, "mean")]), torch.no_grad():
        found.append(bare(IDS, attention_mask=mask)[0])
        found.append(bare(input_ids=IDS, attention_mask=mask.float())[0])
        found.append(bare(inputs_embeds=bare.get_input_embeddings()(IDS), attention_mask=mask)[0])
        found.append(bare(IDS, None, mask)[0] if family == "gpt2" else bare(IDS, mask)[0])
        assert difference(bare(IDS)[0], found[0]) > 1e-4  # the pads change the mean
    assert all(difference(other, found[0]) <= 1e-6 for other in found[1:])


def hooked_by_hand(model, function):
    def before(module, arguments):
        new = arguments[0].clone()
        new[..., CHOSEN] = function(arguments[0][..., CHOSEN])
        return (new,)

    return model.transformer.h[1].mlp.c_proj.register_forward_pre_hook(before)


@pytest.mark.parametrize(
    ("kind", "value", "function"),
    [
        ("zero", None, torch.zeros_like),
        ("scale", 2.0, lambda x: 2.0 * x),
        ("mean", None, lambda x: x.flatten(0, 1).mean(0).expand_as(x)),
    ],
)
def test_gradients_are_those_of_a_hook_written_by_hand(model, kind, value, function):
    def gradients():
        model.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    plain = gradients()
    with neurexp.edited(model, [Edit("NEURON", 1, CHOSEN, kind, value)]):
        found = gradients()
    handle = hooked_by_hand(model, function)
    assert difference(found, gradients()) <= 1e-5
    handle.remove()
    assert difference(found, plain) > 1e-4


def test_gradients_reach_a_value_that_is_added(model):
    """A steering vector is learnt through the edit; its gradient is that of the bias which does the same."""
    steering = torch.tensor([0.5, -0.5], requires_grad=True)
    for site in ("RESID_MID", "PROJ"):
        with neurexp.edited(model, [Edit(site, 1, [2, 3], "add", steering)]):
            (found,) = torch.autograd.grad(model(IDS, labels=IDS).loss, steering)
        other = copy.deepcopy(model)
        bias = (other.transformer.h[1].attn if site == "RESID_MID" else other.transformer.h[1].mlp).c_proj.bias
        with torch.no_grad():
            bias[[2, 3]] += steering
        other(IDS, labels=IDS).loss.backward()
        assert difference(found, bias.grad[[2, 3]]) <= 1e-4


def test_gradient_checkpointing_is_refused(model):
    model.activation_checkpointing_enable()
    model.train()
    with neurexp.edited(model, [ZERO]), pytest.raises(neurexp.UserError, match="checkpointing_disable"):
        model(IDS, labels=IDS)
    with neurexp.edited(model, [ZERO]):
        logits(model.eval())


def test_a_loaded_model_is_edited_as_its_network_is():
    model = neurexp.load_model("mini", device="cpu")
    ids = model.tokenizer("The river rose in the night.", return_tensors="pt").input_ids
    with neurexp.edited(model, [ZERO]) as given:
        assert given is model
        found = logits(model.network, ids)
    with neurexp.edited(model.network, [ZERO]), torch.inference_mode():
        assert torch.equal(model.network(ids).logits, found)
    assert not torch.equal(logits(model.network, ids), found)


def test_an_edit_in_a_bare_model_and_the_one_with_a_head_are_the_same(model):
    whole = neurexp.capture(model, IDS, "RESID_POST", edits=[ZERO])
    assert same(neurexp.capture(model.base_model, IDS, "RESID_POST", edits=[ZERO]), whole)


def test_without_edits_no_more_hooks_are_registered_and_nothing_changes(model, monkeypatch):
    heard = []
    handles = [
        block.mlp.c_fc.register_forward_hook(lambda module, arguments, output: heard.append(output))
        for block in model.transformer.h
    ]
    logits(model)
    for handle in handles:
        handle.remove()
    monkeypatch.setattr(hooks_module, "changing", raise_an_error)
    for options in ({}, {"edits": ()}, {"edits": []}):
        captured = neurexp.capture(model, IDS, **options)
        assert all(torch.equal(captured[f"MLP_{layer}"], values) for layer, values in enumerate(heard))
    with hooked(model, find_sites(model, "MLP"), lambda index, values: None):
        assert sum(len(ids) for ids in hooks_on(model).values()) == len(model.transformer.h)
