"""Random neurons that resemble chosen ones: who may be drawn, how often, and how well they match."""

import numpy as np
import pytest

from neurexp.stats.interventions import rank_p
from neurexp.stats.matching import balance, matched_draws, mean_ratios

LAYERS = np.repeat([0, 1, 2], 300)
FEATURES = np.random.default_rng(0).normal(size=(900, 2)) * np.array([1.0, 30.0]) + LAYERS[:, None]
TARGETS = np.array([5, 310, 311, 6, 899])
NONE = np.zeros(900, dtype=bool)


def draw(targets=TARGETS, excluded=NONE, draws=50, seed=1, nearest=32, features=FEATURES, layers=LAYERS):
    return matched_draws(features, layers, targets, excluded, draws, seed, nearest)


def nearest_by_hand(target, excluded, count, targets=TARGETS):
    """The nearest candidates of a target, by a plain loop."""
    mine = [index for index in range(900) if LAYERS[index] == LAYERS[target]]
    deviation = [np.std([FEATURES[index][f] for index in mine]) for f in range(2)]
    distances = {
        index: sum(((FEATURES[index][f] - FEATURES[target][f]) / deviation[f]) ** 2 for f in range(2))
        for index in mine
        if index not in targets and not excluded[index]
    }
    return sorted(distances, key=lambda index: distances[index])[:count]


def test_neurons_come_from_the_nearest_of_the_same_layer_that_are_not_excluded():
    excluded = np.random.default_rng(3).random(900) < 0.3
    found = draw(excluded=excluded, draws=400)
    assert found.chosen.shape == (400, 5)
    assert found.pools.tolist() == [32] * 5
    for column, target in enumerate(TARGETS):
        allowed = nearest_by_hand(target, excluded, 32)
        extra = nearest_by_hand(target, excluded, 32 + column)  # where an earlier target took one
        assert set(allowed) <= set(found.chosen[:, column]) <= set(extra)


def test_no_neuron_is_twice_in_a_draw_though_targets_share_their_candidates():
    targets = np.arange(20)
    found = draw(targets=targets, features=np.zeros((900, 2)), nearest=25)
    assert all(len(set(row)) == 20 for row in found.chosen)
    assert not np.isin(found.chosen, targets).any()


def test_draws_are_nested_and_follow_the_seed():
    excluded = NONE.copy()
    excluded[TARGETS] = True
    whole = draw(excluded=excluded)
    for k in range(1, 5):
        np.testing.assert_array_equal(draw(targets=TARGETS[:k], excluded=excluded).chosen, whole.chosen[:, :k])
    np.testing.assert_array_equal(draw(excluded=excluded).chosen, whole.chosen)
    assert (draw(excluded=excluded, seed=2).chosen != whole.chosen).any()


def test_each_candidate_is_used_once_before_one_is_used_again():
    found = draw(targets=TARGETS[:1], draws=100, nearest=32)
    _, times = np.unique(found.chosen, return_counts=True)
    assert (len(times), times.min(), times.max()) == (32, 3, 4)
    assert len(np.unique(draw(targets=TARGETS[:1], draws=100, nearest=150).chosen)) == 100


def test_candidates_are_drawn_equally_often():
    first = [int(draw(targets=TARGETS[:2], draws=1, seed=seed, nearest=4).chosen[0, 1]) for seed in range(800)]
    _, times = np.unique(first, return_counts=True)
    assert len(times) == 4
    assert ((times - 200) ** 2 / 200).sum() < 16.3  # χ² with 3 degrees of freedom: p = 0.001


@pytest.mark.parametrize(("draws", "width", "pool"), [(200, 2000, 200), (200, 400, 99), (5, 2000, 32), (200, 20, 19)])
def test_as_many_are_close_as_draws_but_no_more_than_a_quarter_of_the_layer_and_at_least_32(draws, width, pool):
    features = np.random.default_rng(0).normal(size=(width, 2))
    found = matched_draws(
        features, np.zeros(width, dtype=int), np.array([0]), np.zeros(width, dtype=bool), draws, seed=0
    )
    assert found.pools.tolist() == [pool]
    assert len(np.unique(found.chosen)) == min(draws, pool)


def test_the_scale_of_a_feature_does_not_matter():
    other = FEATURES * np.array([1e6, 1e-6]) + 3
    np.testing.assert_array_equal(draw(features=other).chosen, draw().chosen)


def test_dead_neurons_are_never_drawn_and_no_target():
    features = FEATURES.copy()
    features[LAYERS == 1, 0] = np.where(np.arange(300) % 2, -np.inf, features[LAYERS == 1, 0])
    targets = np.array([300, 302])
    found = draw(targets=targets, features=features, nearest=200, draws=300)
    assert len(np.unique(found.chosen)) == 148
    assert np.isfinite(features[found.chosen]).all()
    assert np.isfinite(balance(features, LAYERS, targets, found.chosen)).all()
    assert np.isfinite(mean_ratios(features, targets, found.chosen)).all()
    with pytest.raises(ValueError, match="neuron 301 is dead"):
        draw(targets=np.array([300, 301]), features=features)


def test_a_layer_with_too_few_neurons_is_named_and_one_with_just_enough_is_used_up():
    excluded = LAYERS == 1
    targets = np.array([400, 401])
    excluded[[350, 360]] = False
    found = draw(targets=targets, excluded=excluded, draws=40)
    assert {tuple(row) for row in found.chosen.tolist()} == {(350, 360), (360, 350)}
    excluded[350] = True
    with pytest.raises(ValueError, match="layer 1 has 2 targets, but only 1 other"):
        draw(targets=targets, excluded=excluded)
    with pytest.raises(ValueError, match="given twice"):
        draw(targets=np.array([4, 4]))


def test_balance_is_zero_among_equals_and_matching_improves_it():
    targets = np.argsort(-FEATURES[:300, 0])[10:20]  # neurons of layer 0 that are unlike most others
    close, any_of = (draw(targets=targets, nearest=nearest, draws=300).chosen for nearest in (32, 290))
    near = balance(FEATURES, LAYERS, targets, close)
    far = balance(FEATURES, LAYERS, targets, any_of)
    assert abs(near[0]) < 0.3 * abs(far[0])
    by_hand = np.mean([FEATURES[target] - FEATURES[any_of[:, i]].mean(0) for i, target in enumerate(targets)], axis=0)
    np.testing.assert_allclose(far, by_hand / FEATURES[:300].std(0), rtol=1e-12)
    np.testing.assert_array_equal(balance(FEATURES, LAYERS, targets, np.tile(targets, (4, 1))), [0, 0])


def test_mean_ratios_are_those_of_geometric_means():
    features = np.log([[2.0, 5.0], [8.0, 5.0], [1.0, 10.0], [4.0, 10.0]])
    np.testing.assert_allclose(mean_ratios(features, np.array([0, 1]), np.array([[2, 3], [3, 2]])), [0.5, 2.0])


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 8])
def test_random_neurons_against_random_ones_have_a_uniform_p_even_if_few_neurons_have_all_the_effect(k):
    random, small = np.random.default_rng(k), []
    repeats = 400
    for repeat in range(repeats):
        features = random.normal(size=(1536, 2))
        effects = np.exp(4 * random.normal(size=1536))
        targets = random.choice(1536, k, replace=False)
        layers, none = np.zeros(1536, dtype=int), np.zeros(1536, dtype=bool)
        found = matched_draws(features, layers, targets, none, 200, repeat)
        small.append(rank_p(effects[targets].sum(), effects[found.chosen].sum(1)))
    for level in (0.01, 0.05, 0.2, 0.5):
        share = np.mean(np.array(small) <= level + 1e-9)
        assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / repeats)
