"""Labelled words as rows: the tokens of a word in a text, and an excerpt of running text to look at.

A word's tokens are found by character offsets, so the tokens of a template around it never count. Knows nothing of
models.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.errors import UserError
from neurexp.text.tokenizer import dropped_characters, encode, first_token, unknown_token
from neurexp.text.tokens import Tokens


@dataclass(frozen=True)
class Example:
    """A text whose characters [start, stop) are the word."""

    text: str
    start: int
    stop: int
    word: str
    category: int


@dataclass(frozen=True)
class Selection:
    """Labelled rows: row i is the tokens [start, stop) of one sequence, and belongs to a category."""

    tokens: Tokens
    sequence: np.ndarray  # [rows] int
    start: np.ndarray  # [rows] int, columns of `tokens`
    stop: np.ndarray  # [rows] int
    category: np.ndarray  # [rows] int
    words: list[str]  # [rows]
    dropped: int = 0  # words that share a token with the characters around them
    adjoining: int = 0  # rows next to other letters without a space, as in Chinese: perhaps parts of longer words

    def ids(self, row: int) -> list[int]:
        """The token ids of a row."""
        return self.tokens.input_ids[self.sequence[row], self.start[row] : self.stop[row]].tolist()

    def only(self, chosen: np.ndarray) -> "Selection":
        """The rows where `chosen` `[rows]` is True, of the same tokens."""
        spans = {name: getattr(self, name)[chosen] for name in ("sequence", "start", "stop", "category")}
        return replace(self, **spans, words=[word for word, one in zip(self.words, chosen, strict=True) if one])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return self.stop - self.start


def place(word: str, category: int, template: str) -> Example:
    """The word in the place of `{word}` in `template`."""
    before, _, after = template.partition("{word}")
    return Example(before + word + after, len(before), len(before) + len(word), word, category)


def align(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], begin_with_bos: bool = False, required: bool = True
) -> Selection:
    """Tokenises each example as a sequence of its own, padded on the right, and finds its word's tokens.

    A token belongs to the word if it covers any of its characters; a space before the word may be part of it. Words are
    dropped and counted if one of their tokens also covers other characters of the text, or if the tokenizer does not
    know all of their characters.

    Raises:
        UserError: the tokenizer gives no offsets, or no word is left and one is `required`.
    """
    if not tokenizer.is_fast:
        raise UserError(
            "model.tokenizer: it gives no character offsets, which finding a word's tokens needs; give one with a "
            "tokenizer.json"
        )
    bos = [first_token(tokenizer)] if begin_with_bos else []
    found = encode(tokenizer, [example.text for example in examples], return_offsets_mapping=True)
    unknown = unknown_token(tokenizer)
    rows, kept = [], []
    for example, ids, offsets in zip(examples, found["input_ids"], found["offset_mapping"], strict=True):
        own = [i for i, (a, b) in enumerate(offsets) if a < example.stop and b > example.start]
        if not own:
            continue
        covered = example.text[offsets[own[0]][0] : example.start] + example.text[example.stop : offsets[own[-1]][1]]
        if covered.strip() or unknown in [ids[i] for i in own] or dropped_characters(tokenizer, example.text):
            continue
        rows.append([*bos, *ids])
        kept.append((example, len(bos) + own[0], len(bos) + own[-1] + 1))
    if not kept and required:
        raise UserError("experiment: no word has tokens of its own in its text; set it apart by spaces")
    longest = max((len(row) for row in rows), default=0)
    pad = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
    ids = np.full((len(rows), longest), pad, dtype=np.int32)
    valid = np.arange(longest) < np.array([len(row) for row in rows], dtype=np.int64)[:, None]
    ids[valid] = [index for row in rows for index in row]
    return Selection(
        Tokens(ids, valid, len(rows)),
        np.arange(len(rows)),
        np.array([start for _, start, _ in kept]),
        np.array([stop for _, _, stop in kept]),
        np.array([example.category for example, _, _ in kept]),
        [example.word for example, _, _ in kept],
        dropped=len(examples) - len(kept),
    )


def drop_too_long(selection: Selection, positions: int | None) -> tuple[Selection, list[str]]:
    """The rows whose sequence has at most `positions` tokens, and the words of the other rows.

    Raises:
        UserError: no row is left.
    """
    lengths = selection.tokens.valid.sum(1)
    if positions is None or not (lengths > positions).any():
        return selection, []
    fits = lengths[selection.sequence] <= positions
    left = [word for word, one in zip(selection.words, fits, strict=True) if not one]
    if not fits.any():
        raise UserError(
            f"experiment: every row has more tokens than the model has positions, {positions}; give shorter ones"
        )
    needed, sequence = np.unique(selection.sequence[fits], return_inverse=True)
    width = int(lengths[needed].max())
    tokens = replace(
        selection.tokens,
        input_ids=selection.tokens.input_ids[needed, :width],
        valid=selection.tokens.valid[needed, :width],
        documents=len(needed),
    )
    return replace(selection.only(fits), tokens=tokens, sequence=sequence), left


def excerpt(selection: Selection, length: int) -> Selection:
    """The stretch of `length` tokens with most words, of every category if possible; each token is a row.

    The category of a row is −1 unless the token belongs to a word of the selection; `words` are the tokens' numbers.
    """
    tokens = selection.tokens
    length = min(length, tokens.valid.shape[1])
    category = np.full(tokens.valid.shape, -1)
    within = []  # words of each category in each stretch, [categories, sequences, places]
    for one in np.unique(selection.category):
        of = selection.category == one
        marked = np.zeros(tokens.valid.shape, dtype=np.int64)
        marked[selection.sequence[of], selection.start[of]] = 1
        running = np.pad(marked.cumsum(1), ((0, 0), (1, 0)))
        within.append(running[:, length:] - running[:, :-length])
    for row, start, stop, one in zip(
        selection.sequence, selection.start, selection.stop, selection.category, strict=True
    ):
        category[row, start:stop] = one
    score = np.sum(within, axis=0) + 2 * np.min(within, axis=0)
    full = tokens.valid.sum(1) >= length
    row, start = np.unravel_index(np.where(full[:, None], score, -1).argmax(), score.shape)
    places = np.arange(start, min(start + length, int(tokens.valid[row].sum())))
    return replace(
        selection,
        sequence=np.full(len(places), row),
        start=places,
        stop=places + 1,
        category=category[row, places],
        words=[str(place) for place in places],
    )


def pairing_order(tokenizer_ids: Sequence[Sequence[int]], words: Sequence[str]) -> list[int]:
    """The order in which words of two categories are paired: by number of tokens, frequency, alphabet.

    The frequency rank is that of the word's rarest token in the tokenizer's vocabulary: byte-pair encodings number
    their tokens in the order of merging, frequent ones first.
    """
    key = [(len(ids), sorted(ids, reverse=True), word) for ids, word in zip(tokenizer_ids, words, strict=True)]
    return sorted(range(len(words)), key=key.__getitem__)
