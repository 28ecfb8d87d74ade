"""What a message shows as it is, and what as an escape."""

import pytest

from neurexp.errors import printable


@pytest.mark.parametrize(
    "word",
    [
        "é", "cafe\u0301", "中文", "क्\u200dया", "می\u200cخواهم", "അവന്\u200d", "שלום", "👩\u200d💻", "❤\ufe0f", "🫨",
        "New\u00a0York", "東京\u3000タワー", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    ],
)  # fmt: skip
def test_words_of_any_script_are_readable(word):
    assert printable(f"a “{word}” there") == f"a “{word}” there"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb", "a\\nb"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("a\u200fb", "a\\u200fb"),
        ("\u200dabc", "\\u200dabc"),
        ("a\u200d\u200db", "a\u200d\\u200db"),  # the first may join, the second hides
        (" \u200cabc", " \\u200cabc"),
        ("a\u200bb", "a\\u200bb"),
        ("a\u2028b", "a\\u2028b"),
        ("model=\u00a0", "model=\\xa0"),  # it would be taken for nothing
        ("a \u00a0b", "a \\xa0b"),
        ("🏴\U000e0041", "🏴\\U000e0041"),
        ("\ue000\ud800\uffff", "\\ue000\\ud800\\uffff"),
    ],
)
def test_what_moves_or_hides_text_is_an_escape(text, shown):
    assert printable(text) == shown
