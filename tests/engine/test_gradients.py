"""The gradient pass against torch's own autograd over the whole model with everything kept, in float64."""

import gc
import threading

import numpy as np
import pytest
import torch
from conftest import sampled
from tiny import CONFIGS, EXPANSION, LAYERS, VOCABULARY, build, difference, token_ids
from torch.nn.functional import cross_entropy

from neurexp.engine.gradients import run_gradient_pass
from neurexp.engine.reducers.attribution import Attribution
from neurexp.engine.reducers.base import NotFiniteError, Reducer
from neurexp.engine.reducers.gram import Gram
from neurexp.engine.reducers.keep import Keep
from neurexp.errors import UserError
from neurexp.models.fast import fast_forward
from neurexp.models.head import Head
from neurexp.models.sites import find_sites, sites_of

FUSED = {"gpt2": "QKV", "gpt_neox": "QKV", "falcon": "KV", "phi3": "Q"}


class KeepBoth(Reducer):
    """Keeps activations and gradients of each site, batch after batch."""

    def __init__(self):
        self.activations, self.gradients = {}, {}

    def update(self, site, activations, batch):
        raise AssertionError("a gradient pass gives gradients")

    def update_with_gradient(self, site, activations, gradients, batch):
        assert not activations.requires_grad and not gradients.requires_grad
        self.activations.setdefault(site, []).append(activations.clone())
        self.gradients.setdefault(site, []).append(gradients.clone())

    def of(self, site):
        return torch.cat(self.activations[site]), torch.cat(self.gradients[site])


def summed_loss(network, ids, valid, logits=None):
    """Σ −log p over all tokens that are valid and whose next is, from the whole model's logits."""
    logits = network(ids, use_cache=False).logits if logits is None else logits
    losses = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * (valid[:, :-1] & valid[:, 1:]).flatten()).sum()


def by_autograd(network, sites, ids, valid):
    """Activations and gradients `[tokens, neurons]` of each site by one forward of everything, and `retain_grad`."""
    kept, handles = {}, []
    for index, site in enumerate(sites):

        def keep(values, index=index):
            values = values[0] if isinstance(values, tuple) else values
            values.retain_grad()
            kept[index] = values, values.detach().clone()  # Falcon adds in place

        if site.address.side == "output":
            hook = site.module.register_forward_hook(lambda module, given, output, keep=keep: keep(output))
        else:
            hook = site.module.register_forward_pre_hook(
                lambda module, given, named, keep=keep: keep(given or next(iter(named.values()))), with_kwargs=True
            )
        handles.append(hook)
    try:
        summed_loss(network, ids, valid).backward()
    finally:
        for handle in handles:
            handle.remove()
        network.zero_grad()
    found = []
    for index, site in enumerate(sites):
        both = (site.read(kept[index][1]), site.read(kept[index][0].grad))
        found.append([values.flatten(0, -2)[valid.flatten()] for values in both])
    return found


def padded(sequences=4, length=12, last=7):
    ids, valid = token_ids(sequences, length), torch.ones(sequences, length, dtype=torch.bool)
    ids[-1, last:], valid[-1, last:] = 0, False
    return ids, valid


def compare(network, sites, ids, valid, batch_size=2):
    both = KeepBoth()
    run_gradient_pass(network, sites, ids, valid, [both], batch_size=batch_size)
    for index, expected in enumerate(by_autograd(network, sites, ids, valid)):
        for found, reference in zip(both.of(index), expected, strict=True):
            assert float(reference.abs().max()) > 0
            # transformers computes GPT-Neo's attention in float32, whose rounding depends on the batch size
            most = 1e-7 if network.config.model_type == "gpt_neo" else 1e-10
            assert difference(found, reference) <= most


@pytest.mark.parametrize(
    "family", sampled([pytest.param(name, id=name) for name in ["gpt_neo", "opt", "llama", "gemma2", *CONFIGS]], 9)
)
def test_every_site_of_every_family(family):
    """Also the residual stream, attention and parts of fused projections; of mixtures of experts what they have."""
    network, (ids, valid) = build(family).double(), padded()
    network.set_experts_implementation("eager")  # others have no float64
    compare(network, find_sites(network, list(sites_of(network))), ids, valid)


@pytest.mark.parametrize(("family", "names"), [("gpt_neo", ["NEURON", "MLP"]), ("opt", ["NEURON", "ACT", "RESID_PRE"])])
def test_neurons_and_the_stream(family, names):
    network, (ids, valid) = build(family).double(), padded()
    compare(network, find_sites(network, names), ids, valid, batch_size=3)


@pytest.mark.parametrize("family", FUSED)
def test_parts_of_fused_projections_have_gradients_of_their_own(family):
    network, (ids, valid) = build(family).double(), padded()
    compare(network, find_sites(network, list(FUSED[family])), ids, valid)


def attribute(network, ids, valid, names=("NEURON",), **options):
    sites = find_sites(network, list(names))
    attribution = Attribution(len(sites))
    run_gradient_pass(network, sites, ids, valid, [attribution], **options)
    return attribution


def test_sums_and_estimate_against_everything_kept():
    network, (ids, valid) = build("llama").double(), padded()
    found = attribute(network, ids, valid)
    predictions = 3 * 11 + 6
    assert (int(found.tokens), int(found.predictions)) == (3 * 12 + 7, predictions)
    replacement = np.random.default_rng(0).normal(size=(LAYERS, EXPANSION))
    for layer, (x, g) in enumerate(by_autograd(network, find_sites(network, "NEURON"), ids, valid)):
        x, g = x.numpy(), g.numpy()
        np.testing.assert_allclose(found.mean[layer], x.mean(0), rtol=1e-10)
        np.testing.assert_allclose(found.mean_magnitude[layer], np.abs(x).mean(0), rtol=1e-10)
        np.testing.assert_allclose(found.estimate()[layer], -(g * x).sum(0) / predictions, rtol=1e-8, atol=1e-14)
        expected = (g * (replacement[layer] - x)).sum(0) / predictions
        estimate = found.estimate(torch.from_numpy(replacement))[layer]
        np.testing.assert_allclose(estimate, expected, rtol=1e-8, atol=1e-14)
        np.testing.assert_allclose(
            found.estimate(0.5)[layer], (g * (0.5 - x)).sum(0) / predictions, rtol=1e-7, atol=1e-13
        )


@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_estimate_is_the_slope_of_the_loss(layer):
    """A neuron is moved by a small share of the way to its replacement at every token: the loss moves by that share."""
    network, (ids, valid) = build("gpt2").double(), padded()  # nothing in it is rounded to float32
    found = attribute(network, ids, valid)
    neuron = int(found.estimate()[layer].abs().argmax())
    down, share, replacement = find_sites(network, "NEURON", [layer])[0].module, 1e-4, 0.3

    def loss(share):
        def change(module, given):
            values = given[0].clone()
            values[..., neuron] += share * (replacement - values[..., neuron])
            return (values,)

        handle = down.register_forward_pre_hook(change)
        try:
            with torch.no_grad():
                return float(summed_loss(network, ids, valid)) / int(found.predictions)
        finally:
            handle.remove()

    slope = (loss(share) - loss(-share)) / (2 * share)
    assert float(found.estimate(replacement)[layer, neuron]) == pytest.approx(slope, rel=1e-6)


def states_differ(one, other):
    return max(difference(getattr(one, name), getattr(other, name)) for name in one.summed)


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_how_the_pass_is_cut_changes_no_result(batch_size, monkeypatch):
    network, (ids, valid) = build("gemma2").double(), padded(5)
    whole = attribute(network, ids, valid, batch_size=2)
    monkeypatch.setattr(
        Head, "pieces", lambda self, count: [slice(at, min(at + 5, count)) for at in range(0, count, 5)]
    )
    assert states_differ(attribute(network, ids, valid, batch_size=batch_size), whole) <= 1e-12


def test_parts_of_the_text_add_up_to_the_whole():
    network, (ids, valid) = build("qwen3").double(), padded(5)
    whole = attribute(network, ids, valid)
    first, second, nothing = (
        attribute(network, ids, valid, part=part) for part in (slice(2), slice(2, 5), slice(5, 5))
    )
    loaded = Attribution(LAYERS)
    loaded.merge(nothing)
    for part in (first, second, nothing):
        other = Attribution(LAYERS)
        other.load(part.state())
        loaded.merge(other)
    assert states_differ(loaded, whole) <= 1e-12


def test_pads_change_nothing():
    network, (ids, valid) = build("llama").double(), padded(2, last=7)
    on_the_left = torch.cat([ids[1:, 7:], ids[1:, :7]], 1), torch.cat([valid[1:, 7:], valid[1:, :7]], 1)
    alone = attribute(network, ids[1:, :7], None)
    assert states_differ(attribute(network, ids[1:], valid[1:]), alone) <= 1e-12
    assert states_differ(attribute(network, *on_the_left), alone) <= 1e-12
    other_ids = torch.where(valid, ids, 5)
    assert states_differ(attribute(network, other_ids, valid), attribute(network, ids, valid)) == 0


def test_one_token_predicts_nothing():
    found = attribute(build("gpt2"), token_ids(2, 1), None)
    assert int(found.predictions) == 0
    assert int(found.tokens) == 2
    assert float(found.magnitude.min()) > 0
    assert float(found.gx.abs().max()) == 0


def test_the_model_is_left_as_it_was():
    network, (ids, valid) = build("gpt_neo"), padded()
    frozen = network.transformer.wte.weight.requires_grad_(False)
    wanted = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    before = {name: set(module.__dict__) for name, module in network.named_modules()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()]
    threads = torch.get_num_threads()

    class Failing(KeepBoth):
        def update_with_gradient(self, *given):
            raise KeyError("in the middle of a backward")

    with pytest.raises(KeyError, match="middle of a backward"):
        run_gradient_pass(network, find_sites(network, "NEURON"), ids, valid, [Failing()])
    with torch.inference_mode():  # whatever the caller is in
        attribute(network, ids, valid)
    assert {name: parameter.requires_grad for name, parameter in network.named_parameters()} == wanted
    assert not frozen.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert {name: set(module.__dict__) for name, module in network.named_modules()} == before
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()] == hooks
    assert not network.training
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("family", ["gpt_neo", "llama", "gemma"])
def test_within_the_fast_forward(family):
    network, (ids, valid) = build(family), padded()
    plain = attribute(network, ids, valid)
    with fast_forward(network):
        assert states_differ(attribute(network, ids, valid), plain) <= 1e-5


def test_bfloat16_is_about_float32():
    network, (ids, valid) = build("llama"), padded()
    plain, half = attribute(network, ids, valid), attribute(network.to(torch.bfloat16), ids, valid)
    assert half.gx.dtype == torch.float64
    assert difference(half.x, plain.x) <= 0.05
    assert np.corrcoef(half.estimate().flatten(), plain.estimate().flatten())[0, 1] > 0.98


def test_other_threads_forwards_are_not_seen():
    """One that runs in the middle of the pass's own forward."""
    network, (ids, valid) = build("gpt2").double(), padded()
    plain = attribute(network, ids, valid)
    others = []

    def beside(*_):
        if not others:
            others.append(threading.Thread(target=lambda: others.append(network(ids).logits)))
            others[0].start()
            others[0].join()

    handle = network.transformer.h[1].register_forward_pre_hook(beside)
    found = attribute(network, ids, valid)
    handle.remove()
    assert len(others) == 2
    assert not others[1].requires_grad
    assert states_differ(found, plain) == 0


def test_a_reducer_without_gradients_sees_the_activations():
    network, (ids, valid) = build("gpt2"), padded()
    keep, both = Keep(LAYERS, *ids.shape, 2**30), KeepBoth()
    run_gradient_pass(network, find_sites(network, "NEURON"), ids, valid, [keep, both], batch_size=3)
    assert torch.equal(keep.kept[1][valid], both.of(1)[0])


@pytest.mark.parametrize("where", ["weights", "head"])
def test_nan_is_an_error_with_its_site_and_sequences(where):
    network, (ids, valid) = build("gpt2", tie_word_embeddings=False), padded(11)
    with torch.no_grad():
        (network.transformer.h[1].mlp.c_fc.weight if where == "weights" else network.lm_head.weight)[0, 0] = torch.nan
    with pytest.raises(NotFiniteError) as caught:
        attribute(network, ids, valid, batch_size=1)
    assert caught.value.sequences == slice(0, 1)
    assert caught.value.site in ((0, 1) if where == "weights" else (0,))


def test_what_cannot_be_done_is_refused():
    network, (ids, valid) = build("gpt2"), padded()
    sites = find_sites(network, "NEURON")
    with pytest.raises(ValueError, match="calibrates no reducer"):
        run_gradient_pass(network, sites, ids, valid, [Gram(1, LAYERS)])
    with pytest.raises(UserError, match="no head"):
        run_gradient_pass(network.transformer, sites, ids, valid, [Attribution(LAYERS)])
    with pytest.raises(TypeError, match="needs gradients"):
        Attribution(1).update(0, torch.zeros(1, 1), None)


def test_nothing_of_a_batch_outlives_it():
    """Tensors that exist when a batch ends, after one batch and after six."""
    network, ids = build("gpt_neo"), token_ids(7, 12)
    counts = []

    class Counting(Attribution):
        def begin(self, batch):
            super().begin(batch)
            gc.collect()
            counts.append(sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()))

    run_gradient_pass(network, find_sites(network, "NEURON"), ids, None, [Counting(LAYERS)], batch_size=1)
    assert len(counts) == 7
    assert len(set(counts[1:])) == 1


def test_logits_are_never_whole(monkeypatch):
    network, (ids, valid) = build("gpt2"), padded()
    sizes, forward = [], network.lm_head.forward
    monkeypatch.setattr(network.lm_head, "forward", lambda x: sizes.append(x.shape[1]) or forward(x))
    monkeypatch.setattr("neurexp.models.head.BUDGET", {"cpu": 16 * 4 * VOCABULARY})
    attribute(network, ids, valid, batch_size=4)
    assert sizes == [16, 16, 7]
