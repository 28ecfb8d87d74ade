"""Properties of a token type: its frequency in a reference text, and whether it begins a word.

Every array `[vocabulary]` is indexed by token id and is as long as `tokens.vocabulary_size` says: ids may have gaps.
Knows no model and no sequence; `tokens.token_lengths` gives the lengths.
"""

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.text.tokens import token_texts


def begins_word(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """`[vocabulary]` bool: the token's text is a space followed by a letter or digit.

    A word after a line break or an opening bracket has no such space and is not marked: the id alone does not tell.
    """
    return np.array([len(text) > 1 and text[0] == " " and text[1].isalnum() for text in token_texts(tokenizer)])


def log_frequency(counts: np.ndarray) -> np.ndarray:
    """log2 of (count + 1) / (all counts + vocabulary): add-one smoothing, `[vocabulary]`."""
    return np.log2((counts + 1) / (counts.sum() + len(counts)))


def shuffled_within_bands(values: np.ndarray, counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """`[draws, vocabulary]`: the values of the types that occur, shuffled among types of similar frequency.

    The unit is the token type, not the token: all occurrences of a type get the same value. A band is one octave of the
    count (1, 2–3, 4–7, …). Types that do not occur keep their value.
    """
    random = np.random.default_rng(seed)
    bands = np.where(counts > 0, np.floor(np.log2(np.maximum(counts, 1))).astype(int), -1)
    shuffled = np.repeat(values[None], draws, axis=0)
    for band in range(bands.max() + 1):
        members = np.flatnonzero(bands == band)
        for draw in range(draws):
            shuffled[draw, members] = values[random.permutation(members)]
    return shuffled


def balanced_blocks(counts: np.ndarray, blocks: int) -> np.ndarray:
    """`[vocabulary]` int: types dealt into at most `blocks` blocks of about equal numbers of tokens.

    Types are assigned in the order of frequency, each to the block with fewest tokens, the lowest index among equals.
    """
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    blocks = min(blocks, len(order))
    load, assigned = np.zeros(max(blocks, 1), dtype=np.int64), np.zeros(len(counts), dtype=np.int64)
    for token in order:
        block = int(load.argmin())
        assigned[token] = block
        load[block] += counts[token]
    return assigned
