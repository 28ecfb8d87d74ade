"""Occurrences of listed words in running text, as whole words by the rules of their script.

Words are searched in the characters of the text. An occurrence is the tokens that cover the word. Knows nothing of
models or languages, only Unicode's rules for scripts.

- Most scripts separate words by spaces and punctuation. A word that an apostrophe, a hyphen or an underscore joins to
  other letters is part of a longer word, and no occurrence.
- Chinese, Japanese, Thai, Lao, Khmer, Burmese and a few other scripts do not separate words. There the text is searched
  from left to right, and the longest listed word is taken at each place. It may be part of a longer word that is not
  listed; such occurrences are counted (`Selection.adjoining`). So are those in Tibetan, where dots separate syllables.
"""

from array import array
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.text.characters import token_bytes
from neurexp.text.joined import characters
from neurexp.text.scripts import PARTS, adjoins, fold_part, parts_of, stands_alone
from neurexp.text.spans import Selection
from neurexp.text.tokens import Tokens

_MOST_FOLDED = 100_000  # parts of the text whose folded form is kept in memory
_LEAF = ""  # the key of a word's number in a trie; no part is empty

_Trie = dict[str, Any]  # folded part → trie of the parts that may follow; `_LEAF` → number of the word that ends here


def _capitalised(word: str) -> set[str]:
    """The forms of the word at the beginning of a sentence. Turkish also has a capital İ with a dot."""
    forms = {word[:1].title() + word[1:]}
    return forms | {"İ" + word[1:]} if word.startswith("i") else forms


def _trie(words: list[str]) -> _Trie:
    """The trie of all words. A listed form takes precedence over the capitalised form of another word."""
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

    The first token of an occurrence may include the space before it. An occurrence is dropped and counted (`dropped`)
    if one of its tokens also covers another character. Words at the edge of a sequence, or next to the unknown token,
    do not count, because their surroundings are not known. The time is proportional to the length of the text plus the
    number of words, not to their product.

    Args:
        tokens: the text.
        tokenizer: the fast tokenizer that made `tokens`.
        words: (word, category) pairs.
        most: the largest number of occurrences of each word, so that no frequent word dominates; the first are taken.
    """
    listed = list(words)
    root, counts = _trie([word for word, _ in listed]), np.zeros(len(listed), dtype=np.int64)
    spelled = token_bytes(tokenizer, np.unique(tokens.input_ids[tokens.valid]).tolist(), spell_special=False)
    columns = [array("q") for _ in range(4)]  # sequence, first token, last token + 1, number of the word
    dropped = adjoining = 0
    folded: dict[str, str] = {}
    for row in range(len(tokens.input_ids)):
        if (counts == most).all():
            break
        found = characters([spelled[token_id] for token_id in tokens.input_ids[row][tokens.valid[row]].tolist()])
        for start, stop, number in _matches(found.text, root, folded):
            if counts[number] == most:
                continue
            first = int(np.searchsorted(found.stop, start, "right"))
            last = int(np.searchsorted(found.start, stop, "left"))
            other_characters = found.text[found.start[first] : start] + found.text[stop : found.stop[last - 1]]
            if other_characters.strip():
                dropped += 1
                continue
            counts[number] += 1
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


def _matches(text: str, root: _Trie, folded: dict[str, str]) -> list[tuple[int, int, int]]:
    """(start, stop, number) of each listed word in a text, from left to right; they do not overlap.

    `folded` is a cache: part of a text → its folded form.
    """
    parts = PARTS.findall(text)
    keys = []
    for part in parts:
        key = folded.get(part)
        if key is None:
            if len(folded) >= _MOST_FOLDED:
                folded.clear()
            key = folded[part] = fold_part(part)
        keys.append(key)
    offsets = [0, *accumulate(map(len, parts))]
    matches, index = [], 0
    while index < len(keys):
        node = root.get(keys[index])
        if node is None:
            index += 1
            continue
        ends, end = [], index + 1
        while node is not None:
            if _LEAF in node:
                ends.append((end, node[_LEAF]))
            while end < len(keys) and not keys[end]:  # an invisible character
                end += 1
            node = node.get(keys[end]) if end < len(keys) else None
            end += 1
        for end, number in reversed(ends):  # the longest first
            if stands_alone(text, offsets[index], offsets[end]):
                matches.append((offsets[index], offsets[end], number))
                index = end
                break
        else:
            index += 1
    return matches
