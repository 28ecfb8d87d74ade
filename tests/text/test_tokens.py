"""Packing to exactly the tokens asked for, and the length of every token."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import neurexp.text.tokens as tokens_module
from neurexp.errors import UserError
from neurexp.models.locations import MINI
from neurexp.text.skipped import Skipped
from neurexp.text.tokens import Tokens, pack, padded
from neurexp.text.vocabulary import UNDEFINED, token_lengths

EOS, BOS = 0, 1
WORDS = {"</s>": EOS, "<s>": BOS, "<unk>": 2, "a": 3, "b": 4, "c": 5}


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """A token per word, so that the packed ids can be written down by hand."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    return word_tokenizer(eos_token="</s>", bos_token="<s>")


@pytest.fixture(scope="module")
def mini() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MINI)


@pytest.fixture(scope="module")
def gpt2(data: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(data / "gpt2-tokenizer")


def test_documents_are_joined_by_one_end_of_text_and_none_stands_at_the_start(words):
    packed = pack(["a b", "c", "a a a"], words, tokens=8, sequence_length=4)
    assert packed.input_ids.tolist() == [[3, 4, EOS, 5], [EOS, 3, 3, 3]]
    assert packed.valid.all()
    assert (packed.count, packed.documents) == (8, 3)


def test_the_last_document_is_cut_where_the_tokens_are_full(words):
    packed = pack(["a b c a b c"], words, tokens=4, sequence_length=2)
    assert packed.input_ids.tolist() == [[3, 4], [5, 3]]


def test_a_partial_last_sequence_is_padded_on_the_right_and_masked(words):
    packed = pack(["a b c a b"], words, tokens=5, sequence_length=3)
    assert packed.valid.tolist() == [[True, True, True], [True, True, False]]
    assert packed.input_ids.tolist() == [[3, 4, 5], [3, 4, EOS]]
    assert packed.count == 5


def test_a_text_that_is_too_short_says_what_of_it_was_skipped(words):
    skipped = []

    def documents():
        yield "a b"
        skipped.append(Skipped("rows.jsonl", 2, "no JSON"))
        yield "c"

    with pytest.raises(UserError, match=r"only 4 tokens \(2 documents, 1 skipped: rows\.jsonl, row 2: no JSON\); give"):
        pack(documents(), words, tokens=8, sequence_length=4, skipped=skipped)


def test_an_end_of_text_that_is_text_stays_valid_beside_a_pad_of_the_same_id(words):
    packed = pack(["a b", "c"], words, tokens=3, sequence_length=4)
    assert packed.input_ids.tolist() == [[3, 4, EOS, EOS]]
    assert packed.valid.tolist() == [[True, True, True, False]]


def test_families_with_bos_begin_every_sequence_with_it_within_the_exact_total(words):
    packed = pack(["a b c", "a b c a"], words, tokens=8, sequence_length=3, begin_with_bos=True)
    assert packed.input_ids.tolist() == [[BOS, 3, 4], [BOS, 5, EOS], [BOS, 3, EOS]]
    assert packed.valid.tolist() == [[True] * 3, [True] * 3, [True, True, False]]


def test_other_families_get_no_bos_even_where_the_tokenizer_has_one(words):
    assert BOS not in pack(["a b c", "a b c a"], words, tokens=8, sequence_length=3).input_ids


@given(
    documents=st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), min_size=1, max_size=6),
    share=st.floats(0.05, 1),
    sequence_length=st.integers(2, 7),
)
def test_packing_is_the_stream_cut_into_rows(documents, share, sequence_length):
    stream = [WORDS[word] for document in documents for word in (*document, "</s>")][:-1]
    tokens = max(1, int(share * len(stream)))
    tokenizer = word_tokenizer(eos_token="</s>")
    packed = pack([" ".join(document) for document in documents], tokenizer, tokens, sequence_length)
    assert packed.count == tokens
    assert packed.input_ids[packed.valid].tolist() == stream[:tokens]
    assert packed.valid.shape == (-(-tokens // sequence_length), sequence_length)


def test_a_special_token_spelled_out_in_a_text_is_text(mini):
    text = "one <|endoftext|> two"
    packed = pack([text], mini, tokens=4, sequence_length=4)
    assert mini.eos_token_id not in packed.input_ids
    everything = mini(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    packed = pack([text], mini, tokens=len(everything), sequence_length=512)
    assert mini.decode(packed.input_ids[packed.valid]) == text


def test_nothing_is_read_beyond_the_document_that_fills_the_last_token(words):
    def endless() -> Iterator[str]:
        yield "a b"
        yield "c a"
        raise AssertionError("read too far")

    assert pack(endless(), words, tokens=5, sequence_length=5).documents == 2


def test_a_stream_that_is_full_begins_no_further_document(words):
    assert pack(["a b", "c"], words, tokens=2, sequence_length=2).documents == 1


@pytest.mark.parametrize("begin_with_bos", [False, True])
def test_too_little_text_says_how_much_there_was_and_that_much_works(words, begin_with_bos):
    documents = ["a b c", "a b c a"]
    with pytest.raises(UserError, match=r"^dataset\.tokens=1000: .*2 documents") as refusal:
        pack(documents, words, 1000, 4, begin_with_bos)
    (there,) = re.findall(r"only (\d+) tokens", str(refusal.value))
    packed = pack(documents, words, int(there), 4, begin_with_bos)
    assert packed.count == int(there)
    with pytest.raises(UserError):
        pack(documents, words, int(there) + 1, 4, begin_with_bos)


def test_an_end_of_text_is_needed_only_where_documents_are_joined():
    tokenizer = word_tokenizer(bos_token="<s>")
    assert pack(["a b c"], tokenizer, 3, 2).input_ids[:, 0].tolist() == [3, 5]
    assert pack(["a b c", "a"], tokenizer, 3, 3).documents == 1  # the second one is not begun
    with pytest.raises(UserError, match=r"^model\.tokenizer: .*end-of-text.*joins documents"):
        pack(["a", "b"], tokenizer, 2, 2)


def test_a_bos_is_needed_only_where_sequences_begin_with_one():
    tokenizer = word_tokenizer(eos_token="</s>")
    assert pack(["a b c"], tokenizer, 2, 2).input_ids.tolist() == [[3, 4]]
    with pytest.raises(UserError, match=r"^model\.tokenizer: .*beginning-of-text.*dataset\.bos"):
        pack(["a b c"], tokenizer, 2, 2, begin_with_bos=True)


def test_the_hash_tells_ids_shape_and_validity_apart(words):
    text = ["a b c a b c a b"]
    packed = pack(text, words, 8, 4)
    assert packed.hash == pack(text, words, 8, 4).hash
    assert packed.hash == Tokens(packed.input_ids.astype(np.int64), packed.valid, documents=7).hash
    other_ids = packed.input_ids.copy()
    other_ids[0, 0] = 5
    other_valid = packed.valid.copy()
    other_valid[1, 3] = False
    others = (
        Tokens(other_ids, packed.valid, 1),
        Tokens(packed.input_ids, other_valid, 1),
        Tokens(packed.input_ids.reshape(2, 4).T.copy().reshape(4, 2), packed.valid.reshape(4, 2), 1),
        pack(text, words, 8, 2),
    )
    assert len({packed.hash, *(other.hash for other in others)}) == 5


def length_one_by_one(tokenizer: PreTrainedTokenizerBase, token: int) -> int:
    return UNDEFINED if token in tokenizer.all_special_ids else len(tokenizer.decode([token]))


def test_lengths_are_those_of_decoding_every_token_of_mini_alone(mini):
    assert token_lengths(mini).tolist() == [length_one_by_one(mini, token) for token in range(len(mini))]


def test_lengths_are_those_of_decoding_every_token_of_gpt2_alone(gpt2):
    assert gpt2("Hello world")["input_ids"] == [15496, 995]
    lengths = token_lengths(gpt2)
    assert lengths.tolist() == [length_one_by_one(gpt2, token) for token in range(50257)]
    assert lengths[[15496, 995]].tolist() == [len("Hello"), len(" world")]


def test_a_leading_space_counts_unless_it_is_stripped(mini):
    (token,) = mini(" the", add_special_tokens=False)["input_ids"]
    assert token_lengths(mini)[token] == 4
    assert token_lengths(mini, strip_space=True)[token] == 3


def test_stripping_changes_only_tokens_with_a_leading_space(mini):
    kept, stripped = token_lengths(mini), token_lengths(mini, strip_space=True)
    spaced = np.array([mini.decode([token]).startswith(" ") for token in range(len(mini))])
    assert (kept - stripped).tolist() == spaced.astype(int).tolist()


@pytest.mark.parametrize("strip_space", [False, True])
def test_special_tokens_have_no_length(mini, strip_space):
    lengths = token_lengths(mini, strip_space)
    assert mini.all_special_ids
    assert set(np.flatnonzero(lengths == UNDEFINED)) == set(mini.all_special_ids)


def test_a_part_of_a_character_counts_one(mini):
    pieces = mini("\U0001f9ea", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1, "the tokenizer knows the whole character: choose a rarer one"
    assert {token_lengths(mini)[piece] for piece in pieces} == {1}


SENTENCEPIECE = {
    "<unk>": UNDEFINED,
    "<s>": UNDEFINED,
    "</s>": UNDEFINED,
    "<0xE2>": 1,
    "▁": 1,
    "▁▁": 2,
    "▁▁▁if": 5,
    "▁the": 4,
    "ing": 3,
    "é": 1,
}


def test_sentencepiece_tokens_keep_the_space_that_decoding_alone_drops():
    vocabulary = {piece: index for index, piece in enumerate(SENTENCEPIECE)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(  # Llama's
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    llama = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    assert llama.decode([vocabulary["▁the"]]) == "the"
    assert dict(zip(SENTENCEPIECE, token_lengths(llama).tolist(), strict=True)) == SENTENCEPIECE


@pytest.mark.parametrize("folder", ["mini", "gpt2-tokenizer"])
def test_a_long_document_in_pieces_has_the_tokens_of_the_whole(folder, data, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(MINI if folder == "mini" else data / folder)
    text = sorted((data / "books").glob("*.txt"))[0].read_text("utf-8")[:400_000]
    monkeypatch.setattr(tokens_module, "PIECE", 997)
    pieces = list(tokens_module.cut(text, tokenizer))
    assert len(pieces) > 300
    assert "".join(pieces) == text
    whole = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    found = pack([text], tokenizer, len(whole), 512)
    assert found.input_ids[found.valid].tolist() == whole


@pytest.mark.parametrize("pad", [0, 9])
def test_padded_sequences(pad):
    tokens = padded([[3], [4, 5], [6]], pad)
    assert tokens.input_ids.tolist() == [[3, pad], [4, 5], [6, pad]]
    assert tokens.valid.tolist() == [[True, False], [True, True], [True, False]]
    assert padded([]).input_ids.shape == (0, 0)


def test_a_tokenizer_of_another_kind_gets_the_document_whole(words):
    text = "word " * (tokens_module.PIECE // 4)
    assert list(tokens_module.cut(text, words)) == [text]
