"""Which words of a running text are proper nouns, by their spelling and their place; and the lectures' rule."""

import numpy as np
import pytest
from inprocess import text_of

from neurexp.models.load import load_model
from neurexp.text.capitals import START, WITHIN, capitalised_tokens, is_capitalised, running_words

TEXT = (
    "Here begins a text. The old man met Maria near the river, and Maria's brother laughed. Was it late? The river "
    "said nothing. Mr. Brown slept; “Brown is old,” I'm told.\nBrown went to NASA with Anna-Lena - The man said: The "
    "end (Brown). I saw Maria. Maria saw the River today. It was so.")  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("mini", device="cpu").tokenizer


def read(tokenizer, text, length=512):
    return text_of(tokenizer(text, add_special_tokens=False).input_ids, length)


@pytest.fixture(scope="module")
def words(tokenizer):
    return running_words(read(tokenizer, TEXT), tokenizer)


def places_of(words, word):
    return [place for one, place in zip(words.words, words.place.tolist(), strict=True) if one == word]


def test_every_word_is_found_with_its_own_tokens(tokenizer, words):
    for index, word in enumerate(words.words):
        ids = words.tokens.input_ids[words.sequence[index], words.start[index] : words.stop[index]]
        assert tokenizer.decode(ids).strip() == word
    assert "Anna-Lena" in words.words
    assert "I'm" in words.words
    assert "Maria's" not in words.words  # the ending 's is no part of the name
    assert "Here" not in words.words  # nothing is known of what comes before it


def test_the_place_in_the_sentence_follows_from_what_stands_before(words):
    assert places_of(words, "Maria") == [WITHIN, WITHIN, WITHIN, 0]  # after a name a point may be an abbreviation's
    assert places_of(words, "brother") == [WITHIN]
    assert places_of(words, "and") == [WITHIN]  # after a comma
    # After a sentence; after a question; behind a dash; behind a colon
    assert places_of(words, "The") == [START, START, 0, 0]
    assert places_of(words, "Brown") == [0, 0, START, 0]  # abbreviation, quotation, a sentence on a new line, bracket
    assert places_of(words, "It") == [START]


def test_capitals_are_neither_i_nor_all_capitals():
    assert all(map(is_capitalised, ("Maria", "O'Brien", "McDonald", "Anna-Lena", "Ørsted", "Is")))
    assert not any(map(is_capitalised, ("I", "A", "NASA", "I'm", "I’ll", "maria", "iPhone")))


def test_a_proper_noun_is_capitalised_within_sentences_more_often_than_it_is_small(tokenizer, words):
    proper = set(words.types[words.proper])
    assert "maria" in proper
    assert "anna-lena" in proper
    assert "river" not in proper  # twice small, once “the River”
    assert not proper & {"the", "it", "brown", "nasa"}
    common = set(words.types[words.common(tokenizer)])
    assert {"the", "river", "man", "it"} <= common
    assert not common & {"maria", "anna-lena", "brown"}
    counted = dict(zip(words.types, words.counts.tolist(), strict=True))
    assert (counted["maria"], counted["brown"], counted["the"]) == (4, 4, 6)


def test_a_selection_has_the_words_spans(tokenizer, words):
    chosen = np.flatnonzero(words.types == "maria")
    rows = words.selection(chosen, np.ones(len(chosen), dtype=np.int64))
    assert rows.words == ["maria"] * 4
    assert [tokenizer.decode(rows.ids(row)) for row in range(4)] == [" Maria"] * 4


def test_a_word_that_shares_a_token_with_other_characters_is_dropped_and_counted(tokenizer):
    vocabulary, (so, space, it) = tokenizer.get_vocab(), (" so", " ", " it is")
    before, gap, after = (tokenizer(text, add_special_tokens=False).input_ids for text in (so, space, it))
    found = running_words(text_of([*before, *gap, vocabulary["'re"], *after]), tokenizer)
    assert found.words.tolist() == ["so", "it"]
    assert found.dropped == 1


def test_the_lectures_rule_takes_every_capital_that_no_full_stop_precedes(tokenizer):
    text = read(tokenizer, "So it is. The man saw I and NASA? Yes “He” went")
    rows, label = capitalised_tokens(text, tokenizer)
    ids = text.input_ids[0]
    count = int(text.valid.sum())
    assert len(label) == count - 1  # the first token has none before it
    for row, position in enumerate(range(1, count)):
        token, before = tokenizer.decode([ids[position]]), tokenizer.decode([ids[position - 1]])
        assert label[row] == (token.strip()[:1].isupper() and before[-1:] not in (".", "?", "!"))
        assert (rows.start[row], rows.stop[row], rows.words[row]) == (position, position + 1, token.strip())
    hits = [word for word, one in zip(rows.words, label, strict=True) if one]
    assert "I" in hits
    assert "The" not in hits
    assert any("He".startswith(word) for word in hits)
