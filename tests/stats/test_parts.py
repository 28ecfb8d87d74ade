"""Beyond the size of a part: every statistic again, against scipy and brute force, a few numbers at a time."""

from math import comb

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from neurexp.stats import contrast, layer_probe, nulls, probe, units
from neurexp.stats.parts import by_neurons, of_neurons, parts

FEW = 130  # numbers at once


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    for name in ("parts", "nulls", "layer_probe"):
        monkeypatch.setattr(f"neurexp.stats.{name}.CELLS", FEW)


def sample(sizes=(18, 25), neurons=11, seed=0):
    """Rows as they are captured, float32, with ties; each category lies a bit above the one before."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = random.normal(size=(len(labels), neurons)) + 0.5 * labels[:, None]
    return x.round(1).astype(np.float32), labels


def test_parts_cover_everything_once_and_hold_few_numbers():
    assert [*parts(10, 4)] == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert [*parts(2, 0)] == [slice(0, 1), slice(1, 2)]
    assert [*parts(0, 3)] == []
    x, seen = np.zeros((43, 11), dtype=np.float32), []

    @by_neurons
    def looked_at(x):
        seen.append(x)
        return x.sum(0), x[:2]

    total, head = looked_at(x)
    assert total.shape == (11,)
    assert head.shape == (2, 11)
    assert len(seen) == len(of_neurons(x)) == 4
    assert all(part.size <= FEW and part.dtype == np.float64 and part.flags.c_contiguous for part in seen)


def test_tests_and_effects_in_parts_are_scipys():
    x, labels = sample()
    one, zero = x[labels == 1].astype(float), x[labels == 0].astype(float)
    theirs = stats.ttest_ind(one, zero, equal_var=False, axis=0)
    tested = contrast.compare(x, labels)
    np.testing.assert_allclose(tested.statistic, theirs.statistic, rtol=1e-9)
    np.testing.assert_allclose(tested.p, theirs.pvalue, rtol=1e-8)
    pooled = np.sqrt((one.var(0, ddof=1) * 24 + zero.var(0, ddof=1) * 17) / 41)
    np.testing.assert_allclose(contrast.cohens_d(x, labels)[0], (one.mean(0) - zero.mean(0)) / pooled, rtol=1e-9)
    above = (one[:, None] > zero).mean((0, 1)) + 0.5 * (one[:, None] == zero).mean((0, 1))
    np.testing.assert_allclose(contrast.auroc(x, labels), above, rtol=1e-12)
    many = np.stack([np.random.default_rng(seed).permutation(labels) for seed in range(7)])
    for found, dealt in zip(contrast.auroc(x, many), many, strict=True):
        np.testing.assert_allclose(found, contrast.auroc(x, dealt), rtol=1e-12)
    means, mean, deviation = contrast.moments(x, labels)
    np.testing.assert_allclose(means, [zero.mean(0), one.mean(0)], rtol=1e-12)
    np.testing.assert_allclose(mean, x.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(deviation, x.astype(float).std(0), rtol=1e-12)
    x, labels = sample((9, 12, 20))
    theirs = stats.f_oneway(*(x[labels == one].astype(float) for one in range(3)), axis=0)
    np.testing.assert_allclose(contrast.compare(x, labels).p, theirs.pvalue, rtol=1e-8)


@pytest.mark.parametrize("sizes", [(18, 25), (9, 12, 20)])
def test_the_permutation_null_in_parts_is_that_of_scipys_statistic(sizes):
    x, labels = sample(sizes)
    dealt = np.concatenate([*units.shuffles(labels, 120, np.random.default_rng(5))])

    def statistic(one):
        groups = [x[one == category].astype(float) for category in range(len(sizes))]
        if len(groups) == 2:
            return stats.ttest_ind(groups[1], groups[0], equal_var=False, axis=0).statistic
        return stats.f_oneway(*groups, axis=0).statistic

    drawn, observed = np.array([statistic(one) for one in dealt]), np.abs(statistic(labels))
    null = nulls.permutation(x, labels, 120, seed=5)
    np.testing.assert_allclose(null.p, (1 + (np.abs(drawn) >= observed * (1 - 1e-9)).sum(0)) / 121, rtol=1e-12)
    np.testing.assert_allclose(null.largest, np.abs(drawn).max(1), rtol=1e-9)
    moved = np.abs(null.counts - np.histogram(drawn, null.edges)[0]).sum()
    assert moved <= 2 * (np.isclose(drawn[..., None], null.edges, rtol=1e-9, atol=1e-9)).sum()  # at the edge of a bin


def test_the_shuffles_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    labels, unit = np.repeat([0, 1], 12), np.tile(np.arange(12), 2)
    for groups in (None, unit):
        some = np.concatenate([*units.shuffles(labels, 50, np.random.default_rng(1), groups)])
        monkeypatch.setattr("neurexp.stats.parts.CELLS", 10**6)
        every = np.concatenate([*units.shuffles(labels, 50, np.random.default_rng(1), groups)])
        np.testing.assert_array_equal(some, every)
        monkeypatch.setattr("neurexp.stats.parts.CELLS", FEW)


@pytest.mark.parametrize(("rows", "ones", "most"), [(8, 4, 69), (8, 4, 70), (20, 3, 2000), (44, 4, 10**6), (9, 8, 9)])
def test_labellings_are_enumerated_where_they_are_few(rows, ones, most):
    assert nulls._are_few(rows, ones, most) == (comb(rows, ones) <= most)
    assert not nulls._are_few(10**7, 5 * 10**6, 10**6)  # at once


def test_the_interval_of_auroc_is_that_of_the_pairs_weighed_by_the_drawn_units():
    """By the matrix of all pairs of rows, draw by draw."""
    random = np.random.default_rng(3)
    x, labels, unit = random.normal(size=60).round(1), random.integers(0, 2, 60), random.integers(0, 15, 60)
    again, above = np.random.default_rng(7), (x[labels == 1][:, None] > x[labels == 0]).astype(float)
    above += 0.5 * (x[labels == 1][:, None] == x[labels == 0])
    weights = []
    for category in (0, 1):
        _, own = np.unique(unit[labels == category], return_inverse=True)
        count = own.max() + 1
        weights.append(again.multinomial(count, np.full(count, 1 / count), size=200)[:, own].astype(float))
    scores = np.einsum("bi,ij,bj->b", weights[1], above, weights[0]) / weights[1].sum(1) / weights[0].sum(1)
    found = nulls.auroc_interval(x, labels, unit, 200, seed=7)
    np.testing.assert_allclose(found, np.quantile(scores, (0.025, 0.975)), rtol=1e-12)


def test_replication_does_not_depend_on_the_size_of_a_part(monkeypatch):
    for sizes in ((18, 25), (9, 12, 20)):
        x, labels = sample(sizes)
        some = contrast.replicate(x, labels, 5, seed=1, shuffles=3)
        monkeypatch.setattr("neurexp.stats.parts.CELLS", 10**6)
        whole = contrast.replicate(x, labels, 5, seed=1, shuffles=3)
        monkeypatch.setattr("neurexp.stats.parts.CELLS", FEW)
        for name in some.__dataclass_fields__:
            np.testing.assert_allclose(getattr(some, name), getattr(whole, name), rtol=1e-12, err_msg=name)


# Any number of categories


@pytest.mark.parametrize("categories", [3, 63, 64, 70, 300])
def test_each_of_many_categories_has_its_own_halves_and_folds(categories):
    """In a 64-bit number of a bit a category, the 64th and later ones would be lost."""
    labels = np.random.default_rng(0).permutation(np.arange(categories * 10) % categories)
    fold = probe.folds(labels, 0)
    (first,) = contrast._halves(labels, np.arange(len(labels)), 1, np.random.default_rng(0))
    for category in range(categories):
        assert np.bincount(fold[labels == category], minlength=5).tolist() == [2] * 5
        assert first[labels == category].sum() == 5


def test_units_of_a_kind_have_rows_of_the_same_categories_by_hand():
    labels, unit = np.array([0, 1, 1, 0, 65, 1, 65]), np.array([4, 4, 7, 9, 2, 2, 3])
    kinds = units.strata(labels, unit)
    assert [kind.tolist() for kind in kinds] == [[9], [7], [4], [3], [2]]  # {0}, {1}, {0, 1}, {65}, {1, 65}


# All neurons of a layer


def of_sklearn(x, labels, fold):
    predicted = np.empty_like(labels)
    for held in range(probe.FOLDS):
        train = fold != held
        spread = x[train].std(0)
        z = (x - x[train].mean(0)) / np.where(spread > 0, spread, 1)
        model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10).fit(z[train], labels[train])
        predicted[~train] = model.predict(z[~train])
    return (predicted == labels).mean()


@pytest.mark.parametrize("few_rows", [0, 1000])
@pytest.mark.parametrize("block", [7, 4096])
@pytest.mark.parametrize("cells", [FEW, 10**7])
@pytest.mark.parametrize(("sizes", "neurons"), [((60, 80), 20), ((30, 34), 90), ((20, 21, 22, 23), 30)])
def test_a_layers_probe_is_sklearns_in_either_space_and_precision(sizes, neurons, cells, block, few_rows, monkeypatch):
    """In the space of the rows or of the neurons, in float32 or float64, whitened as a whole or in blocks."""
    for name, value in (("CELLS", cells), ("BLOCK", block), ("FEW_ROWS", few_rows)):
        monkeypatch.setattr(layer_probe, name, value)
    x, labels = sample(sizes, neurons)
    x[:, 0] = 0.5  # dead
    x[:, 1] = 2 * x[:, 2] - 100  # one neuron twice, far from zero
    fold = probe.folds(labels, 0)
    found = probe.layer_accuracy(x, labels[None].astype(np.uint8), fold)[0]
    rounding = 1.01 / len(labels) if cells == FEW else 1e-12  # a row at the border, in float32
    assert found == pytest.approx(of_sklearn(x.astype(float), labels, fold), abs=rounding)


@pytest.mark.parametrize("rows", [10, 400])
def test_a_layer_that_never_varies_tells_the_most_frequent_category(rows):
    labels = (np.arange(rows) % 5 < 2).astype(int)
    found = probe.layer_accuracy(np.ones((rows, 20), dtype=np.float32), labels[None], np.arange(rows) // 5 % 5 % 2)
    assert found[0] == 0.6


MANY = (4, 7, 5) * 7  # more categories than dense products are used for


def test_many_categories_have_scipys_f_and_null():
    x, labels = sample(MANY, 5)
    assert labels.max() >= contrast.FEW_CATEGORIES

    def f(one, rows=slice(None)):
        there = np.unique(one[rows])
        return stats.f_oneway(*(x[rows][one[rows] == category].astype(float) for category in there), axis=0)

    np.testing.assert_allclose(contrast.compare(x, labels).p, f(labels).pvalue, rtol=1e-8)
    dealt = np.concatenate([*units.shuffles(labels, 60, np.random.default_rng(5))])
    drawn, observed = np.array([f(one).statistic for one in dealt]), f(labels).statistic
    null = nulls.permutation(x, labels, 60, seed=5)
    np.testing.assert_allclose(null.p, (1 + (drawn >= observed * (1 - 1e-9)).sum(0)) / 61, rtol=1e-12)
    np.testing.assert_allclose(null.largest, drawn.max(1), rtol=1e-9)
    small = dealt[:9].astype(np.uint8)  # as shuffles are kept
    inside = np.random.default_rng(0).random(small.shape) < 0.6
    inside[0] &= small[0] > 2  # categories without a row are no part of the test
    within = contrast.compare_within(x, small, inside)
    for found, way, one, rows in zip(within.statistic, within.direction, small, inside, strict=True):
        means = [x[rows & (one == category)].astype(float).mean(0) for category in np.unique(one[rows])]
        np.testing.assert_array_equal(way, np.unique(one[rows])[np.argmax(means, axis=0)])
        np.testing.assert_allclose(found, f(one, rows).statistic, rtol=1e-8)


def test_a_layers_probe_on_many_categories_is_sklearns_in_float32_too():
    x, labels = sample((12,) * 20, 30)
    fold, right = probe.folds(labels, 0), 0
    for held in range(probe.FOLDS):
        train = fold != held
        z = (x - x[train].astype(float).mean(0)) / x[train].astype(float).std(0)
        model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(z[train], labels[train])
        right += (model.predict(z[~train]) == labels[~train]).sum()
    assert probe.layer_accuracy(x, labels[None], fold)[0] == pytest.approx(right / len(labels), abs=1.5 / len(labels))
