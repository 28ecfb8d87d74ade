"""The position of a third kind of row between two others: by hand, and an interval that covers the truth."""

import numpy as np
import pytest

from neurexp.stats.positions import median_position, positions


def kinds(random, at=0.4, types=20, neurons=25):
    """Rows about 1, 3 and between, on neurons of different scale and sign."""
    scale = np.exp(random.normal(size=neurons)) * random.choice([-1, 1], neurons)
    return [(1 + 2 * middle + 0.3 * random.normal(size=(types, neurons))) * scale for middle in (0.0, 1.0, at)]


def test_positions_are_shares_of_the_way():
    zero, one, others = np.array([[0.0, 2], [2, 2]]), np.array([[5.0, 2]]), np.array([[2.0, 9], [4, 9]])
    found = positions(zero, one, others)
    assert found[0] == pytest.approx(0.5)
    assert np.isnan(found[1])


def test_the_median_is_that_of_the_neurons():
    zero, one, others = kinds(np.random.default_rng(0))
    found = median_position(zero, one, others, 200, seed=1)
    by_hand = [
        (others[:, n].mean() - zero[:, n].mean()) / (one[:, n].mean() - zero[:, n].mean()) for n in range(zero.shape[1])
    ]
    assert found.median == pytest.approx(np.median(by_hand), abs=1e-12)
    assert found.low < found.median < found.high
    assert found == median_position(zero, one, others, 200, seed=1)


def test_the_interval_covers_the_truth_in_nineteen_of_twenty():
    random, covered = np.random.default_rng(3), 0
    for run in range(100):
        found = median_position(*kinds(random, neurons=1), 200, seed=run)
        covered += found.low <= 0.4 <= found.high
    assert 86 <= covered <= 100  # a bootstrap of 20 rows is a little too narrow
