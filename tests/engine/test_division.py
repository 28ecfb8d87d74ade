"""Sequences are shared out among processes, and anew among another number of them: none is lost or comes twice."""

import random
from itertools import chain

import numpy as np
import pytest
import torch
from test_checkpoint import KEY, OFTEN, CutError, Text

from neurexp.engine import checkpoint
from neurexp.engine.checkpoint import Checkpoints, OtherPassError, divide
from neurexp.engine.division import Division, batches_of, joined
from neurexp.engine.reducers.gram import Gram

SEQUENCES = 47


@pytest.fixture(autouse=True)
def no_least_share(monkeypatch):
    monkeypatch.setattr(checkpoint, "MIN_WAIT", 0)


@pytest.fixture(scope="module")
def text():
    return Text(SEQUENCES)


def numbers(ranges) -> list[int]:
    return list(chain.from_iterable(ranges))


@pytest.mark.parametrize("sequences", [0, 1, 2, 7, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_first_shares_are_contiguous_and_as_long_as_each_other(sequences, count):
    shares = Division.of(sequences, count).shares
    assert numbers(chain.from_iterable(shares)) == list(range(sequences))
    assert all(len(share) <= 1 for share in shares)
    assert {len(numbers(share)) for share in shares} <= {sequences // count, -(-sequences // count)}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_was_covered_the_new_shares_are_the_rest(seed):
    draw = random.Random(seed)
    sequences, division, covered = draw.randrange(1, 40), None, []
    division = Division.of(sequences, draw.randrange(1, 6))
    for generation in range(4):
        kept = []
        for process, share in enumerate(division.shares):
            batches = batches_of(share, draw.randrange(1, 4))
            done = joined(batches[: draw.randrange(len(batches) + 1)])
            if draw.random() < 0.7:
                kept.append((f"{generation}-{process}", done))
                covered += numbers(done)
        division = Division.from_json(division.anew(draw.randrange(1, 6), kept).as_json())
        assert division.number == generation + 1
        assert division.finished[len(division.finished) - len(kept) :] == tuple(name for name, _ in kept)
        left = numbers(chain.from_iterable(division.shares))
        assert sorted(left + covered) == list(range(sequences))
        assert all(one.start < one.stop for share in division.shares for one in share)


def run_processes(text, folder, count, cuts):
    """What `count` processes leave, each cut after so many batches, or merged if none is cut."""
    division = divide(folder, "text", KEY, SEQUENCES, count)
    states = []
    for process, cut in enumerate(cuts):
        reducers, checkpoints = text.reducers(), Checkpoints(folder, "text", KEY, OFTEN, division, process)
        states.append((reducers, checkpoints))
        part = division.shares[process]
        if cut is None:
            text.run(reducers, checkpoints=checkpoints, part=part)
        else:
            with pytest.raises(CutError):
                text.run(reducers, cut, checkpoints, part)
    merged, checkpoints = states[0]
    for others, _ in states[1:]:
        for one, other in zip(merged, others, strict=True):
            one.merge(other)
    checkpoints.add_finished(merged)
    return merged, division


@pytest.mark.parametrize("counts", [(2, 1), (1, 3), (3, 2), (2, 3, 1), (3, 1, 4, 2)])
def test_another_number_of_processes_goes_on_with_the_result_of_one(text, tmp_path, counts):
    whole = text.reducers()
    text.run(whole)
    for count in counts[:-1]:
        run_processes(text, tmp_path, count, [2, 1, 3, 2][:count])
    found, division = run_processes(text, tmp_path, counts[-1], [None] * counts[-1])
    assert len(division.finished) == sum(counts[:-1])
    for one, other in zip(found, whole, strict=True):
        expected = other.state()
        assert one.state().keys() == expected.keys()
        for name, value in one.state().items():
            if value.dtype == torch.int64 or not isinstance(one, Gram):
                assert torch.equal(value.nan_to_num(9.0), expected[name].nan_to_num(9.0)), name
            else:  # the forward rounds otherwise where batches begin elsewhere
                np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_same_number_goes_on_with_its_own_shares(text, tmp_path):
    run_processes(text, tmp_path, 3, [2, 1, 2])
    run_processes(text, tmp_path, 2, [2, 2])
    first = divide(tmp_path, "text", KEY, SEQUENCES, 2)
    assert first.number == 1
    assert len(first.finished) == 3
    run_processes(text, tmp_path, 2, [1, 1])
    assert divide(tmp_path, "text", KEY, SEQUENCES, 2) == first


def test_a_damaged_checkpoint_is_run_again(text, tmp_path):
    run_processes(text, tmp_path, 2, [3, 3])
    for file in tmp_path.glob("checkpoint_text-1of2_*"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    whole = text.reducers()
    text.run(whole)
    found, division = run_processes(text, tmp_path, 1, [None])
    (name,) = division.finished
    assert name.startswith("checkpoint_text-0of2_")
    np.testing.assert_array_equal(found[1].state()["counts"], whole[1].state()["counts"])


def test_another_pass_is_refused(text, tmp_path):
    run_processes(text, tmp_path, 2, [1, 1])
    with pytest.raises(OtherPassError) as refused:
        divide(tmp_path, "text", KEY | {"tokens": "c"}, SEQUENCES, 1)
    assert refused.value.differing == ["tokens"]


def test_the_calibration_is_taken_over(text, tmp_path):
    """On another machine it could come out otherwise in its last bits."""
    reducers, _ = run_processes(text, tmp_path, 2, [2, 2])
    other = Text(SEQUENCES)
    with torch.no_grad():
        other.network.transformer.wte.weight.mul_(1.001)
    found, _ = run_processes(other, tmp_path, 3, [None] * 3)
    assert torch.equal(found[0].shift, reducers[0].shift)


def test_passes_whose_names_begin_alike_are_told_apart(text, tmp_path):
    run_processes(text, tmp_path, 2, [1, 1])
    assert divide(tmp_path, "tex", KEY, SEQUENCES, 1) == Division.of(SEQUENCES, 1)
    assert divide(tmp_path, "text-0", KEY, SEQUENCES, 1) == Division.of(SEQUENCES, 1)
