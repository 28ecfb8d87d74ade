"""The passes of a run: each goes on from its own checkpoint, and from no other's."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from neurexp.config.schema import CONFIG_FOLDER, checked, register_schema
from neurexp.engine import checkpoint
from neurexp.engine.reducers.base import NotFinite, Rows
from neurexp.errors import UserError
from neurexp.experiments import base
from neurexp.experiments.contrast import base as contrast
from neurexp.io.provenance import of_arithmetic
from neurexp.runs.measure import Measurement
from neurexp.text.skipped import Skipped
from neurexp.text.tokens import Tokens
from neurexp.tracking.tracker import Stopwatch

OPTIONS = ("model=mini", "dataset=pydoc", "device=cpu", "run.checkpoint_every=1e-9", "device.batch_size=1")


class Spans(base.Pass):
    """The first tokens of each sequence, as rows; like any plugin's pass it has the name that passes have."""

    def __init__(self, tokens: Tokens, start: int):
        self.tokens, self._start = tokens, start

    def key(self, model):
        return {"start": self._start}

    def chosen_layers(self, model):
        return [0]

    def reducers(self, model, tokens, layers):
        sequence = torch.arange(len(tokens.valid))
        start = torch.full_like(sequence, self._start)
        self.rows = Rows(sequence, start, start + 1)
        return [self.rows]


class Twice(base.Experiment):
    """Two passes over the same tokens."""

    starts = (0, 3)

    def passes(self, model, dataset, cache):
        self.tokens = Tokens(np.arange(40, dtype=np.int32).reshape(5, 8), np.ones((5, 8), dtype=bool), 1)
        self.seen = [Spans(self.tokens, start) for start in self.starts]
        yield from self.seen

    def reducers(self, model, tokens, layers):
        raise NotImplementedError

    def analyse(self):
        return None


@pytest.fixture(autouse=True)
def no_least_share(monkeypatch):
    monkeypatch.setattr(checkpoint, "LEAST_SHARE", 0)


def measured(folder, starts=(0, 3), **options):
    register_schema()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        settings = checked(compose("config", [*OPTIONS, f"run.outputs={folder}"]))
    experiment = Twice(base.Options("twice", "", **options), base.Setting("mini", "numbers"))
    experiment.starts = starts
    measurement = Measurement(settings, experiment, folder, Stopwatch(), reads_text=False).run()
    return measurement, [one.rows.rows(0) for one in experiment.seen]


def test_two_passes_of_one_name_have_a_checkpoint_each(tmp_path):
    measurement, (first, second) = measured(tmp_path)
    assert not torch.equal(first, second)
    assert measurement.resumed == {}
    names = {file.name.rsplit("_", 2)[0] for file in tmp_path.glob("checkpoint_*")}
    assert names == {"checkpoint_text", "checkpoint_text-2"}
    again, rows = measured(tmp_path)
    assert again.resumed == {"Text": 5, "Text 2": 5}
    assert torch.equal(rows[0], first)
    assert torch.equal(rows[1], second)


class Kept(Spans):
    """A pass whose statistics are kept; notes whether it has the lock on them."""

    kept = True

    def reducers(self, model, tokens, layers):
        self.locks = [file for file in self.cache.iterdir() if file.suffix == ".lock"]
        return [NotFinite(1)]


def test_a_pass_that_others_may_want_is_run_while_they_wait_and_then_taken(tmp_path, monkeypatch):
    kept = Kept(Tokens(np.arange(40, dtype=np.int32).reshape(5, 8), np.ones((5, 8), dtype=bool), 1), 0)
    kept.cache = tmp_path / "cache"

    def passes(self, model, dataset, cache):
        self.tokens, self.seen = kept.tokens, []
        yield kept

    monkeypatch.setattr(Twice, "passes", passes)
    first, _ = measured(tmp_path)
    assert len(kept.locks) == 1
    assert first.reused == []
    again, _ = measured(tmp_path)
    assert again.reused == ["Text"]
    assert [file.suffix for file in kept.cache.iterdir()] == [".safetensors"]


def test_what_was_skipped_is_said_once_though_a_control_reads_it_again(tmp_path, monkeypatch, caplog):
    skipped = [Skipped("a.txt", 0, "binary"), Skipped("b.txt", 3, "bad")]
    monkeypatch.setattr(Twice, "skipped", lambda self: skipped)
    measured(tmp_path, control="random")
    told = [message for message in caplog.messages if message.startswith("Skipped")]
    assert told == ["Skipped 2, all listed in skipped.parquet: a.txt: binary; b.txt, row 3: bad"]


def test_a_pass_for_other_rows_is_refused(tmp_path):
    measured(tmp_path)
    with pytest.raises(UserError, match="is of another pass, which differs in start; give what it was made with"):
        measured(tmp_path, (1, 3))


def test_a_capture_of_rows_hangs_on_its_layers():
    key = {"pooling": "mean", "spans": "a"}
    selection = contrast.Selection(
        Tokens(np.zeros((1, 2), np.int32), np.ones((1, 2), bool), 1), *(np.zeros(1, int) for _ in range(4)), ["a"]
    )
    one, other = (contrast._RowsPass("words", selection, layers, "mean", key) for layers in ([5], [0, 1]))
    assert one.key(None) != other.key(None)
    assert one.key(None) | {"layers": [0, 1]} == other.key(None)


def test_variables_that_a_library_sets_in_the_middle_of_a_sweep_make_no_other_pass(monkeypatch):
    """scikit-learn, which MLflow imports, sets two: the second job of a sweep would take nothing of the first's."""
    before = of_arithmetic(torch.device("cpu"))
    monkeypatch.setenv("KMP_INIT_AT_FORK", "FALSE")
    assert of_arithmetic(torch.device("cpu")) == before
