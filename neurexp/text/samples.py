"""Random samples of a text's tokens and words by type, and words as single tokens. Knows no model."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.text.tokenizer import special_ids
from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import token_texts


def sample_types(
    tokens: Tokens, counted: np.ndarray, types: int, occurrences: int, fewest: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random occurrences of random token types. Each type is as likely as any other, however frequent it is.

    Args:
        tokens: the text.
        counted: `[sequences, length]` bool, the tokens that may be chosen.
        types: the largest number of types.
        occurrences: the largest number of occurrences of each type.
        fewest: types with fewer occurrences are left out.
        random: the source of randomness.

    Returns:
        The sequence and the column of each chosen token, in order of their ids; two arrays of int64.
    """
    sequence, column = np.nonzero(counted)
    shuffled = random.permutation(len(sequence))
    ids = tokens.input_ids[sequence, column][shuffled]
    order = np.argsort(ids, kind="stable")  # by type, and in random order within a type
    _, start, count = np.unique(ids[order], return_index=True, return_counts=True)
    often = np.flatnonzero(count >= fewest)
    chosen = np.sort(random.permutation(often)[:types])
    taken = np.minimum(count[chosen], occurrences)
    within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    picked = shuffled[order[np.repeat(start[chosen], taken) + within]]
    return sequence[picked], column[picked]


def sample_occurrences(types: np.ndarray, candidates: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Some of the candidates in random order, at most `most` of each type: their indices, int64.

    Args:
        types: `[rows]`, the type of each row.
        candidates: `[rows]` bool.
        most: of each type.
        random: the source of randomness.
    """
    seen: Counter[str] = Counter()
    kept = []
    for index in random.permutation(np.flatnonzero(candidates)).tolist():
        seen[str(types[index])] += 1
        if seen[str(types[index])] <= most:
            kept.append(index)
    return np.array(kept, dtype=np.int64)


def as_many(first: np.ndarray, second: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The beginnings of two arrays, as long as the shorter one, and at most `most`."""
    count = min(len(first), len(second), most)
    return first[:count], second[:count]


def single_tokens(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """The words that are a single token of the vocabulary with a leading space, and another one without.

    Returns:
        word → the id with the space, and the id without it; and the words that are left out → the reason.
    """
    ids: dict[str, int] = {}
    special = special_ids(tokenizer)
    for token_id, text in enumerate(token_texts(tokenizer)):
        if text and token_id not in special:
            ids.setdefault(text, token_id)
    found, left_out = dict[str, tuple[int, int]](), dict[str, str]()
    for word in words:
        missing = [form for form, text in (("with", f" {word}"), ("without", word)) if text not in ids]
        if missing:
            left_out[word] = f"no single token {' or '.join(missing)} its space"
        else:
            found[word] = ids[f" {word}"], ids[word]
    return found, left_out
