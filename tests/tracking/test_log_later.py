"""MLflow that goes away during a run: the run folder is whole, and one command logs it later."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest
from background import wait_for
from conftest import environment
from mlflow import MlflowClient

ARGUMENTS = ("model=mini", "dataset=pydoc", "dataset.tokens=600", "dataset.sequence_length=64", "device=cpu")
# An experiment whose store breaks after the pass
BREAKING = """
import os, shutil
from neurexp.experiments.token_length import TokenLength

class Breaking(TokenLength):
    def analyse(self, plan, results):
        shutil.copy("outputs/mlflow.db", "saved.db")
        os.truncate("outputs/mlflow.db", 100)
        return super().analyse(plan, results)
"""


@pytest.fixture
def log_later(quick_cli):
    """`python -m neurexp.tracking`."""
    return partial(quick_cli, module="neurexp.tracking")


def assert_logged(uri: str, run: Path) -> str:
    """That MLflow has all of a run folder; the run's id."""
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    client = MlflowClient(tracking_uri=uri)
    logged = client.get_run(summary["mlflow_run_id"])
    assert logged.info.status == "FINISHED"
    assert {name: logged.data.metrics[name] for name in summary["metrics"]} == pytest.approx(summary["metrics"], abs=0)
    assert len(client.get_metric_history(logged.info.run_id, "mean")) == 6
    assert logged.data.params["dataset.tokens"] == "600"
    assert logged.data.tags["token_hash"] == summary["provenance"]["token_hash"]
    assert [entity.dataset.name for entity in logged.inputs.dataset_inputs] == ["pydoc"]
    assert {entry.path for entry in client.list_artifacts(logged.info.run_id)} == {path.name for path in run.iterdir()}
    figures = {entry.path for entry in client.list_artifacts(logged.info.run_id, "figures")}
    assert figures == {f"figures/{path.name}" for path in (run / "figures").iterdir()}
    return logged.info.run_id


@pytest.mark.slow
def test_a_store_that_breaks_after_the_pass_loses_nothing(quick_cli, log_later, tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    process = quick_cli(*ARGUMENTS, "experiment.plugin=breaking.Breaking", "hydra.run.dir=run")
    assert process.returncode == 1
    run = tmp_path / "run"
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: tracking: MLflow did not take the run (")
    assert line.endswith(f"it is whole in {run}, and `python -m neurexp.tracking {run}` logs it")
    assert "Correlation with token length" in process.stdout  # the findings are told all the same
    assert {path.name for path in run.rglob("*checkpoint*")} == {"checkpoint.json", "checkpoint.lock"}
    assert not list(run.rglob("*.tmp")) + list(run.glob("traceback.txt"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "checkpoint" not in path.name}

    process = log_later("run")  # still broken
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")

    shutil.copy(tmp_path / "saved.db", tmp_path / "outputs" / "mlflow.db")
    for _ in range(2):  # a second time does no harm
        process = log_later("run")
        assert process.returncode == 0, process.stderr
        assert_logged(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}", run)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    process = log_later("run", "--uri=sqlite:///other.db")  # a store that knows nothing of it
    assert process.returncode == 0, process.stderr
    assert_logged(f"sqlite:///{tmp_path / 'other.db'}", run)


def test_what_is_no_finished_run_is_refused(log_later, tmp_path):
    (tmp_path / "unfinished").mkdir()
    process = log_later("unfinished")
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: unfinished: no summary.json there, so no finished run")


@pytest.mark.slow
def test_a_server_that_dies_during_the_pass_gets_the_run_when_it_is_back(log_later, quick_start, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"

    def serve() -> subprocess.Popen:
        store = f"--backend-store-uri=sqlite:///{tmp_path / 'server.db'}"
        artifacts = f"--artifacts-destination={tmp_path / 'artifacts'}"
        command = ["mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1", store, artifacts]
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment(tmp_path / "hf", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),  # seven processes less
            start_new_session=True,
        )
        servers.append(server)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2)
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server did not start")

    def stop() -> None:
        server = servers.pop()
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    servers: list[subprocess.Popen] = []
    try:
        serve()
        long = (*ARGUMENTS[:2], "dataset.tokens=33000", *ARGUMENTS[3:], "device.threads=1", "run.checkpoint_every=0.05")
        process = quick_start(*long, f"tracking.uri={uri}", "hydra.run.dir=run")
        wait_for(lambda: list(tmp_path.glob("run/checkpoint_*.safetensors")), process)
        stop()
        began = time.monotonic()
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 1
        assert time.monotonic() - began < 120
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert line.startswith("error: tracking: MLflow did not take the run (")
        serve()
        process = log_later("run")
        assert process.returncode == 0, process.stderr
        summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
        client = MlflowClient(tracking_uri=uri)
        logged = client.get_run(summary["mlflow_run_id"])
        assert logged.info.status == "FINISHED"
        assert logged.data.metrics["tokens"] == 33000
        runs = client.search_runs([client.get_experiment_by_name("token_length").experiment_id])
        assert len(runs) == 1
    finally:
        if servers:
            stop()
