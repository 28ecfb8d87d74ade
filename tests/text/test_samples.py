"""Samples of tokens by type, and words as single tokens with and without their space."""

from collections import Counter

import numpy as np
from made_tokenizers import sentencepiece_like

from neurexp.models.load import load_model
from neurexp.text.samples import as_many, sample_occurrences, sample_types, single_tokens
from neurexp.text.tokenizer import encode
from neurexp.text.tokens import Tokens

IDS = np.array([[5, 1, 1, 2], [1, 2, 3, 1], [4, 4, 9, 1]])
TEXT = Tokens(IDS, np.ones((3, 4), bool), 1)
COUNTED = IDS != 9


def drawn(types, occurrences, fewest, seed=0):
    sequence, column = sample_types(TEXT, COUNTED, types, occurrences, fewest, np.random.default_rng(seed))
    assert len({*zip(sequence.tolist(), column.tolist(), strict=True)}) == len(sequence)
    assert COUNTED[sequence, column].all()
    return IDS[sequence, column]


def test_some_occurrences_of_each_type_in_random_order():
    types = np.array(["a", "b", "a", "a", "c", "b"])
    candidates = np.array([True, True, True, True, False, True])
    orders = set()
    for seed in range(30):
        found = sample_occurrences(types, candidates, 2, np.random.default_rng(seed)).tolist()
        assert len(set(found)) == 4 and {1, 5} < set(found) < {0, 1, 2, 3, 5}
        orders.add(tuple(found))
    assert len(orders) > 20
    assert sample_occurrences(types, ~candidates, 9, np.random.default_rng(0)).tolist() == [4]


def test_two_arrays_are_cut_to_the_same_length():
    for most, expected in ((9, [1, 2]), (1, [1])):
        first, second = as_many(np.array([1, 2, 3]), np.array([1, 2]), most)
        assert first.tolist() == second.tolist() == expected


def test_each_type_gives_its_occurrences_and_rare_ones_none():
    assert drawn(10, 1, 1).tolist() == [1, 2, 3, 4, 5]
    assert drawn(10, 3, 2).tolist() == [1, 1, 1, 2, 2, 4, 4]
    assert len(set(drawn(2, 1, 1))) == 2
    assert drawn(10, 3, 6).tolist() == []


def test_types_and_places_are_equally_likely():
    types, places = Counter(), Counter()
    for seed in range(1000):
        random = np.random.default_rng(seed)
        sequence, column = sample_types(TEXT, COUNTED, 2, 1, 1, random)
        types.update(IDS[sequence, column].tolist())
        places.update(zip(sequence.tolist(), column.tolist(), strict=True))
    assert all(330 < types[one] < 470 for one in (1, 2, 3, 4, 5))  # 400 each, 5 standard deviations
    assert all(40 < places[place] < 120 for place in zip(*np.nonzero(IDS == 1), strict=True))  # 80 each


def test_single_tokens_are_what_the_tokenizer_says():
    tokenizer = load_model("mini", device="cpu").tokenizer
    found, left_out = single_tokens(tokenizer, ["cat", "day", "accident"])
    assert found["cat"] == (*encode(tokenizer, " cat")["input_ids"], *encode(tokenizer, "cat")["input_ids"])
    assert set(found) == {"cat", "day"}
    assert left_out["accident"].startswith("no single token with")


def test_pieces_of_sentencepiece_keep_their_space():
    tokenizer = sentencepiece_like("never")
    found, left_out = single_tokens(tokenizer, ["door", "house", "the"])
    vocabulary = tokenizer.get_vocab()
    assert found == {one: (vocabulary[f"▁{one}"], vocabulary[one]) for one in ("door", "house")}
    assert left_out == {"the": "no single token without its space"}
