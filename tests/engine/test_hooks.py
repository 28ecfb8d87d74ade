"""Hooks: scoped to a context, exception-safe, harmless to the model and to the user's own; the forward stops early."""

import pytest
import torch
from tiny import LAYERS, build, token_ids

from neurexp.engine.hooks import hooked
from neurexp.errors import UserError
from neurexp.models.sites import find_sites


class StopTestError(Exception):
    """Raised by a test inside a forward."""


@pytest.fixture
def model():
    return build("gpt_neo")


def hooks_on(model):
    """Every forward hook of every module, by the module's name."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {(name, kind): list(getattr(module, kind)) for name, module in model.named_modules() for kind in kinds}


def count_calls(modules):
    """Hooks each module with a counter. Returns the counts and the handles."""
    counts = [0] * len(modules)

    def counter(index):
        def hook(module, arguments, output):
            counts[index] += 1

        return hook

    return counts, [module.register_forward_hook(counter(index)) for index, module in enumerate(modules)]


def forget(index, activations):
    pass


def test_hooks_are_there_inside_and_gone_outside(model):
    before, sites = hooks_on(model), find_sites(model, "MLP")
    with hooked(model, sites, forget) as forward:
        assert all(len(site.module._forward_hooks) == 1 for site in sites)
        forward(input_ids=token_ids(2, 8))
    assert hooks_on(model) == before


def test_hooks_are_gone_after_an_exception_inside_the_forward(model):
    before = hooks_on(model)
    with pytest.raises(IndexError), hooked(model, find_sites(model, "MLP"), forget) as forward:
        forward(input_ids=torch.tensor([[10**6]]))
    assert hooks_on(model) == before


def test_hooks_are_gone_after_an_exception_between_two_sites(model):
    def fail(module, arguments, output):
        raise StopTestError

    heard = []
    handle = model.base_model.h[1].ln_2.register_forward_hook(fail)
    before = hooks_on(model)
    with (
        pytest.raises(StopTestError),
        hooked(model, find_sites(model, "MLP"), lambda index, _: heard.append(index)) as forward,
    ):
        forward(input_ids=token_ids(1, 8))
    assert heard == [0]
    assert hooks_on(model) == before
    handle.remove()


@pytest.mark.parametrize("error", [StopTestError, KeyboardInterrupt])
def test_hooks_are_gone_after_an_exception_in_the_receiver(model, error):
    def receive(index, activations):
        raise error

    before = hooks_on(model)
    with pytest.raises(error), hooked(model, find_sites(model, "MLP"), receive) as forward:
        forward(input_ids=token_ids(1, 8))
    assert hooks_on(model) == before


def test_hooks_are_gone_when_a_later_one_cannot_be_registered(model, monkeypatch):
    def refuse(*_, **__):
        raise StopTestError

    before, sites = hooks_on(model), find_sites(model, "MLP")
    monkeypatch.setattr(sites[-1].module, "register_forward_hook", refuse)
    with pytest.raises(StopTestError), hooked(model, sites, forget):
        pass
    assert hooks_on(model) == before


def test_a_forward_after_a_failed_one_is_whole(model):
    heard = []
    with hooked(model, find_sites(model, "MLP"), lambda index, _: heard.append(index)) as forward:
        with pytest.raises(IndexError):
            forward(input_ids=torch.tensor([[10**6]]))
        forward(input_ids=token_ids(1, 8))
    assert heard == list(range(LAYERS))


def test_the_users_own_hooks_survive_and_fire_inside_and_outside(model):
    sites = find_sites(model, "MLP")
    counts, handles = count_calls([site.module for site in sites])
    with hooked(model, sites, forget) as forward:
        forward(input_ids=token_ids(1, 8))
        assert counts == [1] * LAYERS
    model(token_ids(1, 8))
    assert counts == [2] * LAYERS
    assert [handle.id in site.module._forward_hooks for handle, site in zip(handles, sites, strict=True)] == [True] * 3


def test_a_hook_that_the_user_registers_inside_the_context_stays(model):
    sites = find_sites(model, "MLP")
    with hooked(model, sites, forget):
        counts, _ = count_calls([sites[1].module])
    model(token_ids(1, 8))
    assert counts == [1]


@pytest.mark.parametrize("last", range(LAYERS))
def test_the_forward_stops_after_the_last_site(model, last):
    body = model.base_model
    beyond = [body.h[last].mlp.act, body.h[last].mlp.c_proj, *body.h[last + 1 :], body.ln_f, model.lm_head]
    within = [*body.h[:last], body.h[last].attn, body.h[last].mlp.c_fc]
    past, _ = count_calls(beyond)
    reached, _ = count_calls(within)
    with hooked(model, find_sites(model, "MLP", [0, last] if last else [0]), forget) as forward:
        forward(input_ids=token_ids(2, 8))
    assert past == [0] * len(beyond)
    assert reached == [1] * len(within)


def test_the_forward_goes_on_while_a_site_has_not_spoken(model):
    heard = []
    sites = [*find_sites(model, "PROJ", [1]), *find_sites(model, "MLP", [2]), *find_sites(model, "MLP", [0])]
    with hooked(model, sites, lambda index, _: heard.append(index)) as forward:
        forward(input_ids=token_ids(1, 8))
    assert heard == [2, 0, 1]


def test_two_parts_of_one_module_both_speak():
    model, heard = build("gpt2"), {}
    sites = [*find_sites(model, "K", [1]), *find_sites(model, "V", [1])]
    with hooked(model, sites, heard.__setitem__) as forward:
        forward(input_ids=token_ids(1, 8))
    assert {index: tuple(values.shape) for index, values in heard.items()} == {0: (1, 8, 16), 1: (1, 8, 16)}
    assert not torch.equal(heard[0], heard[1])


@pytest.mark.parametrize("family", ["gpt_neo", "gpt2", "llama"])
def test_the_model_is_unmodified(family):
    model, ids = build(family), token_ids(2, 12)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    configuration, training = model.config.to_dict(), model.training
    with torch.no_grad():
        before = model(ids).logits
        with hooked(model, find_sites(model, "MLP"), forget) as forward:
            forward(input_ids=ids, use_cache=False)
        after = model(ids).logits
    assert torch.equal(before, after)
    assert list(model.state_dict()) == list(tensors)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == configuration
    assert model.training == training


def test_a_model_that_collects_its_hidden_states_still_does_after_a_forward_that_was_stopped(model):
    ids = token_ids(1, 8)
    model.config.output_hidden_states = True
    with torch.no_grad():
        before = model(ids).hidden_states
        with hooked(model, find_sites(model, "MLP", [0]), forget) as forward:
            forward(input_ids=ids)
        after = model(ids).hidden_states
    assert len(before) == len(after) == LAYERS + 1
    assert all(torch.equal(first, second) for first, second in zip(before, after, strict=True))


def test_a_site_that_is_never_reached_is_an_error_that_names_it(model):
    other, before = build("gpt_neo"), hooks_on(model)
    sites = [*find_sites(model, "MLP", [0]), *find_sites(other, "MLP", [2])]
    missing = r"experiment.site=MLP: the forward does not call mlp.c_fc of layer 2"
    with pytest.raises(UserError, match=missing), hooked(model, sites, forget) as forward:
        forward(input_ids=token_ids(1, 8))
    assert hooks_on(model) == before


def test_a_context_that_is_never_entered_leaks_nothing(model):
    before = hooks_on(model)
    context = hooked(model, find_sites(model, "MLP"), forget)
    assert hooks_on(model) == before
    del context
    assert hooks_on(model) == before


def test_a_context_without_a_forward_leaks_nothing(model):
    before = hooks_on(model)
    with hooked(model, find_sites(model, "MLP"), forget):
        pass
    assert hooks_on(model) == before


def test_the_same_model_twice_in_a_row_gives_the_same(model):
    def listen():
        heard = {}
        with hooked(model, find_sites(model, "MLP"), heard.__setitem__) as forward, torch.no_grad():
            forward(input_ids=token_ids(2, 12))
        return heard

    first, second = listen(), listen()
    assert list(first) == list(second) == list(range(LAYERS))
    assert all(torch.equal(first[index], second[index]) for index in first)


def test_every_forward_of_one_context_is_heard(model):
    heard = []
    with hooked(model, find_sites(model, "MLP"), lambda index, values: heard.append((index, len(values)))) as forward:
        forward(input_ids=token_ids(1, 8))
        forward(input_ids=token_ids(2, 8))
    assert heard == [(index, sequences) for sequences in (1, 2) for index in range(LAYERS)]
