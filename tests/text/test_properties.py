"""Which tokens begin with a capital, have a digit, or are punctuation."""

from made_tokenizers import byte_fallback, sentencepiece_like

from neurexp.text import properties
from neurexp.text.vocabulary import token_texts

PIECES = (
    "▁Door",
    "Door",
    "▁door",
    "dOOR",
    "▁",
    "▁É",
    "4th",
    "▁12",
    "²",
    "!?",
    "▁(",
    "▁(x)",
    "😀",
    "€",
    "s2",
    "\n",
    "ा",
    "’",
)


def marked(which, tokenizer):
    return {text for text, mark in zip(token_texts(tokenizer), which(tokenizer), strict=True) if mark}


def test_properties_of_types():
    tokenizer = sentencepiece_like("always", PIECES)
    letters = set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert marked(properties.capital, tokenizer) - letters == {" Door", "Door", " É"}
    assert marked(properties.digit, tokenizer) == {"4th", " 12", "²", "s2"}
    # a vowel sign is no punctuation; a special token's name has letters
    assert marked(properties.punctuation, tokenizer) == {"!?", " (", "😀", "€", "’", ".", ",", "'", "-"}


def test_a_part_of_a_character_has_no_property():
    tokenizer = byte_fallback()
    parts = [index for index, text in enumerate(token_texts(tokenizer)) if text == "\ufffd"]
    assert len(parts) > 100
    for which in (properties.capital, properties.digit, properties.punctuation):
        assert not which(tokenizer)[parts].any()
