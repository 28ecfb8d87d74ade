"""Runs that are killed go on, by the command line, and end with the bits of a run that was not."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from background import process_of_rank, start, wait_for
from filelock import FileLock
from mlflow import MlflowClient
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from neurexp.cli import discard_if_empty
from neurexp.engine.checkpoint import _hash
from neurexp.runs import resume

# Long enough to be killed in, 131 batches: a second or two on an idle machine
LONG = (
    "model=mini", "dataset=pydoc", "dataset.tokens=33000", "dataset.sequence_length=64", "device=cpu",
    "device.threads=1", "device.batch_size=4", "run.reuse=false", "run.checkpoint_every=0.05",
    "experiment.layer=[0,5]",  # all of the forward, and a third of what comes after the pass
)  # fmt: skip
SHORT = ("model=mini", "dataset=pydoc", "dataset.tokens=600", "dataset.sequence_length=64", "device=cpu")
FILES = (
    "neurons.parquet",
    "layers.parquet",
    "histograms.safetensors",
    "tokens.safetensors",
    "length_curves.safetensors",
)


def kill_in_the_pass(start_command, folder: Path, *arguments: str) -> Path:
    """Kills a run after its first checkpoint; the run folder."""
    process = start_command(*arguments)
    wait_for(lambda: list(folder.glob("outputs/token_length/*/checkpoint_*.safetensors")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (run,) = folder.glob("outputs/token_length/*")
    return run


def summary_of(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text("utf-8"))


def runs_in(folder: Path) -> list:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'outputs' / 'mlflow.db'}")
    return client.search_runs([client.get_experiment_by_name("token_length").experiment_id])


def assert_same_bits(run: Path, other: Path) -> None:
    for name in FILES:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert summary_of(run)["metrics"] == summary_of(other)["metrics"]
    assert summary_of(run)["findings"] == summary_of(other)["findings"]


@pytest.fixture(scope="module")
def whole(commands, tmp_path_factory) -> Path:
    """The long run, without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    process = commands.run([*LONG, "run.checkpoint_every=0", "tracking=off", "hydra.run.dir=run"], folder)
    assert process.returncode == 0, process.stderr
    return folder / "run"


def test_a_killed_run_goes_on_in_its_folder_and_its_mlflow_run(whole, quick_cli, quick_start, tmp_path):
    run = kill_in_the_pass(quick_start, tmp_path, *LONG)
    (before,) = runs_in(tmp_path)
    assert before.info.status == "RUNNING"
    (run / "figures").mkdir()
    for left in (run / ".neurons.parquet.17.tmp", run / "figures" / ".r_map.png.17.tmp"):  # of the killed process
        left.write_text("half")
    process = quick_cli(*LONG, "run.resume=true")
    assert process.returncode == 0, process.stderr
    assert "Going on with the run of 20" in process.stdout
    assert list(tmp_path.glob("outputs/token_length/*")) == [run]
    assert_same_bits(run, whole)
    assert 0 < summary_of(run)["provenance"]["resumed"]["text"] < 131
    assert summary_of(whole)["provenance"]["resumed"] == {}
    (after,) = runs_in(tmp_path)
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert summary_of(run)["mlflow_run_id"] == after.info.run_id
    assert not [path for path in run.rglob("*") if "checkpoint" in path.name or path.name.endswith(".tmp")]
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    logged = {entry.path for entry in client.list_artifacts(after.info.run_id)}
    assert logged == {path.name for path in run.iterdir()}


@pytest.mark.slow
def test_a_folder_that_is_named_goes_on_and_other_options_are_refused_by_name(whole, quick_cli, quick_start, tmp_path):
    run = kill_in_the_pass(quick_start, tmp_path, *LONG)
    (tmp_path / "outputs" / "token_length" / "newer").mkdir()  # an unfinished run of other options
    note = {"options": {"run.seed": "7"}, "started": time.time()}
    (tmp_path / "outputs" / "token_length" / "newer" / "checkpoint.json").write_text(json.dumps(note))
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    named = f"hydra.run.dir={run}"

    process = quick_cli(*LONG, named)  # without run.resume: nothing is written over
    assert (process.returncode, process.stderr) == (
        1, f"error: hydra.run.dir={run}: holds an unfinished run; run.resume=true goes on with it\n",
    )  # fmt: skip
    for option, there in (
        ("dataset.tokens=33001", "33000"),
        ("run.seed=3", "0"),
        ("device.batch_size=8", "4"),
        ("experiment.bins=32", "96"),
        ("model.weights=random", "pretrained"),
    ):
        process = quick_cli(*LONG, named, "run.resume=true", option)
        name, _, here = option.partition("=")
        assert process.returncode == 1
        (line,) = process.stderr.splitlines()
        assert line.startswith(f"error: run.resume=true: the run in {run} has other options ({name}={there} there, ")
        assert f"{name}={there} there, {here} here" in line
    assert kept == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    process = quick_cli(*LONG, named, "run.resume=true", "tracking=off")  # where it is logged changes no result
    assert process.returncode == 0, process.stderr
    assert_same_bits(run, whole)


@pytest.mark.slow
def test_a_checkpoint_of_other_weights_is_refused(quick_cli, quick_start, tmp_path):
    run = kill_in_the_pass(quick_start, tmp_path, *LONG)
    newest = sorted(run.glob("checkpoint_*.safetensors"))[-1]
    # As it would be if the code had changed since: the key stands in the file's metadata

    with safe_open(newest, "pt") as opened:
        key = json.loads(opened.metadata()["key"])
    save_file(load_file(newest), run / "other", {"key": json.dumps(key | {"weights": "others"})})
    (run / "other").rename(run / f"checkpoint_text_000000999_{_hash(run / 'other')}.safetensors")
    process = quick_cli(*LONG, "run.resume=true")
    assert process.returncode == 1
    line = process.stderr.splitlines()[0]
    assert line.startswith("error: run.resume=true: ")
    assert "is of another pass, which differs in weights" in line
    assert newest.exists()


@pytest.mark.slow
def test_without_an_unfinished_run_a_fresh_one_starts_and_says_so(quick_cli, tmp_path):
    process = quick_cli(*SHORT, "run.resume=true")
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("run.resume=true: no unfinished run in outputs/token_length; a fresh run starts")
    folder = tmp_path / "outputs" / "token_length" / "unfinished"
    folder.mkdir()
    (folder / "checkpoint.json").write_text(json.dumps({"options": {"dataset.tokens": "5"}, "started": 1.0}))
    process = quick_cli(*SHORT, "run.resume=true")
    assert process.returncode == 0, process.stderr
    assert "no unfinished run with these options (the latest, outputs/token_length/unfinished: " in process.stdout
    process = quick_cli(*SHORT, "run.resume=true", "hydra.run.dir=elsewhere")
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("run.resume=true: elsewhere holds no unfinished run; a fresh run starts")
    process = quick_cli(*SHORT, "run.resume=true", "hydra.run.dir=elsewhere")
    assert (process.returncode, process.stderr) == (
        1, "error: hydra.run.dir=elsewhere: holds a finished run; choose another folder\n",
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_that_is_under_way_is_not_joined(quick_cli, quick_start, tmp_path):
    process = quick_start(*LONG)
    wait_for(lambda: list(tmp_path.glob("outputs/token_length/*/checkpoint_*.safetensors")), process)
    os.kill(process.pid, signal.SIGSTOP)  # a laptop that sleeps
    try:
        (run,) = tmp_path.glob("outputs/token_length/*")
        second = quick_cli(*LONG, "run.resume=true", f"hydra.run.dir={run}")
        assert (second.returncode, second.stderr) == (
            1, f"error: hydra.run.dir={run}: another process is at work in it\n",
        )  # fmt: skip
        assert run.exists()
        assert resume._latest(run.parent, {})[0] is None
    finally:
        os.kill(process.pid, signal.SIGCONT)
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert (run / "summary.json").exists()


def test_a_run_that_was_ended_while_it_was_logged_is_logged_and_not_run_again(quick_cli, tmp_path):
    assert quick_cli(*SHORT).returncode == 0
    (run,) = tmp_path.glob("outputs/token_length/*")
    (before,) = runs_in(tmp_path)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    client.update_run(before.info.run_id, status="RUNNING")
    options = resume.options_of(OmegaConf.load(run / ".hydra" / "config.yaml"))
    note = {"options": options, "started": time.time(), "run_id": before.info.run_id}
    (run / "checkpoint.json").write_text(json.dumps(note))
    process = quick_cli(*SHORT, "run.resume=true")
    assert process.returncode == 0, process.stderr
    assert "Text:" not in process.stdout
    assert [one.info.status for one in runs_in(tmp_path)] == ["FINISHED"]
    assert not list(run.glob("checkpoint*"))


def test_a_run_that_only_began_is_not_taken_from_the_process_at_work_in_it(tmp_path):
    """The second of two commands that start at once finds the folder taken, and must leave it."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "checkpoint.json").write_text('{"options": {}, "started": 1.0}')
    with FileLock(tmp_path / "checkpoint.lock"):
        discard_if_empty(tmp_path)
        assert (tmp_path / "checkpoint.json").exists()
    discard_if_empty(tmp_path)
    assert not tmp_path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])  # two: batches side by side
def test_ctrl_c_says_how_to_go_on_and_leaves_no_half_file(
    threads, whole, quick_cli, quick_start, tmp_path, tmp_path_factory
):
    options = [*LONG, f"device.threads={threads}"]
    if threads > 1:
        whole = tmp_path_factory.mktemp("threads") / "whole"
        process = quick_cli(*options, f"hydra.run.dir={whole}")
        assert process.returncode == 0, process.stderr
        (tmp_path / "outputs").rename(tmp_path / "of_the_whole")
    process = quick_start(*options)
    wait_for(lambda: list(tmp_path.glob("outputs/token_length/*/checkpoint_*.safetensors")), process)
    os.kill(process.pid, signal.SIGTERM)  # as Ctrl-C, which a shell's background job would ignore
    output, _ = process.communicate()
    assert process.returncode == 130, output
    (run,) = tmp_path.glob("outputs/token_length/*")
    told = output.splitlines()
    assert told[-1] == "error: interrupted"
    assert told[-2].endswith(f"add run.resume=true hydra.run.dir={run} to go on")
    assert [one.info.status for one in runs_in(tmp_path)] == ["KILLED"]
    assert not list((tmp_path / "outputs").rglob("*.tmp"))
    process = quick_cli(*options, "run.resume=true", f"hydra.run.dir={run}")
    assert process.returncode == 0, process.stderr
    assert_same_bits(run, whole)
    assert [one.info.status for one in runs_in(tmp_path)] == ["FINISHED"]


@pytest.mark.slow
def test_a_run_killed_at_eight_random_points_has_the_same_bits(whole, quick_start, tmp_path):
    dice = random.Random(os.environ.get("NEUREXP_KILLS_SEED", "20261124"))
    arguments = [*LONG, "run.resume=true"]
    began = time.monotonic()
    process = quick_start(*arguments)  # how long a start takes here, and a whole run
    wait_for(lambda: list(tmp_path.glob("outputs/token_length/*/checkpoint_*.safetensors")), process)
    to_first = time.monotonic() - began
    kills = resumed = 0
    while kills < 8:
        if kills:
            process = quick_start(*arguments)
            # Anywhere from the command's start to the middle of the pass, more often in the pass
            time.sleep(dice.uniform(0.0, 0.5 * to_first) if dice.random() < 0.3 else dice.uniform(0.6, 1.2) * to_first)
        running = process.poll() is None
        process.kill()
        output, _ = process.communicate()
        resumed += "Going on with the run of" in output
        if not running:  # it had ended before: a new one begins
            assert process.returncode == 0, output
            continue
        kills += 1
    # The last kill may have come a moment after a run's end, or before the next had begun: then a fresh one starts
    left = [file.parent for file in tmp_path.glob("outputs/token_length/*/checkpoint.json")]
    process = quick_start(*arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert len(left) <= 1
    assert ("Going on with the run of" in output) == bool(left), output
    assert resumed >= 2
    runs = [file.parent for file in tmp_path.glob("outputs/token_length/*/summary.json")]
    assert any(summary_of(run)["provenance"]["resumed"] for run in runs)
    for other in set(tmp_path.glob("outputs/token_length/*")) - set(runs):  # killed before a run began in it
        names = {path.name for path in other.iterdir() if not path.name.startswith(".checkpoint.json")}
        assert names <= {".hydra", "neurexp.log", "checkpoint.lock"}
    for run in runs:
        assert_same_bits(run, whole)
        assert not [path for path in run.rglob("*") if "checkpoint" in path.name or path.name.endswith(".tmp")]
    assert sorted(one.info.status for one in runs_in(tmp_path)) == ["FINISHED"] * len(runs)


@pytest.mark.slow
def test_processes_of_torchrun_go_on_likewise(tmp_path):
    command = (str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node=2", "--standalone", "-m", "neurexp")
    process = start(tmp_path, *LONG, "hydra.run.dir=whole", command=command)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    process = start(tmp_path, *LONG, f"hydra.run.dir={tmp_path}/killed", command=command)
    wait_for(lambda: len({file.name[:20] for file in tmp_path.glob("killed/checkpoint_*.safetensors")}) == 2, process)
    os.kill(process_of_rank(1, tmp_path), signal.SIGKILL)
    output, _ = process.communicate(timeout=30)
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: torchrun: process 1 of 2, on ")
    assert (
        f"has ended without a word: it was killed, or its machine failed; add run.resume=true hydra.run.dir={tmp_path}"
        in line
    )
    process = start(tmp_path, *LONG, f"hydra.run.dir={tmp_path}/killed", "run.resume=true", command=command)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Going on with the run of" in output
    assert_same_bits(tmp_path / "killed", tmp_path / "whole")
