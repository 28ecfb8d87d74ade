"""The probes, against scikit-learn on the same folds, and against planted neurons that only some rows know of."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from neurexp.stats import layer_probe, newton, probe


def sample(sizes=(40, 40), neurons=8, seed=0, offset=0.8):
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return random.normal(size=(len(labels), neurons)) + offset * labels[:, None], labels


def of_sklearn(x, labels, fold, **options):
    """Held-out accuracy of scikit-learn's logistic regression on all columns of x."""
    right = 0
    for held in range(probe.FOLDS):
        train = fold != held
        scale = StandardScaler().fit(x[train])
        model = LogisticRegression(**options).fit(scale.transform(x[train]), labels[train])
        right += (model.predict(scale.transform(x[~train])) == labels[~train]).sum()
    return right / len(labels)


# Folds


@pytest.mark.parametrize("sizes", [(10, 10), (13, 22), (5, 8, 100), (4, 4)])
def test_folds_deal_out_each_category_evenly(sizes):
    _, labels = sample(sizes)
    fold = probe.folds(labels, seed=3)
    assert set(np.unique(fold)) <= set(range(5))
    for category, size in enumerate(sizes):
        counts = np.bincount(fold[labels == category], minlength=5)
        assert counts.sum() == size
        assert counts.max() - counts.min() <= 1


def test_folds_follow_the_seed_only():
    _, labels = sample((30, 30))
    np.testing.assert_array_equal(probe.folds(labels, 1), probe.folds(labels, 1))
    assert not np.array_equal(probe.folds(labels, 1), probe.folds(labels, 2))


# A probe on each neuron


@pytest.mark.parametrize(
    ("sizes", "offset"), [((40, 40), 0.0), ((40, 40), 0.8), ((20, 60), 0.8), ((20, 60), 2.0), ((9, 12), 2.0)]
)
def test_a_neurons_probe_is_sklearns_unpenalised_logistic_regression(sizes, offset):
    x, labels = sample(sizes, offset=offset)
    fold = probe.folds(labels, 0)
    probes = probe.neuron_probes(x, labels, fold)
    fitted = np.flatnonzero(~probes.separated)
    assert len(fitted) >= 4
    expected = [
        of_sklearn(x[:, [neuron]], labels, fold, C=np.inf, solver="newton-cholesky", tol=1e-10) for neuron in fitted
    ]
    np.testing.assert_allclose(probes.accuracy[fitted], expected, rtol=1e-12)
    assert probes.converged.all()


@pytest.mark.parametrize("kind", ["heavy tails", "skewed", "two values", "outlier", "rare"])
def test_a_neurons_probe_is_sklearns_for_values_that_are_not_normal(kind):
    random = np.random.default_rng(6)
    labels = random.permutation(np.repeat([0, 1], [50, 50] if kind != "rare" else [90, 10]))
    x = {
        "heavy tails": random.standard_t(1.5, (100, 30)) + 0.5 * labels[:, None],
        "skewed": np.exp(random.normal(size=(100, 30)) + 0.5 * labels[:, None]),
        "two values": (random.random((100, 30)) < 0.3 + 0.4 * labels[:, None]).astype(float),
        "outlier": random.normal(size=(100, 30)) + labels[:, None] + 30.0 * (np.arange(100) == 17)[:, None],
        "rare": random.normal(size=(100, 30)) + 1.5 * labels[:, None],
    }[kind]
    fold = probe.folds(labels, 0)
    probes = probe.neuron_probes(x, labels, fold)
    assert probes.converged.all()
    fitted = np.flatnonzero(~probes.separated)[::4]
    assert len(fitted) > 2
    expected = [of_sklearn(x[:, [one]], labels, fold, C=np.inf, solver="newton-cholesky", tol=1e-10) for one in fitted]
    np.testing.assert_allclose(probes.accuracy[fitted], expected, rtol=1e-12)


@pytest.mark.parametrize("gap", [0.5, 2.0, 10.0])
def test_a_neuron_that_all_but_separates_converges_to_the_maximum_of_the_likelihood(gap):
    """Two clouds far apart and one row on the wrong side: the maximum exists, and is a steep curve far from zero."""
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], 40)
    x = random.normal(size=(80, 6)) * 0.3 + gap * labels[:, None]
    for wrong in (3, 7):  # in different folds or not, one stays among the training rows most of the time
        x[wrong] = gap + 0.1 * random.normal(size=6)
    fold = probe.folds(labels, 0)
    probes = probe.neuron_probes(x, labels, fold)
    assert not probes.separated.any()
    assert probes.converged.all()
    expected = [
        of_sklearn(x[:, [one]], labels, fold, C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000)
        for one in range(6)
    ]
    np.testing.assert_allclose(probes.accuracy, expected, rtol=1e-12)


@pytest.mark.parametrize("spread", [1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("kind", ["skewed", "heavy tails", "skewed in one category"])
def test_what_is_said_to_have_converged_is_the_maximum_of_the_likelihood(kind, spread):
    """At the maximum the rows of category 1 number the sum of the fitted probabilities, and so do their values."""
    random = np.random.default_rng(11)
    labels = np.repeat([0, 1], 25)
    x = random.standard_t(1.0, (50, 300)) if kind == "heavy tails" else random.normal(size=(50, 300))
    if kind == "skewed in one category":
        x *= np.where(labels, 2.0, 0.1)[:, None]
    x += spread * labels[:, None]
    x = x if kind == "heavy tails" else np.exp(x)
    z = (x - x.mean(0)) / x.std(0)
    apart = probe._separation(z, labels)[2]
    intercept, slope, done = newton.newton(z, labels)
    left = labels[:, None] - expit(intercept + slope * z)
    score = np.abs(np.stack([left.sum(0), (left * z).sum(0)])).max(0)
    assert score[done & ~apart].max(initial=0.0) < 1e-5


def test_a_probe_does_not_depend_on_the_unit_of_a_neuron_or_its_sign():
    x, labels = sample()
    fold = probe.folds(labels, 0)
    plain = probe.neuron_probes(x, labels, fold).accuracy
    np.testing.assert_array_equal(probe.neuron_probes(x * 1e-4 - 3, labels, fold).accuracy, plain)
    np.testing.assert_array_equal(probe.neuron_probes(-x, labels, fold).accuracy, plain)


def test_a_neuron_that_separates_the_training_rows_is_flagged_and_scored_by_the_threshold_midway():
    """Category 0 at 0 … 9, category 1 at 11 … 20, but for row 10, the lowest of category 1.

    Held out with rows 0, 5 and 15 it meets a threshold of (9 + 12) / 2; row 9, held out, one of (8 + row 10) / 2.
    """
    labels = np.repeat([0, 1], 10)
    fold = np.tile(np.arange(5), 4)
    x = np.concatenate([np.arange(10.0), np.arange(11.0, 21.0)])
    moved = x.copy()
    moved[10] = 9.9  # itself below 10.5, and with it row 9 above 8.95
    near = x.copy()
    near[10] = 10.4  # below 10.5
    right = x.copy()
    right[10] = 10.6  # above 10.5
    both = np.stack([x, moved, near, right, -near, x * 1e-3 + 5], axis=1)
    probes = probe.neuron_probes(both, labels, fold)
    assert probes.separated.all()
    assert probes.converged.all()
    np.testing.assert_allclose(probes.accuracy, [1, 0.9, 0.95, 1, 0.95, 1])


def test_a_neuron_separated_in_one_fold_only_is_flagged_and_fitted_in_the_others():
    labels = np.repeat([0, 1], 10)
    fold = np.tile(np.arange(5), 4)
    x = np.concatenate([np.arange(10.0), np.arange(11.0, 21.0)])
    x[0] = 20.0  # in the way of a separation unless held out
    probes = probe.neuron_probes(x[:, None], labels, fold)
    assert probes.separated[0]
    right = 3  # of the fold of row 0: 5, 10 and 15, at 5, 11 and 16 about a threshold of 10
    for held in range(1, 5):
        train = fold != held
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(x[train, None], labels[train])
        right += (model.predict(x[~train, None]) == labels[~train]).sum()
    assert probes.accuracy[0] == right / 20


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e6])
def test_a_constant_neuron_tells_no_more_than_the_larger_category(value):
    _, labels = sample((30, 50))
    fold = probe.folds(labels, 0)
    probes = probe.neuron_probes(np.full((80, 2), value), labels, fold)
    np.testing.assert_allclose(probes.accuracy, 50 / 80)
    assert not probes.separated.any()
    assert probes.converged.all()


def test_a_neuron_that_is_constant_on_the_training_rows_only():
    """The one row that differs is held out: nothing can be learned of it."""
    _, labels = sample((30, 50))
    fold = probe.folds(labels, 0)
    x = np.zeros((80, 1))
    x[np.flatnonzero(labels == 1)[0]] = 5.0
    probes = probe.neuron_probes(x, labels, fold)
    assert not probes.separated.any()
    assert probes.accuracy[0] == 50 / 80


def test_where_the_likelihood_has_no_maximum_but_nothing_is_separated_the_probe_says_it_did_not_converge():
    """Categories that touch in one value: quasi-complete separation (Albert and Anderson 1984)."""
    labels = np.repeat([0, 1], 20)
    x = np.concatenate([np.linspace(-2, 0, 20), np.linspace(0, 2, 20)])
    x[12:28] = 0.0  # more of each category than one fold holds out
    probes = probe.neuron_probes(x[:, None], labels, probe.folds(labels, 0))
    assert not probes.separated[0]
    assert not probes.converged[0]
    assert probes.accuracy[0] >= 24 / 40


def test_the_probes_of_shuffled_labels_are_near_chance():
    x, labels = sample((100, 100), neurons=300, offset=1.0)
    random = np.random.default_rng(0)
    shuffled = random.permutation(labels)
    fold = probe.folds(shuffled, 0)  # of the labels that are scored: else the categories' shares differ by fold
    accuracy = probe.neuron_probes(random.normal(size=x.shape), shuffled, fold).accuracy
    assert abs(accuracy.mean() - 0.5) < 0.03
    assert np.quantile(accuracy, 0.95) < 0.62
    fold = probe.folds(labels, 0)
    assert probe.neuron_probes(x, labels, fold).accuracy.mean() == pytest.approx(stats.norm.cdf(0.5), abs=0.03)


# The best neuron, chosen and tested on different rows


def test_the_best_neuron_is_never_chosen_with_the_rows_that_test_it():
    """For each fold a neuron that tells this fold's rows apart perfectly, and knows nothing of the others."""
    _, labels = sample((50, 50))
    fold = probe.folds(labels, 0)
    random = np.random.default_rng(1)
    x = random.normal(size=(100, 6))
    x[:, 5] += 1.0 * labels  # what an honest choice takes
    for held in range(5):
        rows = fold == held
        x[rows, held] = 20.0 * (2 * labels[rows] - 1)
    # Chosen with all rows each of the first five would look as good as the honest one
    honest = np.mean([of_sklearn(x[:, [5]], labels, fold, C=np.inf)])
    accuracy = probe.best_neuron_accuracy(x, labels[None], fold)[0]
    expected = 0
    for held in range(5):
        train = fold != held
        t = stats.ttest_ind(x[train & (labels == 1)], x[train & (labels == 0)], equal_var=False, axis=0).statistic
        best = [np.abs(t).argmax()]
        assert best[0] != held
        scale = StandardScaler().fit(x[train][:, best])
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
        model.fit(scale.transform(x[train][:, best]), labels[train])
        expected += (model.predict(scale.transform(x[~train][:, best])) == labels[~train]).sum()
    assert accuracy == expected / 100
    assert accuracy < 0.85
    assert honest < 0.85


def test_a_neuron_informative_in_one_fold_only_does_not_lift_the_best_neurons_accuracy():
    """It tells apart the rows of fold 0 alone: chosen with them it would be right on all of fold 0."""
    _, labels = sample((50, 50))
    fold = probe.folds(labels, 0)
    x = np.random.default_rng(2).normal(size=(100, 3))
    x[:, 1] = np.where(fold == 0, 30.0 * (2 * labels - 1), 0.0)
    with_it = probe.best_neuron_accuracy(x, labels[None], fold)[0]
    without = [0, 2]
    right = 0
    for held in range(5):
        train = fold != held
        tested = stats.ttest_ind(x[train & (labels == 1)], x[train & (labels == 0)], equal_var=False, axis=0)
        best = int(np.nan_to_num(np.abs(tested.statistic)).argmax()) if held else None
        if held == 0:  # the neuron is constant among the training rows, and cannot be chosen
            best = without[int(np.abs(tested.statistic[without]).argmax())]
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
        model.fit(x[train][:, [best]], labels[train])
        right += (model.predict(x[~train][:, [best]]) == labels[~train]).sum()
    assert with_it == right / 100
    assert with_it < 0.7


def test_the_best_neuron_of_many_labellings_at_once_is_that_of_each():
    x, labels = sample((20, 25))
    random = np.random.default_rng(0)
    labellings = np.stack([labels, *(random.permutation(labels) for _ in range(3))])
    fold = probe.folds(labels, 0)
    together = probe.best_neuron_accuracy(x, labellings, fold)
    alone = [probe.best_neuron_accuracy(x, one[None], fold)[0] for one in labellings]
    np.testing.assert_array_equal(together, alone)


def test_the_best_of_many_neurons_without_information_is_near_chance():
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(120, 400)), np.repeat([0, 1], 60)
    labellings = np.stack([random.permutation(labels) for _ in range(40)])
    accuracy = probe.best_neuron_accuracy(x, labellings, probe.folds(labels, 0))
    assert accuracy.shape == (40,)
    assert abs(accuracy.mean() - 0.5) < 4 * accuracy.std(ddof=1) / np.sqrt(40) + 0.01
    assert accuracy.mean() < 0.55


def test_a_dead_neuron_is_never_the_best():
    x, labels = sample((30, 30), neurons=3, offset=2.0)
    fold = probe.folds(labels, 0)
    dead = np.concatenate([np.zeros((60, 1)), x, np.full((60, 1), 0.1)], axis=1)
    assert probe.best_neuron_accuracy(dead, labels[None], fold) == probe.best_neuron_accuracy(x, labels[None], fold)


# All neurons of a layer


@pytest.mark.parametrize("sizes", [(40, 40), (25, 45), (30, 25, 35)])
@pytest.mark.parametrize("neurons", [10, 300])  # fewer and more than rows
def test_a_layers_probe_is_sklearns_on_the_standardised_neurons(sizes, neurons):
    x, labels = sample(sizes, neurons, offset=0.15 if neurons == 300 else 0.6)
    x *= np.random.default_rng(0).uniform(0.01, 100, neurons)
    x[:, 1] = x[:, 0] * 2 + 1  # neurons may depend on each other
    x[:, 2] = 0.0  # and may be dead
    fold = probe.folds(labels, 0)
    shuffled = np.random.default_rng(1).permutation(labels)
    ours = layer_probe.layer_accuracy(x, np.stack([labels, shuffled]), fold)
    expected = [of_sklearn(x, one, fold, C=1.0, tol=1e-10, max_iter=10_000) for one in (labels, shuffled)]
    np.testing.assert_allclose(ours, expected, atol=0.5 / len(labels))  # to the row
    assert ours[0] > ours[1]


def test_a_layers_probe_of_shuffled_labels_is_near_chance():
    x, labels = sample((60, 60), 200, offset=0.5)
    random = np.random.default_rng(0)
    labellings = np.stack([labels, *(random.permutation(labels) for _ in range(20))])
    accuracy = layer_probe.layer_accuracy(x, labellings, probe.folds(labels, 0))
    assert accuracy[0] > 0.95
    assert abs(accuracy[1:].mean() - 0.5) < 0.08
