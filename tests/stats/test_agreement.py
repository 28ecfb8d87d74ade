"""Neurons that lead in several runs, against chance: by enumeration, by shuffling and by scipy."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from neurexp.stats.agreement import (
    at_least,
    expected_times_led,
    leading,
    led_by_both,
    rank_correlation,
    ranks,
    similar_strata,
    times_led,
)

STRATA = np.array([0, 0, 0, 0, 1, 1, 1])
LEADS = np.array([[1, 1, 0, 0, 1, 0, 0], [1, 0, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 0, 0]], dtype=bool)


def placements(leads: np.ndarray) -> list[np.ndarray]:
    """Every way to place a run's leading neurons that keeps their number in each stratum."""
    places = [np.flatnonzero(stratum == STRATA) for stratum in np.unique(STRATA)]
    choices = [combinations(members, int(leads[members].sum())) for members in places]
    found = []
    for chosen in product(*choices):
        one = np.zeros(len(STRATA), dtype=bool)
        one[[place for members in chosen for place in members]] = True
        found.append(one)
    return found


def test_two_runs_are_hypergeometric_in_one_layer():
    random = np.random.default_rng(0)
    first, second = (random.permutation(np.arange(200) < count) for count in (30, 50))
    found, null = led_by_both(first, second, np.zeros(200, int)), stats.hypergeom(200, 30, 50)
    assert found.observed == (first & second).sum()
    assert found.expected == pytest.approx(null.mean())
    assert found.p == pytest.approx(null.sf(found.observed - 1))
    assert (found.low, found.high) == (null.ppf(0.025), null.ppf(0.975))


def test_two_runs_in_several_layers_are_all_placements_of_one():
    overlaps = [int((LEADS[0] & one).sum()) for one in placements(LEADS[1])]
    found = led_by_both(LEADS[0], LEADS[1], STRATA)
    assert found.expected == pytest.approx(np.mean(overlaps))
    assert found.p == pytest.approx(np.mean([one >= found.observed for one in overlaps]))


def test_three_runs_are_all_placements_of_each():
    every = [np.sum(each, axis=0) for each in product(*(placements(one) for one in LEADS))]
    times = np.arange(4)
    by_stratum = np.array([[[(led[s == STRATA] == k).sum() for k in times] for s in (0, 1)] for led in every])
    assert expected_times_led(LEADS, STRATA, STRATA) == pytest.approx(by_stratum.mean(0))
    drawn = times_led(LEADS, STRATA, STRATA, seed=1, draws=20_000)
    assert (drawn.sum(2) == [4, 3]).all()
    for least in (2, 3):
        null = by_stratum[:, :, least:].sum((1, 2))
        observed = int((LEADS.sum(0) >= least).sum())
        found = at_least(observed, least, drawn, expected_times_led(LEADS, STRATA, STRATA))
        assert found.expected == pytest.approx(null.mean())
        assert found.p == pytest.approx((null >= observed).mean(), abs=0.02)  # 5 standard deviations of the draws
        assert (found.low, found.high) == tuple(np.quantile(null, (0.025, 0.975), method="inverted_cdf"))


def test_the_largest_of_each_layer_lead_whatever_their_sign_and_order():
    layers = np.repeat([3, 7], 100)
    values = np.concatenate([np.arange(-50, 50), 1000 + np.arange(100)]).astype(float)
    order = np.random.default_rng(0).permutation(200)
    led = leading(values[order], layers[order], 0.02)
    assert set(values[order][led]) == {-50, -49, 49, 1098, 1099}
    assert set(values[order][leading(values[order], layers[order], 0.03)]) == {-50, -49, 49, 1097, 1098, 1099}


def test_ties_lead_together_infinities_lead_and_zero_does_not():
    one = np.zeros(100, dtype=int)
    values = np.zeros(100)
    assert not leading(values, one, 0.05).any()
    values[:3] = 1
    assert leading(values, one, 0.05).sum() == 3
    values[:7] = -1
    assert leading(values, one, 0.05).sum() == 7
    values[50] = -np.inf
    assert leading(values, one, 0.01).nonzero()[0].tolist() == [50]
    assert ranks(values, one)[[50, 0, 6, 7]].tolist() == [1, 2, 2, 9]


def test_ranks_correlate_as_spearmans_in_one_layer():
    random = np.random.default_rng(2)
    x = random.normal(size=60)
    y = 0.3 * np.abs(x) + random.normal(size=60).round(1)
    r, p = rank_correlation(x, y, np.zeros(60, int))
    expected = stats.spearmanr(np.abs(x), np.abs(y))[0]
    assert r == pytest.approx(expected)
    shuffled = [rank_correlation(x, random.permutation(y), np.zeros(60, int))[0] for _ in range(4000)]
    assert p == pytest.approx(np.mean(np.abs(shuffled) >= abs(r)), abs=0.03)


def test_layers_of_different_scale_and_size_do_not_correlate_by_themselves():
    random = np.random.default_rng(3)
    layers = np.repeat(np.arange(5), (400, 100, 300, 50, 200))
    x, y = random.normal(size=(2, len(layers))) * 10.0**layers
    r, p = rank_correlation(x, y, layers)
    assert abs(r) < 0.1
    assert p > 0.01
    assert stats.spearmanr(np.abs(x), np.abs(y))[0] > 0.5  # what a rank over all layers would say
    assert np.isnan(rank_correlation(x, np.zeros(len(layers)), layers)).all()


def test_strata_of_similar_values_lie_within_layers():
    layers = np.repeat([4, 9], (30, 20))
    values = np.random.default_rng(4).normal(size=50)
    parts = similar_strata(layers, values, 4)
    for layer, count in ((4, 7), (9, 5)):
        inside = layers == layer
        sizes = np.unique(parts[inside], return_counts=True)[1]
        assert len(sizes) == count
        assert set(sizes) <= {4, 5}
        assert np.argsort(values[inside]).tolist() == np.lexsort((values[inside], parts[inside])).tolist()
    assert not set(parts[:30]) & set(parts[30:])


def two_runs_led_by_spread(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of two runs that have nothing in common but each neuron's spread, which differs a hundredfold."""
    spread = np.exp(random.uniform(0, np.log(100), 4000))
    return (*(spread * random.normal(size=(2, 4000))), spread)


def test_a_common_spread_is_agreement_within_layers_and_none_among_similar_neurons():
    first, second, spread = two_runs_led_by_spread(np.random.default_rng(5))
    layers = np.repeat(np.arange(4), 1000)
    led, also = (leading(values, layers, 0.02) for values in (first, second))
    assert led_by_both(led, also, layers).p < 1e-4
    assert led_by_both(led, also, similar_strata(layers, spread, 25)).p > 0.05
    assert rank_correlation(first, second, layers)[0] > 0.5
    assert rank_correlation(first, second, similar_strata(layers, spread, 25))[0] < 0.1


@pytest.mark.slow
def test_runs_that_have_nothing_in_common_are_calibrated():
    random, layers = np.random.default_rng(6), np.repeat(np.arange(6), 500)
    pairs, triples, correlated = [], [], []
    for index in range(400):
        values = random.standard_t(3, size=(3, 3000)) * 10.0**layers
        led = np.array([leading(one, layers, 0.1) for one in values])
        pairs.append(led_by_both(led[0], led[1], layers).p)
        drawn = times_led(led, layers, layers, seed=index, draws=500)
        triples.append(at_least(int((led.sum(0) >= 2).sum()), 2, drawn, expected_times_led(led, layers, layers)).p)
        correlated.append(rank_correlation(values[0], values[1], layers)[1])
    for p in (pairs, triples, correlated):
        share = np.mean(np.array(p) < 0.05)
        assert 0.02 < share < 0.085  # 0.05 less what a whole number cannot reach, within 3 standard deviations
