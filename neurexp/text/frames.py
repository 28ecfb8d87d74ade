"""Frames: the same words after different beginnings of a sentence, in pairs with equally many tokens before the word.

Knows no model and no language.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.text.spans import Selection, align, place


@dataclass(frozen=True)
class Framed:
    """Every word in every frame, word by word: the rows are the words' tokens.

    Args:
        rows: category 1 for the first frame of a pair and 0 for the second; a row's word is its frame.
        pair: `[rows]`, the index of the row's pair among those given.
        word: `[rows]`, the word.
        dropped: the pairs that were left out, because their frames do not have the same number of tokens.
    """

    rows: Selection
    pair: np.ndarray
    word: np.ndarray
    dropped: Sequence[tuple[str, str]]


def framed(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], words: Sequence[str], begin_with_bos: bool
) -> Framed:
    """Puts each word after each frame and a space.

    Args:
        tokenizer: a fast tokenizer.
        pairs: frames in pairs.
        words: the words. One that has no tokens of its own after some frame is left out.
        begin_with_bos: as in `align`.
    """
    frames = [frame for pair in pairs for frame in pair]
    examples = [
        replace(place(word, 0, f"{frame} {{word}}"), category=index)
        for index, (word, frame) in enumerate((word, frame) for word in words for frame in frames)
    ]
    found = align(tokenizer, examples, begin_with_bos)
    start = np.full((len(words), len(frames)), -1)
    start.reshape(-1)[found.category] = found.start
    whole = np.all(start >= 0, axis=1)  # the words that are found after every frame
    level = np.all(start[whole, 0::2] == start[whole, 1::2], axis=0)  # [pairs]
    word, frame = np.divmod(found.category, len(frames))
    kept = whole[word] & level[frame // 2]
    word, frame = word[kept], frame[kept]
    rows = replace(found.only(kept), category=1 - frame % 2, words=[frames[one] for one in frame])
    named = np.array(words, dtype=str)[word]
    return Framed(rows, frame // 2, named, [pair for pair, one in zip(pairs, level, strict=True) if not one])
