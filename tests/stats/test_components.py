"""Variance components: against dense projections and the textbook's ICC, and on data whose components are known."""

import numpy as np
import pytest

from neurexp.stats.components import degrees_left, variance_components


def design(random, types=30, positions=5):
    of_type = np.repeat(np.arange(types), random.integers(1, 6, types))
    return of_type, random.integers(0, positions, len(of_type))


def by_projection(x, of_type, of_position):
    """Henderson's method 3 with dense projection matrices, for x `[rows]`."""

    def dummies(groups):
        return (groups[:, None] == np.unique(groups)).astype(float)

    def onto(matrix):
        return matrix @ np.linalg.pinv(matrix)

    t, p = dummies(of_type), dummies(of_position)
    of_t, of_p, both = onto(t), onto(p), onto(np.hstack([t, p]))
    left = np.eye(len(x)) - both
    rest = x @ left @ x / np.trace(left)
    found = []
    for extra, own in ((both - of_p, t), (both - of_t, p)):
        found.append((x @ extra @ x - np.trace(extra) * rest) / np.trace(own.T @ extra @ own))
    return np.array([*found, rest])


@pytest.mark.parametrize("seed", range(3))
def test_they_are_those_of_dense_projections(seed):
    random = np.random.default_rng(seed)
    of_type, of_position = design(random)
    x = random.normal(size=(len(of_type), 3)) + random.normal(size=(30, 3))[of_type] + 50
    found = variance_components(x.astype(np.float32), of_type * 7, of_position + 2)
    for neuron in range(3):
        expected = by_projection(x[:, neuron].astype(np.float32).astype(float), of_type, of_position)
        got = [found.type[neuron], found.position[neuron], found.rest[neuron]]
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)


def test_with_one_position_the_share_of_types_is_the_intraclass_correlation():
    random = np.random.default_rng(4)
    of_type, _ = design(random)
    x = random.normal(size=len(of_type)) + random.normal(size=30)[of_type]
    counts = np.bincount(of_type)
    means = np.bincount(of_type, x) / counts
    between = (counts * (means - x.mean()) ** 2).sum() / 29
    within = ((x - means[of_type]) ** 2).sum() / (len(x) - 30)
    size = (len(x) - (counts**2).sum() / len(x)) / 29  # Donner 1986: n0
    icc = (between - within) / (between + (size - 1) * within)
    share_type, share_position, share_rest = variance_components(x[:, None], of_type, np.zeros(len(x), int)).shares
    assert share_type[0] == pytest.approx(icc, rel=1e-10)
    assert share_position[0] == 0
    assert share_rest[0] == pytest.approx(1 - icc, rel=1e-10)


@pytest.mark.parametrize("variances", [(2.0, 0.5, 1.0), (0.0, 0.0, 1.0), (0.3, 4.0, 0.1)])
def test_they_are_unbiased(variances):
    random, neurons = np.random.default_rng(5), 4000
    of_type, of_position = design(random)
    sizes = (30, 5, len(of_type))
    a, b, e = (random.normal(0, np.sqrt(v), (size, neurons)) for v, size in zip(variances, sizes, strict=True))
    found = variance_components(a[of_type] + b[of_position] + e, of_type, of_position)
    for values, true in zip((found.type, found.position, found.rest), variances, strict=True):
        assert abs(values.mean() - true) < 4 * values.std() / np.sqrt(neurons)
    if variances[0] == 0:
        assert (found.type < 0).any()  # clipped ones would be biased


def test_what_one_factor_decides_alone_is_its_own():
    random = np.random.default_rng(6)
    of_type, of_position = design(random)
    x = np.stack([random.normal(size=30)[of_type], random.normal(size=5)[of_position], np.full(len(of_type), 2.5)], 1)
    shares = np.stack(variance_components(x, of_type, of_position).shares)
    np.testing.assert_allclose(shares[:, 0], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(shares[:, 1], [0, 1, 0], atol=1e-9)
    assert np.isnan(shares[:, 2]).all()


@pytest.mark.parametrize("seed", range(6))
def test_degrees_of_freedom_are_left_where_the_fit_of_both_factors_has_fewer_parameters_than_rows(seed):
    random = np.random.default_rng(seed)
    types, positions = random.integers(0, 5, 12), random.integers(3, 8, 12)
    design = np.concatenate([one[:, None] == np.unique(one) for one in (types, positions)], axis=1)
    left = degrees_left(types, positions)
    assert left == 12 - np.linalg.matrix_rank(design.astype(float))
    x = random.normal(size=(12, 2))
    if left:
        variance_components(x, types, positions)
    else:
        with pytest.raises(ValueError, match="no type has rows enough"):
            variance_components(x, types, positions)


def test_types_that_occur_once_each_say_nothing():
    with pytest.raises(ValueError, match="no type has rows enough"):
        variance_components(np.ones((4, 1)), np.arange(4), np.zeros(4, int))
