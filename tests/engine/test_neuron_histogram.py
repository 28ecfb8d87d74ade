"""NeuronHistogram against numpy over all activations in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurexp.engine.passes import make_batch
from neurexp.engine.reducers import NeuronHistogram, NotFiniteError

SITES, NEURONS = 2, 5


def sample(sequences=9, length=40, seed=0, dtype=torch.float32):
    """Activations `[sites, sequences, length, neurons]`, of neurons with different centres and spreads."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(SITES, sequences, length, NEURONS)) * [1, 1e-3, 50, 1, 0] + [0, 7, -300, 1e-5, 0.3]
    return torch.from_numpy(values.astype(np.float32)).to(dtype)


def calibrated(values, bins=16, every=3):
    histogram = NeuronHistogram(SITES, bins, every)
    for site in range(SITES):
        assert not histogram.is_calibrated
        histogram.calibrate(site, values[site, 0])
    assert histogram.is_calibrated
    return histogram


def show(histogram, values, valid, counted=None, start=0, stop=None, batch_size=2):
    stop = len(valid) if stop is None else stop
    for first in range(start, stop, batch_size):
        here = slice(first, min(first + batch_size, stop))
        covariates = None if counted is None else lambda *_, here=here: {"counted": counted[here][valid[here]]}
        ids = torch.zeros(valid[here].shape, dtype=torch.int64)
        batch = make_batch(ids, valid[here], first, torch.device("cpu"), covariates)
        histogram.begin(batch)
        for site in range(SITES):
            flat = values[site, here].flatten(0, 1)
            histogram.update(site, flat if batch.rows is None else flat[batch.rows], batch)
    return histogram


def oracle(histogram, values, counted):
    """Counts of [edge, next edge) in float64, with underflow first and overflow last."""
    start, width = (histogram.state()[name].double().numpy() for name in ("start", "width"))
    expected = np.zeros((SITES, NEURONS, histogram.bins + 2), dtype=np.int64)
    chosen = counted.clone()
    chosen[np.arange(len(chosen)) % histogram.every != 0] = False
    for site, neuron in np.ndindex(SITES, NEURONS):
        edges = start[site, neuron] + width[site, neuron] * np.arange(histogram.bins + 1)
        x = values[site, ..., neuron][chosen].double().numpy()
        expected[site, neuron] = np.histogram(x, np.concatenate([[-np.inf], edges, [np.inf]]))[0]
    return expected


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    bins=st.integers(4, 70),
    every=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    batch_size=st.integers(1, 4),
    cut=st.integers(0, 9),
    skipped=st.booleans(),
)
def test_counts_are_numpys_in_any_batches_and_parts(seed, bins, every, dtype, batch_size, cut, skipped):
    values = sample(seed=seed, dtype=dtype)
    random = torch.Generator().manual_seed(seed)
    valid = torch.rand(9, 40, generator=random) < 0.9
    counted = valid & (torch.rand(9, 40, generator=random) < 0.8) if skipped else valid
    covariate = counted if skipped else None
    whole = show(calibrated(values, bins, every), values, valid, covariate, batch_size=batch_size)
    expected = oracle(whole, values, counted)
    assert np.array_equal(whole.state()["counts"], expected)
    first, second = calibrated(values, bins, every), calibrated(values, bins, every)
    show(first, values, valid, covariate, stop=cut)
    resumed = NeuronHistogram(SITES, bins, every)
    resumed.load(first.state())
    assert np.array_equal(show(resumed, values, valid, covariate, start=cut).state()["counts"], expected)
    second = show(second, values, valid, covariate, start=cut)
    second.merge(first)
    assert np.array_equal(second.state()["counts"], expected)


def test_the_bulk_is_inside_and_gets_a_third_of_the_bins():
    values = sample(sequences=60)
    histogram = show(calibrated(values, 64, 1), values, torch.ones(60, 40, dtype=torch.bool))
    counts = histogram.state()["counts"][:, :4].numpy()
    assert (counts.sum(-1) == 2400).all()
    assert (counts[..., [0, -1]].sum(-1) < 24).all()
    assert ((counts > 0).sum(-1) >= 20).all()
    width = histogram.state()["width"]
    assert torch.equal(width.log2(), width.log2().round())


def test_what_is_not_finite_breaks_nothing_after_the_first_sequence_and_is_reported_in_it():
    values, valid = sample(), torch.ones(9, 40, dtype=torch.bool)
    expected = oracle(histogram := calibrated(values, every=1), values, valid)
    values[:, 4, 5, 1], values[:, 5, 5, 1] = torch.nan, torch.inf
    found = show(histogram, values, valid).state()["counts"].numpy()
    assert np.array_equal(found[:, [0, 2, 3, 4]], expected[:, [0, 2, 3, 4]])
    values[1, 0, 0, 0] = torch.nan
    with pytest.raises(NotFiniteError):
        calibrated(values)
