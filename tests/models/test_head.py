"""The head: logits and losses from hidden states, equal to those of transformers' own whole forward."""

import threading
from contextlib import nullcontext

import pytest
import torch
from conftest import sampled
from test_families import VARIANTS
from tiny import VOCABULARY, build, difference, token_ids
from torch.nn.functional import cross_entropy
from transformers import AutoModel

from neurexp.errors import UserError
from neurexp.models.fast import fast_forward
from neurexp.models.head import Head, token_losses

CAPPED = {
    "gemma2, caps": ("gemma2", {"final_logit_softcapping": 2.0}),
    "granite, scaled": ("granite", {"logits_scaling": 3.0}),
    "cohere, scaled": ("cohere", {"logit_scale": 0.2}),
    "opt, projected": ("opt", {"word_embed_proj_dim": 8}),
    "mixtral, routers": ("mixtral", {"output_router_logits": True}),
    "qwen3, untied": ("qwen3", {"tie_word_embeddings": False}),
}
CASES = {**VARIANTS, **CAPPED}


def last_hidden(network, ids):
    return network.base_model(ids, use_cache=False)[0].flatten(0, 1)


@pytest.mark.parametrize("name", sampled([pytest.param(name, id=name) for name in [*CAPPED, *VARIANTS]], 3))
@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
def test_logits_are_those_of_the_whole_forward(name, fast):
    family, changes = CASES[name]
    network, ids = build(family, **changes), token_ids(2, 12)
    with torch.inference_mode():
        whole = network(ids, use_cache=False)
        whole = whole[0] if isinstance(whole, tuple) else whole.logits
        before = {name: dict(module.__dict__) for name, module in network.named_modules()}
        with fast_forward(network) if fast else nullcontext(), Head(network) as head:
            logits = head(last_hidden(network, ids))
    assert logits.shape == (ids.numel(), VOCABULARY)
    assert difference(logits, whole.flatten(0, 1)) <= (1e-5 if fast else 1e-6)
    assert {name: dict(module.__dict__) for name, module in network.named_modules()} == before


def test_the_fast_forward_may_also_begin_inside():
    network, ids = build("llama"), token_ids(2, 12)
    with torch.inference_mode(), Head(network) as head, fast_forward(network):
        assert difference(head(last_hidden(network, ids)), network(ids).logits.flatten(0, 1)) <= 1e-5


def test_logits_of_bfloat16_come_as_float32():
    network, ids = build("gemma2", dtype=torch.bfloat16), token_ids(2, 12)
    with torch.inference_mode(), Head(network) as head:
        logits = head(last_hidden(network, ids))
        assert logits.dtype == torch.float32
        assert torch.equal(logits, network(ids).logits.flatten(0, 1).float())


@pytest.mark.parametrize("name", ["cohere", "gemma2, caps", "opt, projected"])
def test_gradients_flow_to_the_hidden_states(name):
    family, changes = CASES[name]
    network, ids, weights = build(family, **changes).double(), token_ids(1, 12), torch.randn(12, VOCABULARY).double()
    hidden = last_hidden(network, ids).detach().requires_grad_()
    with Head(network) as head:
        (found,) = torch.autograd.grad((head(hidden) * weights).sum(), hidden)
        step = torch.randn_like(hidden) * 1e-6
        with torch.no_grad():
            ends = [float((head(hidden + sign * step).double() * weights).sum()) for sign in (1, -1)]
    assert float((found * step).sum()) == pytest.approx((ends[0] - ends[1]) / 2, rel=1e-5)


def test_other_calls_go_on_as_always():
    """Another thread's forwards, in the middle of the head's own call, and this thread's own between two calls."""
    network, ids = build("gpt2"), token_ids(2, 12)
    with torch.inference_mode():
        reference, hidden = network(ids).logits, last_hidden(network, ids)
    others, threads = [], []

    def forward():
        with torch.inference_mode():
            others.append(network(ids).logits)

    def beside(*_):
        if not threads:
            threads.append(threading.Thread(target=forward))
            threads[0].start()
            threads[0].join()

    handle = network.lm_head.register_forward_pre_hook(beside)
    with torch.inference_mode(), Head(network) as head:
        logits = head(hidden)
        handle.remove()
        assert torch.equal(network(ids).logits, reference)
    assert torch.equal(others[0], reference)
    assert difference(logits, reference.flatten(0, 1)) <= 1e-6


def test_a_failing_head_gives_nothing_to_the_next_call():
    network, ids = build("gpt2"), token_ids(2, 12)
    with torch.inference_mode(), Head(network) as head:
        with pytest.raises(RuntimeError):
            head(torch.zeros(4, 5))
        assert network(ids).logits.shape == (2, 12, VOCABULARY)


def test_a_network_without_a_head_is_refused():
    with pytest.raises(UserError, match=r"has no head.*AutoModelForCausalLM"):
        Head(AutoModel.from_config(build("gpt2").config))


def test_a_head_that_reads_elsewhere_is_refused(monkeypatch):
    network = build("gpt2")
    monkeypatch.setattr(network, "forward", lambda **_: type("Output", (), {"logits": torch.zeros(1, 3, 5)})())
    with Head(network) as head, pytest.raises(UserError, match=r"GPT2LMHeadModel does not read.*model\.blocks"):
        head(torch.zeros(3, 16))


def test_pieces_cover_all_tokens_within_the_budget():
    head = Head(build("gpt2"))
    each = 4 * VOCABULARY
    assert head.pieces(50, budget=20 * each + 3) == [slice(0, 20), slice(20, 40), slice(40, 50)]
    assert head.pieces(20, budget=1) == [slice(0, 16), slice(16, 20)]
    assert head.pieces(0) == []
    assert head.pieces(64 * 2**20 // each + 1) == [
        slice(0, 64 * 2**20 // each),
        slice(64 * 2**20 // each, 64 * 2**20 // each + 1),
    ]


@pytest.mark.parametrize("family", ["gemma2", "opt", "llama"])
def test_losses_are_those_of_torch_and_transformers(family, monkeypatch):
    network, ids = build(family), token_ids(3, 40)
    with torch.inference_mode(), Head(network) as head:
        whole = network(ids, labels=ids)
        reference = cross_entropy(whole.logits[:, :-1].double().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        hidden = network.base_model(ids, use_cache=False)[0][:, :-1].flatten(0, 1)
        monkeypatch.setattr(Head, "pieces", lambda self, tokens: [slice(0, 30), slice(30, tokens)])
        losses = token_losses(head, hidden, ids[:, 1:].flatten())
    assert losses.dtype == torch.float32
    assert difference(losses, reference) <= 1e-6
    assert float(losses.mean()) == pytest.approx(float(whole.loss), rel=1e-6)


def test_no_token_has_no_loss():
    network = build("gpt2")
    with Head(network) as head:
        assert token_losses(head, torch.zeros(0, 16), torch.zeros(0, dtype=torch.long)).shape == (0,)
