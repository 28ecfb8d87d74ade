"""Tokenizers as they come: ids with gaps, no special tokens, no token for a character. None is taken for GPT-2's."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from neurexp.errors import UserError
from neurexp.experiments.profile import Covariate
from neurexp.experiments.profile.design import Design
from neurexp.io.provenance import hash_of_tokenizer
from neurexp.text.occurrences import find_occurrences
from neurexp.text.spans import align, place
from neurexp.text.tokenizer import (
    added_tokens,
    document_end,
    dropped_characters,
    encode,
    first_tokens,
    special_ids,
    unknown_token,
)
from neurexp.text.tokens import pack
from neurexp.text.vocabulary import UNDEFINED, begins_word, token_lengths, token_texts, vocabulary_size

GAPPY = {"<unk>": 3, "</s>": 5, "<s>": 6, "ab": 9, "c": 40}


def wrapped(model: models.Model, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of words between spaces."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def gappy(**special: str) -> PreTrainedTokenizerFast:
    return wrapped(models.WordLevel(GAPPY, unk_token="<unk>"), **special)


def adding(tokenizer: PreTrainedTokenizerFast, template: str, **tokens: int) -> PreTrainedTokenizerFast:
    """The same tokenizer, which by itself adds special tokens as `template` says."""
    names = [(name.replace("lt", "<").replace("gt", ">"), index) for name, index in tokens.items()]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=names)
    return tokenizer


# Ids with gaps


def test_arrays_go_to_the_largest_id_and_an_id_of_no_token_has_no_length():
    tokenizer = gappy(eos_token="</s>", unk_token="<unk>")
    assert len(tokenizer) == 5
    assert vocabulary_size(tokenizer) == 41
    lengths = token_lengths(tokenizer)
    assert {index: lengths[index] for index in np.flatnonzero(lengths != UNDEFINED)} == {9: 2, 40: 1, 6: len("<s>")}
    assert [token_texts(tokenizer)[index] for index in (0, 9, 39, 40)] == ["", "ab", "", "c"]
    assert begins_word(tokenizer).shape == (41,)


def test_an_added_token_beyond_the_vocabulary_has_its_place():
    tokenizer = gappy(unk_token="<unk>")
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.add_tokens(["xyz"])
    pad, added = tokenizer.convert_tokens_to_ids(["<pad>", "xyz"])
    lengths = token_lengths(tokenizer)
    assert len(lengths) == max(*GAPPY.values(), pad, added) + 1
    assert (lengths[pad], lengths[added]) == (UNDEFINED, 3)


def test_two_tokens_of_one_id_take_one_place():
    tokenizer = wrapped(models.WordLevel({"<unk>": 0, "a": 1, "b": 1}, unk_token="<unk>"))
    assert vocabulary_size(tokenizer) == 2
    assert token_lengths(tokenizer).tolist() == [UNDEFINED, 1]


def test_a_special_token_whose_id_lies_beyond_the_vocabulary_is_no_trouble(monkeypatch):
    tokenizer = gappy(unk_token="<unk>")
    monkeypatch.setattr(PreTrainedTokenizerBase, "all_special_ids", [3, 999])
    assert token_lengths(tokenizer)[3] == UNDEFINED


def test_tokenizers_that_differ_in_what_is_special_have_other_hashes():
    told = [{}, {"eos_token": "</s>"}, {"bos_token": "</s>"}, {"eos_token": "<s>"}, {"pad_token": "</s>"}]
    assert len({hash_of_tokenizer(gappy(unk_token="<unk>", **one)) for one in told}) == len(told)
    assert hash_of_tokenizer(gappy(eos_token="</s>")) == hash_of_tokenizer(gappy(eos_token="</s>"))


# What the tokenizer puts around a text


def test_the_tokenizer_itself_says_what_stands_around_a_text():
    ends = {"lt/sgt": 5}
    assert added_tokens(gappy(bos_token="<s>", unk_token="<unk>")) == ([], [])
    assert added_tokens(adding(gappy(bos_token="<s>"), "<s> $A", ltsgt=6)) == ([6], [])
    assert added_tokens(adding(gappy(eos_token="</s>"), "$A </s>", **ends)) == ([], [5])
    assert added_tokens(adding(gappy(), "<s> $A </s>", ltsgt=6, **ends)) == ([6], [5])  # as BERT's [CLS] and [SEP]
    assert added_tokens(adding(gappy(), "<s> </s> $A </s> <s>", ltsgt=6, **ends)) == ([6, 5], [5, 6])


def test_a_text_begins_with_what_the_tokenizer_puts_there_else_with_its_bos():
    assert first_tokens(gappy(bos_token="<s>")) == [6]
    assert first_tokens(adding(gappy(bos_token="</s>"), "<s> $A", ltsgt=6)) == [6]
    with pytest.raises(UserError, match=r"^model\.tokenizer: .*dataset\.bos"):
        first_tokens(gappy(eos_token="</s>"))


def test_documents_end_with_what_the_tokenizer_puts_there_else_with_its_eos():
    assert document_end(gappy(eos_token="</s>")) == [5]
    assert document_end(adding(gappy(eos_token="</s>"), "$A <s>", ltsgt=6)) == [6]
    assert document_end(adding(gappy(), "$A <s>", ltsgt=6), eos=True) == [6]
    assert document_end(gappy(bos_token="<s>")) is None
    assert document_end(gappy(eos_token="</s>"), eos=False) == []


@pytest.mark.parametrize("plain", ["<|endoftext|>", "<|end_of_text|>", "</s>"])
def test_an_eos_that_only_ends_a_turn_of_a_chat_ends_no_document(plain):
    tokenizer = gappy(eos_token="<|im_end|>", pad_token="<|im_end|>")
    turn = tokenizer.eos_token_id
    tokenizer.add_special_tokens({"additional_special_tokens": ["<eos>", plain]})
    end = tokenizer.convert_tokens_to_ids(plain)
    assert document_end(tokenizer) == [turn]  # nothing says that it is a chat's
    tokenizer.chat_template = "{{ message['content'] + '<|im_end|>' }}"
    assert document_end(tokenizer) == [end]
    assert document_end(tokenizer, eos=True) == [turn]
    tokenizer.chat_template = {"tool_use": "", "default": "<|im_end|>"}  # type: ignore[assignment]
    assert document_end(tokenizer) == [end]


def test_a_chat_marker_joins_documents_where_there_is_nothing_else_or_the_base_used_it_too():
    only = gappy(eos_token="<|im_end|>", chat_template="<|im_end|>")
    assert document_end(only) == [only.eos_token_id]
    both = gappy(eos_token="</s>", pad_token="<|endoftext|>", chat_template="[INST] </s>")  # as Mistral's
    assert document_end(both) == [5]
    text = gappy(eos_token="<|im_end|>", chat_template="<|im_end|>")
    text.add_tokens(["<|endoftext|>"])  # an ordinary token of that name is no special one
    assert document_end(text) == [text.eos_token_id]


def test_what_stands_around_a_text_and_what_is_marked_is_special_though_no_name_says_so():
    tokenizer = adding(gappy(unk_token="<unk>"), "<s> $A </s>", ltsgt=6, **{"lt/sgt": 5})
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("c", special=True)])
    assert tokenizer.all_special_ids == [3]
    assert special_ids(tokenizer) == {3, 5, 6, 40}
    lengths = token_lengths(tokenizer)
    assert np.flatnonzero(lengths != UNDEFINED).tolist() == [9]
    packed = pack(["ab", "ab", "ab"], tokenizer, 6, 6, True)
    assert find_occurrences(packed, tokenizer, [("ab", 0)], 3).words == ["ab", "ab"]


def test_a_tokenizer_that_cannot_read_an_a_has_an_answer_too():
    assert added_tokens(wrapped(models.WordLevel({"b": 0}))) == ([], [])
    silent = wrapped(models.BPE({"b": 0, "<s>": 6, "</s>": 5}, []), bos_token="<s>", eos_token="</s>")
    assert added_tokens(adding(silent, "<s> $A", ltsgt=6)) == ([6], [])
    assert added_tokens(adding(silent, "$A </s>", **{"lt/sgt": 5})) == ([], [5])
    assert added_tokens(adding(silent, "<s> $A </s>", ltsgt=6, **{"lt/sgt": 5})) == ([6], [5])


# What it does not know


def test_the_unknown_token_has_no_length_though_transformers_was_not_told_of_it():
    tokenizer = gappy()
    assert tokenizer.all_special_ids == []
    assert unknown_token(tokenizer) == 3
    assert token_lengths(tokenizer)[3] == UNDEFINED


def test_unknown_text_is_counted_and_named():
    tokenizer = gappy(unk_token="<unk>")
    assert pack(["ab c ab"], tokenizer, 3, 3).skipped == ()
    (skipped,) = pack(["ab zzz ab zz"], tokenizer, 4, 4).skipped
    assert skipped.reason == "the tokenizer does not know what 2 of the 4 tokens stand for: '<unk>'"
    tokenizer.eos_token = "<unk>"  # as GPT-2's, where it need not be unknown text
    assert pack(["ab zzz ab zz"], tokenizer, 4, 4).skipped == ()


def test_characters_without_a_token_are_counted_and_named():
    tokenizer = wrapped(models.BPE({"a": 0, "b": 1}, []))
    packed = pack(["a zb yz"], tokenizer, 2, 2)
    assert packed.input_ids.tolist() == [[0, 1]]
    (skipped,) = packed.skipped
    assert "3 characters" in skipped.reason
    assert "'z'" in skipped.reason
    assert pack(["a b"], tokenizer, 2, 2).skipped == ()
    assert dropped_characters(tokenizer, "a zzb") == {"z": 2}
    assert not dropped_characters(wrapped(models.BPE({"a": 0, "u": 1}, [], unk_token="u")), "z")


@pytest.mark.parametrize(
    "model", [models.WordLevel({"a": 0}), models.Unigram([("a", -1.0)]), models.WordPiece({"a": 0})]
)
def test_a_tokenizer_that_cannot_read_a_text_is_one_line(model):
    with pytest.raises(UserError, match=r"^model\.tokenizer: it cannot read this text") as refusal:
        encode(wrapped(model), "z")
    assert "\n" not in str(refusal.value)


def test_a_word_that_the_tokenizer_does_not_know_is_dropped_and_counted():
    unknown = gappy(unk_token="<unk>")
    found = align(unknown, [place(word, 0, "{word}") for word in ("ab", "zz", "c")])
    assert (found.words, found.dropped) == (["ab", "c"], 1)
    dropping = wrapped(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    found = align(dropping, [place(word, 0, "{word}") for word in ("ab", "ba", "nab")])
    assert (found.words, found.dropped) == (["ab", "ba"], 1)


# Whatever a tokenizer is

LETTERS = "abcdé中 .,\n"
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")


@st.composite
def any_tokenizer(draw: st.DrawFn) -> PreTrainedTokenizerFast:
    """Of any kind that the tokenizers library has; with gaps or not, special and added tokens, a normaliser."""
    pieces = draw(st.lists(st.text("abcdé中", min_size=1, max_size=3), max_size=8, unique=True))
    letters = draw(st.sampled_from(["abcdé中▁Ġ.,", "ab", "abcd▁Ġ"]))
    words = list(dict.fromkeys([*SPECIAL[: draw(st.integers(0, 4))], *letters, *pieces]))
    step, start = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    vocabulary = {word: start + step * index for index, word in enumerate(words)}
    unknown = draw(st.sampled_from([None, "<unk>"])) if "<unk>" in vocabulary else None
    kind = draw(st.sampled_from(["bytes", "bpe", "wordpiece", "unigram", "words"]))
    merges = [(piece[0], piece[1]) for piece in pieces if len(piece) == 2 and set(piece) <= set(letters)]
    if kind == "bytes":
        alphabet = {
            one: len(vocabulary) * step + start + i for i, one in enumerate(pre_tokenizers.ByteLevel.alphabet())
        }
        model: models.Model = models.BPE(alphabet | vocabulary, [])
    elif kind == "bpe":
        model = models.BPE(vocabulary, merges, unk_token=unknown)
    elif kind == "wordpiece":
        model = models.WordPiece(vocabulary, unk_token=unknown or "[UNK]")
    elif kind == "unigram":
        listed = [(word, -float(index)) for index, word in enumerate(words)]
        model = models.Unigram(listed, unk_id=words.index(unknown) if unknown else None)
    else:
        model = models.WordLevel(vocabulary, unk_token=unknown or "")
    backend = Tokenizer(model)
    if kind == "bytes":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=draw(st.booleans()))
        backend.decoder = decoders.ByteLevel()
    else:
        splits = [None, pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
        backend.pre_tokenizer = draw(st.sampled_from(splits))  # type: ignore[assignment]
        backend.decoder = draw(st.sampled_from([None, decoders.Metaspace(), decoders.WordPiece()]))  # type: ignore
        normaliser = draw(st.sampled_from([None, normalizers.Lowercase(), normalizers.NFD()]))
        if normaliser is not None:
            backend.normalizer = normaliser
    if "</s>" in vocabulary:
        template = draw(st.sampled_from(["$A", "<s> $A", "<s> $A </s>", "$A </s>", "<s> </s> $A </s> <s>"]))
        pairs = [(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=pairs)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    told = {name: spelling for name, spelling in names.items() if draw(st.booleans())}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **told)  # adds those that are not in it
    if draw(st.booleans()):
        tokenizer.add_tokens([AddedToken("cd", single_word=draw(st.booleans())), "zz"])
    return tokenizer


def check_any(
    tokenizer: PreTrainedTokenizerFast, documents: list[str], tokens: int, bos: bool | None, eos: bool | None
) -> None:
    """A tokenizer and a text end well, or in one line; what is packed is what the tokenizer itself says."""
    size = vocabulary_size(tokenizer)
    lengths, begins = token_lengths(tokenizer), begins_word(tokenizer)
    assert len(lengths) == len(begins) == len(token_texts(tokenizer)) == size
    ids = list(tokenizer.get_vocab().values())
    assert {index for index in range(size) if index not in ids} <= set(np.flatnonzero(lengths == UNDEFINED))
    starts = bool(added_tokens(tokenizer)[0]) if bos is None else bos
    try:
        packed = pack(documents, tokenizer, tokens, 6, begin_with_bos=starts, eos=eos)
    except UserError as error:
        assert "\n" not in str(error)
        assert str(error).startswith(("model.tokenizer", "dataset.tokens"))
        return
    assert packed.count == tokens
    occurring = packed.input_ids[packed.valid]
    assert set(occurring.tolist()) <= set(ids)
    first = first_tokens(tokenizer) if starts else []
    expected: list[int] = []
    needed = int(packed.valid[:, len(first) :].sum())
    for index, document in enumerate(documents[: packed.documents]):
        expected += (document_end(tokenizer, eos) or []) if index else []
        if len(expected) < needed:
            expected += tokenizer(document, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    rows: list[list[int]] = []
    while len(rows) < len(packed.valid):
        taken = 6 - len(first)
        rows, expected = [*rows, first + expected[:taken]], expected[taken:]
    assert occurring.tolist() == [one for row in rows for one in row][:tokens]
    counts = np.bincount(occurring, minlength=size)
    if (counts[lengths >= 0] > 0).any():
        group = np.zeros(int(lengths.max()) + 2, dtype=np.int64)
        design = Design(packed, Covariate(lengths, "size", "size", "mm"), counts, begins, 2, 2, 0, 0, group, 1)
        assert design.counts.sum() == (lengths[occurring] >= 0).sum()
    try:
        find_occurrences(packed, tokenizer, [("ab", 0), ("cd", 1)], 3)
        found = align(tokenizer, [place(word, 0, "a {word}") for word in ("ab", "cd", "é")], starts)
        assert len(found.words) + found.dropped == 3
    except UserError as error:
        assert str(error).startswith(("model.tokenizer: it cannot read this text", "experiment: no word has tokens of"))


TEXTS = st.lists(st.text(LETTERS, max_size=12), min_size=1, max_size=4)


@given(any_tokenizer(), TEXTS, st.integers(1, 20), *[st.sampled_from([None, False, True])] * 2)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_tokenizer_ends_well_or_in_one_line(tokenizer, documents, tokens, bos, eos):
    check_any(tokenizer, documents, tokens, bos, eos)


@pytest.mark.slow
@given(any_tokenizer(), TEXTS, st.integers(1, 20), *[st.sampled_from([None, False, True])] * 2)
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_tokenizer_ends_well_or_in_one_line_at_length(tokenizer, documents, tokens, bos, eos):
    check_any(tokenizer, documents, tokens, bos, eos)
