"""SequenceMaxima against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurexp.engine.passes import make_batch
from neurexp.engine.reducers import SequenceMaxima

UNITS = [[4, 0], [], [2]]


def show(reducer, values, valid, counted, start=0, stop=None, batch_size=2):
    stop = len(valid) if stop is None else stop
    for first in range(start, stop, batch_size):
        here = slice(first, min(first + batch_size, stop))
        covariates = None if counted is None else lambda *_, here=here: {"counted": counted[here][valid[here]]}
        ids = torch.zeros(valid[here].shape, dtype=torch.int64)
        batch = make_batch(ids, valid[here], first, torch.device("cpu"), covariates)
        reducer.begin(batch)
        for site in range(3):
            flat = values[site, here].flatten(0, 1)
            reducer.update(site, flat if batch.rows is None else flat[batch.rows], batch)
    return reducer


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), batch_size=st.integers(1, 4), cut=st.integers(0, 6), skipped=st.booleans())
def test_maxima_are_numpys_in_any_batches_and_parts(seed, batch_size, cut, skipped):
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.integers(-4, 5, (3, 6, 7, 5)).astype(np.float32))
    valid = torch.from_numpy(rng.random((6, 7)) < 0.8)
    counted = valid & torch.from_numpy(rng.random((6, 7)) < 0.3) if skipped else valid
    covariate = counted if skipped else None
    expected, columns = np.full((3, 6), np.nan, dtype=np.float32), np.full((3, 6), -1)
    for unit, (site, neuron) in enumerate([(0, 4), (0, 0), (2, 2)]):
        for sequence in range(6):
            x = np.where(counted[sequence], values[site, sequence, :, neuron], -np.inf)
            if np.isfinite(x).any():
                expected[unit, sequence], columns[unit, sequence] = x.max(), x.argmax()
    whole = show(SequenceMaxima(UNITS, 6), values, valid, covariate, batch_size=batch_size)
    first = show(SequenceMaxima(UNITS, 6), values, valid, covariate, stop=cut)
    merged = show(SequenceMaxima(UNITS, 6), values, valid, covariate, start=cut)
    resumed = SequenceMaxima(UNITS, 6)
    resumed.load(first.state())
    show(resumed, values, valid, covariate, start=cut)
    merged.merge(first)
    for reducer in (whole, merged, resumed):
        np.testing.assert_array_equal(reducer.state()["values"], expected)
        np.testing.assert_array_equal(reducer.state()["columns"], columns)


@pytest.mark.parametrize("other", [([[4, 0], [], [3]], 6), (UNITS, 7), ([[4, 0], [2]], 6)])
def test_merging_what_looked_at_something_else_is_refused(other):
    with pytest.raises(ValueError, match="different units or texts"):
        SequenceMaxima(UNITS, 6).merge(SequenceMaxima(*other))
