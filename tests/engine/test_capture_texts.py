"""`neurexp.capture` of texts and of long sequences: rows that fit the model, each token once, and what is said."""

import warnings

import numpy as np
import pandas
import pytest
import torch
from tiny import POSITIONS, build, token_ids
from transformers import PreTrainedTokenizerFast

import neurexp
from neurexp.errors import UserError
from neurexp.models.load import LanguageModel

LONG = "The owl, unbothered, sat on a lower branch. " * 60  # more than mini's 512 positions


@pytest.fixture(scope="module")
def mini():
    return neurexp.load_model("mini")


def by_hand(model: LanguageModel, ids: list[int], layer: int) -> torch.Tensor:
    """`c_fc`'s output in a forward of transformers alone, `[tokens, neurons]`."""
    heard = []
    module = model.network.transformer.h[layer].mlp.c_fc
    handle = module.register_forward_hook(lambda _module, _inputs, output: heard.append(output[0]))
    with torch.no_grad():
        model.network(torch.tensor([ids]))
    handle.remove()
    return heard[0]


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).norm() < 1e-5 * wanted.norm())


def test_each_text_is_a_row_with_its_tokens_beside_it_and_pads_are_nan(mini):
    texts = ["Hello world", "A longer text, with <|endoftext|> spelled out"]
    found = neurexp.capture(mini, texts, layers=[1, 4])
    assert list(found) == ["MLP_1", "MLP_4"]
    for index, text in enumerate(texts):
        ids = mini.tokenizer(text, split_special_tokens=True).input_ids
        assert found.tokens_of(index) == found.tokens[index] == [mini.tokenizer.decode([one]) for one in ids]
        assert "".join(found.tokens_of(index)) == text
        assert close(found.of(index)["MLP_4"], by_hand(mini, ids, 4))
        assert torch.equal(found["MLP_4"][index, : len(ids)], found.of(index)["MLP_4"])
        assert found["MLP_4"][index, len(ids) :].isnan().all()
    assert found.valid.sum(1).tolist() == [len(row) for row in found.tokens]
    assert (found.source.tolist(), found.start.tolist()) == ([0, 1], [0, 0])


@pytest.mark.parametrize("kind", [str, list, tuple, np.array, pandas.Series])
def test_texts_may_come_in_any_box(mini, kind):
    given = "Hello world" if kind is str else kind(["Hello world"])
    assert neurexp.capture(mini, given, layers=0).tokens == [["Hel", "lo", " world"]]


def test_a_long_text_is_cut_into_rows_and_a_warning_says_so(mini):
    ids = mini.tokenizer(LONG).input_ids
    with pytest.warns(
        UserWarning, match=r"^capture: 1 of 2 texts had more tokens .* \(512\), .*\(3 in all\).*stride=256"
    ):
        found = neurexp.capture(mini, [LONG, "Hi"], layers=2)
    assert 512 < len(ids) < 1024
    assert found["MLP_2"].shape == (3, 512, 768)
    assert (found.source.tolist(), found.start.tolist()) == ([0, 0, 1], [0, 512, 0])
    assert "".join(found.tokens_of(0)) == LONG
    assert close(found.of(0)["MLP_2"], torch.cat([by_hand(mini, ids[:512], 2), by_hand(mini, ids[512:], 2)]))
    assert found.tokens_of(1) == ["Hi"] or "".join(found.tokens_of(1)) == "Hi"


@pytest.mark.parametrize("stride", [512, 256, 200])
def test_with_a_stride_rows_overlap_and_nothing_is_said(mini, stride):
    ids = mini.tokenizer(LONG).input_ids
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = neurexp.capture(mini, LONG, layers=2, stride=stride)
    starts = found.start.tolist()
    assert starts == list(range(0, len(starts) * stride, stride))
    rows = [by_hand(mini, ids[start : start + 512], 2) for start in starts]
    assert all(close(found["MLP_2"][row, : len(wanted)], wanted) for row, wanted in enumerate(rows))
    assert starts[-1] + 512 >= len(ids) > starts[-2] + 512  # as many rows as it takes
    # Each token from the earliest row that has it
    expected = [rows[0]] + [row[512 - stride :] for row in rows[1:]]
    assert close(found.of(0)["MLP_2"], torch.cat(expected))
    assert "".join(found.tokens_of(0)) == LONG


def test_ids_are_cut_likewise_with_their_mask():
    model = build("gpt_neo")
    ids = token_ids(2, 2 * POSITIONS + 3)
    valid = torch.ones_like(ids, dtype=torch.bool)
    valid[1, POSITIONS - 2 :] = False
    with pytest.warns(UserWarning, match=r"2 of 2 sequences had more tokens .*\(6 in all\)"):
        found = neurexp.capture(model, ids, valid=valid)
    assert (found.source.tolist(), found.start.tolist()) == ([0, 0, 0, 1], [0, POSITIONS, 2 * POSITIONS, 0])
    pieces = [neurexp.capture(model, ids[0, start : start + POSITIONS]) for start in found.start.tolist()[:3]]
    assert close(found.of(0)["MLP_1"], torch.cat([piece["MLP_1"][0] for piece in pieces]))
    assert len(found.of(1)["MLP_1"]) == POSITIONS - 2
    with pytest.raises(UserError, match=r"^tokens: a model of transformers has no tokenizer here"):
        _ = found.tokens


def test_ids_that_fit_are_left_as_they_are():
    model, ids = build("gpt_neo"), token_ids(3, POSITIONS)
    found = neurexp.capture(model, ids)
    assert torch.equal(found.input_ids, ids)
    assert found.valid.all()
    assert torch.equal(found.of(2)["MLP_0"], found["MLP_0"][2])
    with pytest.raises(IndexError, match="there is no text 3; there are 3"):
        found.of(3)


def test_every_row_begins_with_bos_where_the_model_puts_one(mini):
    model = LanguageModel(mini.network, with_bos(mini.tokenizer), "mini", "", "pretrained", begins_with_bos=True)
    bos = model.tokenizer.bos_token_id
    with pytest.warns(UserWarning, match="positions"):
        found = neurexp.capture(model, [LONG, ""], layers=0)
    ids = mini.tokenizer(LONG).input_ids
    assert found.input_ids[:, 0].tolist() == [bos] * 3
    assert found.start.tolist() == [0, 511, 0]
    assert "".join(found.tokens_of(0)[1:]) == LONG  # BOS is there once
    rows = [by_hand(mini, [bos, *ids[:511]], 0), by_hand(mini, [bos, *ids[511:]], 0)[1:]]
    assert close(found.of(0)["MLP_0"], torch.cat(rows))
    assert len(found.of(1)["MLP_0"]) == 1


def with_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, with the end-of-text token as BOS."""
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    made.bos_token = made.eos_token = tokenizer.eos_token
    return made


def test_a_text_without_tokens_is_named(mini):
    with pytest.raises(UserError, match=r"^capture: text 1 \(''\) has no token; leave it out$"):
        neurexp.capture(mini, ["a", ""])


def test_what_was_captured_shows_its_shapes_and_names_what_it_lacks(mini):
    found = neurexp.capture(mini, ["Hello world", "A longer text"], layers=[0, 2])
    length = found.input_ids.shape[1]
    assert repr(found) == f"<activations: {{'MLP_0': [2, {length}, 768], 'MLP_2': [2, {length}, 768]}}>"
    with pytest.raises(UserError, match=r"^MLP_1: was not captured \(there are MLP_0, MLP_2\)$"):
        found["MLP_1"]
    assert "MLP_1" not in found
    assert found.get("MLP_1") is None
