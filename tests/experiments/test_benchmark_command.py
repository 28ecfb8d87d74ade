"""The benchmark's costs of the whole command: what is started, and how the table follows from the seconds."""

import json
from pathlib import Path

import numpy as np
import pytest

from neurexp.errors import UserError
from neurexp.experiments.benchmark import command_costs
from neurexp.experiments.benchmark.command_costs import COLUMNS, DEMO, STAGES, CommandCosts, measure


def test_bare_imports_and_the_demo_are_started_in_turn_into_one_store(monkeypatch):
    started, took = [], iter([4.0, 9.0, 4.1, 8.0, 3.9, 8.4])

    def start(arguments):
        started.append(arguments)
        if arguments[0] == "-m":
            folder = Path(arguments[-1].removeprefix("hydra.run.dir="))
            folder.mkdir()
            timings = {"imports": 3.0 + len(started), "capture": 1.0, "total": 7.0, "checkpoints": 0.1}
            (folder / "summary.json").write_text(json.dumps({"timings": timings}))
        return next(took)

    monkeypatch.setattr(command_costs, "_seconds", start)
    seconds = measure("cpu", 2).seconds
    assert seconds["imports_alone"].tolist() == [4.1, 3.9]  # the first round is not counted
    assert seconds["command"].tolist() == [8.0, 8.4]
    assert seconds["outside"] == pytest.approx([1.0, 1.4])
    assert seconds["imports"].tolist() == [7.0, 9.0]
    assert seconds["figures"].tolist() == [0.0, 0.0]
    bare, demos = started[::2], started[1::2]
    assert set(bare) == {("-c", "import torch, transformers, mlflow")}
    assert {demo[: len(DEMO)] for demo in demos} == {DEMO}
    assert len({demo[-2] for demo in demos}) == 1  # the outputs, with the store
    assert len({demo[-1] for demo in demos}) == 3  # the run folders
    assert demos[0][-3] == "device=cpu"


def test_the_ratio_leaves_the_pass_out_and_is_of_the_same_round():
    seconds = {name: np.array([0.1, 0.2, 0.3]) for name in STAGES}
    seconds |= {"capture": np.array([1.0, 2.0, 3.0]), "command": np.array([9.0, 8.0, 9.0])}
    seconds |= {"imports_alone": np.array([4.0, 3.0, 2.0])}
    costs = CommandCosts(seconds)
    table = costs.table()
    assert table["stage"].tolist() == [*STAGES, "command", "imports_alone"]
    assert dict(zip(table["stage"].tolist(), table["seconds"].tolist(), strict=True))["imports_alone"] == 3.0
    assert (table["seconds_min"] <= table["seconds"]).all()
    assert (table["seconds_max"] >= table["seconds"]).all()
    metrics = costs.metrics(table)
    assert metrics["command_ratio"] == pytest.approx(2.0)
    assert (metrics["command_ratio_min"], metrics["command_ratio_max"]) == (2.0, 3.0)
    assert set(metrics) <= set(COLUMNS)
    assert {f"command_costs.{name}" for name in table} <= set(COLUMNS)
    (finding,) = costs.findings(metrics)
    assert "the demo takes 9.0 s. Without its pass that is 2.00 times (2.00 to 3.00" in finding
    assert "Seconds by stage: capture 2.0, outside 0.2, " in finding


def test_a_process_that_fails_is_told_with_its_last_line():
    assert command_costs._seconds(("-c", "import neurexp")) > 0
    with pytest.raises(UserError, match=r"failed .*model=no: no such choice"):
        command_costs._seconds((*DEMO, "model=no"))
