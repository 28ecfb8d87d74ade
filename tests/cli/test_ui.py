"""`python -m neurexp.ui`: its mistakes, and what it starts. The pages themselves: test_browser.py."""

import os
import sys

import pytest

from neurexp import ui


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        ui.main(list(arguments))
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_mistakes_are_one_line(tmp_path, capsys):
    line = refusal(capsys, "--outputs", str(tmp_path))
    assert (
        line == f"error: run.outputs={tmp_path}: no MLflow store there; run an experiment, or give --outputs FOLDER\n"
    )
    assert refusal(capsys, "--uri", "http://me:secret@host:5000").startswith("error: --uri=http://***@host:5000: is a ")
    assert "sqlite:///FILE" in refusal(capsys, "--uri", "sqlite://")


def test_it_names_the_runs_and_becomes_mlflows_server_on_this_machine_only(finished, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, command: started.append((program, command)))
    monkeypatch.delenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", raising=False)
    ui.main(["--outputs", str(finished.outputs), "--port", "5050"])
    printed = capsys.readouterr().out
    assert "  token_length: http://127.0.0.1:5050/#/experiments/1/runs\n" in printed
    ((program, command),) = started
    assert program == command[0] == sys.executable
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5050"
    assert command[-1] == f"sqlite:///{finished.outputs / 'mlflow.db'}"
    assert os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
