"""The leak of earlier words: against least squares by hand, and calibrated where words leak but no category does."""

import numpy as np
import pytest

from neurexp.stats.group_shuffles import splits_of_groups
from neurexp.stats.leak import leak

CATEGORY = np.repeat([0, 1], 4)


def design(seed=0, rows=60):
    """The earlier word, the later word and the frame of each row, unbalanced."""
    random = np.random.default_rng(seed)
    return random.integers(0, 8, rows), random.integers(0, 6, rows), random.integers(0, 4, rows)


def measured(*given):
    found = leak(*given)
    assert found is not None
    return found


def test_the_leak_and_its_null_are_least_squares_over_words():
    random = np.random.default_rng(1)
    earlier, later, frame = design()
    x, difference = random.normal(size=(60, 7)), random.normal(size=7)
    found = measured(x, earlier, CATEGORY[earlier], (later, frame), difference, 20, 0)
    dummies = np.hstack([np.eye(8)[earlier], np.eye(6)[later], np.eye(4)[frame]])
    effects = np.linalg.lstsq(dummies, x)[0][:8]
    splits = splits_of_groups(CATEGORY, 20, 0)
    values = np.array([effects[one == 1].mean(0) - effects[one == 0].mean(0) for one in splits])
    shares = values @ difference / (difference @ difference)
    np.testing.assert_allclose(found.moved, values[0], atol=1e-9)
    np.testing.assert_allclose(found.p, (np.abs(values) >= np.abs(values[0]) - 1e-12).mean(0))
    assert found.share == pytest.approx(shares[0])
    assert found.p_share == (np.abs(shares) >= abs(shares[0]) - 1e-12).mean()
    assert [found.low, found.high] == pytest.approx(np.quantile([*shares[1:], *-shares[1:]], [0.025, 0.975]))
    assert (found.words, found.rows) == (8, 60)


def test_later_words_frames_and_single_rows_play_no_part():
    random = np.random.default_rng(2)
    earlier, later, frame = design(3)
    x = 2.0 * CATEGORY[earlier][:, None] + random.normal(size=(6, 5))[later] + random.normal(size=(4, 5))[frame]
    found = measured(x, earlier, CATEGORY[earlier], (later, frame), np.ones(5), 20, 0)
    np.testing.assert_allclose(found.moved, 2)
    assert found.p_share == pytest.approx(1 / 35)
    # A later word that comes once, after an earlier word that comes once: neither can be compared
    more = measured(
        np.vstack([x, np.full(5, 99.0)]), np.append(earlier, 8), np.append(CATEGORY[earlier], 1),
        (np.append(later, 6), np.append(frame, 0)), np.ones(5), 20, 0,
    )  # fmt: skip
    np.testing.assert_allclose(more.moved, 2)
    assert (more.words, more.rows) == (8, 60)


def test_words_that_are_never_compared_have_no_leak():
    x, difference = np.random.default_rng(0).normal(size=(8, 3)), np.ones(3)
    earlier = np.array([0, 1, 0, 1, 4, 5, 4, 5])  # 0 and 1 after one later word, 4 and 5 after another
    assert leak(x, earlier, CATEGORY[earlier], (np.repeat([0, 1], 4),), difference, 20, 0) is None
    assert leak(x, np.tile([0, 1], 4), np.zeros(8, dtype=int), (np.zeros(8, dtype=int),), difference, 20, 0) is None


def test_what_single_words_leak_is_no_leak_of_their_category():
    shares, neurons = [], []
    for seed in range(200):
        random = np.random.default_rng(seed)
        earlier, later, frame = (np.tile(np.arange(8), 6), np.repeat(np.arange(6), 8), np.zeros(48, dtype=int))
        x = random.normal(size=(8, 30))[earlier] + 0.5 * random.normal(size=(48, 30))
        found = measured(x, earlier, CATEGORY[earlier], (later, frame), random.normal(size=30), 20, seed)
        shares.append(found.p_share < 0.05)
        neurons.append((found.p < 0.05).mean())
    assert np.mean(shares) < 0.07  # 1 of 35 splits
    assert np.mean(neurons) == pytest.approx(1 / 35, abs=0.01)
