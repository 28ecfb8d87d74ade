"""Simple properties of token types that can be seen in their text: capitals, digits, punctuation.

Every array `[vocabulary]` is indexed by token id, as in `text.vocabulary`, which has the others: length, frequency and
whether a token begins a word. Knows no model and no sequence of tokens.
"""

import unicodedata

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.text.vocabulary import token_texts

_BROKEN = "\ufffd"  # stands for bytes that are not a whole character


def capital(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Whether the token's text begins with an upper-case letter, after a space or without one: `[vocabulary]` bool."""
    return np.array([text.removeprefix(" ")[:1].isupper() for text in token_texts(tokenizer)], dtype=bool)


def digit(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Whether there is a digit in the token's text, `[vocabulary]` bool."""
    return np.array([any(map(str.isdigit, text)) for text in token_texts(tokenizer)], dtype=bool)


def punctuation(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Whether the token's text has punctuation or a symbol, and neither a letter nor a digit: `[vocabulary]` bool.

    Parts of characters that are cut into several tokens are no punctuation.
    """
    return np.array([_is_punctuation(text) for text in token_texts(tokenizer)], dtype=bool)


def _is_punctuation(text: str) -> bool:
    if any(map(str.isalnum, text)):
        return False
    return any(letter != _BROKEN and unicodedata.category(letter)[0] in "PS" for letter in text)
