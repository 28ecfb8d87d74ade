"""The passes of a run: each goes on from its own checkpoint, and a stored one stands for the same pass."""

import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from neurexp.config.schema import CONFIG_FOLDER, checked, register_schema
from neurexp.engine import checkpoint
from neurexp.engine.plan import Pass
from neurexp.engine.reducers.base import Reducer
from neurexp.engine.reducers.rows import Rows
from neurexp.errors import UserError
from neurexp.experiments import base
from neurexp.io.provenance import of_arithmetic
from neurexp.io.store import Entry
from neurexp.report.clock import Stopwatch
from neurexp.report.report import Report
from neurexp.runs import measure as module
from neurexp.runs.measure import measure
from neurexp.text.skipped import Skipped
from neurexp.text.tokens import Tokens

OPTIONS = ("model=mini", "dataset=pydoc", "device=cpu", "run.checkpoint_every=1e-9", "device.batch_size=1")


TOKENS = Tokens(np.arange(40, dtype=np.int32).reshape(5, 8), np.ones((5, 8), dtype=bool), 1)


def rows_at(start: int, sites: int) -> dict:
    """A reducer of the token at column `start` of each sequence."""
    sequence = torch.arange(len(TOKENS.valid))
    column = torch.full_like(sequence, start)
    return {"rows": Rows(sequence, column, column + 1)}


def pass_at(start: int, name: str = "", **changes) -> Pass:
    name = name or f"rows {start}"
    planned = Pass(name, TOKENS, "MLP", (0,), partial(rows_at, start), key={"start": start}, label="Rows")
    return replace(planned, **changes)


class Planned(base.Experiment):
    """Runs the passes that it is given."""

    reads_text = False
    passes: tuple[Pass, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def prepare(self, inputs):
        return base.Plan(inputs, self.passes, TOKENS, self.skipped)

    def analyse(self, plan, results):
        self.results = results
        return Report([], {}, {}, {}, {}, "")


@pytest.fixture(autouse=True)
def no_least_share(monkeypatch):
    monkeypatch.setattr(checkpoint, "MIN_WAIT", 0)


def measured(folder, *passes: Pass, skipped=(), overrides=(), other_layers=False, **options):
    """The measurement, and the reducers of its passes."""
    register_schema()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = checked(compose("config", [*OPTIONS, f"run.outputs={folder}", *overrides]))
    experiment = Planned(base.Options("planned", "", **options))
    experiment.passes, experiment.skipped = passes, tuple(skipped)
    found = measure(config, experiment, ("mini", "numbers"), folder, Stopwatch(), other_layers)
    return found, [experiment.results[one.name] for one in passes]


def test_each_pass_goes_on_from_its_own_checkpoint(tmp_path):
    passes = pass_at(0), pass_at(3)
    measurement, (first, second) = measured(tmp_path, *passes)
    assert not torch.equal(first["rows"].rows(0), second["rows"].rows(0))
    assert measurement.resumed == {}
    names = {file.name.rsplit("_", 2)[0] for file in tmp_path.glob("checkpoint_*")}
    assert names == {"checkpoint_rows-0", "checkpoint_rows-3"}
    again, rows = measured(tmp_path, *passes)
    assert again.resumed == {"rows 0": 5, "rows 3": 5}
    for before, after in zip((first, second), rows, strict=True):
        assert torch.equal(before["rows"].rows(0), after["rows"].rows(0))


def test_two_passes_of_one_name_are_refused(tmp_path):
    """Their results and checkpoints could not be told apart."""
    with pytest.raises(ValueError, match="two passes are named rows 0"):
        measured(tmp_path, pass_at(0), pass_at(3, "rows 0"))


class OfItsOwn(Reducer):
    """A plugin's reducer with a state that is not among `summed` and `calibrated`."""

    def __init__(self):
        self.total = 0.0

    def update(self, site, activations, batch):
        self.total += float(activations.double().sum())

    def state(self):
        return {"total of all": torch.tensor(self.total, dtype=torch.float64)}

    def load(self, state):
        self.total = float(state["total of all"])


def test_a_cacheable_pass_with_a_state_of_its_own_is_stored_and_taken(tmp_path):
    planned = replace(pass_at(0), cacheable=True, reducers=lambda _: {"own": OfItsOwn()})
    first, (fresh,) = measured(tmp_path / "a", planned, overrides=[f"run.outputs={tmp_path}"])
    again, (stored,) = measured(tmp_path / "b", planned, overrides=[f"run.outputs={tmp_path}"])
    assert (first.reused, again.reused) == ((), ("rows 0",))
    assert fresh["own"].total == stored["own"].total != 0
    not_again, _ = measured(tmp_path / "c", planned, overrides=[f"run.outputs={tmp_path}", "run.reuse=false"])
    assert not_again.reused == ()


def test_a_pass_is_run_while_others_who_want_it_wait(tmp_path):
    locks = []

    def reducers(sites):
        locks.append([file.name for file in (tmp_path / "cache").rglob("*lock")])
        return {"own": OfItsOwn()}

    measured(tmp_path, replace(pass_at(0), cacheable=True, reducers=reducers))
    assert len(locks[-1]) == 1


def test_the_wait_for_another_process_at_the_same_pass_counts_as_capture(tmp_path, monkeypatch):
    """It was booked as the preparation of the text once."""
    held = Entry.lock

    @contextmanager
    def slow(entry, what):
        time.sleep(0.5)
        with held(entry, what):
            yield

    monkeypatch.setattr(Entry, "lock", slow)
    clock = Stopwatch()
    monkeypatch.setattr("test_measure.Stopwatch", lambda: clock)
    measured(tmp_path, replace(pass_at(0), cacheable=True))
    seconds = clock.seconds()
    assert seconds["capture"] >= 0.5
    assert seconds["prepare_text"] < 0.5


def test_rows_of_all_layers_serve_a_job_that_wants_another(tmp_path):
    planned = replace(pass_at(0), cacheable=True)
    first, (one,) = measured(tmp_path / "a", planned, overrides=[f"run.outputs={tmp_path}"], other_layers=True)
    other = replace(planned, layers=(1,))
    again, (two,) = measured(tmp_path / "b", other, overrides=[f"run.outputs={tmp_path}"])
    fresh, (three,) = measured(tmp_path / "c", other, overrides=[f"run.outputs={tmp_path}", "run.reuse=false"])
    assert (first.reused, again.reused, fresh.reused) == ((), ("rows 0",), ())
    assert list(one["rows"].kept) == list(two["rows"].kept) == [0]  # its own layers only
    np.testing.assert_allclose(two["rows"].rows(0), three["rows"].rows(0), rtol=1e-5)
    assert not torch.equal(one["rows"].rows(0), two["rows"].rows(0))


@pytest.mark.parametrize("flaw", ["no such site", "NaN"])
def test_a_layer_that_no_job_may_want_ends_none(tmp_path, monkeypatch, flaw):
    """A model whose blocks differ, or one that overflows in its last layer."""
    planned = replace(pass_at(0), cacheable=True)
    _, (expected,) = measured(tmp_path / "a", planned)
    load = module.load_model

    def flawed(*arguments, **options):
        model = load(*arguments, **options)
        mlp = model.network.transformer.h[4].mlp
        if flaw == "NaN":
            mlp.c_fc.bias = torch.nn.Parameter(torch.full_like(mlp.c_fc.bias, torch.nan), requires_grad=False)
        else:
            mlp.c_fc_of_another_name = mlp.c_fc
            del mlp.c_fc
        return model

    monkeypatch.setattr(module, "_loaded", {})
    monkeypatch.setattr(module, "load_model", flawed)
    _, (found,) = measured(tmp_path / "b", planned, other_layers=True, layer=0)
    with pytest.raises(UserError, match=r"layer 4|MLP_4"):
        measured(tmp_path / "c", replace(planned, layers=(4,)), other_layers=True, layer=4)
    assert list(found["rows"].kept) == [0]
    assert torch.equal(found["rows"].rows(0), expected["rows"].rows(0))


def test_what_was_skipped_is_logged_once_though_a_control_reads_it_again(tmp_path, caplog):
    skipped = [Skipped("a.txt", 0, "binary"), Skipped("b.txt", 3, "bad")]
    measured(tmp_path, pass_at(0), skipped=skipped, control="random")
    logged = [message for message in caplog.messages if message.startswith("Skipped")]
    assert logged == ["Skipped 2, all listed in skipped.parquet: a.txt: binary; b.txt, row 3: bad"]


def test_the_checkpoint_of_other_rows_is_refused(tmp_path):
    measured(tmp_path, pass_at(0))
    with pytest.raises(UserError, match="is of another pass, which differs in start; give what it was made with"):
        measured(tmp_path, pass_at(1, "rows 0"))


def test_the_checkpoint_of_other_layers_is_refused(tmp_path):
    measured(tmp_path, pass_at(0))
    with pytest.raises(UserError, match="is of another pass, which differs in layers"):
        measured(tmp_path, pass_at(0, layers=(0, 1)))


def test_variables_that_a_library_sets_in_the_middle_of_a_sweep_make_no_other_pass(monkeypatch):
    """scikit-learn, which MLflow imports, sets two: the second job of a sweep would take nothing of the first's."""
    before = of_arithmetic(torch.device("cpu"))
    monkeypatch.setenv("KMP_INIT_AT_FORK", "FALSE")
    assert of_arithmetic(torch.device("cpu")) == before
