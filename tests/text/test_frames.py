"""Words behind frames: whole sentences, in pairs with equally many tokens before the word."""

import numpy as np
import pytest
from made_tokenizers import decoded

from neurexp.models.load import load_model
from neurexp.text.frames import framed


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("mini", device="cpu").tokenizer


def test_every_word_stands_behind_every_frame_in_order(tokenizer):
    made = framed(
        tokenizer, [("They never", "They always"), ("They will not", "They will now")], ["go", "arrive"], False
    )
    assert made.word.tolist() == ["go"] * 4 + ["arrive"] * 4
    assert made.pair.tolist() == [0, 0, 1, 1] * 2
    assert made.rows.category.tolist() == [1, 0] * 4
    assert made.rows.words == ["They never", "They always", "They will not", "They will now"] * 2
    assert [text.strip() for text in decoded(tokenizer, made.rows)] == made.word.tolist()
    texts = [
        tokenizer.decode(made.rows.tokens.input_ids[sequence][made.rows.tokens.valid[sequence]])
        for sequence in made.rows.sequence
    ]
    assert texts == [f"{frame} {word}" for frame, word in zip(made.rows.words, made.word, strict=True)]
    np.testing.assert_array_equal(made.rows.start, [2, 2, 3, 3] * 2)


def test_a_pair_of_different_lengths_is_left_out_and_named(tokenizer):
    pairs = [("They never", "They always"), ("They seldom", "They often")]
    made = framed(tokenizer, pairs, ["go"], False)
    assert made.dropped == [("They seldom", "They often")]
    assert set(made.pair) == {0}
