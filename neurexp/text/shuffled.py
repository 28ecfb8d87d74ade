"""A text with its words in random order: each word stays, and what the words before it say of it is gone.

Knows no model.
"""

from dataclasses import replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.errors import UserError
from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import UNDEFINED, begins_word, token_lengths


def shuffled_text(tokens: Tokens, tokenizer: PreTrainedTokenizerBase, seed: int) -> Tokens:
    """`shuffled_words` by the tokenizer's own words and special tokens. Raises UserError likewise."""
    return shuffled_words(tokens, begins_word(tokenizer), token_lengths(tokenizer) == UNDEFINED, seed)


def shuffled_words(tokens: Tokens, begins_word: np.ndarray, special: np.ndarray, seed: int) -> Tokens:
    """The words of each document shuffled; sequences keep their lengths.

    A word is a token that begins one and all tokens up to the next such token, so it keeps its punctuation. Special
    tokens stay in their places: words are shuffled between the ends of documents, and across the ends of sequences. A
    word may come to lie across the end of a sequence.

    Args:
        tokens: the text.
        begins_word: `[vocabulary]` bool.
        special: `[vocabulary]` bool, the tokens that stay where they are.
        seed: of the order.

    Raises:
        UserError: the text has no words to shuffle.
    """
    random, ids = np.random.default_rng(seed), tokens.input_ids.copy()
    place = tokens.valid.copy()
    for column in range(ids.shape[1]):  # the tokens that begin each sequence, and no end of a document
        same = (ids[:, column] == ids[0, column]).all() and place[:, column].all()
        if not (same and special[ids[0, column]]):
            break
        place[:, column] = False
    stream = ids[place]
    parts, moved = [], False
    for stretch in np.split(stream, np.flatnonzero(special[stream])):
        # The special token comes first, and stays
        fixed = int(len(stretch) > 0 and special[stretch[0]])
        words = np.split(stretch[fixed:], np.flatnonzero(begins_word[stretch[fixed:]]))
        words = [word for word in words if len(word)]
        order = random.permutation(len(words))
        moved |= len(words) > 1
        parts += [stretch[:fixed], *(words[index] for index in order)]
    if not moved:
        raise UserError(
            "experiment.control=shuffled_text: no document of this text has two words by this tokenizer, so there is "
            "nothing to shuffle; give off or random"
        )
    ids[place] = np.concatenate(parts)
    return replace(tokens, input_ids=ids)
