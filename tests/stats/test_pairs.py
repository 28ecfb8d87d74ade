"""Two values of each neuron for the same items: against numpy and scipy, on simulated pairs, and under shuffles."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from neurexp.stats import chunks
from neurexp.stats.pairs import paired, pooled

RANDOM = np.random.default_rng(0)


def correlated(rho, items, neurons, random=RANDOM):
    x, noise = random.normal(size=(2, items, neurons))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


def test_r_slope_and_distance_are_scipys():
    x, y = correlated(0.5, 30, 6)
    x, y = (3 * x + 100).astype(np.float32), (0.1 * y - 7).astype(np.float32)
    found = paired(x, y, 20, 0)
    for neuron in range(6):
        line = stats.linregress(x[:, neuron].astype(float), y[:, neuron].astype(float))
        assert found.r[neuron] == pytest.approx(line.rvalue, rel=1e-9)
        assert found.slope[neuron] == pytest.approx(line.slope, rel=1e-9)
    means = y.mean(0, dtype=float) - x.mean(0, dtype=float)
    np.testing.assert_allclose(found.distance, means / y.std(0, dtype=float), rtol=1e-6)


def test_the_interval_is_the_jackknifes():
    x, y = correlated(0.7, 25, 3)
    found = paired(x, y, 19, 0)
    for neuron in range(3):
        deleted = [
            np.arctanh(np.corrcoef(np.delete(x[:, neuron], i), np.delete(y[:, neuron], i))[0, 1]) for i in range(25)
        ]
        error = np.sqrt(24 / 25 * np.sum((deleted - np.mean(deleted)) ** 2))
        half = stats.t.ppf(0.975, 24) * error
        ends = np.tanh(np.arctanh(found.r[neuron]) + np.array([-half, half]))
        np.testing.assert_allclose([found.low[neuron], found.high[neuron]], ends, rtol=1e-9)


def test_the_interval_covers_the_true_r():
    x, y = correlated(0.6, 60, 3000, np.random.default_rng(1))
    found = paired(x, y, 1, 0)
    assert 0.93 < ((found.low < 0.6) & (found.high > 0.6)).mean() < 0.97


def test_p_counts_the_shuffles_that_reach_r():
    x, y = correlated(0.3, 20, 4)
    found, random, exceed = paired(x, y, 99, 5), np.random.default_rng(5), np.zeros(4)
    for _ in range(99):
        order = random.permutation(20)
        exceed += [abs(np.corrcoef(x[:, j], y[order, j])[0, 1]) >= abs(found.r[j]) for j in range(4)]
    np.testing.assert_array_equal(found.p, (1 + exceed) / 100)


def test_independent_pairs_are_found_at_the_level_whatever_their_tails():
    x, y = np.random.default_rng(2).standard_t(2, size=(2, 40, 4000))
    p = paired(x, y, 199, 0).p
    for level in (0.05, 0.2):
        assert (p <= level).mean() == pytest.approx(level, abs=0.015)


def test_equal_values_have_r_1_and_constant_ones_none():
    x = RANDOM.normal(size=(15, 3)).astype(np.float32)
    y = np.stack([x[:, 0], -2 * x[:, 1], np.full(15, 3.3, np.float32)], axis=1)
    found = paired(x, y, 99, 0)
    np.testing.assert_allclose(found.r, [1, -1, np.nan], atol=1e-6)
    np.testing.assert_allclose(found.slope[:2], [1, -2], rtol=1e-6)
    assert found.p[:2].tolist() == [0.01, 0.01]
    assert found.p[2] == 1
    assert np.isfinite(found.low[:2]).all()


def test_pooled_r_and_what_the_means_alone_give():
    x, y = RANDOM.normal(size=(2, 5, 3)) + RANDOM.normal(size=3) * 4
    found = pooled(x.astype(np.float32), y.astype(np.float32))
    assert found.raw == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1], rel=1e-5)
    inside = np.corrcoef((x - x.mean(0)).ravel(), (y - y.mean(0)).ravel())[0, 1]
    assert found.centred == pytest.approx(inside, rel=1e-5)
    every = [np.corrcoef(x.ravel(), y[list(order)].ravel())[0, 1] for order in permutations(range(5))]
    assert found.shuffled == pytest.approx(np.mean(every), rel=1e-5)


def test_chunks_of_neurons_change_nothing(monkeypatch):
    x, y = correlated(0.4, 12, 7)
    whole, all_together = paired(x, y, 50, 3), pooled(x, y)
    monkeypatch.setattr(chunks, "CHUNK_SIZE", 30)
    for name, values in vars(paired(x, y, 50, 3)).items():
        np.testing.assert_allclose(values, getattr(whole, name), rtol=1e-12)
    np.testing.assert_allclose(list(vars(pooled(x, y)).values()), list(vars(all_together).values()), rtol=1e-12)
