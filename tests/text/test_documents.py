"""The document of every token: by hand, and against the stream written out token by token."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from neurexp.io.store import Store
from neurexp.text.shuffled import shuffled_words
from neurexp.text.tokens import Tokens, cached, pack

EOS, BOS = 0, 1
_backend = Tokenizer(models.WordLevel({"</s>": EOS, "<s>": BOS, "<unk>": 2, "a": 3, "b": 4}, unk_token="<unk>"))
_backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_object=_backend, unk_token="<unk>", eos_token="</s>", bos_token="<s>", pad_token="</s>"
)


def test_a_joint_belongs_to_the_document_that_it_ends_and_pads_to_none():
    packed = pack(["a b", "a", "a a a"], TOKENIZER, tokens=8, sequence_length=3)
    assert packed.document.tolist() == [[0, 0, 0], [1, 1, 2], [2, 2, -1]]
    assert packed.document.dtype == np.int64


def test_what_begins_a_sequence_belongs_to_the_document_that_goes_on_in_it():
    packed = pack(["a b", "a", "a a a"], TOKENIZER, tokens=11, sequence_length=4, begin_with_bos=True)
    assert packed.document.tolist() == [[0, 0, 0, 0], [1, 1, 1, 2], [2, 2, 2, -1]]


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    length=st.integers(2, 6),
    bos=st.booleans(),
    share=st.floats(0.1, 1),
)
def test_documents_are_those_of_the_stream(lengths, length, bos, share):
    stream = []
    for number, words in enumerate(lengths):
        stream += [number] * words + ([number] if number + 1 < len(lengths) else [])
    text = length - bos
    expected = []
    for start in range(0, len(stream), text):
        part = stream[start : start + text]
        expected += part[:1] * bos + part + [-1] * (text - len(part))
    full = sum(number >= 0 for number in expected)
    tokens = max(1 + bos, int(share * full))
    if not stream:
        return
    packed = pack([" ".join("a" * words) for words in lengths], TOKENIZER, tokens, length, bos)
    found = packed.document
    assert found.shape == packed.valid.shape
    flat = np.array(expected[: found.size])
    known = packed.valid.ravel() & (packed.valid.sum(1) > bos).repeat(length)
    assert np.array_equal(found.ravel()[known], flat[known])
    assert (found[~packed.valid] == -1).all()


def test_without_boundaries_every_sequence_is_a_document():
    valid = np.array([[True, True], [True, False]])
    assert Tokens(np.zeros((2, 2), np.int32), valid, 2).document.tolist() == [[0, 0], [1, -1]]


def test_a_shuffled_text_keeps_its_documents():
    packed = pack(["a b a b a", "b a b"], TOKENIZER, tokens=9, sequence_length=4)
    special = np.arange(5) < 2
    shuffled = shuffled_words(packed, ~special, special, seed=0)
    assert np.array_equal(shuffled.document, packed.document)


def test_kept_tokens_have_their_documents(tmp_path):
    made = pack(["a b", "a", "a a a"], TOKENIZER, tokens=8, sequence_length=3)
    for _ in range(2):
        assert np.array_equal(cached(tmp_path, {}, lambda: made).document, made.document)
    unknown = replace(made, starts=None)
    for _ in range(2):
        assert np.array_equal(cached(tmp_path, {"other": 1}, lambda: unknown).document, unknown.document)


def test_tokens_that_an_earlier_version_kept_are_made_anew(tmp_path):
    made = pack(["a b", "a", "a a a"], TOKENIZER, tokens=8, sequence_length=3)
    cached(tmp_path, {}, lambda: made)
    entry = Store(tmp_path).entry("tokens", {})
    arrays = entry.load()
    assert arrays is not None
    arrays = {name: values.copy() for name, values in arrays.items() if name != "starts"}
    entry.save(arrays)
    assert np.array_equal(cached(tmp_path, {}, lambda: made).document, made.document)
    assert "starts" in (entry.load() or {})
