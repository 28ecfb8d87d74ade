"""Tracking on MLflow's server over PostgreSQL, whose artifacts go through the server."""

import json

import pytest
from mlflow import MlflowClient
from postgres import PASSWORD, MlflowServer

import neurexp

SMALL = ("model=mini", "dataset=pydoc", "dataset.tokens=256", "dataset.sequence_length=128", "device=cpu")


@pytest.mark.slow
def test_runs_sweeps_and_comparisons_on_a_server_over_postgresql(quick_cli, tmp_path, monkeypatch):
    with MlflowServer() as server:
        uri = server.uri.replace("//", "//me:secret@")
        before = len(server.requests())
        process = quick_cli(*SMALL, f"tracking.uri={uri}", "hydra.run.dir=run")
        assert (process.returncode, process.stderr) == (0, "")
        calls = server.requests()[before:]
        files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
        assert sum(call.startswith("PUT ") for call in calls) == len(files)  # each file goes once
        assert len(calls) - len(files) <= 9, calls

        named = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "new"}
        process = quick_cli("-m", *SMALL, "experiment.layer=0,1", "hydra.sweep.dir=sweep", **named)
        assert (process.returncode, process.stderr) == (0, "")
        assert f"MLFLOW_TRACKING_URI={server.uri.replace('//', '//***@')} is used" in process.stdout
        assert "MLFLOW_EXPERIMENT_NAME=new is used" in process.stdout
        assert "secret" not in process.stdout
        client = MlflowClient(tracking_uri=uri)
        experiments = {one.name: one.experiment_id for one in client.search_experiments()}
        both = [experiments["token_length"], experiments["new"]]
        runs = {run.info.run_id: run for run in client.search_runs(both)}
        assert [run.info.status for run in runs.values()] == ["FINISHED"] * 4
        parent = json.loads((tmp_path / "sweep" / "parent.json").read_text())["run_id"]
        jobs = [one for one, run in runs.items() if run.data.tags.get("mlflow.parentRunId") == parent]
        assert len(jobs) == 2

        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        first = summary["mlflow_run_id"]
        assert runs[first].data.metrics["tokens"] == 256
        logged = {entry.path for entry in client.list_artifacts(first)}
        assert logged == {path.name for path in (tmp_path / "run").iterdir()}
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        opened = neurexp.open_run(first)
        assert opened.findings == summary["findings"]
        assert len(opened.neurons) == 6 * 768

        monkeypatch.chdir(tmp_path)
        compared = neurexp.compare([first, jobs[0]])
        assert len(compared.tables["agreement"]) == 1

        # The store itself, past the server, in an experiment whose artifacts the server does not keep
        direct = (f"tracking.uri='{server.database}'", "tracking.experiment=direct", "hydra.run.dir=direct")
        process = quick_cli(*SMALL, *direct)
        assert (process.returncode, process.stderr) == (0, "")
        assert PASSWORD not in process.stdout
        (found,) = client.search_runs([client.get_experiment_by_name("direct").experiment_id])
        assert found.info.status == "FINISHED"
    texts = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert [
        file for file in texts if any(secret in file.read_bytes() for secret in (b"secret@", PASSWORD.encode()))
    ] == []
