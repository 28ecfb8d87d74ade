"""Correlation, partial correlation, η², jackknife, p, q and peaks against numpy and scipy over the values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neurexp.stats.association import (
    Sums,
    eta_squared,
    interval,
    jackknife_error,
    jackknife_spread,
    largest_by_chance,
    p_without_parts,
    partial_correlation,
    permutation_p,
    q_values,
    second_peak,
    smallest_detectable,
)

TOKENS, NEURONS = 300, 4


def sums_of(z, x, shift=0.0) -> Sums:
    """Sums over the tokens of a covariate `[tokens]` and of neurons `[tokens, neurons]` about `shift`."""
    z, x = np.asarray(z, dtype=float), np.asarray(x, dtype=float) - shift
    return Sums(np.float64(len(z)), z.sum(), (z**2).sum(), x.sum(0), (x**2).sum(0), z @ x)


def blocks_of(z, x, block, count) -> Sums:
    """The same, with a leading axis of blocks."""
    parts = [sums_of(z[block == one], x[block == one]) for one in range(count)]
    return Sums(*(np.stack([getattr(part, name) for part in parts]) for name in Sums.__dataclass_fields__))


def sample(seed=0, tokens=TOKENS, neurons=NEURONS):
    """A covariate of whole numbers and neurons that follow it more or less."""
    rng = np.random.default_rng(seed)
    z = rng.integers(1, 12, tokens).astype(float)
    return z, rng.normal(size=(tokens, neurons)) + z[:, None] * np.linspace(-0.3, 0.3, neurons)


def r_of(z, x):
    return stats.pearsonr(x, z[:, None], axis=0).statistic


# Pearson's r


def test_pearson_against_scipy_whatever_it_is_taken_about():
    z, x = sample()
    for shift, centre in ((0.0, 0.0), (1.5, 4.0), (np.arange(4.0), -2.0)):
        np.testing.assert_allclose(sums_of(z - centre, x, shift).pearson(shift), r_of(z, x), rtol=0, atol=1e-12)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-99, 99)), min_size=2, max_size=40))
def test_pearson_is_numpys_or_undefined(pairs):
    z, x = np.array(pairs, dtype=float).T
    (r,) = sums_of(z, x[:, None]).pearson()
    if np.ptp(z) == 0 or np.ptp(x) == 0:
        assert np.isnan(r)
    else:
        assert r == pytest.approx(np.corrcoef(z, x)[0, 1], abs=1e-9)
        assert -1 <= r <= 1


def test_blocks_add_up_and_can_be_taken_away():
    z, x = sample()
    block = np.random.default_rng(1).integers(0, 3, TOKENS)
    blocks = blocks_of(z, x, block, 3)
    np.testing.assert_allclose(blocks.total().pearson(), r_of(z, x), atol=1e-12)
    np.testing.assert_allclose(blocks.pearson()[1], r_of(z[block == 1], x[block == 1]), atol=1e-12)
    without = blocks.total() - Sums(*(getattr(blocks, name)[2] for name in Sums.__dataclass_fields__))
    np.testing.assert_allclose(without.pearson(), r_of(z[block != 2], x[block != 2]), atol=1e-12)


def test_what_never_varies_has_no_correlation():
    z, x = sample()
    x[:, 1] = 0.0
    x[:, 2] = np.float32(0.1)
    assert np.isnan(sums_of(z, x).pearson()).tolist() == [False, True, True, False]
    assert np.isnan(sums_of(np.full(TOKENS, 7.0), x).pearson()).all()
    assert np.isnan(sums_of(z[:1], x[:1]).pearson()).all()
    assert np.isnan(sums_of(z[:0], x[:0]).pearson()).all()


def test_rounding_is_not_variation_but_a_tiny_spread_is():
    """About a mean of 1000 float32 has steps of 6e-5: a spread of 1e-5 cannot come from it, one of 0.01 can."""
    z, _ = sample()
    noise = np.random.default_rng(2).normal(size=TOKENS)
    x = 1000 + np.stack([0.01 * (noise + 0.2 * z), 1e-5 * noise], axis=1)
    shift = np.full(2, 1000.0)
    r = sums_of(z, x, shift).pearson(shift)
    assert r[0] == pytest.approx(r_of(z, x[:, :1])[0], abs=1e-9)
    assert np.isnan(r[1])


def test_a_perfect_correlation_is_one_and_no_more():
    z, _ = sample()
    r = sums_of(z, np.stack([3 * z + 1, -0.1 * z, z / 3], axis=1)).pearson()
    np.testing.assert_allclose(r, [1, -1, 1], rtol=0, atol=1e-12)
    assert (np.abs(r) <= 1).all()


# Partial correlation


def gram(columns, x):
    z = np.column_stack(columns)
    return z.T @ z, z.T @ x, (x**2).sum(0)


def by_residuals(z, x, controls):
    left_z, left_x = (y - controls @ np.linalg.lstsq(controls, y, rcond=None)[0] for y in (z, x))
    return r_of(left_z, left_x)


def confounded():
    """A covariate, neurons, and controls with an intercept that have to do with both."""
    z, x = sample(3)
    rng = np.random.default_rng(4)
    frequency = -0.7 * z + rng.normal(size=TOKENS)
    early = (np.arange(TOKENS) < 40).astype(float)
    x += 0.5 * frequency[:, None] + early[:, None]
    return z, x, np.column_stack([early, 1 - early, frequency])


def partial_of(z, x, controls, shift=0.0):
    zz, zx, xx = gram([z, controls], x - shift)
    weights = np.zeros(len(zz))
    weights[0] = 1
    return partial_correlation(zz, zx, xx, weights, np.arange(1, len(zz)), np.broadcast_to(shift, x.shape[1]))


def test_partial_correlation_against_residuals():
    z, x, controls = confounded()
    expected = by_residuals(z, x, controls)
    assert np.abs(expected - r_of(z, x)).max() > 0.1  # the controls matter
    np.testing.assert_allclose(partial_of(z, x, controls), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(partial_of(z, x, controls, shift=2.0), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(partial_of(z - 4, x, controls * [1, 1, 1e-4]), expected, rtol=0, atol=1e-9)


def test_a_covariate_may_be_a_sum_of_columns():
    z, x, controls = confounded()
    values = np.unique(z)
    zz, zx, xx = gram([z[:, None] == values, controls], x)
    weights = np.concatenate([values, np.zeros(3)])
    found = partial_correlation(zz, zx, xx, weights, np.arange(len(values), len(values) + 3), np.zeros(NEURONS))
    np.testing.assert_allclose(found, by_residuals(z, x, controls), rtol=0, atol=1e-9)


def test_controls_may_depend_on_each_other():
    z, x, controls = confounded()
    dependent = np.column_stack([controls, controls[:, 2] * 3 + 1, controls[:, 0], np.zeros(TOKENS)])
    np.testing.assert_allclose(partial_of(z, x, dependent), partial_of(z, x, controls), rtol=0, atol=1e-8)


def test_nothing_is_left_of_a_covariate_that_follows_from_the_controls():
    _, x, controls = confounded()
    assert np.isnan(partial_of(2 * controls[:, 2] - controls[:, 0] + 5, x, controls)).all()
    assert np.isnan(partial_of(np.full(TOKENS, 3.0), x, controls)).all()


def test_a_constant_neuron_has_no_partial_correlation():
    z, x, controls = confounded()
    x[:, 1], x[:, 2] = 0.0, 5.0
    found = partial_of(z, x, controls, shift=np.array([0.0, 0.0, 5.0, 0.0]))
    assert np.isnan(found).tolist() == [False, True, True, False]


def test_nothing_is_left_of_a_neuron_that_follows_from_the_controls():
    z, x, controls = confounded()
    x[:, 1] = controls @ [0.5, -1.0, 2.0]
    found = partial_of(z, x, controls)
    assert np.isnan(found[1]) or abs(found[1]) < 1e-4  # what is left of it is rounding
    np.testing.assert_allclose(found[[0, 2, 3]], by_residuals(z, x, controls)[[0, 2, 3]], atol=1e-9)


# η²


def category_sums(z, x):
    members = z[:, None] == np.unique(z)
    return members.sum(0), members.T.astype(float) @ x, (x**2).sum(0)


def test_eta_squared_against_an_analysis_of_variance():
    z, x = sample()
    groups = [x[z == value] for value in np.unique(z)]
    f = stats.f_oneway(*groups, axis=0).statistic
    between, within = len(groups) - 1, TOKENS - len(groups)
    expected = f * between / (f * between + within)
    for shift in (0.0, 3.0):
        np.testing.assert_allclose(eta_squared(*category_sums(z, x - shift)), expected, rtol=0, atol=1e-12)


def test_eta_squared_at_its_ends():
    z, x = sample()
    x[:, 0], x[:, 1] = np.cos(z), 0.0
    found = eta_squared(*category_sums(z, x))
    assert found[0] == pytest.approx(1, abs=1e-12)
    assert np.isnan(found[1])
    np.testing.assert_allclose(eta_squared(*category_sums(np.ones(TOKENS), x))[2:], 0, atol=1e-12)
    counts, sums, xx = category_sums(z, x)
    empty = eta_squared(np.append(counts, 0), np.concatenate([sums, np.zeros((1, NEURONS))]), xx)
    np.testing.assert_array_equal(empty, found)


def test_eta_squared_is_at_least_r_squared():
    z, x = sample()
    assert (eta_squared(*category_sums(z, x)) >= r_of(z, x) ** 2 - 1e-12).all()


# The jackknife


def error_by_deletion(z, x, block):
    """Busing, Meijer and van der Leeden's delete-m_j variance of Fisher's z, tokens deleted for real."""
    estimate, n, sizes = np.arctanh(r_of(z, x)), len(z), np.bincount(block)
    without = [np.arctanh(r_of(z[block != one], x[block != one])) for one in range(len(sizes))]
    centre = sum(estimate - (1 - m / n) * theta for m, theta in zip(sizes, without, strict=True))
    terms = [
        (n / m * estimate - (n / m - 1) * theta - centre) ** 2 / (n / m - 1)
        for m, theta in zip(sizes, without, strict=True)
    ]
    return np.sqrt(sum(terms) / len(sizes))


def test_jackknife_with_unequal_blocks_against_deletion():
    z, x = sample()
    block = np.repeat(np.arange(6), [10, 20, 40, 60, 70, 100])
    np.testing.assert_allclose(jackknife_error(blocks_of(z, x, block, 6)), error_by_deletion(z, x, block), rtol=1e-9)


def test_jackknife_with_equal_blocks_is_the_textbooks():
    z, x = sample()
    block = np.arange(TOKENS) % 10
    without = np.stack([np.arctanh(r_of(z[block != one], x[block != one])) for one in range(10)])
    textbook = np.sqrt(9 / 10 * ((without - without.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(jackknife_error(blocks_of(z, x, block, 10)), textbook, rtol=1e-9)


def test_single_tokens_as_blocks_give_the_error_of_independent_tokens():
    """Without any dependence, Fisher's 1 / √(n − 3)."""
    rng = np.random.default_rng(5)
    z, x = rng.normal(size=2000), rng.normal(size=(2000, 50))
    error = jackknife_error(blocks_of(z, x, np.arange(2000) % 64, 64))
    assert np.sqrt((error**2).mean()) == pytest.approx(1 / np.sqrt(1997), rel=0.1)


def test_a_block_without_tokens_counts_for_nothing():
    z, x = sample()
    block = np.arange(TOKENS) % 5
    padded = blocks_of(z, x, np.where(block > 1, block + 1, block), 7)
    np.testing.assert_allclose(jackknife_error(padded), jackknife_error(blocks_of(z, x, block, 5)), rtol=1e-12)


def test_one_block_gives_no_error():
    z, x = sample()
    assert np.isnan(jackknife_error(blocks_of(z, x, np.zeros(TOKENS, int), 1))).all()
    assert np.isnan(jackknife_error(blocks_of(z, x, np.zeros(TOKENS, int), 3))).all()


def test_undefined_is_the_error_of_what_does_not_vary_or_stops_to():
    z, x = sample()
    block = np.arange(TOKENS) % 4
    x[:, 0] = 0.0
    x[:, 1] = np.where(block == 2, x[:, 1], 0.0)  # varies in one block only
    error = jackknife_error(blocks_of(z, x, block, 4))
    assert np.isnan(error).tolist() == [True, True, False, False]
    assert np.isnan(jackknife_error(blocks_of(np.ones(TOKENS), x, block, 4))).all()


def test_a_perfect_correlation_has_an_interval_without_width():
    z, _ = sample()
    x = np.stack([z, -2 * z], axis=1)
    blocks = blocks_of(z, x, np.arange(TOKENS) % 8, 8)
    low, high = interval(blocks.total().pearson(), jackknife_error(blocks), 7)
    np.testing.assert_allclose(low, [1, -1], atol=1e-6)
    np.testing.assert_allclose(high, [1, -1], atol=1e-6)


def test_the_interval_is_students_about_fishers_z():
    r, error = np.array([-0.6, 0.0, 0.3, np.nan]), np.array([0.2, 0.01, 0.5, 0.1])
    low, high = interval(r, error, 9)
    half = 2.262157 * error  # the 97.5 % quantile of t with 9 degrees of freedom, from a table
    np.testing.assert_allclose(np.arctanh(low), np.arctanh(r) - half, atol=1e-6)
    np.testing.assert_allclose(np.arctanh(high), np.arctanh(r) + half, atol=1e-6)


# p


def test_p_against_a_prediction_interval():
    rng = np.random.default_rng(6)
    null, r = rng.normal(0.05, 0.1, (32, 6)), rng.normal(0, 0.3, 6)
    p, mean, spread = permutation_p(r, null)
    for one in range(6):
        # the two-sample t-test with a sample of one is the same thing
        test = stats.ttest_ind(null[:, one], r[one : one + 1], equal_var=True)
        assert p[one] == pytest.approx(test.pvalue, rel=1e-9)
    np.testing.assert_allclose(mean, null.mean(0))
    np.testing.assert_allclose(spread, null.std(0, ddof=1))


@pytest.mark.parametrize("draws", [8, 32])
def test_p_is_uniform_where_the_null_is_normal(draws):
    rng = np.random.default_rng(7)
    null = 0.1 + 0.02 * rng.normal(size=(draws + 1, 20_000))
    p, _, _ = permutation_p(null[0], null[1:])
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_p_can_be_smaller_than_one_over_the_draws():
    p, _, _ = permutation_p(np.array([0.5]), np.random.default_rng(8).normal(0, 0.02, (32, 1)))
    assert p[0] < 1e-10


def test_p_of_what_is_not_defined_is_one():
    null = np.random.default_rng(9).normal(size=(16, 3))
    null[:, 1] = np.nan
    p, _, _ = permutation_p(np.array([np.nan, 0.2, 0.2]), null)
    assert p[:2].tolist() == [1.0, 1.0]
    assert p[2] < 1


@pytest.mark.parametrize("off", [0.0, 1e-16, 1e-8])
def test_a_null_that_is_always_r_itself_finds_nothing(off):
    """Shuffles that cannot change anything (each type alone in its band) leave draws equal to r but for rounding."""
    null = np.full((32, 3), 0.3) + np.random.default_rng(10).normal(size=(32, 3)) * off / 10
    p, _, _ = permutation_p(np.full(3, 0.3 + off), null)
    assert (p > 0.05).all()


def test_the_largest_by_chance_is_a_quantile_of_the_draws_largest():
    null = np.random.default_rng(11).normal(0.2, 0.1, (40, 25))
    null[:, 3] = np.nan
    defined = np.delete(null, 3, axis=1)
    largest = [max(abs(defined[draw] - defined.mean(0))) for draw in range(40)]
    assert largest_by_chance(null) == pytest.approx(np.percentile(largest, 95))
    assert np.isnan(largest_by_chance(np.full((40, 5), np.nan)))


@pytest.mark.parametrize("draws", [16, 32, 256])
def test_the_smallest_detectable_effect_is_found_four_times_in_five(draws):
    rng = np.random.default_rng(12)
    spread, tests = 0.05, 20_000
    effect = smallest_detectable(np.array([spread]), draws)[0]
    null = rng.normal(0, spread, (draws, tests))
    p, _, _ = permutation_p(rng.normal(effect, spread, tests), null)
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.03)


# q


@pytest.mark.parametrize("dependent", [False, True])
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(deadline=None)
def test_q_by_the_definition_of_the_step_up_procedures(p, dependent):
    """q is the smallest rate at which the procedure rejects: min over ranks at or above its own of p · tests / rank."""
    found = q_values(np.array(p), dependent)
    tests, price = len(p), sum(1 / rank for rank in range(1, len(p) + 1)) if dependent else 1.0
    ranked = sorted(p)
    for one, q in zip(p, found, strict=True):
        candidates = [
            price * tests * ranked[rank - 1] / rank for rank in range(1, tests + 1) if ranked[rank - 1] >= one
        ]
        assert q == pytest.approx(min(1.0, *candidates), rel=1e-9, abs=1e-300)


def test_q_is_corrected_over_all_of_an_array_and_keeps_its_shape():
    p = np.random.default_rng(13).uniform(size=(3, 7)) ** 3
    q = q_values(p)
    assert q.shape == p.shape
    np.testing.assert_allclose(q.ravel(), q_values(p.ravel()))
    assert (q >= p).all()
    assert (q_values(p, dependent=True) >= q).all()


def test_undefined_neurons_take_part_in_the_correction_and_are_never_found():
    q = q_values(np.array([0.001, 1.0, 1.0, 1.0]))
    assert q.tolist() == [0.004, 1.0, 1.0, 1.0]


# Peaks


def gaussian(centre, height=1000.0, width=4.0, bins=80):
    return height * np.exp(-0.5 * ((np.arange(bins) - centre) / width) ** 2)


def test_one_peak_has_no_second():
    assert second_peak(gaussian(40.0).round()) == pytest.approx(0, abs=1e-3)
    assert second_peak(np.zeros(20)) == 0
    assert second_peak(np.ones(20)) == 0
    assert second_peak(np.arange(20)) == 0  # a peak at the edge is one, too


def test_two_peaks_far_apart_are_measured_by_their_heights():
    assert second_peak(gaussian(20) + gaussian(60)) == pytest.approx(1, abs=0.01)
    assert second_peak(gaussian(20) + 0.3 * gaussian(60)) == pytest.approx(0.3, abs=0.01)
    assert second_peak(0.3 * gaussian(20) + gaussian(60)) == pytest.approx(0.3, abs=0.01)


def test_two_peaks_that_touch_are_measured_by_the_valley_between():
    both = gaussian(30) + 0.9 * gaussian(42)
    assert second_peak(both) == pytest.approx((both[42] - both[36]) / both[30], abs=0.05)
    assert second_peak(gaussian(38) + gaussian(42)) == pytest.approx(0, abs=1e-6)
    equal = gaussian(34) + gaussian(46)
    assert second_peak(equal) == pytest.approx(1 - equal[40] / equal[34], abs=0.05)
    assert second_peak(equal) < 0.9  # and not the whole height, though neither is lower than the other


def test_noise_in_single_bins_is_small():
    noisy = np.random.default_rng(14).poisson(gaussian(40, height=10_000, width=8))
    assert second_peak(noisy) < 0.05


def test_the_prominence_of_peaks_is_scipys():
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import find_peaks

    generator = np.random.default_rng(15)
    for width in (3, 10, 80):
        counts = generator.poisson(generator.uniform(0, 30, (40, width)))
        counts[::4, width // 3 : width // 2] = 0
        for row, found in zip(counts, second_peak(counts), strict=True):
            smooth = np.pad(gaussian_filter1d(row.astype(float), 1.0), 1)
            prominences = np.sort(find_peaks(smooth, prominence=0.0)[1]["prominences"])
            expected = prominences[-2] / smooth.max() if len(prominences) > 1 else 0.0
            assert found == pytest.approx(expected, abs=1e-6)


def test_peaks_of_many_histograms_at_once_whatever_their_size():
    table = np.stack([gaussian(40), gaussian(20) + gaussian(60)])
    found = second_peak(np.stack([table, 7 * table]))
    assert found.shape == (2, 2)
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)
    assert found[0, 0] < 0.01 < 0.9 < found[0, 1]


def test_the_jackknife_over_parts_of_the_draws_says_how_a_share_varies_with_other_draws():
    """All neurons share the draws, and half of them lie near the threshold: shares of many draws, and its estimate."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(6, 400)) / np.sqrt(6)  # neurons depend on each other
    r = 2.2 * np.sqrt((mixing**2).sum(0)) * random.normal(1, 0.3, size=400)
    shares, errors = [], []
    for _ in range(200):
        null = random.normal(size=(32, 6)) @ mixing
        shares.append((permutation_p(r, null)[0] < 0.05).mean())
        without = p_without_parts(r, null)
        assert without.shape == (8, 400)
        errors.append(jackknife_spread((without < 0.05).mean(1)))
    assert 0.7 * np.std(shares) < np.mean(errors) < 1.5 * np.std(shares)
    left = np.delete(np.arange(32), np.arange(3, 32, 8))
    np.testing.assert_allclose(without[3], permutation_p(r, null[left])[0])
