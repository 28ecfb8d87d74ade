"""Words of running text by their place in the sentence and their capitals: which are proper nouns, and which are not?

The rules are of spelling alone, for languages that capitalise names and the first word of a sentence only: English, not
German. Knows nothing of models.

- A word is a run of letters; an apostrophe or a hyphen joins two runs. The ending 's is no part of it.
- A word stands *within* a sentence if only spaces, a comma or a semicolon lie between it and the word before. It stands
  at a *start* if a lower-case word with . ? or ! comes before it. Elsewhere is after a line
  break within a sentence, a quotation mark, a bracket, a dash or an abbreviation; words there are only counted.
- A word is *capitalised* if its first letter is a capital and another is not. “I”, “A” and all capitals are not.
- A capitalised word is a *proper noun* if it is capitalised within sentences more often than it is written small.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import regex
from transformers import PreTrainedTokenizerBase

from neurexp.text.characters import characters, token_bytes
from neurexp.text.spans import Selection
from neurexp.text.tokenizer import special_ids
from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import token_texts

WITHIN, START = 1, 2  # values of `RunningWords.place`; 0: elsewhere
_WORD = regex.compile(r"\p{L}[\p{L}\p{M}]*(?:[-'’](?!s\b)\p{L}[\p{L}\p{M}]*)*")
_WITHIN = regex.compile(r"['’]?[,;]? +")
_START = regex.compile(r"['’\"”)\]]*[.?!]+['’\"”)\]]*\s+[\"“‘']?")
_ENDS = (".", "?", "!")
_ATTACHED = regex.compile(r"[\p{L}\p{N}\p{M}_\udc80-\udcff]")  # what would make the word a part of something longer


@dataclass(frozen=True)
class RunningWords:
    """The words of a text that have tokens of their own; word i is the tokens [start, stop) of one sequence."""

    tokens: Tokens
    sequence: np.ndarray  # [words]
    start: np.ndarray  # [words]
    stop: np.ndarray  # [words]
    words: np.ndarray  # [words] as written
    place: np.ndarray  # [words] WITHIN, START or 0
    dropped: int  # words that share a token with other characters; left out

    @cached_property
    def types(self) -> np.ndarray:
        """Each word in lower case, `[words]`."""
        return np.array([word.lower() for word in self.words.tolist()], dtype=object)

    @cached_property
    def capitalised(self) -> np.ndarray:
        """`[words]` bool, by the rule above."""
        return np.array([is_capitalised(word) for word in self.words.tolist()], dtype=bool)

    @cached_property
    def small(self) -> np.ndarray:
        """Whether each word begins with a small letter, `[words]` bool."""
        return np.array([word[0].islower() for word in self.words.tolist()], dtype=bool)

    @cached_property
    def counts(self) -> np.ndarray:
        """How often each word's type occurs in the text, in any spelling, `[words]`."""
        counted = Counter(self.types.tolist())
        return np.array([counted[one] for one in self.types], dtype=np.int64)

    @cached_property
    def proper(self) -> np.ndarray:
        """Whether each word's type is more often capitalised within sentences than written small, `[words]` bool."""
        capital = Counter(self.types[self.capitalised & (self.place == WITHIN)].tolist())
        small = Counter(self.types[self.small].tolist())
        return np.array([capital[one] > small[one] for one in self.types], dtype=bool)

    def common(self, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
        """Whether each word's type is a common word, `[words]` bool.

        It is written small in the text, and is not proper. A type that only occurs at starts is common if a token of
        the vocabulary spells it small, after a space.
        """
        known = {text[1:] for text in token_texts(tokenizer) if text[:1] == " " and text[1:].islower()}
        seen = set(self.types[self.small].tolist()) | set(self.types[self.place == WITHIN].tolist())
        small = set(self.types[self.small].tolist()) | (known - seen)
        return np.array([one in small for one in self.types], dtype=bool) & ~self.proper

    def selection(self, chosen: np.ndarray, category: np.ndarray) -> Selection:
        """The words with the indices `chosen` as labelled rows; a row's word is its type."""
        return Selection(
            self.tokens,
            self.sequence[chosen],
            self.start[chosen],
            self.stop[chosen],
            category,
            self.types[chosen].tolist(),
            self.dropped,
        )


def is_capitalised(word: str) -> bool:
    """Whether the word begins with a capital, has a small letter too, and is no form of “I”."""
    return word[0].isupper() and not word.isupper() and word[:2] not in ("I'", "I’")


def running_words(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> RunningWords:
    """All words of a text that have tokens of their own; the first token may include the space before the word.

    Args:
        tokens: the text.
        tokenizer: the fast tokenizer that made `tokens`.
    """
    spelled = token_bytes(tokenizer, np.unique(tokens.input_ids[tokens.valid]).tolist(), spell_special=False)
    rows: list[tuple[int, int, int, int]] = []
    words: list[str] = []
    dropped = 0
    for sequence in range(len(tokens.input_ids)):
        ids = tokens.input_ids[sequence][tokens.valid[sequence]].tolist()
        found = characters([spelled[token_id] for token_id in ids])
        text, before, begins_small = found.text, None, False
        for match in _WORD.finditer(text):
            start, stop = match.span()
            if match[0] == "s" and start and text[start - 1] in "'’":  # the ending of the word before
                before = stop
                continue
            place, gap = 0, None if before is None else text[before:start]
            if gap is not None and _WITHIN.fullmatch(gap):
                place = WITHIN
            elif gap is not None and begins_small and _START.fullmatch(gap):
                place = START
            before, begins_small = stop, match[0][0].islower()
            if start == 0 or stop == len(text) or _ATTACHED.match(text[start - 1]) or _ATTACHED.match(text[stop]):
                continue
            first = int(np.searchsorted(found.stop, start, "right"))
            last = int(np.searchsorted(found.start, stop, "left"))
            if (text[found.start[first] : start] + text[stop : found.stop[last - 1]]).strip():
                dropped += 1
                continue
            rows.append((sequence, first, last, place))
            words.append(match[0])
    sequences, starts, stops, places = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return RunningWords(tokens, sequences, starts, stops, np.array(words, dtype=object), places, dropped)


def capitalised_tokens(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> tuple[Selection, np.ndarray]:
    """Every token as a row, by the rule of the lectures: category 1 begins with a capital, after the space before it.

    The token before must not end in . ? or !, whatever it is. So “I”, all capitals and the first words of lines and
    quotations are in category 1, and the later tokens of a long name are not.

    Returns:
        All tokens that are not special and not the first of a sequence; and the label of each, `[rows]` 0 or 1.
    """
    texts = np.array(token_texts(tokenizer), dtype=object)
    capital = np.array([text.strip()[:1].isupper() for text in texts], dtype=bool)
    ends = np.array([text.endswith(_ENDS) for text in texts], dtype=bool)
    special = np.zeros(len(texts), dtype=bool)
    special[[one for one in special_ids(tokenizer) if one < len(texts)]] = True
    used = tokens.valid & ~special[tokens.input_ids]
    used[:, 0] = False
    sequence, position = np.nonzero(used)
    ids, previous = tokens.input_ids[sequence, position], tokens.input_ids[sequence, position - 1]
    label = (capital[ids] & ~ends[previous]).astype(np.int64)
    words = [text.strip() for text in texts[ids]]
    return Selection(tokens, sequence, position, position + 1, label, words), label
