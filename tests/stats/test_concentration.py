"""Concentration against counting by hand, and its exact null against many draws, and where nothing is concentrated."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from neurexp.stats.association import q_values
from neurexp.stats.concentration import LARGEST_SHARE, LEAST_TYPES, NONE, Pool, concentration

COUNTS = np.array([0, 1, 1, 1, 2, 3, 3, 6, 7, 40, 60, 500])
LIKE_A_TEXT = np.maximum(1, 3000 // np.arange(1, 900))


def random_rows(pool, bands, rows, random):
    """Rows of random occurrences, `bands[b]` of band b, without replacement: `[rows, sum of bands]` types."""
    occurrences = [np.repeat(np.flatnonzero(pool.band == b), pool.counts[pool.band == b]) for b in range(pool.bands)]
    drawn = [[random.choice(occurrences[b], n, replace=False) for b, n in enumerate(bands)] for _ in range(rows)]
    return np.array([np.concatenate(row) for row in drawn], dtype=np.int32)


def test_shares_and_entropies_are_those_of_the_items():
    random = np.random.default_rng(0)
    items = random.integers(7, len(COUNTS), (200, 6)).astype(np.int32)
    items[:30, 4:] = NONE
    items[0] = NONE
    found = concentration(items, Pool.of(COUNTS))
    for row in range(1, 200):
        own = [int(one) for one in items[row] if one != NONE]
        counts = Counter(own)  # equal counts stay in the order in which they were met
        commonest, most = counts.most_common(1)[0]
        assert found.commonest[row] == commonest
        assert found.share[row] == most / len(own)
        np.testing.assert_allclose(found.entropy[row], stats.entropy(list(counts.values()), base=2), atol=1e-12)
    assert found.commonest[0] == NONE
    missing = [found.share[0], found.entropy[0], found.share_null[0], found.entropy_null[0], found.p[0]]
    assert np.isnan(missing).all()


def test_no_type_is_alone_in_its_band():
    pool = Pool.of(LIKE_A_TEXT)
    assert pool.bands > 4
    assert (np.diff(pool.band) >= 0).all()  # the types are by falling frequency, and so are the bands
    for band in range(pool.bands):
        own = LIKE_A_TEXT[pool.band == band]
        assert len(own) >= LEAST_TYPES
        assert own.max() <= LARGEST_SHARE * own.sum()
    rare = np.log2(LIKE_A_TEXT[pool.band == pool.bands - 1])
    assert np.floor(rare).max() == np.floor(rare).min()  # an octave that has enough types is a band
    assert set(Pool.of(COUNTS).band.tolist()) == {-1, 0}
    rest = Pool.of(np.repeat([8, 2, 1, 0], [LEAST_TYPES, 3, 2, 1]))  # too few rare types: they join the band above
    assert rest.band.tolist() == [0] * (LEAST_TYPES + 5) + [-1]
    assert rest.bands == 1


def test_a_row_of_the_commonest_type_alone_is_concentrated():
    counts = np.concatenate([[5000], np.full(4000, 3)])
    found = concentration(np.zeros((1, 20), dtype=np.int32), Pool.of(counts))
    assert found.share[0] == 1
    assert found.share_null[0] < 0.5
    # Twenty of the 5,000 occurrences out of all 17,000, without replacement
    np.testing.assert_allclose(found.p[0], stats.hypergeom.sf(19, 17_000, 5000, 20), rtol=0.05, atol=1e-12)


@pytest.mark.parametrize("bands", [(8, 0, 0), (3, 4, 5)])
def test_the_null_is_that_of_many_draws(bands):
    counts = np.concatenate([np.arange(40, 60), np.full(30, 5), np.full(40, 1)])
    pool = Pool.of(counts)
    assert pool.bands == 3
    random = np.random.default_rng(3)
    items = random_rows(pool, bands, 6000, random)
    found = concentration(items, pool)
    largest = np.round(found.share * items.shape[1]).astype(int)
    np.testing.assert_allclose(found.share_null, found.share.mean(), atol=5 * found.share.std() / 6000**0.5)
    np.testing.assert_allclose(found.entropy_null, found.entropy.mean(), atol=5 * found.entropy.std() / 6000**0.5)
    for one in np.unique(largest):
        expected = (largest >= one).mean()
        error = np.sqrt(expected * (1 - expected) / 6000)
        assert abs(found.p[largest == one][0] - expected) <= 4 * error + 2e-4


def test_small_p_are_exact():
    """One band of types that occur alike: the union over types is the tail, as no two types can be so common."""
    pool = Pool.of(np.full(50, 30))
    items = np.arange(20, dtype=np.int32)[None].repeat(9, 0)
    for row in range(9):
        items[row, : 11 + row] = 7
    found = concentration(items, pool)
    expected = 50 * stats.hypergeom.sf(np.arange(10, 19), 1500, 30, 20)
    np.testing.assert_allclose(found.p, np.maximum(expected, 1e-12), rtol=1e-3, atol=1e-12)


def test_a_few_concentrated_rows_among_many_are_found_and_no_others():
    pool, random = Pool.of(LIKE_A_TEXT), np.random.default_rng(2)
    occurrences = np.repeat(np.arange(len(LIKE_A_TEXT)), LIKE_A_TEXT)
    items = occurrences[random.integers(0, len(occurrences), (4000, 12))].astype(np.int32)
    found = concentration(items, pool)
    assert 0.01 < (found.p <= 0.05).mean() < 0.06  # shares are discrete: at most the level
    assert (q_values(found.p) < 0.05).sum() <= 2
    items[:40, :8] = 300
    assert (q_values(concentration(items, pool).p) < 0.05).sum() == pytest.approx(40, abs=3)


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(rows):
    found = concentration(np.full((rows, 3), 1, dtype=np.int32), Pool.of(np.array([0, 9])))
    assert found.share.tolist() == [1.0] * rows
    assert found.p.tolist() == [1.0] * rows  # the only type of the text
