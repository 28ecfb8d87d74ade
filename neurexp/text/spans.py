"""Spans: the tokens of labelled words in a text, and the excerpt of running text with most of them.

The tokens of a word are found by their character offsets, so the tokens of a template around it never count. Knows
nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.errors import UserError
from neurexp.text.characters import readable_tokens
from neurexp.text.examples import Example
from neurexp.text.tokenizer import dropped_characters, encode, first_tokens, unknown_token
from neurexp.text.tokens import Tokens, padded
from neurexp.text.whole_sentences import whole_sentences


@dataclass(frozen=True)
class Selection:
    """Labelled rows: row i is the tokens [start, stop) of one sequence, and has a category."""

    tokens: Tokens
    sequence: np.ndarray  # [rows] int, index of the sequence in `tokens`
    start: np.ndarray  # [rows] int, position in the sequence
    stop: np.ndarray  # [rows] int, position in the sequence
    category: np.ndarray  # [rows] int, from 0
    words: list[str]  # [rows]
    dropped: int = 0  # words that were left out, because one of their tokens covers other characters too
    adjoining: int = 0  # rows next to other letters without a space, as in Chinese: maybe parts of longer words

    def ids(self, row: int) -> list[int]:
        """The token ids of a row."""
        return self.tokens.input_ids[self.sequence[row], self.start[row] : self.stop[row]].tolist()

    def only(self, chosen: np.ndarray) -> "Selection":
        """The selection of the rows where `chosen` `[rows]` is True; `tokens` stay as they are."""
        spans = {name: getattr(self, name)[chosen] for name in ("sequence", "start", "stop", "category")}
        return replace(
            self, **spans, words=[word for word, is_chosen in zip(self.words, chosen, strict=True) if is_chosen]
        )

    def masks(self, category: int) -> tuple[np.ndarray, np.ndarray]:
        """Which tokens belong to a row of the category, and which of them begin one: `[sequences, length]` bool."""
        own, begins = (np.zeros(self.tokens.valid.shape, dtype=bool) for _ in range(2))
        rows = self.category == category
        for sequence, start, stop in zip(self.sequence[rows], self.start[rows], self.stop[rows], strict=True):
            own[sequence, start:stop] = True
            begins[sequence, start] = True
        return own, begins

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each row, `[rows]`."""
        return self.stop - self.start


def place(word: str, category: int, template: str) -> Example:
    """The example in which the word replaces `{word}` in `template`."""
    before, _, after = template.partition("{word}")
    return Example(before + word + after, len(before), len(before) + len(word), word, category)


def align(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], begin_with_bos: bool = False) -> Selection:
    """Tokenises each example as a separate sequence, padded on the right, and finds the tokens of its word.

    A token belongs to the word if it covers any of its characters; it may include the space before the word. A word is
    dropped and counted if one of its tokens also covers other characters, or if the tokenizer does not know all of its
    characters.

    Args:
        tokenizer: a fast tokenizer, because only those give character offsets.
        examples: the texts and their words.
        begin_with_bos: whether every sequence begins with `first_tokens(tokenizer)`.

    Raises:
        UserError: the tokenizer gives no offsets, or no word is left.
    """
    if not tokenizer.is_fast:
        raise UserError(
            "model.tokenizer: it gives no character offsets, which finding a word's tokens needs; give one with a "
            "tokenizer.json"
        )
    bos = first_tokens(tokenizer) if begin_with_bos else []
    encoded = encode(tokenizer, [example.text for example in examples], return_offsets_mapping=True)
    unknown = unknown_token(tokenizer)
    sequences, kept = [], []
    for example, ids, offsets in zip(examples, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        inside = [i for i, (start, stop) in enumerate(offsets) if start < example.stop and stop > example.start]
        if not inside:
            continue
        first, last = inside[0], inside[-1]
        other_characters = (
            example.text[offsets[first][0] : example.start] + example.text[example.stop : offsets[last][1]]
        )
        is_unknown = unknown in [ids[i] for i in inside]
        if other_characters.strip() or is_unknown or dropped_characters(tokenizer, example.text):
            continue
        sequences.append([*bos, *ids])
        kept.append((example, len(bos) + first, len(bos) + last + 1))
    if not kept:
        raise UserError("experiment: no word has tokens of its own in its text; separate it by spaces")
    pad: Any = 0 if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    return Selection(
        padded(sequences, pad),
        np.arange(len(sequences)),
        np.array([start for _, start, _ in kept]),
        np.array([stop for _, _, stop in kept]),
        np.array([example.category for example, _, _ in kept]),
        [example.word for example, _, _ in kept],
        dropped=len(examples) - len(kept),
    )


def drop_too_long(selection: Selection, positions: int | None) -> tuple[Selection, list[str]]:
    """The selection without the sequences of more than `positions` tokens, and the words that were in those.

    Args:
        selection: the rows.
        positions: the number of tokens that the model can read at once; None if there is no limit.

    Raises:
        UserError: no row is left.
    """
    lengths = selection.tokens.valid.sum(1)
    if positions is None or not (lengths > positions).any():
        return selection, []
    fits = lengths[selection.sequence] <= positions
    too_long = [selection.words[row] for row in np.flatnonzero(~fits)]
    if not fits.any():
        raise UserError(
            f"experiment: every row has more tokens than the model has positions, {positions}; give shorter ones"
        )
    kept, sequence = np.unique(selection.sequence[fits], return_inverse=True)
    width = int(lengths[kept].max())
    tokens = replace(
        selection.tokens,
        input_ids=selection.tokens.input_ids[kept, :width],
        valid=selection.tokens.valid[kept, :width],
        documents=len(kept),
    )
    return replace(selection.only(fits), tokens=tokens, sequence=sequence), too_long


def only_needed(selection: Selection) -> Selection:
    """The selection without the sequences that have no row: they need not be run."""
    needed, sequence = np.unique(selection.sequence, return_inverse=True)
    tokens = Tokens(selection.tokens.input_ids[needed], selection.tokens.valid[needed], selection.tokens.documents)
    return replace(selection, tokens=tokens, sequence=sequence)


def joined(selections: Sequence[Selection]) -> Selection:
    """The rows of several selections of the same tokens, one selection after the other."""
    names = ("sequence", "start", "stop", "category")
    spans = {name: np.concatenate([getattr(one, name) for one in selections]) for name in names}
    return replace(selections[0], **spans, words=[word for one in selections for word in one.words])


def each_text_once(selection: Selection) -> Selection:
    """The selection with one sequence for all rows of the same text, which is then run once. In the order of ids."""
    tokens = selection.tokens
    ids = np.where(tokens.valid, tokens.input_ids, -1)
    _, first, place = np.unique(ids, axis=0, return_index=True, return_inverse=True)
    kept = replace(tokens, input_ids=tokens.input_ids[first], valid=tokens.valid[first], documents=len(first))
    return replace(selection, tokens=kept, sequence=place.reshape(-1)[selection.sequence])


def excerpts(selection: Selection, length: int, most: int, tokenizer: PreTrainedTokenizerBase) -> list[Selection]:
    """Up to `most` excerpts of whole sentences that do not overlap, that with most words first; at least one."""
    taken, found = np.zeros(selection.tokens.valid.shape, dtype=bool), []
    for _ in range(most):
        free = (~taken & selection.tokens.valid).sum(1).max()
        if found and free < length:
            break
        one = excerpt(selection, length, tokenizer, taken)
        sequence, first, last = int(one.sequence[0]), int(one.start[0]), int(one.stop[-1])
        if taken[sequence, first:last].any():
            break
        found.append(one)
        # The next one may grow to whole sentences, and must not reach into this one
        taken[sequence, max(0, first - length // 3) : last + length // 3] = True
    return found


def excerpt(
    selection: Selection,
    length: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
    taken: np.ndarray | None = None,
) -> Selection:
    """The window of `length` tokens with most words, if possible of every category. Each of its tokens is a row.

    With the tokenizer the window gains up to a third of its length on either side, where that makes whole sentences.
    Windows with a token that is `taken` `[sequences, length]` come last.

    The category of a row is −1 unless its token belongs to a word of the selection. `words` are the tokens' positions.
    """
    tokens = selection.tokens
    length = min(length, tokens.valid.shape[1])
    category = np.full(tokens.valid.shape, -1)
    # Words in each window, and of the rarest category there, [sequences, first position of the window]
    every = np.zeros((len(tokens.valid), tokens.valid.shape[1] - length + 1), dtype=np.int64)
    fewest = np.full(every.shape, length)
    for label in np.unique(selection.category):
        rows = selection.category == label
        begins = np.zeros(tokens.valid.shape, dtype=np.int64)
        begins[selection.sequence[rows], selection.start[rows]] = 1
        running = np.pad(begins.cumsum(1), ((0, 0), (1, 0)))
        count = running[:, length:] - running[:, :-length]
        every, fewest = every + count, np.minimum(fewest, count)
    for sequence, start, stop, label in zip(
        selection.sequence, selection.start, selection.stop, selection.category, strict=True
    ):
        category[sequence, start:stop] = label
    score = every + 2 * fewest
    if taken is not None:
        inside = np.pad(taken.cumsum(1), ((0, 0), (1, 0)))
        score = np.where(inside[:, length:] > inside[:, :-length], -1, score)
    is_long_enough = tokens.valid.sum(1) >= length
    sequence, start = np.unravel_index(np.where(is_long_enough[:, None], score, -1).argmax(), score.shape)
    count = int(tokens.valid[sequence].sum())
    start, stop = int(start), min(int(start) + length, count)
    if tokenizer is not None:
        texts = readable_tokens(tokenizer, tokens.input_ids[sequence][:count].tolist())
        start, stop = whole_sentences(texts, start, stop, length // 3)
    positions = np.arange(start, stop)
    return replace(
        selection,
        sequence=np.full(len(positions), sequence),
        start=positions,
        stop=positions + 1,
        category=category[sequence, positions],
        words=[str(position) for position in positions],
    )


def pairing_order(tokenizer_ids: Sequence[Sequence[int]], words: Sequence[str]) -> list[int]:
    """The order of a category's words before they are paired with another's: by number of tokens, frequency, alphabet.

    The frequency is that of the word's rarest token, judged by its id: byte-pair encodings number their tokens in the
    order of merging, frequent ones first.

    Args:
        tokenizer_ids: the token ids of each word.
        words: the words.

    Returns:
        Indices into `words`.
    """
    key = [(len(ids), sorted(ids, reverse=True), word) for ids, word in zip(tokenizer_ids, words, strict=True)]
    return sorted(range(len(words)), key=key.__getitem__)
