"""Quantiles of a histogram against numpy's of values that are spread evenly within the bins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurexp.stats.quantiles import quantiles_of_histogram

SHARES = np.array([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])


def quantiles(counts, start=0.0, width=1.0, minimum=-np.inf, maximum=np.inf, shares=SHARES):
    parts = (np.asarray(part) for part in (counts, start, width, minimum, maximum, shares))
    return quantiles_of_histogram(*parts)


@given(
    counts=st.lists(st.integers(0, 20), min_size=3, max_size=9),
    start=st.floats(-5, 5),
    width=st.sampled_from([0.25, 1.0, 8.0]),
    below=st.floats(0, 3),
    above=st.floats(0, 3),
)
def test_quantiles_are_those_of_values_spread_evenly(counts, start, width, below, above):
    end = start + (len(counts) - 2) * width
    minimum, maximum = start - below, end + above
    if sum(counts) == 0:
        assert np.isnan(quantiles(counts, start, width, minimum, maximum)).all()
        return
    edges = [minimum, *(start + width * np.arange(len(counts) - 1)), maximum]
    fine = 200  # so many values stand for each counted one
    values = np.concatenate(
        [
            low + (np.arange(n * fine) + 0.5) / max(n * fine, 1) * (high - low)
            for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
        ]
    )
    found = quantiles(counts, start, width, minimum, maximum)
    # A quantile that is between two filled bins may be anywhere in the gap
    for share, one in zip(SHARES, found, strict=True):
        assert (values < one - 1e-9).mean() <= share + 1 / (fine * sum(counts)) + 1e-9
        assert (values <= one + 1e-9).mean() >= share - 1 / (fine * sum(counts)) - 1e-9


def test_by_hand():
    assert quantiles([0, 10, 10, 0], shares=[0, 0.25, 0.5, 0.75, 1], minimum=0, maximum=2).tolist() == [
        0,
        0.5,
        1,
        1.5,
        2,
    ]
    assert quantiles([10, 0, 0, 10], shares=[0.25, 0.75], minimum=-4, maximum=6).tolist() == [-2, 4]
    assert quantiles([0, 0, 4, 0], shares=[0, 1], minimum=1.25, maximum=1.5).tolist() == [1.25, 1.5]


def test_of_many_neurons_at_once():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (2, 3, 6))
    start, width, low, high = rng.normal(size=(2, 3)), np.full((2, 3), 0.5), np.full((2, 3), -9.0), np.full((2, 3), 9.0)
    found = quantiles(counts, start, width, low, high)
    assert found.shape == (2, 3, len(SHARES))
    for place in np.ndindex(2, 3):
        alone = quantiles(counts[place], start[place], width[place], low[place], high[place])
        assert np.array_equal(found[place], alone)


def test_quantiles_of_a_normal_distribution():
    x = np.random.default_rng(0).normal(size=100_000)
    counts = np.histogram(x, np.concatenate([[-np.inf], np.linspace(-4, 4, 65), [np.inf]]))[0]
    found = quantiles(counts, -4.0, 0.125, x.min(), x.max())
    assert found == pytest.approx(np.quantile(x, SHARES), abs=0.005)
