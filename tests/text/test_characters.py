"""The characters that tokens cover, in tokenizers of every kind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokenizers import byte_fallback, sentencepiece_like, with_word_ends, word_pieces
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from neurexp.models.locations import MINI
from neurexp.text.characters import readable_tokens, token_bytes
from neurexp.text.joined import characters

KINDS = {
    "mini": lambda: AutoTokenizer.from_pretrained(MINI),
    "byte fallback": byte_fallback,
    "first": lambda: sentencepiece_like("first"),
    "normalizer": lambda: sentencepiece_like("normalizer"),
    "word pieces": word_pieces,
    "word ends": with_word_ends,
}


@pytest.fixture(scope="module", params=list(KINDS))
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return KINDS[request.param]()


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_each_token_covers_the_characters_that_it_stands_for(tokenizer):
    text = "the door, the house and a cat"
    ids = ids_of(tokenizer, text)
    spelled = token_bytes(tokenizer, ids)
    found = characters([spelled[index] for index in ids])
    assert "".join(found.text.split()) == "".join(text.split())
    for word in ("door", "house", "cat"):
        start = found.text.index(word)
        assert found.text[start - 1] == " "  # before a word stands a space, whatever the pieces look like
        own = [i for i in range(len(ids)) if found.start[i] < start + len(word) and found.stop[i] > start]
        assert found.text[found.start[own[0]] : found.stop[own[-1]]].strip() == word


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("ab é字👩‍💻कि€\u0301\n▁<") | st.characters(codec="utf-8"), max_size=12))
def test_the_characters_of_a_byte_level_text_are_the_text(text):
    for make in (KINDS["mini"], byte_fallback):
        tokenizer = _made(make)
        if make is byte_fallback:
            text = text.replace("▁", "_")  # which is its space
        ids = ids_of(tokenizer, text)
        spelled = token_bytes(tokenizer, ids)
        found = characters([spelled[index] for index in ids])
        assert found.text == (" " + text if make is byte_fallback and text else text)
        for start, stop, index in zip(found.start, found.stop, ids, strict=True):
            part, own = found.text[start:stop].encode(), spelled[index]
            assert own in part  # whole characters around the token's bytes
            assert len(found.text[start:stop]) <= len(own)
        assert (found.start[1:] >= found.start[:-1]).all()
        assert (found.stop[1:] >= found.stop[:-1]).all()


_tokenizers: dict = {}


def _made(make):
    if make not in _tokenizers:
        _tokenizers[make] = make()
    return _tokenizers[make]


def test_a_character_cut_by_the_sequences_edge_is_a_lone_byte():
    whole = [b"a", "字".encode()[:2], "字".encode()[2:], b" b"]
    assert characters(whole).text == "a字 b"
    assert characters(whole).start.tolist() == [0, 1, 1, 2]
    assert characters(whole).stop.tolist() == [1, 2, 2, 4]
    cut = characters(whole[:2])
    assert (cut.text[0], [0xDC80 <= ord(one) <= 0xDCFF for one in cut.text[1:]]) == ("a", [True, True])
    assert characters([]).text == ""


def test_a_token_may_end_one_character_and_begin_another():
    both = "בנ".encode()
    found = characters([b"a", both[:1], both[1:3], both[3:]])
    assert (found.start.tolist(), found.stop.tolist()) == ([0, 1, 1, 2], [1, 2, 3, 3])


def test_ids_that_the_tokenizer_does_not_know_and_special_ones():
    tokenizer = _made(KINDS["mini"])
    end = tokenizer.eos_token_id
    assert token_bytes(tokenizer, [end, 10_000_000]) == {end: tokenizer.eos_token.encode(), 10_000_000: b""}
    assert token_bytes(tokenizer, [end], spell_special=False) == {end: b"\0"}


def test_tokens_are_shown_joined_where_they_are_parts_of_one_character():
    tokenizer = _made(KINDS["mini"])
    for text, shown in [
        ("a 猫b", ["a", " ", "猫", "b"]),
        ("👩‍💻!", ["👩‍💻", "!"]),
        ("e\u0301.", ["e\u0301", "."]),
        ("क्‍या", None),
    ]:
        ids = ids_of(tokenizer, text)
        groups = readable_tokens(tokenizer, ids)
        assert "".join(one for one, _, _ in groups) == text
        assert [groups[0][1], *(stop for _, _, stop in groups)] == [0, *(start for _, start, _ in groups[1:]), len(ids)]
        assert shown is None or [one for one, _, _ in groups] == shown
        assert not any("\ufffd" in one for one, _, _ in groups)
    ids = ids_of(tokenizer, "猫猫")
    assert [text for text, _, _ in readable_tokens(tokenizer, ids[1:])] == ["猫"]  # what is cut is left out
    assert [text for text, _, _ in readable_tokens(tokenizer, ids[:-1])] == ["猫"]
    assert [text for text, _, _ in readable_tokens(tokenizer, ids_of(tokenizer, "\ufffd"))] == ["\ufffd"]  # of the text
    assert readable_tokens(tokenizer, []) == []
