"""Effects: sums by group and block of sequences, their states, and what adds up."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from neurexp.engine.reducers.effects import Effects

SEQUENCES, LENGTH, VARIANTS, DETAILED = 6, 5, 3, 2
RANDOM = np.random.default_rng(0)
GROUPS = RANDOM.random((2, SEQUENCES, LENGTH)) < 0.5
COUNTED = RANDOM.random((SEQUENCES, LENGTH)) < 0.8
BLOCKS = [0, 0, 1, 1, 1, 2]
VALUES = RANDOM.normal(size=(1 + VARIANTS, 4, SEQUENCES, LENGTH)).astype(np.float32) * COUNTED


def made(groups=GROUPS, blocks=BLOCKS, variants=VARIANTS):
    return Effects(torch.from_numpy(groups), torch.tensor(blocks), variants, DETAILED)


def fed(*parts):
    """The sequences of some parts, each `(start, stop)`, a batch each."""
    effects = made()
    for start, stop in parts:
        effects.count(start, torch.from_numpy(COUNTED[start:stop]))
        for variant in range(1 + VARIANTS):
            few = 4 if variant <= DETAILED else 1
            effects.add(variant, torch.from_numpy(VALUES[variant, :few, start:stop]), start)
    return effects


def test_sums_are_those_of_a_loop():
    counts, sums = np.zeros((2, 3), dtype=int), np.zeros((1 + VARIANTS, 4, 2, 3))
    for group, sequence, token in np.ndindex(GROUPS.shape):
        if GROUPS[group, sequence, token] and COUNTED[sequence, token]:
            counts[group, BLOCKS[sequence]] += 1
            sums[:, :, group, BLOCKS[sequence]] += VALUES[:, :, sequence, token].astype(np.float64)
    effects = fed((0, 2), (2, 5), (5, 6))
    assert (effects.counts.numpy() == counts).all()
    np.testing.assert_allclose(effects.loss, sums[:, 0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(effects.details, sums[: 1 + DETAILED, 1:], rtol=1e-12, atol=1e-12)
    assert (effects.loss.dtype, effects.details.dtype, effects.counts.dtype) == (*[torch.float64] * 2, torch.int64)


def test_parts_add_up_to_the_whole_in_any_order():
    whole, merged = fed((0, 3), (3, 6)), fed((3, 6))
    merged.merge(fed())
    merged.merge(fed((0, 3)))
    for name in Effects.summed:
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-12, atol=1e-12)


def test_a_state_is_taken_back_as_it_was():
    effects, other = fed((0, 4)), made()
    other.load(load(save(effects.state())))
    assert all(torch.equal(values, other.state()[name]) for name, values in effects.state().items())
    for one in (effects, other):  # and both go on from there
        one.add(1, torch.from_numpy(VALUES[1, :, 4:]), 4)
    assert torch.equal(effects.loss, other.loss)
    with pytest.raises(KeyError):
        made().load({"loss": effects.loss})


@pytest.mark.parametrize("change", [{"variants": 2}, {"groups": GROUPS[:1]}, {"blocks": [0] * SEQUENCES}])
def test_effects_of_another_shape_do_not_merge(change):
    with pytest.raises(ValueError, match="cannot merge"):
        made().merge(made(**change))


def test_it_takes_predictions_only():
    with pytest.raises(NotImplementedError):
        made().update(0, torch.zeros(1, 1), None)
