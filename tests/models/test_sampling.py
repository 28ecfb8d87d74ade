"""Text that a model writes: from its own probabilities, by the seed alone, the prompt apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ablations import language_model
from tiny import build

from neurexp.errors import UserError
from neurexp.models import sampling
from neurexp.models.sampling import write_text

PROMPT = "w5 w9 w9"


@pytest.mark.parametrize("family", ["gpt_neo", "llama"])
def test_every_token_is_drawn_from_a_whole_forward(family):
    model = language_model(build(family))
    tokens, is_new = write_text(model, PROMPT, 50, seed=3)
    assert is_new.sum() == 50
    sequences, random = len(is_new), torch.Generator().manual_seed(3)
    ids = torch.tensor([[5, 9, 9]] * sequences)
    while ids.shape[1] < tokens.input_ids.shape[1]:
        with torch.no_grad():
            logits = model.network(ids, use_cache=False).logits[:, -1].double()
        logits[:, 0] = -torch.inf  # EOS
        ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1, generator=random)], dim=1)
    np.testing.assert_array_equal(tokens.input_ids[tokens.valid], ids.numpy()[tokens.valid])


def test_the_prompt_is_not_new_and_the_seed_decides(monkeypatch):
    monkeypatch.setattr(sampling, "LONGEST", 20)
    monkeypatch.setattr(sampling, "SEQUENCES", 2)
    model = language_model(build("gpt2"))
    tokens, is_new = write_text(model, PROMPT, 90, seed=0)
    assert tokens.input_ids.shape == (5, 23)
    assert (tokens.input_ids[:, :3] == [5, 9, 9]).all()
    assert not is_new[:, :3].any()
    assert is_new.sum() == 90
    assert tokens.count == 90 + 5 * 3
    assert not (tokens.input_ids[is_new] == 0).any()  # no special token
    again, _ = write_text(model, PROMPT, 90, seed=0)
    other, _ = write_text(model, PROMPT, 90, seed=1)
    assert again.hash == tokens.hash != other.hash
    assert len({one.tobytes() for one in tokens.input_ids}) == 5  # the sequences differ


def test_it_begins_as_the_models_sequences_do():
    model = replace(language_model(build("gpt2")), begins_with_bos=True)
    model.tokenizer.bos_token = "w7"
    tokens, is_new = write_text(model, PROMPT, 20, seed=0)
    assert tokens.input_ids[0, :4].tolist() == [7, 5, 9, 9]
    assert is_new[0].tolist() == [False] * 4 + [True] * 20


def test_a_prompt_that_cannot_be_used_is_one_line():
    model = language_model(build("gpt2"))
    with pytest.raises(UserError, match=r"experiment\.prompt='': it has no token"):
        write_text(model, "", 50, seed=0)
    with pytest.raises(UserError, match="it has 60 tokens, and tiny has 64 positions"):
        write_text(model, "w5 " * 60, 50, seed=0)
