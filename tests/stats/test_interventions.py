"""Effects of edits on a loss: ratios of sums, bootstrap intervals over blocks, p by rank; by loops and by scipy."""

import numpy as np
import pytest
from scipy import stats

from neurexp.stats import interventions
from neurexp.stats.interventions import (
    bootstrap_intervals,
    in_null_units,
    mean_effects,
    null_band,
    null_moments,
    rank_p,
    specific_effects,
    specific_intervals,
)


def sums(variants=3, groups=3, blocks=12, seed=0, effect=0.1, noise=0.5):
    """Sums over tokens: group 0 is all tokens, the others are parts of it that do not overlap."""
    random = np.random.default_rng(seed)
    tokens = random.integers(5, 60, size=(groups, blocks))  # row 0: tokens of no other group
    loss = random.gamma(3, 1, size=(groups, blocks)) * tokens
    change = (effect + noise * random.normal(size=(variants, groups, blocks))) * tokens
    whole = [np.concatenate([part.sum(-2, keepdims=True), part[..., 1:, :]], -2) for part in (tokens, loss, change)]
    counts, unedited, change = whole
    return unedited + change, unedited, counts


def by_loop(edited, unedited, counts, times=None):
    """Effects and specific effects of every variant and group, token sums added one by one."""
    variants, groups, blocks = edited.shape
    times = np.ones(blocks) if times is None else times
    effects, specific = np.full((2, variants, groups), np.nan)
    for v in range(variants):
        for g in range(groups):
            change = sum(times[b] * (edited[v, g, b] - unedited[g, b]) for b in range(blocks))
            tokens = sum(times[b] * counts[g, b] for b in range(blocks))
            other = sum(times[b] * (edited[v, 0, b] - unedited[0, b]) for b in range(blocks)) - change
            others = sum(times[b] * counts[0, b] for b in range(blocks)) - tokens
            if tokens:
                effects[v, g] = change / tokens
            if tokens and others:
                specific[v, g] = change / tokens - other / others
    return effects, specific


def test_effects_are_changes_per_token():
    edited = np.array([[[12.0, 3.0], [5.0, 0.0]]])
    unedited, counts = np.array([[10.0, 2.0], [4.0, 0.0]]), np.array([[4, 6], [2, 0]])
    np.testing.assert_allclose(mean_effects(edited, unedited, counts), [[0.3, 0.5]])
    np.testing.assert_allclose(specific_effects(edited, unedited, counts), [[np.nan, 0.5 - 2 / 8]])


def test_effects_equal_those_of_a_loop():
    edited, unedited, counts = sums(groups=4)
    counts[3], unedited[3], edited[:, 3] = 0, 0, 0
    effects, specific = by_loop(edited, unedited, counts)
    np.testing.assert_allclose(mean_effects(edited, unedited, counts), effects, rtol=1e-12)
    np.testing.assert_allclose(specific_effects(edited, unedited, counts), specific, rtol=1e-10)
    assert np.isnan(effects[:, 3]).all()
    assert np.isnan(specific[:, [0, 3]]).all()


def test_intervals_are_quantiles_over_blocks_drawn_again():
    edited, unedited, counts = sums(variants=2, blocks=5)
    counts[2, 1:], unedited[2, 1:], edited[:, 2, 1:] = 0, 0, 0  # a third of the draws have no token of group 2
    times = np.random.default_rng(7).multinomial(5, [0.2] * 5, size=60)
    loops = [by_loop(edited, unedited, counts, row) for row in times]
    assert np.isnan([effects[0, 2] for effects, _ in loops]).sum() > 10
    for function, which in ((bootstrap_intervals, 0), (specific_intervals, 1)):
        low, high = function(edited, unedited, counts, draws=60, level=0.8, seed=7)
        for variant, group in np.ndindex(2, 3):
            values = np.array([loop[which][variant, group] for loop in loops])
            values = values[~np.isnan(values)]
            expected = np.quantile(values, (0.1, 0.9)) if len(values) else (np.nan, np.nan)
            np.testing.assert_allclose((low[variant, group], high[variant, group]), expected, rtol=1e-9)


def test_intervals_equal_scipys_but_for_the_draws():
    edited, unedited, counts = sums(variants=1, groups=1, blocks=40)
    change = (edited - unedited)[0, 0]
    theirs = stats.bootstrap(
        (change, counts[0]), lambda x, n, axis: x.sum(axis) / n.sum(axis), paired=True, method="percentile",
        n_resamples=20000, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    low, high = bootstrap_intervals(edited, unedited, counts, draws=20000, seed=1)
    width = theirs.high - theirs.low
    assert abs(low[0, 0] - theirs.low) < 0.03 * width
    assert abs(high[0, 0] - theirs.high) < 0.03 * width


def test_variants_in_chunks_see_the_same_draws(monkeypatch):
    edited, unedited, counts = sums(variants=7)
    edited[5] = edited[0]
    whole = bootstrap_intervals(edited, unedited, counts, draws=50)
    monkeypatch.setattr(interventions, "CHUNK", 2 * 50 * 3)
    for one, other in zip(whole, bootstrap_intervals(edited, unedited, counts, draws=50), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
        np.testing.assert_allclose(other[5], other[0], rtol=1e-12)
    assert (bootstrap_intervals(edited, unedited, counts, draws=50, seed=3)[0] != whole[0]).any()


def test_there_is_no_interval_of_one_block_and_one_of_width_0_where_nothing_varies():
    edited, unedited, counts = sums(blocks=1)
    assert np.isnan(
        [*bootstrap_intervals(edited, unedited, counts), *specific_intervals(edited, unedited, counts)]
    ).all()
    _, unedited, counts = sums()
    low, high = bootstrap_intervals((unedited + 0.25 * counts)[None], unedited, counts)
    np.testing.assert_allclose([low, high], 0.25, rtol=1e-9)


def test_integer_sums_are_taken():
    edited, unedited, counts = np.array([[[3, 5]]]), np.array([[1, 1]]), np.array([[2, 2]])
    assert mean_effects(edited, unedited, counts) == [[1.5]]
    low, high = bootstrap_intervals(edited, unedited, counts)
    assert (low, high) == ([[1.0]], [[2.0]])


def test_p_is_the_rank_among_random_edits_ties_counted_against_it():
    null = np.array([[0.1], [0.2], [0.3], [0.3], [np.nan]])
    for observed, p in ((0.4, 1 / 5), (0.3, 3 / 5), (0.05, 1.0)):
        assert rank_p(np.array([observed]), null) == pytest.approx(p)
    assert rank_p(np.array(2.0), np.zeros(199)) == pytest.approx(0.005)
    p = rank_p(np.array([np.nan, 1.0]), np.array([[0.0, np.nan], [0.0, np.nan]]))
    assert np.isnan(p).all()


def test_p_is_uniform_where_observed_and_null_are_alike():
    random = np.random.default_rng(0)
    p = rank_p(random.normal(size=4000), random.normal(size=(199, 4000)))
    assert p.min() >= 1 / 200
    assert stats.kstest(p - random.random(4000) / 200, "uniform").pvalue > 0.01  # p is discrete: spread over its step


def test_null_units_and_moments():
    random = np.random.default_rng(0)
    null = random.normal(2, 3, size=(50, 4))
    null[::2, 1] = np.nan
    null[:, 2] = 0.7
    null[1:, 3] = np.nan
    mean, deviation = null_moments(null)
    np.testing.assert_allclose(mean, np.nanmean(null, 0))
    np.testing.assert_allclose(deviation[:2], np.nanstd(null[:, :2], 0, ddof=1))
    assert np.isnan(deviation[3])
    units = in_null_units(np.array([5.0, 5.0, 5.0, 5.0]), null)
    np.testing.assert_allclose(units[:2], (5 - mean[:2]) / deviation[:2])
    assert np.isnan(units[2:]).all()
    low, high = null_band(null, 0.9)
    np.testing.assert_allclose([low, high], np.nanquantile(null, [0.05, 0.95], axis=0))
    empty = np.full((3, 2), np.nan)
    assert np.isnan([*null_moments(empty), *null_band(empty), in_null_units(np.ones(2), empty)]).all()
    assert np.isnan(null_band(empty[:0])).all()


def test_a_null_that_does_not_vary_has_no_units():
    assert np.isnan(in_null_units(np.array(1.0), np.full(200, 0.1)))
    assert np.isnan(in_null_units(np.array(1.0), np.zeros(200)))


@pytest.mark.slow
@pytest.mark.parametrize("function", [bootstrap_intervals, specific_intervals])
def test_intervals_hold_the_true_effect_in_95_percent_of_texts(function):
    random, inside, repeats = np.random.default_rng(0), [], 600
    for repeat in range(repeats):
        tokens = random.integers(20, 80, size=(2, 64))  # other tokens, and the group's
        change = (np.array([[0.05], [0.2]]) + 0.3 * random.normal(size=(2, 64))) * tokens
        unedited = random.gamma(3, 1, size=(2, 64)) * tokens
        together = np.array([[1, 1], [0, 1]])
        edited, unedited, counts = together @ (unedited + change), together @ unedited, together @ tokens
        low, high = function(edited[None], unedited, counts, draws=1000, seed=repeat)
        true = 0.2 if function is bootstrap_intervals else 0.2 - 0.05
        inside.append(low[0, 1] <= true <= high[0, 1])
    assert 0.92 <= np.mean(inside) <= 0.97
