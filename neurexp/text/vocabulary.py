"""Properties of token types: their texts, lengths and frequencies, and whether they begin a word.

Every array `[vocabulary]` is indexed by token id and has `vocabulary_size` entries, because ids may have gaps. Knows no
model and no sequence of tokens.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.text.tokenizer import special_ids, unknown_token

UNDEFINED = -1  # the length of a special token, and of an id without a token
_SPACE = "\u2581"  # a space at the beginning of a SentencePiece token


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """The largest token id plus one: the length of an array that is indexed by token id.

    `len(tokenizer)` is the number of tokens. That is another number if ids have gaps or two tokens share an id.
    """
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int] | None = None) -> list[str]:
    """`tokenizer.decode([id])` for each of `ids`, or for every id of the vocabulary; "" for an id without a token.

    SentencePiece tokenizers drop the leading space (▁) of a token that is decoded alone. It is put back here.
    """
    if ids is None:
        return list(_vocabulary_texts(tokenizer, vocabulary_size(tokenizer)))
    return _decode_each(tokenizer, [int(token_id) for token_id in ids])


@lru_cache(maxsize=4)
def _vocabulary_texts(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    return _decode_each(tokenizer, list(range(size)))


def _decode_each(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    sequences, backend = [[token_id] for token_id in ids], getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # faster: one call of the Rust library
        texts = backend.decode_batch(sequences, skip_special_tokens=False)
    else:
        texts = tokenizer.batch_decode(sequences, clean_up_tokenization_spaces=False)
    for index, piece in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        if piece and piece.startswith(_SPACE):
            spaces = len(piece) - len(piece.lstrip(_SPACE))
            text = texts[index]
            texts[index] = " " * max(0, spaces - (len(text) - len(text.lstrip(" ")))) + text
    return texts


def token_lengths(tokenizer: PreTrainedTokenizerBase, strip_space: bool = False) -> np.ndarray:
    """The length of every token in characters, `[vocabulary]` int32.

    This is the length of `tokenizer.decode([id])`. A leading space counts unless `strip_space`. Bytes that are not a
    whole character decode to U+FFFD, which counts 1. Special tokens, the unknown token, and ids without a token have no
    length: `UNDEFINED`.
    """
    texts = token_texts(tokenizer)
    lengths = np.array([len(text.removeprefix(" ") if strip_space else text) for text in texts], dtype=np.int32)
    defined = np.zeros(len(lengths), dtype=bool)
    defined[list(tokenizer.get_vocab().values())] = True
    special = [*special_ids(tokenizer), unknown_token(tokenizer)]
    defined[[token_id for token_id in special if token_id is not None and token_id < len(defined)]] = False
    lengths[~defined] = UNDEFINED
    return lengths


def begins_word(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Whether the token's text is a space followed by a letter or digit, `[vocabulary]` bool.

    A word after a line break or an opening bracket has no such space. Its first token is not marked: the id alone does
    not show that it begins a word.
    """
    return np.array([len(text) > 1 and text[0] == " " and text[1].isalnum() for text in token_texts(tokenizer)])


def log_frequency(counts: np.ndarray) -> np.ndarray:
    """log2 of (count + 1) / (sum of counts + vocabulary), `[vocabulary]`: add-one (Laplace) smoothing."""
    return np.log2((counts + 1) / (counts.sum() + len(counts)))


def shuffled_within_bands(values: np.ndarray, counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Values shuffled among token types of similar frequency, `[draws, vocabulary]`.

    Token types are shuffled, not tokens: all occurrences of a type get the same value. A band is one octave of the
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
    """The block of every token type, `[vocabulary]` int: at most `blocks` blocks of about equal numbers of tokens.

    Types are assigned in the order of frequency, each to the block with the fewest tokens so far (the first of
    equal ones). Types that do not occur are in block 0.
    """
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    blocks = min(blocks, len(order))
    load, assigned = np.zeros(max(blocks, 1), dtype=np.int64), np.zeros(len(counts), dtype=np.int64)
    for token_id in order:
        block = int(load.argmin())
        assigned[token_id] = block
        load[block] += counts[token_id]
    return assigned
