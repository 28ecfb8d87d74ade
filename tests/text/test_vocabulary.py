"""What is known of a token type: word beginnings, frequencies, shuffles within bands, balanced blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from neurexp.models.load import load_model
from neurexp.text.vocabulary import balanced_blocks, begins_word, log_frequency, shuffled_within_bands

COUNTS = st.lists(st.integers(0, 300), min_size=1, max_size=60).map(np.array)


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("mini", device="cpu").tokenizer


# Word beginnings


def test_a_word_begins_with_a_space_and_a_letter_or_digit(tokenizer):
    found = begins_word(tokenizer)
    texts = [tokenizer.decode([index]) for index in range(len(tokenizer))]
    expected = [len(text) > 1 and text.startswith(" ") and text[1].isalnum() for text in texts]
    assert found.tolist() == expected
    assert found.dtype == bool
    assert 0.2 < found.mean() < 0.95


def test_spaces_signs_pieces_and_special_tokens_begin_no_word(tokenizer):
    found, texts = begins_word(tokenizer), [tokenizer.decode([index]) for index in range(len(tokenizer))]
    marks = dict(zip(texts, found, strict=True))
    assert marks[" the"]
    assert marks[" a"]
    for text in ("the", " ", "a", "  ", "\n", " (", " ="):
        assert not marks.get(text, False), text
    assert not found[tokenizer.all_special_ids].any()


def sentencepiece_like(vocabulary):
    """A tokenizer whose decoder drops the leading space of what it decodes, as SentencePiece's do."""
    backend = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(vocabulary)}, "<unk>"))
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


def test_sentencepiece_marks_its_spaces_in_the_piece():
    tokenizer = sentencepiece_like(["<unk>", "</s>", "▁the", "the", "▁", "▁(", "▁7"])
    assert tokenizer.decode([2]) == "the"  # the space is lost
    assert begins_word(tokenizer).tolist() == [False, False, True, False, False, False, True]


# Frequencies


def test_log_frequency_with_one_added_to_every_count():
    counts = np.array([0, 1, 3, 12])
    np.testing.assert_allclose(log_frequency(counts), np.log2(np.array([1, 2, 4, 13]) / 20))


@given(COUNTS)
def test_smoothed_frequencies_are_a_distribution_in_the_order_of_the_counts(counts):
    found = log_frequency(counts)
    assert np.exp2(found).sum() == pytest.approx(1)
    assert np.array_equal(np.argsort(found, kind="stable"), np.argsort(counts, kind="stable"))


# Shuffles


def octave(count):
    return int(count).bit_length()  # 1 → 1, 2–3 → 2, 4–7 → 3, …; 0 → 0


@given(COUNTS, st.integers(0, 5))
def test_every_band_of_an_octave_keeps_its_values(counts, seed):
    values = np.arange(len(counts)) * 7 % 13
    shuffled = shuffled_within_bands(values, counts, 3, seed)
    bands = np.array([octave(count) for count in counts])
    for draw in shuffled:
        for band in set(bands):
            members = bands == band
            assert sorted(draw[members]) == sorted(values[members])
        assert np.array_equal(draw[counts == 0], values[counts == 0])


def test_types_are_shuffled_and_not_tokens():
    """A draw has one value per type, whatever its count, and each type's value is dealt out once."""
    counts, values = np.array([4, 5, 6, 7, 100]), np.array([1, 2, 3, 4, 9])
    shuffled = shuffled_within_bands(values, counts, 50, 0)
    assert shuffled.shape == (50, 5)
    for draw in shuffled:
        assert sorted(draw[:4]) == [1, 2, 3, 4]
    assert (shuffled[:, 4] == 9).all()  # alone in its band


def test_draws_differ_and_cover_all_places():
    counts, values = np.full(6, 2), np.arange(6)
    shuffled = shuffled_within_bands(values, counts, 2000, 0)
    assert len({tuple(draw) for draw in shuffled}) > 600  # of 720 orders
    for place in range(6):
        shares = np.bincount(shuffled[:, place], minlength=6) / 2000
        np.testing.assert_allclose(shares, 1 / 6, atol=0.05)


def test_the_seed_decides():
    counts, values = np.full(50, 3), np.arange(50.0)
    one = shuffled_within_bands(values, counts, 4, 1)
    assert np.array_equal(one, shuffled_within_bands(values, counts, 4, 1))
    assert not np.array_equal(one, shuffled_within_bands(values, counts, 4, 2))
    assert np.array_equal(values, np.arange(50.0))  # what was given is left alone
    assert not np.array_equal(one[0], one[1])


def test_a_text_without_tokens_shuffles_nothing():
    values = np.arange(5)
    assert (shuffled_within_bands(values, np.zeros(5, int), 2, 0) == values).all()


# Blocks


@given(COUNTS, st.integers(1, 20))
def test_blocks_are_as_many_as_asked_or_as_there_are_types(counts, blocks):
    found = balanced_blocks(counts, blocks)
    assert found.shape == counts.shape
    present = counts > 0
    assert set(found[present]) == set(range(min(blocks, present.sum())))
    load = np.bincount(found[present], weights=counts[present])
    if present.any():  # the fullest got its last type when it was the emptiest
        assert load.max() - load.min() <= counts.max()


def test_blocks_are_dealt_from_the_most_frequent_type_to_the_emptiest_block():
    counts = np.array([1, 10, 0, 6, 5, 4, 1])
    # 10 → block 0; 6 → block 1; 5 → block 2; 4 → block 2 (5 < 6); 1 → block 1; 1 → block 1
    assert balanced_blocks(counts, 3)[counts > 0].tolist() == [1, 0, 1, 2, 2, 1]


def test_many_types_fill_blocks_evenly():
    counts = np.random.default_rng(0).zipf(1.6, 3000).clip(max=400)
    load = np.bincount(balanced_blocks(counts, 32), weights=counts)
    assert load.max() / load.min() < 1.05
