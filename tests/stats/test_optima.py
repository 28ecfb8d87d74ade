"""Similarities and repeats of optima, against plain loops and known cases."""

import numpy as np
import pytest

from neurexp.stats.optima import compare_repeats, draw_alike, mean_cosine, p_by_rank, repeats, similarity


def by_pairs(vectors):
    cosines = [
        one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        for index, one in enumerate(vectors)
        for other in vectors[:index]
    ]
    return np.mean(cosines)


def test_the_mean_cosine_is_that_over_pairs_and_its_interval_the_jackknifes():
    vectors = np.random.default_rng(0).normal(0.4, 1, (6, 30))
    found = similarity(vectors, 400, seed=1)
    assert found.value == pytest.approx(by_pairs(vectors))
    without = [by_pairs(np.delete(vectors, row, 0)) for row in range(6)]
    half = 1.96 * np.sqrt(5 / 6 * ((without - np.mean(without)) ** 2).sum())
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))
    assert np.isnan(mean_cosine(vectors[:1]))


def test_random_vectors_are_as_similar_as_random_vectors_and_equal_ones_more():
    random = np.random.default_rng(2)
    p = [similarity(random.normal(size=(5, 20)), 99, seed).p for seed in range(60)]
    assert 0.35 < np.mean(p) < 0.65  # uniform: 0.5 ± 4 standard errors of 0.037
    same = similarity(np.repeat(random.normal(size=(1, 20)), 4, 0), 99, 0)
    assert (same.value, same.p) == pytest.approx((1.0, 0.01))
    # A mean cosine of 5 unit vectors in 20 dimensions has the standard deviation 1 / √(20 · 10 pairs)
    assert same.null_high == pytest.approx(1.96 / np.sqrt(20 * 6), rel=0.5)


def test_repeats_are_counted_and_compared_with_a_pool():
    tokens = np.array([[1, 2, 2], [3, 1, 1]])
    assert repeats(tokens) == 3
    found = compare_repeats(tokens, np.arange(1000), 10, 199, 0)
    assert (found.distinct, found.repeated, found.expected) == (3, 3, 0)  # drawn without replacement
    assert found.p == pytest.approx(1 / 200)
    draws = np.random.default_rng(0).integers(0, 10, (20_000, 6))
    assert found.uniform == pytest.approx(np.mean([repeats(one) for one in draws]), abs=0.03)
    assert compare_repeats(tokens, np.ones(50, dtype=int), 10, 99, 0).p == 1


def test_random_tokens_are_of_the_same_octave_and_allowed():
    counts = np.array([0, 0, 1, 2, 3, 3, 4, 7, 9, 1])
    allowed = np.array([1, 2, 3, 4, 6, 7, 9])
    ids = np.array([[0, 2, 5], [8, 6, 9]])
    drawn = draw_alike(ids, counts, allowed, 300, 0)
    assert drawn.shape == (300, 2, 3)
    alike = {0: {1}, 2: {2, 9}, 5: {3, 4}, 8: {8}, 6: {6, 7}, 9: {2, 9}}  # 8 has no other that is allowed: it stays
    for place in np.ndindex(ids.shape):
        assert set(drawn[(slice(None), *place)].tolist()) == alike[int(ids[place])]


def test_p_by_rank():
    assert p_by_rank(2.0, np.array([1.0, 2.0, 3.0, 0.0])) == pytest.approx(3 / 5)
