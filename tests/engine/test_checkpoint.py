"""A pass that is cut short and goes on ends with the same bits as one that was not."""

import logging

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, build, token_ids

from neurexp.engine import checkpoint
from neurexp.engine.checkpoint import Checkpoints, OtherPassError
from neurexp.engine.passes import count_not_finite, run_pass
from neurexp.engine.reducers.base import NotFiniteError
from neurexp.engine.reducers.gram import Gram
from neurexp.engine.reducers.histogram import Histogram
from neurexp.engine.reducers.rows import Rows
from neurexp.models.sites import find_sites

KEY = {"weights": "a", "tokens": "b"}
OFTEN = 1e-9  # seconds: after every batch
LARGEST_SHARE = 1 / checkpoint.MIN_WAIT  # of a pass that goes to checkpoints, before a test changes it


@pytest.fixture(autouse=True)
def no_least_share(monkeypatch):
    monkeypatch.setattr(checkpoint, "MIN_WAIT", 0)


class CutError(Exception):
    """What ends a pass."""


class Text:
    """A tiny model over eleven sequences, two of them padded, and the reducers that experiments use."""

    def __init__(self, sequences=11, length=12):
        self.network = build("gpt_neo")
        self.sites = find_sites(self.network, "MLP", [0, 1, 2])
        self.ids = token_ids(sequences, length)
        self.valid = torch.ones_like(self.ids, dtype=torch.bool)
        self.valid[3, 7:] = self.valid[sequences - 1, 2:] = False
        self.rows = torch.arange(sequences).repeat(2)

    def reducers(self):
        first = torch.zeros_like(self.rows)
        return [
            Gram(3, 3, squared=slice(0, 2), magnified=slice(0, 1)),
            Histogram(2, 3, 16),
            Rows(self.rows, first, first + 2),
        ]

    def run(self, reducers, cut_after=None, checkpoints=None, part=slice(None)):
        batches = 0

        def covariates(ids, positions, sequences):
            nonlocal batches
            if batches == cut_after:
                raise CutError
            batches += 1
            design = torch.stack([torch.ones(len(ids)), ids / VOCABULARY, positions.float()], dim=1)
            return {"group": ids % 2, "design": design}

        run_pass(
            self.network,
            self.sites,
            self.ids,
            self.valid,
            reducers,
            covariates,
            batch_size=2,
            checkpoints=checkpoints,
            part=part,
        )
        return batches


@pytest.fixture(scope="module")
def text():
    return Text()


def states(reducers):
    return [{name: value.numpy() for name, value in reducer.state().items()} for reducer in reducers]


def assert_equal_to_the_bit(found, expected):
    for one, other in zip(states(found), states(expected), strict=True):
        assert set(one) == set(other)
        for name in other:
            assert np.array_equal(one[name], other[name], equal_nan=True), name


@pytest.mark.parametrize("cut_after", [1, 2, 5])
def test_a_pass_goes_on_where_it_was_cut(text, tmp_path, cut_after):
    whole = text.reducers()
    batches = text.run(whole)
    with pytest.raises(CutError):
        text.run(text.reducers(), cut_after, Checkpoints(tmp_path, "text", KEY, OFTEN))
    resumed, checkpoints = text.reducers(), Checkpoints(tmp_path, "text", KEY, OFTEN)
    assert text.run(resumed, checkpoints=checkpoints) == batches - cut_after
    assert checkpoints.resumed_at == cut_after
    assert_equal_to_the_bit(resumed, whole)


def test_a_pass_that_was_cut_many_times_has_the_same_bits(text, tmp_path):
    whole = text.reducers()
    batches = text.run(whole)
    for _ in range(batches - 1):
        with pytest.raises(CutError):
            text.run(text.reducers(), 1, Checkpoints(tmp_path, "text", KEY, OFTEN))
    resumed = text.reducers()
    assert text.run(resumed, checkpoints=Checkpoints(tmp_path, "text", KEY, OFTEN)) == 1
    assert_equal_to_the_bit(resumed, whole)


def test_passes_whose_names_begin_alike_keep_their_own_checkpoints(text, tmp_path):
    for name in ("text", "text_b"):
        with pytest.raises(CutError):
            text.run(text.reducers(), 3, Checkpoints(tmp_path, name, KEY | {"name": name}, OFTEN))
    for name in ("text", "text_b"):
        checkpoints = Checkpoints(tmp_path, name, KEY | {"name": name}, OFTEN)
        assert checkpoints.load(text.reducers()) == 3


def test_a_share_of_the_sequences_goes_on_likewise(text, tmp_path):
    part = slice(4, 9)  # of a process of torchrun that has not the first sequence
    whole = text.reducers()[:2]
    text.run(whole, part=part)
    with pytest.raises(CutError):
        text.run(text.reducers()[:2], 2, Checkpoints(tmp_path, "text", KEY, OFTEN), part)
    resumed = text.reducers()[:2]
    text.run(resumed, checkpoints=Checkpoints(tmp_path, "text", KEY, OFTEN), part=part)
    assert_equal_to_the_bit(resumed, whole)


def test_a_whole_pass_is_not_run_again(text, tmp_path):
    whole, again = text.reducers(), text.reducers()
    text.run(whole, checkpoints=Checkpoints(tmp_path, "text", KEY, OFTEN))
    assert text.run(again, checkpoints=Checkpoints(tmp_path, "text", KEY, OFTEN)) == 0
    assert_equal_to_the_bit(again, whole)


def test_two_checkpoints_are_kept_and_nothing_else(text, tmp_path):
    text.run(text.reducers(), checkpoints=Checkpoints(tmp_path, "text", KEY, OFTEN))
    names = sorted(file.name for file in tmp_path.iterdir())
    assert [name.rsplit("_", 1)[0] for name in names] == ["checkpoint_text_000000005", "checkpoint_text_000000006"]


@pytest.mark.parametrize("every", [0.0, 3600.0])
def test_none_is_written_before_its_time(text, tmp_path, every):
    text.run(text.reducers(), checkpoints=Checkpoints(tmp_path, "text", KEY, every))
    assert not list(tmp_path.iterdir())


def test_writing_them_takes_a_small_share_of_the_time(text, tmp_path, monkeypatch):
    assert LARGEST_SHARE <= 0.01
    monkeypatch.setattr(checkpoint, "MIN_WAIT", 1e9)
    text.run(text.reducers(), checkpoints=Checkpoints(tmp_path, "text", KEY, OFTEN))
    assert len(list(tmp_path.iterdir())) == 1  # what the first cost is known only then


def damage_a_byte(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # within a tensor: safetensors itself would not notice
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        damage_a_byte,
        lambda file: file.write_bytes(file.read_bytes()[:-100]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\x80\x04no tensors" * 100),
    ],
    ids=["a bit", "torn", "empty", "of another kind"],
)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(text, tmp_path, caplog, damage):
    whole = text.reducers()
    text.run(whole)
    with pytest.raises(CutError):
        text.run(text.reducers(), 4, Checkpoints(tmp_path, "text", KEY, OFTEN))
    before, newest = sorted(tmp_path.iterdir())
    damage(newest)
    resumed, checkpoints = text.reducers(), Checkpoints(tmp_path, "text", KEY, 0)
    with caplog.at_level(logging.WARNING):
        text.run(resumed, checkpoints=checkpoints)
    assert checkpoints.resumed_at == 3
    assert f"{newest.name} is damaged" in caplog.text
    assert sorted(tmp_path.iterdir()) == [before, newest.with_suffix(".damaged")]
    assert_equal_to_the_bit(resumed, whole)


def test_where_all_are_damaged_the_pass_starts_anew(text, tmp_path):
    whole = text.reducers()
    batches = text.run(whole)
    with pytest.raises(CutError):
        text.run(text.reducers(), 4, Checkpoints(tmp_path, "text", KEY, OFTEN))
    for file in tmp_path.iterdir():
        damage_a_byte(file)
    resumed = text.reducers()
    assert text.run(resumed, checkpoints=Checkpoints(tmp_path, "text", KEY, 0)) == batches
    assert_equal_to_the_bit(resumed, whole)


def test_a_checkpoint_of_another_pass_is_refused_by_what_differs(text, tmp_path):
    with pytest.raises(CutError):
        text.run(text.reducers(), 3, Checkpoints(tmp_path, "text", KEY, OFTEN))
    reducers = text.reducers()
    with pytest.raises(OtherPassError) as caught:
        text.run(reducers, checkpoints=Checkpoints(tmp_path, "text", KEY | {"tokens": "c", "more": 1}, OFTEN))
    assert caught.value.differing == ["more", "tokens"]
    assert not reducers[0].is_calibrated  # nothing was taken from it


def test_passes_of_one_run_do_not_take_one_anothers(text, tmp_path):
    with pytest.raises(CutError):
        text.run(text.reducers(), 3, Checkpoints(tmp_path, "text", KEY, OFTEN))
    for name in ("tex", "text-0of2", "control-text"):
        assert Checkpoints(tmp_path, name, KEY, OFTEN).load(text.reducers()) == 0


def test_a_full_disk_does_not_end_the_pass(text, tmp_path, caplog):
    whole, reducers = text.reducers(), text.reducers()
    text.run(whole)
    folder = tmp_path / "gone"  # nothing can be written there, as on a full disk
    with caplog.at_level(logging.WARNING):
        text.run(reducers, checkpoints=Checkpoints(folder, "text", KEY, OFTEN))
    assert "No checkpoint could be written" in caplog.text
    assert_equal_to_the_bit(reducers, whole)


# -- what is not finite --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gram", "histogram alone", "rows"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_activations_that_are_not_finite_stop_the_pass_and_are_counted_by_layer(kind, value):
    text = Text()
    with torch.no_grad():
        text.network.transformer.h[1].mlp.c_fc.bias[3] = value
    reducers = {"gram": [text.reducers()[0]], "histogram alone": [text.reducers()[1]], "rows": [text.reducers()[2]]}[
        kind
    ]
    with pytest.raises(NotFiniteError) as caught:
        text.run(reducers)
    assert caught.value.site == 1
    part = caught.value.sequences
    counts, values = count_not_finite(text.network, text.sites, text.ids, text.valid, part, 2)
    tokens = int(text.valid[part].sum())
    width = text.network.config.intermediate_size
    assert values == [tokens * width] * 3
    assert counts[0] == 0
    assert counts[1] == tokens  # one neuron
    assert counts[2] == tokens * width  # all that follows


@pytest.mark.parametrize("kind", [0, 1], ids=["gram", "histogram alone"])
def test_values_that_are_not_finite_late_in_the_pass_are_reported_with_their_sequences(kind):
    text = Text(sequences=60)
    text.ids[text.ids == 17] = 1
    text.ids[50, 5] = 17
    with torch.no_grad():
        text.network.transformer.wte.weight[17] = torch.nan
    with pytest.raises(NotFiniteError) as caught:
        text.run([text.reducers()[kind]])
    assert 0 < caught.value.sequences.start <= 50 < caught.value.sequences.stop
    counts, _ = count_not_finite(text.network, text.sites, text.ids, text.valid, caught.value.sequences, 2)
    # The whole sequence: what attention may not see it multiplies by 0, and 0 × NaN is NaN
    assert counts == [12 * text.network.config.intermediate_size] * 3
