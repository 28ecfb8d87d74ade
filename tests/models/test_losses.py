"""Losses in parts of the vocabulary: equal to those of the whole logits, for every kind of head."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from test_head import CAPPED, last_hidden
from tiny import build, token_ids
from torch.nn.functional import cross_entropy

from neurexp.models import losses
from neurexp.models.head import Head
from neurexp.models.losses import Losses, losses_of_product


@pytest.mark.parametrize(("tokens", "ids"), [(5, 3), (5, 8), (5, 100), (1, 1)])
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_losses_of_a_product_are_those_of_the_whole_logits(tokens, ids, size, monkeypatch):
    monkeypatch.setattr(losses, "IDS", ids)
    random = np.random.default_rng(0)
    hidden, weight = random.normal(size=(tokens, 4)) * size, random.normal(size=(8, 4))
    targets = random.integers(0, 8, tokens)
    logits = hidden @ weight.T
    expected = logsumexp(logits, axis=1) - logits[np.arange(tokens), targets]
    found = losses_of_product(torch.tensor(hidden), torch.tensor(weight), torch.tensor(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * size)
    given = (torch.tensor(values, dtype=torch.float32) for values in (hidden, weight))
    found = losses_of_product(*given, torch.tensor(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6 * max(1, size))


PRODUCTS = ["gpt2", "gpt_neo", "llama", "qwen3"]
MORE_THAN_A_PRODUCT = {**CAPPED, "phi, a bias": ("phi", {}), "gptj, a bias": ("gptj", {})}
del MORE_THAN_A_PRODUCT["qwen3, untied"], MORE_THAN_A_PRODUCT["opt, projected"], MORE_THAN_A_PRODUCT["mixtral, routers"]


@pytest.mark.parametrize("name", [*PRODUCTS, *MORE_THAN_A_PRODUCT])
def test_losses_of_a_model_are_its_own_and_only_a_plain_product_is_cut(name, monkeypatch):
    family, changes = MORE_THAN_A_PRODUCT.get(name, (name, {}))
    network, ids = build(family, **changes), token_ids(2, 12)
    cut = []
    monkeypatch.setattr(losses, "losses_of_product", lambda *given: cut.append(1) or losses_of_product(*given))
    monkeypatch.setattr(losses, "IDS", 7)
    monkeypatch.setattr(losses, "TOKENS", 5)
    with torch.inference_mode(), Head(network) as head:
        expected = cross_entropy(network(ids).logits.flatten(0, 1), ids.flatten(), reduction="none")
        own = Losses(network, head)
        found = own(last_hidden(network, ids), ids.flatten())
        assert own(torch.zeros(0, 16), torch.zeros(0, dtype=torch.long)).shape == (0,)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert len(cut) == (5 if name in PRODUCTS else 0)  # 24 tokens


def test_a_hook_on_the_head_keeps_its_say():
    network, ids = build("llama"), token_ids(1, 12)
    network.lm_head.register_forward_hook(lambda module, given, logits: logits.roll(1, -1))
    with torch.inference_mode(), Head(network) as head:
        expected = cross_entropy(network(ids).logits[0], ids[0], reduction="none")
        found = Losses(network, head)(last_hidden(network, ids), ids[0])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_loss_that_is_no_number_stays_none():
    weight = torch.eye(4)
    hidden = torch.eye(4).clone()
    hidden[1, 2] = torch.nan
    hidden[2, 0] = torch.inf
    found = losses_of_product(hidden, weight, torch.tensor([0, 1, 2, 3]))
    assert found.isfinite().tolist() == [True, False, False, True]
