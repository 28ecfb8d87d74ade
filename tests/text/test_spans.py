"""A word's tokens within a template, excerpts of running text, and pairs of words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokenizers import decoded, sentencepiece_like
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from neurexp.errors import UserError
from neurexp.models.locations import MINI
from neurexp.text.spans import Selection, align, each_text_once, excerpt, excerpts, only_needed, pairing_order, place
from neurexp.text.tokens import Tokens
from neurexp.text.words import OWN_LISTS, read_lists


@pytest.fixture(scope="module", params=["mini", "gpt2"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    if request.param == "mini":
        return AutoTokenizer.from_pretrained(MINI)
    return AutoTokenizer.from_pretrained(request.getfixturevalue("data") / "gpt2-tokenizer")


# A word's tokens

WORDS = [
    "door",
    "house",
    "xylophone",
    "naïve",
    "Zürich",
    "日本語",
    "привет",
    "שלום",
    "مرحبا",
    "👩‍👩‍👧",
    "😀",
    "ice cream",
]
TEMPLATES = ["{word}", " {word}", "The {word}", "The {word}s are", "a {word}, then", "un{word}", "“{word}”", "é{word}é"]


def placed(words: list[str], template: str):
    return [place(word, index % 2, template) for index, word in enumerate(words)]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_words_tokens_are_the_word_and_nothing_else(tokenizer, template):
    words = WORDS + [word for listed in read_lists(OWN_LISTS).words.values() for word in listed]
    found = align(tokenizer, placed(words, template))
    assert decoded(tokenizer, found) == found.words
    assert len(found.words) + found.dropped == len(words)
    assert set(found.words) <= set(words)
    assert [words.index(word) % 2 for word in found.words] == found.category.tolist()
    assert found.sequence.tolist() == list(range(len(found.words)))
    assert (found.lengths >= 1).all()
    if template in ("{word}", " {word}", "The {word}", "a {word}, then"):
        assert found.dropped == 0


@pytest.mark.parametrize("template", ["{word}", "The {word}s are", "un{word}"])
def test_the_raw_lists_are_aligned_or_dropped_but_never_leak(tokenizer, data, template):
    words = [word for listed in read_lists(data / "wordlists").words.values() for word in listed]
    found = align(tokenizer, placed(words, template))
    assert decoded(tokenizer, found) == found.words
    assert len(found.words) + found.dropped == len(words)


def test_the_whole_example_is_run_not_the_word_alone(tokenizer):
    found = align(tokenizer, placed(["door", "xylophone"], "The {word}, then"))
    for row, word in enumerate(found.words):
        ids = found.tokens.input_ids[row][found.tokens.valid[row]]
        assert tokenizer.decode(ids) == f"The {word}, then"
        assert ids.tolist() == tokenizer(f"The {word}, then")["input_ids"]


def test_a_word_that_merges_with_what_stands_around_it_is_dropped_and_counted(data):
    gpt2 = AutoTokenizer.from_pretrained(data / "gpt2-tokenizer")
    # " doors" is a token of GPT-2's, the "s" after "process" another one than the word's
    found = align(gpt2, placed(["door", "process"], "The {word}s are"))
    assert (found.words, found.dropped) == (["process"], 1)
    assert found.tokens.input_ids.shape[0] == 1
    with pytest.raises(UserError, match=r"^experiment: no word has tokens of its own"):
        align(gpt2, placed(["door", "car"], "The {word}s are"))


@settings(max_examples=100, deadline=None)
@given(
    words=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z")), min_size=1), min_size=1),
    before=st.text(st.characters(codec="utf-8"), max_size=4),
    after=st.text(st.characters(codec="utf-8"), max_size=4),
)
def test_whatever_stands_around_a_word_no_token_of_it_is_the_words(tokenizer, words, before, after):
    examples = [place(word, 0, before.replace("{", "") + "{word}" + after) for word in words]
    for example in examples:
        assert example.text[example.start : example.stop] == example.word
    try:
        found = align(tokenizer, examples)
    except UserError:
        return
    assert [text.strip() for text in decoded(tokenizer, found)] == [word.strip() for word in found.words]
    assert len(found.words) + found.dropped == len(words)


def test_padding_is_on_the_right_and_marked(tokenizer):
    words = ["door", "xylophone", "incomprehensibilities"]
    found = align(tokenizer, placed(words, "{word}"))
    ids = [tokenizer(word)["input_ids"] for word in words]
    assert found.tokens.input_ids.shape == found.tokens.valid.shape == (3, max(map(len, ids)))
    assert found.tokens.count == sum(map(len, ids))
    assert found.tokens.input_ids.dtype == np.int32
    for row, own in enumerate(ids):
        assert found.tokens.valid[row].tolist() == [place < len(own) for place in range(found.tokens.valid.shape[1])]
        assert found.tokens.input_ids[row, : len(own)].tolist() == own
    assert found.start.tolist() == [0, 0, 0]
    assert found.stop.tolist() == [len(own) for own in ids]


def test_a_family_that_begins_with_bos_shifts_every_span_by_one(tokenizer):
    plain, begun = (align(tokenizer, placed(WORDS, "The {word}"), begin_with_bos=bos) for bos in (False, True))
    assert (begun.start - plain.start == 1).all()
    assert (begun.stop - plain.stop == 1).all()
    assert (begun.tokens.input_ids[:, 0] == tokenizer.bos_token_id).all()
    assert (begun.tokens.valid.sum(1) - plain.tokens.valid.sum(1) == 1).all()
    assert decoded(tokenizer, begun) == plain.words == begun.words


def test_a_family_that_needs_bos_with_a_tokenizer_without_one_is_told_so():
    bare = PreTrainedTokenizerFast(tokenizer_object=sentencepiece_like("first").backend_tokenizer, eos_token="</s>")
    assert bare.bos_token_id is None
    with pytest.raises(UserError, match="beginning-of-text"):
        align(bare, placed(["door", "house"], "{word}"), begin_with_bos=True)


def test_a_tokenizer_without_end_of_text_pads_all_the_same():
    bare = PreTrainedTokenizerFast(tokenizer_object=sentencepiece_like("first").backend_tokenizer)
    found = align(bare, placed(["door", "hh"], "{word}"))
    assert (found.tokens.valid.sum(1) > 0).all()
    assert decoded(bare, found) == ["door", "hh"]


@pytest.mark.parametrize("style", ["first", "always", "normalizer"])
@pytest.mark.parametrize("template", ["{word}", " {word}", "The {word}", "the {word}s are", "a {word}, the"])
def test_a_words_tokens_in_a_tokenizer_like_sentencepiece(style, template):
    tokenizer = sentencepiece_like(style)
    words = ["door", "house", "cat", "Door"]
    found = align(tokenizer, placed(words, template))
    assert decoded(tokenizer, found) == found.words == words
    assert found.dropped == 0


def test_a_special_tokens_spelling_inside_a_word_is_text(tokenizer):
    found = align(tokenizer, placed(["<|endoftext|>", "door"], "{word}"))
    assert found.lengths[0] > 1
    assert tokenizer.eos_token_id not in found.tokens.input_ids[found.tokens.valid]


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match=r"^model\.tokenizer: "):
        align(Slow(), placed(["door", "house"], "{word}"))


# The excerpt


def marked(rows: list[str], valid: list[int] | None = None) -> Selection:
    """A selection written down: `.` is a token, a digit one of a word of that category."""
    places = [
        (row, column, int(mark)) for row, line in enumerate(rows) for column, mark in enumerate(line) if mark != "."
    ]
    width = len(rows[0])
    ids = np.arange(len(rows) * width, dtype=np.int32).reshape(len(rows), width)
    there = np.arange(width) < np.array(valid or [width] * len(rows))[:, None]
    columns = np.array(places).T
    return Selection(
        Tokens(ids, there, len(rows)), columns[0], columns[1], columns[1] + 1, columns[2], ["w"] * len(places)
    )


def test_an_excerpt_is_so_long_and_lies_where_most_words_stand():
    found = excerpt(marked(["0.........0", ".....0..10.", "1.........."]), 5)
    assert found.sequence.tolist() == [1] * 5
    assert found.start.tolist() == [5, 6, 7, 8, 9]
    assert (found.stop - found.start == 1).all()
    assert found.category.tolist() == [0, -1, -1, 1, 0]
    assert found.words == ["5", "6", "7", "8", "9"]


def test_an_excerpt_with_words_of_both_categories_goes_before_one_with_as_many_of_one():
    found = excerpt(marked(["000.......", "......0.1."]), 4)
    assert found.sequence.tolist() == [1] * 4
    assert sorted(set(found.category.tolist())) == [-1, 0, 1]


def test_an_excerpt_is_no_longer_than_a_sequence_and_never_of_pads():
    assert len(excerpt(marked(["0.1..."]), 100).words) == 6
    short = excerpt(marked(["0.1......."], valid=[4]), 8)
    assert short.start.tolist() == [0, 1, 2, 3]
    full = excerpt(marked(["0.01......", "......0..."], valid=[4, 10]), 6)
    assert len(full.words) == 6
    assert full.sequence.tolist() == [1] * 6


def test_every_token_of_a_long_word_is_marked():
    selection = marked(["..0......."])
    selection.stop[0] = 5
    assert excerpt(selection, 10).category.tolist() == [-1, -1, 0, 0, 0, -1, -1, -1, -1, -1]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.text("...01", min_size=12, max_size=12), min_size=1, max_size=3).filter(
        lambda rows: set("".join(rows)) > {"."}
    ),
    valid=st.data(),
    length=st.integers(1, 14),
)
def test_an_excerpt_holds_its_words_categories(rows, valid, length):
    rows = [line[: valid.draw(st.integers(4, 12))].ljust(12, ".") for line in rows]
    if set("".join(rows)) == {"."}:
        return
    counts = [max(4, len(line.rstrip("."))) for line in rows]
    found = excerpt(marked(rows, counts), length)
    row = int(found.sequence[0])
    assert found.start.tolist() == list(range(found.start[0], found.start[0] + len(found.start)))
    longest = max(counts)
    assert len(found.start) == min(length, 12) if longest >= min(length, 12) else len(found.start) <= longest
    assert found.stop.max() <= counts[row]
    assert found.category.tolist() == [
        -1 if rows[row][place] == "." else int(rows[row][place]) for place in found.start
    ]


# Pairs


def test_words_are_paired_by_number_of_tokens_then_by_their_rarest_token_then_by_the_alphabet():
    words = {"e": [9, 1], "b": [7], "a": [7], "d": [3, 8], "c": [2], "f": [1, 2, 3]}
    order = pairing_order(list(words.values()), list(words))
    assert [list(words)[index] for index in order] == ["c", "a", "b", "d", "e", "f"]


def test_pairs_do_not_depend_on_the_order_given():
    words = [("a", [5]), ("b", [5]), ("c", [1, 2]), ("d", [2, 1]), ("e", [4])]
    orders = []
    for given_words in (words, words[::-1]):
        order = pairing_order([ids for _, ids in given_words], [word for word, _ in given_words])
        orders.append([given_words[index][0] for index in order])
    assert orders[0] == orders[1] == ["e", "a", "b", "c", "d"]
    assert pairing_order([], []) == []


def test_a_text_of_several_rows_is_run_once():
    ids = np.array([[5, 6, 7], [5, 6, 0], [5, 6, 7], [4, 1, 1]], dtype=np.int32)
    valid = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]], dtype=bool)  # a pad is no 0
    rows = Selection(
        Tokens(ids, valid, 4), np.arange(4), np.array([0, 1, 2, 0]), np.array([1, 2, 3, 2]), np.array([0, 1, 0, 1]),
        list("abcd"),
    )  # fmt: skip
    once = each_text_once(rows)
    assert once.tokens.valid.shape == (3, 3)
    assert once.tokens.documents == 3
    assert [once.ids(row) for row in range(4)] == [rows.ids(row) for row in range(4)]
    for row in range(4):
        place, own = rows.sequence[row], once.sequence[row]
        np.testing.assert_array_equal(ids[place][valid[place]], once.tokens.input_ids[own][once.tokens.valid[own]])
    assert once.sequence[0] == once.sequence[2]
    fewer = only_needed(once.only(np.array([False, True, False, True])))
    assert len(fewer.tokens.valid) == 2
    assert [fewer.ids(row) for row in range(2)] == [rows.ids(1), rows.ids(3)]


def test_several_excerpts_do_not_overlap_and_that_with_most_words_comes_first(tokenizer):
    one = marked(["00.......................1...............0", "0........................................."])
    found = excerpts(one, 6, 3, tokenizer)
    places = {(int(each.sequence[0]), int(position)) for each in found for position in each.start}
    assert len(places) == sum(len(each.start) for each in found)
    assert len(found) == 3
    words = [int((each.category >= 0).sum()) for each in found]
    assert words[0] == max(words) == 2
    assert all(len(each.start) >= 6 for each in found)
