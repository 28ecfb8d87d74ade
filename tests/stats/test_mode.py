"""The half-sample mode against a recursion in exact fractions, on samples whose mode is known, and what it refuses."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurexp.stats.mode import half_sample_mode


def by_recursion(sample):
    """Bickel and Frühwirth's definition word for word, on sorted exact numbers; the first of equally narrow halves."""
    if len(sample) == 1:
        return sample[0]
    if len(sample) == 2:
        return (sample[0] + sample[1]) / 2
    if len(sample) == 3:
        left, right = sample[1] - sample[0], sample[2] - sample[1]
        if left == right:
            return sample[1]
        return by_recursion(sample[:2] if left < right else sample[1:])
    half = -(-len(sample) // 2)
    halves = [sample[first : first + half] for first in range(len(sample) - half + 1)]
    return by_recursion(min(halves, key=lambda one: one[-1] - one[0]))


# Small whole numbers: ties are frequent, and float64 makes no error
@settings(max_examples=150, deadline=None)
@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(st.integers(-9, 9), min_size=width, max_size=width))))
def test_it_is_the_recursion_of_the_paper_in_each_column(rows):
    if not rows:
        return
    found = half_sample_mode(np.array(rows))
    assert found.dtype == np.float64
    assert found.tolist() == [float(by_recursion(sorted(map(Fraction, column)))) for column in zip(*rows, strict=True)]


def test_it_is_where_the_values_lie_most_densely_and_outliers_do_not_move_it():
    rng = np.random.default_rng(0)
    skewed = rng.gamma(2.0, 1.0, (20_000, 1))  # mean 2, median 1.68, mode 1
    mixed = np.concatenate([rng.normal(3.0, 0.1, (6_000, 1)), rng.uniform(-50, 50, (4_000, 1))])
    assert half_sample_mode(skewed) == pytest.approx([1.0], abs=0.3)
    assert half_sample_mode(mixed) == pytest.approx([3.0], abs=0.15)
    assert half_sample_mode(np.concatenate([mixed, np.full((2_000, 1), 1e9)])) == pytest.approx([3.0], abs=0.15)


def test_a_relus_zeros_are_the_mode():
    values = np.maximum(np.random.default_rng(1).normal(-0.5, 1.0, (999, 3)), 0.0)
    assert half_sample_mode(values).tolist() == [0.0] * 3


def test_it_moves_and_stretches_with_the_values_and_forgets_their_order():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(501, 4))
    mode = half_sample_mode(values)
    np.testing.assert_allclose(half_sample_mode(values * 8.0 + 3.0), mode * 8.0 + 3.0, rtol=1e-12)
    np.testing.assert_array_equal(half_sample_mode(rng.permuted(values, axis=0)), mode)


def test_the_values_are_left_as_they_were():
    values = np.random.default_rng(3).normal(size=(50, 2)).astype(np.float32)
    before = values.copy()
    half_sample_mode(values)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    "values", [np.empty((0, 3)), np.array([[1.0], [np.nan]]), np.array([[np.inf], [1.0]]), np.zeros(5)]
)
def test_no_rows_or_values_that_are_not_finite_are_refused(values):
    with pytest.raises(ValueError, match="finite"):
        half_sample_mode(values)
