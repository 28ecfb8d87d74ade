"""Stretches of tokens that are extended to whole sentences."""

import pytest

from neurexp.text.whole_sentences import whole_sentences

TEXT = [
    "One",
    " is",
    " here",
    ".",
    " Two",
    " (",
    "is",
    " there",
    "!)",
    " v",
    "1",
    ".",
    "5",
    " is",
    " three",
    ".",
    " No",
]


def texts(words):
    return [(word, index, index + 1) for index, word in enumerate(words)]


@pytest.mark.parametrize(
    ("start", "stop", "most", "found"),
    [
        (6, 8, 9, (4, 9)),  # the bracket belongs to the sentence
        (1, 3, 9, (0, 4)),
        (4, 9, 9, (4, 9)),
        (5, 10, 9, (4, 16)),  # the stop within 1.5 ends no sentence
        (5, 10, 3, (4, 10)),  # too far
        (7, 8, 2, (7, 9)),
        (16, 17, 9, (16, 17)),
    ],
)
def test_a_stretch_gains_the_rest_of_its_sentences(start, stop, most, found):
    assert whole_sentences(texts(TEXT), start, stop, most) == found


def test_scripts_without_spaces_and_empty_lines_end_sentences_too():
    assert whole_sentences(texts(["猫", "。", "狗", "来", "。", "鸟"]), 3, 4, 9) == (2, 5)
    assert whole_sentences(texts(["A", " title", "\n\n", "Text", " runs", " on"]), 4, 5, 9) == (3, 6)


def test_tokens_that_are_no_text_of_their_own_are_counted():
    pieces = [("One", 0, 2), (".", 2, 3), (" 猫", 3, 6), (" is", 6, 7), (".", 7, 8), (" No", 8, 9)]
    assert whole_sentences(pieces, 6, 7, 9) == (3, 8)
