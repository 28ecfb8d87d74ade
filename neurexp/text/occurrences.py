"""Occurrences of listed words in running text, as whole words by the rules of their script.

Words are searched in the characters of the text; an occurrence consists of the tokens that cover it. Knows nothing of
models, and no language: only the rules of Unicode for a script.

- Most scripts set words apart by spaces and punctuation. A word that an apostrophe, a hyphen or an underscore ties to
  other letters is part of a longer one.
- Chinese, Japanese, Thai, Lao, Khmer, Burmese and a few others do not. There the longest listed word that fits is
  taken, from left to right, and then the next. It may be part of a longer word that is not listed: such occurrences are
  counted (`Selection.adjoining`). The same holds for Tibetan, whose dots set syllables apart, not words.
"""

from array import array
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.text.characters import characters, token_bytes
from neurexp.text.scripts import PARTS, adjoins, fold_part, parts_of, stands_alone
from neurexp.text.spans import Selection
from neurexp.text.tokens import Tokens

_REMEMBERED = 100_000  # parts whose folded form is kept
_LEAF = ""  # the key of a word's number; no part is empty

_Trie = dict[str, Any]  # folded part → the parts that may follow; `_LEAF` → number of the word that ends here


def _capitalised(word: str) -> set[str]:
    """The word at the beginning of a sentence. Turkish has a dot on its capital İ."""
    forms = {word[:1].title() + word[1:]}
    return forms | {"İ" + word[1:]} if word.startswith("i") else forms


def _trie(words: list[str]) -> _Trie:
    """All words by their parts. A listed form takes precedence over another word's capitalised form."""
    root: _Trie = {}
    forms = [(word, number) for number, word in enumerate(words)]
    forms += [(form, number) for number, word in enumerate(words) for form in sorted(_capitalised(word) - {word})]
    for form, number in forms:
        node = root
        for part in parts_of(form):
            node = node.setdefault(part, {})
        if node is not root:
            node.setdefault(_LEAF, number)
    return root


def find_occurrences(
    tokens: Tokens, tokenizer: PreTrainedTokenizerBase, words: Iterable[tuple[str, int]], most: int
) -> Selection:
    """Finds listed words in running text as whole words, as listed or capitalised, in any Unicode spelling.

    The tokens of an occurrence are those that cover it; a space before it may be part of the first. If one of them also
    covers another character, the occurrence is dropped and counted (`dropped`). Words at the edge of a sequence, or
    next to a token for unknown text, do not count, because their surroundings are unknown. Time grows with the text
    plus the words, not with their product.

    Args:
        tokens: the text.
        tokenizer: of the text, one with a backend in Rust.
        words: (word, category) pairs.
        most: the largest number of occurrences of a word; the first ones count, so no frequent word dominates.
    """
    listed = list(words)
    root, seen = _trie([word for word, _ in listed]), np.zeros(len(listed), dtype=np.int64)
    spelled = token_bytes(tokenizer, np.unique(tokens.input_ids[tokens.valid]).tolist(), spell_special=False)
    columns = [array("q") for _ in range(4)]  # sequence, start, stop, number of the word
    dropped = adjoining = 0
    remembered: dict[str, str] = {}
    for row in range(len(tokens.input_ids)):
        if (seen == most).all():
            break
        found = characters([spelled[index] for index in tokens.input_ids[row][tokens.valid[row]].tolist()])
        for start, stop, number in _matches(found.text, root, remembered):
            if seen[number] == most:
                continue
            first = int(np.searchsorted(found.stop, start, "right"))
            last = int(np.searchsorted(found.start, stop, "left"))
            beside = found.text[found.start[first] : start] + found.text[stop : found.stop[last - 1]]
            if beside.strip():
                dropped += 1
                continue
            seen[number] += 1
            adjoining += adjoins(found.text, start, stop)
            for column, value in zip(columns, (row, first, last, number), strict=True):
                column.append(value)
    sequence, start, stop, number = (np.array(column, dtype=np.int64) for column in columns)
    category = np.array([category for _, category in listed], dtype=np.int64)
    return Selection(
        tokens,
        sequence,
        start,
        stop,
        category[number] if len(number) else number,
        words=[listed[index][0] for index in number.tolist()],
        dropped=dropped,
        adjoining=adjoining,
    )


def _matches(text: str, root: _Trie, remembered: dict[str, str]) -> list[tuple[int, int, int]]:
    """(start, stop, number) of each listed word in a text, none within another, from left to right."""
    parts = PARTS.findall(text)
    keys = []
    for part in parts:
        key = remembered.get(part)
        if key is None:
            if len(remembered) >= _REMEMBERED:
                remembered.clear()
            key = remembered[part] = fold_part(part)
        keys.append(key)
    places = [0, *accumulate(map(len, parts))]
    matches, index = [], 0
    while index < len(keys):
        node = root.get(keys[index])
        if node is None:
            index += 1
            continue
        ends, at = [], index + 1
        while node is not None:
            if _LEAF in node:
                ends.append((at, node[_LEAF]))
            while at < len(keys) and not keys[at]:  # a sign that is not seen
                at += 1
            node = node.get(keys[at]) if at < len(keys) else None
            at += 1
        for at, number in reversed(ends):  # the longest first
            if stands_alone(text, places[index], places[at]):
                matches.append((places[index], places[at], number))
                index = at
                break
        else:
            index += 1
    return matches
