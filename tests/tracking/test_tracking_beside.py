"""MLflow in a process beside the run: only the command line has it, and a run outlives it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest
from conftest import FINISHED_ARGUMENTS, environment

from neurexp.config.schema import Backend, TrackingConfig
from neurexp.tracking import beside


def test_a_process_that_has_imported_pytorch_is_not_forked(tmp_path, monkeypatch):
    monkeypatch.setattr(beside, "_allowed", True)
    assert {"torch", "mlflow"} & sys.modules.keys()
    with beside.prepared(TrackingConfig(Backend.mlflow), tmp_path) as process:
        assert process is None


def started(folder: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "neurexp", *FINISHED_ARGUMENTS, "hydra.run.dir=run", *options]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(folder / "hf"), **streams)


def child_of(process: int) -> int:
    """The process that a command has started, once there is one."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == process:
                    return int(place.name)
        time.sleep(0.02)
    raise AssertionError("no process beside it")


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is none on a single processor")
def test_a_run_whose_mlflow_process_is_killed_says_so_and_is_logged_later(tmp_path):
    command = started(tmp_path)
    assert command.stdout is not None
    for line in command.stdout:
        if line.startswith("Text:"):  # MLflow has the run, and the pass begins
            os.kill(child_of(command.pid), signal.SIGKILL)
            break
    _, told = command.communicate(timeout=120)
    assert command.returncode == 1
    (line,) = told.strip().splitlines()
    assert line.startswith("error: tracking: MLflow did not take the run (the process that talks to MLflow has ended")
    assert (tmp_path / "run" / "summary.json").exists()
    again = [sys.executable, "-m", "neurexp.tracking", "run"]
    assert subprocess.run(again, cwd=tmp_path, env=environment(tmp_path / "hf"), check=False).returncode == 0
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'token_length'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is none on a single processor")
def test_an_interrupted_run_is_killed_in_mlflow_and_leaves_no_process(tmp_path):
    command = started(tmp_path, "dataset.tokens=100_000", "device.batch_size=1")
    assert command.stdout is not None
    for line in command.stdout:
        if line.startswith("Text:"):
            beside_it = child_of(command.pid)
            time.sleep(1)
            command.send_signal(signal.SIGTERM)
            break
    command.communicate(timeout=60)
    assert command.returncode == 130
    assert not Path(f"/proc/{beside_it}").exists()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'token_length'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
