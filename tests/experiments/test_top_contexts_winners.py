"""Winners of random batches against loops over the batches; and what the findings say of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurexp.experiments.top_contexts.winners import draw, findings_of, table_of

UNITS = [(2, 345), (6, 5)]


def text(seed, sequences=12, length=5, levels=3):
    """Token ids, which tokens count, and the maxima `[units, sequences]` of activations, many of which are equal."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 4, (sequences, length)).astype(np.int32)
    counted = rng.random((sequences, length)) < 0.7
    activations = rng.integers(-levels, levels + 1, (len(UNITS), sequences, length)).astype(np.float32)
    masked = np.where(counted, activations, -np.inf)
    columns = np.where(counted.any(1), masked.argmax(2), -1)
    return ids, counted, masked, np.where(columns >= 0, masked.max(2), np.nan).astype(np.float32), columns


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), sequences=st.integers(1, 12), in_batch=st.integers(1, 14))
def test_every_winner_is_the_first_of_the_highest_of_its_batch(seed, sequences, in_batch):
    ids, counted, masked, values, columns = text(seed, sequences)
    draws = draw(UNITS, values, columns, 5, 30, in_batch, seed)
    assert draws.in_batch == min(in_batch, sequences)
    random = np.random.default_rng(seed)
    wins = {}
    for batch in range(30):
        chosen = random.choice(sequences, draws.in_batch, replace=False, shuffle=False)
        places = sorted(s * 5 + c for s in chosen for c in range(5) if counted[s, c])
        for unit in range(2):
            best = max(places, key=lambda place: (masked[unit].ravel()[place], -place), default=-1)
            assert draws.places[unit, batch] == best
            if best >= 0:
                wins.setdefault((*UNITS[unit], int(ids.ravel()[best])), []).append(best)
    table = table_of(draws, ids, counted, lambda tokens: [f"t{token}" for token in tokens])
    found = list(zip(table["layer"].tolist(), table["neuron"].tolist(), table["token_id"].tolist(), strict=True))
    assert sorted(found) == sorted(wins)
    for row, key in enumerate(found):
        assert table["token"][row] == f"t{key[2]}"
        assert table["wins"][row] == len(wins[key])
        assert table["win_share"][row] == pytest.approx(len(wins[key]) / 30)
        assert table["places"][row] == len(set(wins[key]))
        assert table["occurrences"][row] == (ids[counted] == key[2]).sum()
        assert table["occurrence_share"][row] == pytest.approx((ids[counted] == key[2]).mean())
    for unit in UNITS:
        of_unit = [len(wins[key]) for key in found if key[:2] == unit]
        assert of_unit == sorted(of_unit, reverse=True)


def test_draws_are_of_different_sequences_and_follow_the_seed():
    values = np.arange(20, dtype=np.float32)[None]
    columns = np.zeros((1, 20), dtype=np.int64)
    first, again, other = (draw(UNITS[:1], values, columns, 1, 400, 5, seed).places for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    # The highest activation wins whenever its sequence is drawn: in a quarter of the batches
    assert (first == 19).mean() == pytest.approx(0.25, abs=0.08)
    assert first.min() >= 4  # of five different sequences the best is at least the fifth


def test_the_finding_tells_wins_from_occurrences():
    ids = np.array([[1, 2], [1, 3], [1, 2], [1, 1]], dtype=np.int32)
    counted = np.ones(ids.shape, dtype=bool)
    values = np.array([[1.0, 9.0, 2.0, 0.0], [np.nan] * 4], dtype=np.float32)
    columns = np.array([[1, 1, 0, 0], [-1] * 4])
    draws = draw(UNITS, values, columns, 2, 1000, 4, 0)
    table = table_of(draws, ids, counted, lambda tokens: ["abcd"[token] for token in tokens])
    first, second = findings_of(draws, table)
    assert "Neuron 2.345: 'd' has the highest activation in 100.0% of 1,000 random batches of 4 sequences" in first
    assert "from only 1 place of the text. It occurs once (12.50% of the tokens)" in first
    assert "All wins come from 1 place, and 100.0% of the batches are won by one place" in first
    assert second == "Neuron 6.5 won no batch: no sequence has a token that counts."
