"""Selection on one half and test on the other: the halves, the numbers by hand, planted effects and chance."""

import numpy as np
import pytest
from labelled_rows import t_of
from scipy import stats

from neurexp.stats import hypothesis_tests, replication


def planted(sizes, strong, neurons, seed=0, size=1.5):
    """Noise; the first `strong` neurons tell the last category from the others, every second one of two by lying lower.

    (Of three categories a neuron's direction is its highest one, which must not be left to chance.)
    """
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = random.normal(size=(len(labels), neurons))
    lower = (np.arange(strong) % 2 == 1) & (len(sizes) == 2)
    x[:, :strong] += np.where(lower, -size, size) * (labels == len(sizes) - 1)[:, None]
    return x, labels


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("sizes", [(13, 20), (8, 9, 11)])
def test_selection_and_test_share_no_row_and_each_half_has_half_of_each_category(sizes, shuffle, monkeypatch):
    x, labels = planted(sizes, 2, 4)
    calls, compare_within = [], hypothesis_tests.compare_within
    monkeypatch.setattr(replication, "compare_within", lambda *given: calls.append(given[1:]) or compare_within(*given))
    replication.replicate(x, labels, splits=1 if shuffle else 6, seed=0, shuffles=6 if shuffle else 0)
    (given_labels, first), (same_labels, second), (dealt, again) = calls
    np.testing.assert_array_equal(given_labels, same_labels)
    np.testing.assert_array_equal(second, ~first)
    np.testing.assert_array_equal(again, second)
    assert len(np.unique(first, axis=0)) == 6
    for one, inside, other in zip(given_labels, first, dealt, strict=True):
        assert (one == labels).all() != shuffle
        np.testing.assert_array_equal(np.bincount(one), sizes)
        np.testing.assert_array_equal(np.bincount(one[inside]), np.array(sizes) // 2)
        np.testing.assert_array_equal(other[inside], one[inside])
        np.testing.assert_array_equal(np.bincount(other[~inside]), np.bincount(one[~inside]))
    assert not np.array_equal(dealt, given_labels)


@pytest.mark.parametrize("sizes", [(60, 60), (40, 80), (50, 50, 50)])
def test_planted_effects_are_selected_and_replicate(sizes):
    x, labels = planted(sizes, 10, 60)
    result = replication.replicate(x, labels, splits=20, seed=0)
    assert result.selected.shape == result.replicated.shape == (60,)
    assert result.by_chance.shape == result.heldout.shape == result.found.shape == (20,)
    assert result.selected[:10].mean() > 0.95
    assert result.selected[10:].mean() < 0.05
    assert result.replicated[:10].mean() > 0.95
    assert (result.replicated <= result.selected).all()
    assert result.selected.sum() * 20 == pytest.approx(result.found.sum())
    assert result.replicated.sum() * 20 == pytest.approx(result.kept.sum())
    assert (result.by_chance <= result.found).all()
    assert result.rate > 0.9
    assert result.rate == result.kept.sum() / result.found.sum()
    # Two normals 1.5 standard deviations apart
    assert result.heldout.mean() == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(2)), abs=0.05)


def test_replication_follows_the_seed_only():
    x, labels = planted((20, 20), 5, 20)
    one, again, other = (replication.replicate(x, labels, 5, seed) for seed in (1, 1, 2))
    for name in ("selected", "replicated", "found", "kept", "by_chance", "heldout"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.heldout, other.heldout)


def test_selection_is_benjamini_hochberg_in_the_first_half_and_replication_p_and_direction_in_the_second(monkeypatch):
    x, labels = planted((24, 24), 6, 12, size=1.0)
    calls, compare_within = [], hypothesis_tests.compare_within
    monkeypatch.setattr(replication, "compare_within", lambda *given: calls.append(given[1:]) or compare_within(*given))
    result = replication.replicate(x, labels, splits=4, seed=3)
    (_, first), _, (dealt, _) = calls
    selected, replicated = np.zeros(12), np.zeros(12)
    for split, inside in enumerate(first):
        found, again = t_of(x[inside], labels[inside]), t_of(x[~inside], labels[~inside])
        chosen = stats.false_discovery_control(found.pvalue) < 0.05
        same = np.sign(found.statistic) == np.sign(again.statistic)
        kept = chosen & same & (again.pvalue < 0.05)
        assert result.found[split] == chosen.sum()
        assert result.kept[split] == kept.sum()
        selected += chosen
        replicated += kept
        shuffled = t_of(x[~inside], dealt[split][~inside])
        same = np.sign(found.statistic) == np.sign(shuffled.statistic)
        assert result.by_chance[split] == (chosen & same & (shuffled.pvalue < 0.05)).sum()
        best = np.abs(found.statistic).argmax()
        one, zero = (x[~inside & (labels == category), best] for category in (1, 0))
        higher = (one[:, None] > zero).mean()
        expected = higher if found.statistic[best] > 0 else 1 - higher
        assert result.heldout[split] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(result.selected, selected / 4)
    np.testing.assert_array_equal(result.replicated, replicated / 4)


@pytest.mark.parametrize("sizes", [(40, 40), (30, 30, 30)])
def test_shuffled_labels_select_about_nothing(sizes):
    x, labels = planted(sizes, 40, 80)
    result = replication.replicate(x, labels, splits=1, seed=0, shuffles=60)
    # Benjamini-Hochberg: a share of 5 % of the splits selects anything if neurons were independent
    assert (result.found > 0).mean() < 0.2
    assert result.selected.mean() < 0.02
    assert abs(result.heldout.mean() - 0.5) < 0.05


def test_by_chance_a_fortieth_of_the_selected_replicates():
    x, labels = planted((60, 60), 60, 60)
    result = replication.replicate(x, labels, splits=400, seed=0)
    selected = result.found
    assert selected.mean() > 50
    rates = result.by_chance / selected
    assert abs(rates.mean() - 0.025) < 4 * rates.std(ddof=1) / np.sqrt(400)
    assert rates.std(ddof=1) / np.sqrt(400) < 0.005
