"""Cross-validated explained variance against fits of all tokens by hand, and the sketch against its exact sum."""

import numpy as np
import pytest

from neurexp.stats.association import Sums
from neurexp.stats.explained import Sketch, explained_by_columns, noise_of_sketch, variance_of

TOKENS, NEURONS = 3000, 40


@pytest.fixture(scope="module")
def random():
    return np.random.default_rng(3)


def sums_of(z, x):
    return Sums(np.full(z.shape[1], len(x)), z.sum(0), (z**2).sum(0), x.sum(0), (x**2).sum(0), z.T @ x)


def test_a_column_explains_the_product_of_two_fits(random):
    z = np.column_stack([random.normal(size=TOKENS), random.random(TOKENS) < 0.1, np.ones(TOKENS)])
    x = random.normal(size=(TOKENS, NEURONS)) + z[:, :1] * np.linspace(-1, 1, NEURONS) + 5
    x[:, 7] = 2.5
    middle = 1300
    found = explained_by_columns(sums_of(z[:middle], x[:middle]), sums_of(z[middle:], x[middle:]))
    for column in (0, 1):
        for neuron in (0, 3, 20, 39):
            fits = [
                np.polyfit(z[part, column], x[part, neuron], 1)[0] for part in (slice(0, middle), slice(middle, None))
            ]
            expected = fits[0] * fits[1] * z[:, column].var() / x[:, neuron].var()
            np.testing.assert_allclose(found[column, neuron], expected, rtol=1e-9)
    assert np.isnan(found[2]).all()
    assert np.isnan(found[:, 7]).all()
    assert found[0, 0] == pytest.approx(0.5, abs=0.06)


def test_noise_does_not_add_up(random):
    z, x = random.normal(size=(400, 1)), random.normal(size=(400, 4000))
    found = explained_by_columns(sums_of(z[:200], x[:200]), sums_of(z[200:], x[200:]))[0]
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(found.size)
    assert (found < 0).mean() == pytest.approx(0.5, abs=0.05)


def test_the_variance_of_a_neuron_that_does_not_vary_is_not_defined(random):
    x = np.column_stack([random.normal(size=100), np.full(100, 1e4) + 1e-5 * random.normal(size=100)])
    one = sums_of(np.ones((100, 1)), x)
    assert np.isfinite(variance_of(Sums(one.n[0], one.z, one.zz, one.x, one.xx, one.zx))).tolist() == [True, False]


def sketch_of(means, weights, signs):
    """A sketch from means of types `[2, types, neurons]` about the mean of all tokens."""
    first, second = (signs.T @ (np.sqrt(weights)[:, None] * one) for one in means)
    return Sketch(first, second, len(weights))


def test_the_sketch_is_the_sum_over_types_within_its_noise(random):
    types, projections = 300, 128
    weights = random.dirichlet(np.full(types, 0.3))
    both = random.normal(size=(types, 2000))
    means = both + 0.5 * random.normal(size=(2, types, 2000))
    sketch = sketch_of(means, weights, random.choice([-1, 1], (types, projections)))
    variance = np.full(2000, 2.0)
    found, p = sketch.explained(variance)
    np.testing.assert_allclose(found, (sketch.first * sketch.second).mean(0) / 2)
    exact = (weights[:, None] * means[0] * means[1]).sum(0) / 2
    assert ((found - exact) / noise_of_sketch(sketch, variance)).std() == pytest.approx(1, abs=0.2)
    assert (p < 1e-6).mean() > 0.95


@pytest.mark.parametrize("types", [60, 2000])
def test_p_of_a_type_that_explains_nothing_is_uniform(types):
    random, ps = np.random.default_rng(types), []
    weights = random.dirichlet(np.full(types, 5.0))
    for _ in range(40):  # sketches with signs of their own: neurons of one sketch share them
        means = random.normal(size=(2, types, 50))
        ps.append(sketch_of(means, weights, random.choice([-1, 1], (types, 128))).explained(np.ones(50))[1])
    ps = np.concatenate(ps)
    assert (ps < 0.05).mean() == pytest.approx(0.05, abs=0.02)
    assert (ps < 0.5).mean() == pytest.approx(0.5, abs=0.06)


def test_one_type_is_found_again_among_all(random):
    types, neurons = 500, 3000
    weights = random.dirichlet(np.full(types, 1.0))
    means = random.normal(size=(types, neurons)) + 0.2 * random.normal(size=(2, types, neurons))
    own = random.integers(0, types, neurons)
    means[:, own, np.arange(neurons)] += 0.7 / np.sqrt(weights[own])
    signs = random.choice([-1, 1], (types, 128))
    found = sketch_of(means, weights, signs).explained_by_one(signs[own].T, weights[own], np.full(neurons, 1.7))
    exact = weights[own] * means[0, own, np.arange(neurons)] * means[1, own, np.arange(neurons)]
    exact /= (1 - weights[own]) * 1.7
    assert abs((found - exact).mean()) < 0.01
    assert (found - exact).std() < 0.1
    assert np.corrcoef(found, exact)[0, 1] > 0.2
    none = sketch_of(means, weights, signs).explained_by_one(np.zeros((128, neurons)), weights[own], np.ones(neurons))
    assert (none == 0).all()


def test_one_type_is_found_without_bias_over_all_signs():
    """The mean over all 2⁶ ways to give two signs to three types is what the type alone explains, exactly."""
    weights, means = np.array([0.5, 0.3, 0.2]), np.array([[1.0, -0.5, 2.0], [0.8, -0.7, 1.5]])
    signs = 1.0 - 2 * np.indices((2,) * 6).reshape(2, 3, -1)  # [projections, types, ways]
    first, second = np.einsum("ptw,t,ht->hpw", signs, np.sqrt(weights), means)
    for own in range(3):
        share, variance = np.full(64, weights[own]), np.full(64, 3.0)
        found = Sketch(first, second, 3).explained_by_one(signs[:, own], share, variance)
        exact = weights[own] * means[0, own] * means[1, own] / (1 - weights[own]) / 3.0
        assert found.mean() == pytest.approx(exact, rel=1e-12)
