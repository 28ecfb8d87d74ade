"""Concentration against counting by hand, and its p where nothing is concentrated."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from neurexp.stats.concentration import NONE, Pool, concentration

COUNTS = np.array([0, 1, 1, 1, 2, 3, 3, 6, 7, 40, 60, 500])


def test_shares_and_entropies_are_those_of_the_items():
    random = np.random.default_rng(0)
    items = random.integers(1, len(COUNTS), (200, 6)).astype(np.int32)
    items[:30, 4:] = NONE
    items[0] = NONE
    found = concentration(items, Pool.of(COUNTS), draws=19, seed=0)
    for row in range(1, 200):
        own = [int(one) for one in items[row] if one != NONE]
        counts = Counter(own)  # equal counts stay in the order in which they were met
        commonest, most = counts.most_common(1)[0]
        assert found.commonest[row] == commonest
        assert found.share[row] == most / len(own)
        np.testing.assert_allclose(found.entropy[row], stats.entropy(list(counts.values()), base=2), atol=1e-12)
    assert found.commonest[0] == NONE
    assert found.p[0] == 1
    assert np.isnan([found.share[0], found.entropy[0], found.share_null[0], found.entropy_null[0]]).all()


def test_random_items_are_of_the_same_octave_and_as_frequent_as_in_the_text():
    pool = Pool.of(COUNTS)
    drawn = pool.draw(np.array([1, 5, 9, 11]), 20_000, np.random.default_rng(1))
    assert [set(np.unique(column)) for column in drawn.T] == [{1, 2, 3}, {4, 5, 6}, {9, 10}, {11}]
    shares = np.bincount(drawn[:, 1], minlength=7)[4:7] / 20_000
    np.testing.assert_allclose(shares, [2 / 8, 3 / 8, 3 / 8], atol=0.015)


def test_p_by_rank_errs_at_its_level_and_finds_what_is_concentrated():
    counts = np.full(600, 5)
    pool = Pool.of(counts)
    random = np.random.default_rng(2)
    items = pool.draw(np.zeros((4000, 12), dtype=np.int32), 1, random)[0]
    found = concentration(items, pool, draws=99, seed=3)
    assert (found.p <= 0.05).mean() < 0.06  # shares are discrete: at most the level
    np.testing.assert_allclose(found.share.mean(), found.share_null.mean(), atol=0.002)
    np.testing.assert_allclose(found.entropy.mean(), found.entropy_null.mean(), atol=0.01)
    items[:, :4] = 17
    assert (concentration(items, pool, draws=99, seed=3).p == 0.01).mean() > 0.99


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(rows):
    found = concentration(np.full((rows, 3), 11, dtype=np.int32), Pool.of(COUNTS), draws=9, seed=0)
    assert found.share.tolist() == [1.0] * rows
    assert found.p.tolist() == [1.0] * rows  # the only type of its octave
