"""Logistic regression of each neuron, against scikit-learn and closed forms; separation; and Wald's failure."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, log_expit
from sklearn.linear_model import LogisticRegression

from neurexp.stats.logistic import COMPLETE, OVERLAP, QUASI, held_out, log10_p, logistic


def sample(rows=(60, 80), neurons=6, offset=0.7, seed=0):
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat([0, 1], rows))
    scale = np.array([1.0, 1.8])[labels][:, None]
    return random.normal(size=(len(labels), neurons)) * scale * 3 + 3 * offset * labels[:, None] + 40, labels


def of_sklearn(x, labels):
    """Slope per SD, intercept at the mean, log-likelihood and standard error of the slope, without a penalty."""
    z = (x - x.mean()) / x.std()
    fit = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(z[:, None], labels)
    slope, intercept = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    score = intercept + slope * z
    p = expit(score)
    design = np.stack([np.ones_like(z), z], axis=1)
    error = np.sqrt(np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design)[1, 1])
    return slope, intercept, log_expit(np.where(labels == 1, score, -score)).sum(), error, (score > 0) == (labels == 1)


@pytest.mark.parametrize(("rows", "offset"), [((60, 80), 0.0), ((60, 80), 0.7), ((30, 9), 2.0), ((200, 200), 2.0)])
def test_every_column_is_that_of_an_unpenalised_regression(rows, offset):
    x, labels = sample(rows, offset=offset)
    found = logistic(x.astype(np.float32), labels)
    share = labels.mean()
    null = len(labels) * (share * np.log(share) + (1 - share) * np.log(1 - share))
    for neuron in range(x.shape[1]):
        slope, intercept, likelihood, error, right = of_sklearn(x[:, neuron].astype(np.float32).astype(float), labels)
        assert found.slope[neuron] == pytest.approx(slope, rel=1e-4, abs=1e-6)
        assert found.intercept[neuron] == pytest.approx(intercept, rel=1e-4, abs=1e-6)
        assert found.likelihood[neuron] == pytest.approx(likelihood, rel=1e-9)
        assert found.chi2[neuron] == pytest.approx(2 * (likelihood - null), rel=1e-6, abs=1e-9)
        assert found.p[neuron] == pytest.approx(stats.chi2.sf(2 * (likelihood - null), 1), rel=1e-5)
        assert found.wald[neuron] == pytest.approx(slope / error, rel=1e-4, abs=1e-6)
        assert found.p_wald[neuron] == pytest.approx(2 * stats.norm.sf(abs(slope / error)), rel=1e-3)
        assert found.low[neuron] == pytest.approx(slope - stats.norm.ppf(0.975) * error, rel=1e-3)
        assert found.high[neuron] == pytest.approx(slope + stats.norm.ppf(0.975) * error, rel=1e-3)
        assert found.accuracy[neuron] == right.mean()
    assert (found.separation == OVERLAP).all()
    assert found.converged.all()


def test_two_normal_groups_have_the_slope_and_the_accuracy_that_theory_gives():
    """N(0, 1) and N(2, 1): log odds 2x − 2, so the slope is 2 per unit, and the best accuracy is Φ(1) = 84.1 %."""
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], 40_000)
    x = random.normal(size=(80_000, 2)) + 2.0 * labels[:, None]
    found = logistic(x, labels)
    np.testing.assert_allclose(found.slope / x.std(0), 2.0, atol=0.05)
    np.testing.assert_allclose(found.accuracy, stats.norm.cdf(1), atol=0.005)
    apart = held_out(x, labels, np.arange(len(labels)) % 2 == 0)
    np.testing.assert_allclose(apart.accuracy, stats.norm.cdf(1), atol=0.006)
    np.testing.assert_allclose(apart.auroc, stats.norm.cdf(np.sqrt(2)), atol=0.005)


def test_a_neuron_of_two_values_has_the_log_odds_ratio():
    x = np.repeat([0.0, 1.0, 0.0, 1.0], [30, 10, 12, 28])[:, None]
    labels = np.repeat([0, 1], 40)
    found = logistic(x, labels)
    assert found.slope[0] / x.std() == pytest.approx(np.log(30 * 28 / (10 * 12)))
    error = np.sqrt(1 / 30 + 1 / 10 + 1 / 12 + 1 / 28)
    assert found.wald[0] == pytest.approx(np.log(30 * 28 / (10 * 12)) / error)
    g = stats.chi2_contingency([[30, 10], [12, 28]], correction=False, lambda_="log-likelihood")
    assert found.chi2[0] == pytest.approx(g.statistic)


def test_separated_neurons_have_an_infinite_slope_and_the_likelihood_of_the_limit():
    labels = np.repeat([0, 1], [4, 6])
    complete = np.concatenate([np.arange(4.0), np.arange(4.0, 10)])
    quasi = np.array([0, 1, 2, 3, 3, 3, 5, 6, 7, 8.0])  # one of four and two of six share the value 3
    overlap = np.array([0, 1, 2, 4, 3, 3, 5, 6, 7, 8.0])
    constant = np.full(10, 7.0)
    x = np.stack([complete, -complete, quasi, -quasi, overlap, constant], axis=1)
    found = logistic(x, labels)
    assert found.separation.tolist() == [COMPLETE, COMPLETE, QUASI, QUASI, OVERLAP, OVERLAP]
    assert found.slope[:4].tolist() == [np.inf, -np.inf, np.inf, -np.inf]
    assert np.isfinite(found.slope[4:]).all()
    at_three = np.log(1 / 3) + 2 * np.log(2 / 3)
    np.testing.assert_allclose(found.likelihood[:4], [0, 0, at_three, at_three], atol=1e-12)
    null = 4 * np.log(0.4) + 6 * np.log(0.6)
    np.testing.assert_allclose(found.chi2[:4], [-2 * null] * 2 + [2 * (at_three - null)] * 2)
    assert found.accuracy[:2].tolist() == [1, 1]
    assert (found.wald[:4] == 0).all()
    assert (found.p_wald[:4] == 1).all()
    assert np.isnan(found.intercept[:4]).all()
    assert (found.slope[5], found.chi2[5], found.p[5], found.p_wald[5]) == (0, 0, 1, 1)
    assert found.converged.all()
    # The limit is what a finite slope approaches from below
    z = (quasi - 3) * 50
    score = np.log(2) + z  # at the shared value two of three are of category 1
    assert log_expit(np.where(labels == 1, score, -score)).sum() == pytest.approx(at_three, abs=1e-9)


def test_walds_test_fails_where_the_likelihood_ratio_does_not():
    """As the categories move apart the likelihood ratio only grows, and Wald's statistic falls again."""
    random = np.random.default_rng(2)
    labels = np.repeat([0, 1], 100)
    noise = random.normal(size=200)
    noise[[0, 100]] = 3.5, -3.5  # the last two to overlap
    x = np.stack([noise + gap * labels for gap in (1.0, 2.0, 4.0, 6.0, 6.9, 6.999)], axis=1)
    found = logistic(x, labels)
    assert (found.separation == OVERLAP).all()
    assert (np.diff(found.chi2) > 0).all()
    assert found.wald.argmax() < 4
    assert (np.diff(found.wald[3:]) < 0).all()
    assert found.p_wald[-1] > 1e-4
    assert found.p[-1] < 1e-50


def test_p_beyond_float64_still_has_a_logarithm():
    chi2 = np.array([0.0, 3.841458820694124, 5000.0])
    np.testing.assert_allclose(log10_p(chi2)[:2], [0, np.log10(0.05)], atol=1e-12)
    assert log10_p(chi2)[2] == pytest.approx(stats.norm.logsf(np.sqrt(5000)) / np.log(10) + np.log10(2))


def test_held_out_rows_are_scored_by_the_fit_to_the_others():
    x, labels = sample((50, 70), offset=1.0)
    train = np.random.default_rng(3).random(len(labels)) < 0.6
    found = held_out(x, labels, train)
    for neuron in range(x.shape[1]):
        fit = LogisticRegression(C=np.inf, tol=1e-12).fit(x[train, neuron, None], labels[train])
        assert found.accuracy[neuron] == pytest.approx(fit.score(x[~train, neuron, None], labels[~train]))
        values = np.sign(fit.coef_[0, 0]) * x[~train, neuron]
        one, zero = values[labels[~train] == 1], values[labels[~train] == 0]
        assert found.auroc[neuron] == pytest.approx(stats.mannwhitneyu(one, zero).statistic / len(one) / len(zero))


def test_a_neuron_that_separates_the_training_rows_is_scored_by_the_threshold_midway():
    labels = np.repeat([0, 1], 6)
    train = np.tile([True, True, True, True, False, False], 2)
    x = np.array([0, 1, 2, 3, 4.9, 0, 7, 8, 9, 10, 4.9, 5.1])[:, None]  # trained: 3 | 7, the threshold is 5
    found = held_out(np.concatenate([x, -x], axis=1), labels, train)
    assert found.accuracy.tolist() == [0.75, 0.75]
    assert found.auroc.tolist() == [0.875, 0.875]
    assert np.isnan(held_out(x, labels, labels == 0).accuracy).all()
