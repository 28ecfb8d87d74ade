"""Words by the rules of Unicode: their parts, their spellings, and what joins them into longer words.

Most scripts separate words by spaces and punctuation. Chinese, Japanese, Thai, Lao, Khmer, Burmese and a few others do
not. Tibetan separates syllables. Knows no language and has no dictionary.
"""

import unicodedata

import regex

_WITHOUT_SPACES = "".join(
    rf"\p{{Script={name}}}"
    for name in (
        "Han", "Hiragana", "Bopomofo", "Tangut", "Nushu", "Thai", "Lao", "Khmer", "Myanmar", "Tai_Le",
        "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Ahom", "Javanese", "Balinese",
    )
)  # fmt: skip
_KATAKANA = r"\p{Script=Katakana}ーﾞﾟ"  # a run of katakana is one word, usually a loan word
_LETTER = r"[[\p{L}\p{N}\p{M}\u200c\u200d\u00ad]--[ʼ\ufe0e\ufe0f]]"  # letters, digits, marks, soft hyphens
_SPACED = rf"[{_LETTER}--[{_WITHOUT_SPACES}{_KATAKANA}]]"
_BETWEEN = r"['’ʼ·‧׳״_]"  # joins two parts of a word if it stands between letters
_HYPHEN = r"[-‐‑]"  # joins two parts of a word, but two hyphens are a dash
_CUT = "[\udc80-\udcff]"  # a byte of a character whose other bytes are in another sequence

# Parts of a text: a run of letters, a run of katakana, or any other single grapheme
PARTS = regex.compile(rf"(?V1){_SPACED}+|[{_KATAKANA}][{_KATAKANA}\p{{M}}]*|\X")
_TIED_BEFORE = regex.compile(rf'(?V1)(?<={_LETTER}{_BETWEEN}|{_LETTER}{_HYPHEN}(?:\r?\n)?|{_CUT}|\p{{Hebrew}}")')
_TIED_AFTER = regex.compile(rf'(?V1)(?={_BETWEEN}(?:{_LETTER}|\Z)|{_HYPHEN}(?!{_HYPHEN})|{_CUT}|"\p{{Hebrew}})')
_ENDS_SPACED = regex.compile(rf"(?V1)[{_SPACED}{_KATAKANA}]")
_IS_LETTER = regex.compile(rf"(?V1){_LETTER}")
_IS_CUT = regex.compile(_CUT)
_SYLLABLE = "\u0f0b\u0f0c"  # the dots between Tibetan syllables
_FOLDED = str.maketrans({"’": "'", "ʼ": "'", "‐": "-", "‑": "-", "\u00ad": None, "\ufe0e": None, "\ufe0f": None})
_SPACES = frozenset(" \u00a0\u2009\u202f\u3000")  # equal between the words of an expression such as "New York"


def fold_word(word: str) -> str:
    """The form in which words are compared: two Unicode spellings of one word have the same form.

    It is composed (NFC), has one kind each of apostrophe, hyphen and space, and lacks characters that only affect
    display.
    """
    return "".join(fold_part(part) for part in PARTS.findall(word))


def fold_part(part: str) -> str:
    """The folded form of one part of a text; empty if the part is invisible."""
    if part.isascii():
        return part
    return " " if part in _SPACES else unicodedata.normalize("NFC", part.translate(_FOLDED))


def parts_of(word: str) -> list[str]:
    """The folded parts of a word, without invisible ones."""
    return [part for part in map(fold_part, PARTS.findall(word)) if part]


def stands_alone(text: str, start: int, stop: int) -> bool:
    """Whether text[start:stop], a sequence of whole parts, is a word of its own: nothing joins it to its neighbours.

    False at the edges of the text and next to a cut character, because the neighbours are not known there.
    """
    if start == 0 or stop == len(text) or _IS_CUT.match(text, start - 1) or _IS_CUT.match(text, stop):
        return False
    first, last = text[start], text[stop - 1]
    if _ENDS_SPACED.match(first):
        if _TIED_BEFORE.match(text, start):
            return False
    elif unicodedata.category(first)[0] == "P" and _IS_LETTER.match(text, start - 1):  # .NET in ASP.NET
        return False
    if _ENDS_SPACED.match(last):
        return not _TIED_AFTER.match(text, stop)
    return not (unicodedata.category(last) in ("Pd", "Po", "Pc", "Sm") and _IS_LETTER.match(text, stop))


def adjoins(text: str, start: int, stop: int) -> bool:
    """Whether text[start:stop] is next to letters, as in scripts without spaces: it may be part of a longer word."""
    return (
        any(
            _IS_LETTER.match(text, place - 1) is not None and _IS_LETTER.match(text, place) is not None
            for place in (start, stop)
        )
        or text[start - 1] in _SYLLABLE
        or text[stop] in _SYLLABLE
    )
