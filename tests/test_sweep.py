"""Sweeps as a whole: started twice, in parallel processes, interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import environment
from filelock import FileLock
from mlflow import MlflowClient

from neurexp import sweep, tracking
from neurexp.config import Backend, TrackingConfig

CHEAP = (
    "experiment=grammar_tuning", "model=mini", "dataset=pydoc", "dataset.tokens=2048", "device.threads=1",
    "experiment.permutations=100", "experiment.splits=4", "experiment.shuffles=2",
)  # fmt: skip


def runs_in(outputs, name="grammar_tuning"):
    """Status of the parent, and the statuses of its children."""
    client = MlflowClient(tracking_uri=f"sqlite:///{outputs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1
    return parent.info.status, sorted(run.info.status for run in children)


def test_a_sweep_folder_is_not_used_twice(quick_cli, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "parent.json").write_text("{}")
    process = quick_cli("-m", *CHEAP, "experiment.layer=0,1", "hydra.sweep.dir=sweep")
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: hydra.sweep.dir=")
    assert line.endswith("is not empty; choose another folder")
    assert [file.name for file in (tmp_path / "sweep").iterdir()] == ["parent.json"]


@pytest.mark.parametrize(("status", "expected"), [("KILLED", "KILLED"), ("FAILED", "FAILED")])
def test_jobs_whose_process_was_killed_are_ended_with_the_sweep(tmp_path, status, expected):
    """As a launcher's processes are that run out of memory: nobody is left to mark them."""
    config, outputs, folder = TrackingConfig(Backend.mlflow), tmp_path / "outputs", tmp_path / "sweep"
    parent = sweep.parent(config, outputs, "token_length", folder)
    jobs = [tracking.start(config, outputs, "token_length", f"job {job}", {}, parent=parent) for job in range(3)]
    for number, job in enumerate(jobs):
        (folder / str(number)).mkdir()
        sweep.note_failure(folder, number, "killed")
        note = {"options": {}, "started": 1.0, "run_id": job.run_id}
        (folder / str(number) / "checkpoint.json").write_text(json.dumps(note))
    jobs[0].finish("FINISHED")
    with FileLock(folder / "1" / "checkpoint.lock"):  # still at work
        sweep.finish(folder, status)
    found = [job.status for job in jobs]
    assert found == ["FINISHED", "RUNNING", expected]


@pytest.mark.slow
def test_jobs_in_parallel_processes_share_one_capture_and_one_parent(cli, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=4")
    process = cli("-m", *launcher, *CHEAP, "experiment.layer=0,1,2,99", timeout=400)
    assert process.returncode == 1  # layer 99
    assert "experiment.layer=99" in process.stderr
    assert runs_in(tmp_path / "outputs") == ("FAILED", ["FAILED", "FINISHED", "FINISHED", "FINISHED"])
    (sweep,) = (tmp_path / "outputs" / "multirun").iterdir()
    logs = [(sweep / str(job) / "neurexp.log").read_text("utf-8") for job in range(3)]
    assert sum("Words: 200 rows" in log for log in logs) == 1
    assert sum("Taken from an earlier capture: words, context, text" in log for log in logs) == 2
    for folder in (tmp_path / "outputs" / "cache").glob("rows_*"):
        assert len(list(folder.glob("*.safetensors"))) == 6


@pytest.mark.slow
def test_an_interrupted_sweep_leaves_its_runs_killed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "neurexp", "-m", *CHEAP, "experiment.layer=0,1,2,3"],
        cwd=tmp_path,
        env=environment(tmp_path / "hf", PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert process.stdout is not None
    assert any(line.startswith("Taken from an earlier capture") for line in process.stdout)  # in the second job
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.splitlines()[-1]) == (130, "error: interrupted")
    assert runs_in(tmp_path / "outputs") == ("KILLED", ["FINISHED", "KILLED"])
    assert not list((tmp_path / "outputs").rglob("*.tmp*"))


@pytest.mark.slow
def test_eight_jobs_at_once_on_a_fresh_store_run_one_pass_and_all_are_logged(cli, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=8")
    text = ("model=mini", "dataset=pydoc", "dataset.tokens=4096", "device.threads=1")
    grid = ("experiment.correction=bh,by", "model.default_layer=0,1,2,3")  # options that the pass does not depend on
    process = cli("-m", *launcher, *text, *grid, timeout=500)
    assert process.returncode == 0, process.stderr
    assert runs_in(tmp_path / "outputs", "token_length") == ("FINISHED", ["FINISHED"] * 8)
    (sweep,) = (tmp_path / "outputs" / "multirun").iterdir()
    reused = [
        json.loads((sweep / str(job) / "summary.json").read_text("utf-8"))["provenance"]["reused"] for job in range(8)
    ]
    assert sorted(reused) == [[]] + [["Text"]] * 7
    cache = [file.name for file in (tmp_path / "outputs" / "cache").iterdir()]
    assert sorted(name.split("_")[0] for name in cache) == ["statistics", "tokens"]
    assert not [file for file in (tmp_path / "outputs").rglob("*") if ".tmp" in file.name or "checkpoint" in file.name]


@pytest.mark.slow
def test_a_sweep_goes_on_with_the_jobs_that_did_not_finish(cli, tmp_path):
    arguments = ("-m", *CHEAP, "experiment.layer=0,1", "hydra.sweep.dir=sweep")
    assert cli(*arguments).returncode == 0
    assert runs_in(tmp_path / "outputs") == ("FINISHED", ["FINISHED"] * 2)
    done = (tmp_path / "sweep" / "0" / "neurons.parquet").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "sweep" / "1")  # as if it had not come to it
    sweep.note_failure(tmp_path / "sweep", 1, "the disk was full")
    process = cli(*arguments)
    assert "is not empty; choose another folder" in process.stderr
    process = cli("-m", *CHEAP, "experiment.layer=0,1", "run.resume=true")
    assert (process.returncode, process.stderr.splitlines()) == (
        1, ["error: run.resume=true: which sweep? give hydra.sweep.dir=FOLDER"],
    )  # fmt: skip
    process = cli(*arguments, "run.resume=true")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "sweep" / "0" / "neurons.parquet").stat().st_mtime_ns == done
    assert (tmp_path / "sweep" / "1" / "summary.json").exists()
    assert runs_in(tmp_path / "outputs") == ("FINISHED", ["FINISHED"] * 3)

    jobs = [tmp_path / "sweep" / "0", tmp_path / "sweep" / "1"]
    options = [(file / ".hydra" / "overrides.yaml").read_text("utf-8") for file in jobs]
    process = cli("-m", *CHEAP, "experiment.layer=1,0", "hydra.sweep.dir=sweep", "run.resume=true")
    assert process.returncode == 1
    assert "job 0 was done with other options (experiment.layer=0 there, 1 here)" in process.stderr
    assert options == [(file / ".hydra" / "overrides.yaml").read_text("utf-8") for file in jobs]


@pytest.mark.slow
def test_an_interrupted_sweep_of_parallel_processes_leaves_its_runs_killed_and_goes_on(cli, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = (
        "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "model=mini", "dataset=pydoc", "device.threads=1",
        "dataset.tokens=33000", "run.checkpoint_every=0.05", "run.reuse=false", "experiment.permutations=8,16",
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "neurexp", *arguments],
        cwd=tmp_path,
        env=environment(tmp_path / "hf"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    while len(list(tmp_path.glob("outputs/multirun/*/*/checkpoint_*.safetensors"))) == 0:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    (sweep,) = (tmp_path / "outputs" / "multirun").iterdir()
    assert f"add run.resume=true hydra.sweep.dir={sweep} to try it again" in output
    status, jobs = runs_in(tmp_path / "outputs", "token_length")
    assert status == "KILLED"
    assert set(jobs) <= {"KILLED", "FINISHED"}
    assert not [file for file in (tmp_path / "outputs").rglob("*") if ".tmp" in file.name]
    again = cli(*arguments, "run.resume=true", f"hydra.sweep.dir={sweep}", timeout=400)
    assert again.returncode == 0, again.stderr
    assert runs_in(tmp_path / "outputs", "token_length") == ("FINISHED", ["FINISHED"] * 2)
