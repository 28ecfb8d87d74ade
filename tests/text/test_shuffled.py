"""A text with its words in random order: which tokens move together, and which do not move."""

import numpy as np
import pytest

from neurexp.errors import UserError
from neurexp.text.shuffled import shuffled_words
from neurexp.text.tokens import Tokens

VOCABULARY, BOS, EOS = 50, 0, 1  # tokens from 2 to 19 begin a word, the others go on
STARTS, SPECIAL = (np.arange(VOCABULARY) >= 2) & (np.arange(VOCABULARY) < 20), np.arange(VOCABULARY) < 2


def text(rows=12, length=16, last=9, seed=0, bos=False, ends=(40, 41, 100)) -> Tokens:
    random = np.random.default_rng(seed)
    ids = random.integers(2, VOCABULARY, (rows, length)).astype(np.int32)
    ids.ravel()[list(ends)] = EOS
    if bos:
        ids[:, 0] = BOS
    valid = np.ones(ids.shape, dtype=bool)
    valid[-1, last:] = False
    ids[~valid] = EOS
    return Tokens(ids, valid, len(ends) + 1)


def words_of(stream):
    """Words of a stretch between special tokens: what is before its first word counts as one."""
    words, word = [], []
    for one in stream:
        if STARTS[one] and word:
            words.append(tuple(word))
            word = []
        word.append(int(one))
    return [*words, tuple(word)] if word else words


def stretches_of(tokens, bos):
    place = tokens.valid.copy()
    if bos:
        place[:, 0] = False
    stretches = [[]]
    for one in tokens.input_ids[place]:
        if SPECIAL[one]:
            stretches.append([])
        else:
            stretches[-1].append(one)
    return stretches


@pytest.mark.parametrize("bos", [False, True])
def test_words_stay_whole_and_in_their_documents(bos):
    before = text(bos=bos, ends=(40, 41, 100))
    after = shuffled_words(before, STARTS, SPECIAL, 3)
    assert np.array_equal(after.valid, before.valid)
    for special in (BOS, EOS):
        assert np.array_equal(after.input_ids == special, before.input_ids == special)
    assert np.array_equal(after.input_ids[~after.valid], before.input_ids[~before.valid])
    moved = 0
    for one, other in zip(stretches_of(before, bos), stretches_of(after, bos), strict=True):
        # A stretch may begin within a word, whose tokens join the word before them once they are moved
        head = words_of(one)[:1] if one and not STARTS[one[0]] else []
        whole = [word for word in words_of(one) if word not in head]
        joined = "".join(f" {token}" for token in other) + " "
        for word in whole + head:
            assert " " + " ".join(map(str, word)) + " " in joined
        assert sorted(one) == sorted(other)
        moved += one != other
    assert moved >= 2


def test_the_seed_says_the_order():
    tokens = text()
    one, same, other = (shuffled_words(tokens, STARTS, SPECIAL, seed) for seed in (1, 1, 2))
    assert one.hash == same.hash
    assert len({tokens.hash, one.hash, other.hash}) == 3


def test_words_move_across_the_ends_of_sequences():
    tokens = text(ends=())
    after = shuffled_words(tokens, STARTS, SPECIAL, 0)
    rows = [set(map(int, row)) for row in tokens.input_ids]
    assert any(not set(map(int, row)) <= rows[index] for index, row in enumerate(after.input_ids))


def test_a_text_without_words_is_refused():
    with pytest.raises(UserError, match=r"^experiment.control=shuffled_text: no document of this text has two words"):
        shuffled_words(text(), np.zeros(VOCABULARY, dtype=bool), SPECIAL, 0)


def test_the_text_itself_stays_as_it_was():
    tokens = text()
    ids = tokens.input_ids.copy()
    shuffled_words(tokens, STARTS, SPECIAL, 0)
    assert np.array_equal(tokens.input_ids, ids)
