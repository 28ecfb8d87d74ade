"""Sweeps as a whole: started twice, in parallel processes, interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
from background import wait_for
from conftest import environment
from filelock import FileLock
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient
from omegaconf import OmegaConf

from neurexp import cli
from neurexp.config.schema import CONFIG_FOLDER, Backend, TrackingConfig, register_schema
from neurexp.errors import UserError
from neurexp.io.files import read_table, write_json, write_table
from neurexp.runs import resume, sweep
from neurexp.runs.sweep_table import _typed, report_of
from neurexp.tracking import tracker as tracking

CHEAP = (
    "experiment=grammar_tuning", "model=mini", "dataset=pydoc", "dataset.tokens=2048", "device.threads=1",
    "experiment.permutations=100", "experiment.splits=4", "experiment.shuffles=2",
)  # fmt: skip

SMALL = ("model=mini", "dataset=pydoc", "dataset.tokens=64", "dataset.sequence_length=32", "device.threads=1")


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
def test_jobs_whose_process_was_killed_are_ended_with_the_sweep(finished, tmp_path, status, expected):
    """As a launcher's processes are that run out of memory: nobody is left to mark them."""
    config, outputs, folder = TrackingConfig(Backend.mlflow), tmp_path / "outputs", tmp_path / "sweep"
    outputs.mkdir()
    shutil.copy(finished.outputs / "mlflow.db", outputs)  # to make one takes seconds
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
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=3")
    process = cli("-m", *launcher, *CHEAP, "experiment.layer=0,1,99", timeout=400)
    assert process.returncode == 1  # layer 99
    assert "experiment.layer=99" in process.stderr
    assert runs_in(tmp_path / "outputs") == ("FAILED", ["FINISHED"] * 2)  # the other's mistake was seen before it began
    (sweep,) = (tmp_path / "outputs" / "multirun").iterdir()
    logs = [(sweep / str(job) / "neurexp.log").read_text("utf-8") for job in range(2)]
    for name in ("Words", "Context", "Text"):
        lines = [[line for line in log.splitlines() if f"{name}: " in line and "rows" in line] for log in logs]
        assert sum(any("taken from an earlier pass" in line for line in of_job) for of_job in lines) == 1
    stored = Counter(file.name.partition("_layer_")[0] for file in (tmp_path / "outputs" / "cache").glob("passes_*"))
    assert list(stored.values()) == [6, 6, 6]


@pytest.mark.slow
def test_an_interrupted_sweep_leaves_its_runs_killed(quick_start, tmp_path):
    process = quick_start("-m", *CHEAP, "experiment.layer=0,1,2,3")
    wait_for(lambda: "taken from an earlier pass" in process.said(), process)  # in the second job
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said.splitlines()[-1]) == (130, "error: interrupted")
    assert runs_in(tmp_path / "outputs") == ("KILLED", ["FINISHED", "KILLED"])
    assert not list((tmp_path / "outputs").rglob("*.tmp*"))


@pytest.mark.slow
def test_four_jobs_at_once_on_a_fresh_store_run_one_pass_and_all_are_logged(cli, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=4")
    text = ("model=mini", "dataset=pydoc", "dataset.tokens=4096", "device.threads=1", "experiment.layer=[0,5]")
    grid = ("experiment.correction=bh,by", "model.default_layer=0,1")  # options that the pass does not depend on
    process = cli("-m", *launcher, *text, *grid, timeout=500)
    assert process.returncode == 0, process.stderr
    assert runs_in(tmp_path / "outputs", "token_length") == ("FINISHED", ["FINISHED"] * 4)
    (sweep,) = (tmp_path / "outputs" / "multirun").iterdir()
    reused = [
        json.loads((sweep / str(job) / "summary.json").read_text("utf-8"))["provenance"]["reused"] for job in range(4)
    ]
    assert sorted(reused) == [[]] + [["text"]] * 3
    cache = {"_".join(file.stem.split("_")[:2]) for file in (tmp_path / "outputs" / "cache").iterdir()}
    assert sorted(name.split("_")[0] for name in cache) == ["passes", "tokens"]
    assert not [file for file in (tmp_path / "outputs").rglob("*") if ".tmp" in file.name or "checkpoint" in file.name]


@pytest.mark.slow
def test_a_sweep_goes_on_with_the_jobs_that_did_not_finish(quick_cli, tmp_path):
    arguments = ("-m", *SMALL, "experiment.layer=0,1", "hydra.sweep.dir=sweep")
    assert quick_cli(*arguments).returncode == 0
    assert runs_in(tmp_path / "outputs", "token_length") == ("FINISHED", ["FINISHED"] * 2)
    done = (tmp_path / "sweep" / "0" / "neurons.parquet").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "sweep" / "1")  # as if it had not come to it
    sweep.note_failure(tmp_path / "sweep", 1, "the disk was full")
    process = quick_cli(*arguments)
    assert "is not empty; choose another folder" in process.stderr
    process = quick_cli("-m", *SMALL, "experiment.layer=0,1", "run.resume=true")
    assert (process.returncode, process.stderr.splitlines()) == (
        1, ["error: run.resume=true: which sweep? give hydra.sweep.dir=FOLDER"],
    )  # fmt: skip
    process = quick_cli(*arguments, "run.resume=true")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "sweep" / "0" / "neurons.parquet").stat().st_mtime_ns == done
    assert (tmp_path / "sweep" / "1" / "summary.json").exists()
    assert runs_in(tmp_path / "outputs", "token_length") == ("FINISHED", ["FINISHED"] * 3)

    jobs = [tmp_path / "sweep" / "0", tmp_path / "sweep" / "1"]
    options = [(file / ".hydra" / "overrides.yaml").read_text("utf-8") for file in jobs]
    process = quick_cli("-m", *SMALL, "experiment.layer=1,0", "hydra.sweep.dir=sweep", "run.resume=true")
    assert process.returncode == 1
    assert "job 0 was done with other options (experiment.layer=0 there, 1 here)" in process.stderr
    assert options == [(file / ".hydra" / "overrides.yaml").read_text("utf-8") for file in jobs]


@pytest.mark.slow
def test_an_interrupted_sweep_of_parallel_processes_leaves_its_runs_killed_and_goes_on(cli, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = (
        "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "model=mini", "dataset=pydoc", "device.threads=1",
        "dataset.tokens=33000", "dataset.sequence_length=64", "experiment.layer=[0,5]",
        "run.checkpoint_every=0.05", "run.reuse=false", "experiment.permutations=8,16",
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


# What the table of a sweep calls its rows: job folders as runs leave them, each row's value says whose it is


@cache
def _composed(*overrides: str):
    register_schema()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("config", ["model=mini", "dataset=pydoc", "tracking=off", *overrides])


def composed(*overrides: str):
    plain = [text for text in overrides if "." in text and not text.startswith("+")]
    config = deepcopy(_composed(*(text for text in overrides if text not in plain)))
    config.merge_with_dotlist(plain)
    return config


def job(
    sweep_folder,
    number: int,
    *overrides: str,
    layers=(0,),
    folder="",
    fails=False,
    defined="as the text says",
    **changes,
):
    """One job of a sweep: starts, and leaves a run of its options unless it fails."""
    config, run = composed(*overrides), sweep_folder / (folder or str(number))
    sweep.begin_job(sweep_folder, number, run, list(overrides), config)
    if fails:
        sweep.note_failure(sweep_folder, number, "too much")
        return
    run.mkdir(parents=True)
    values = np.array([number + layer / 100 for layer in layers])
    write_table(run / "layers.parquet", {"layer": np.array(layers), "value": values})
    (run / "columns.md").write_text(f"| `layer` | block index |\n| `value` | {defined} |\n")
    summary = {
        "experiment": "token_length", "setting": "mini on pydoc", "metrics": {"value_all": float(number)},
        "options": resume.options_of(config), "over_layers": {"value": ["value of the job", ""]},
    }  # fmt: skip
    write_json(run / "summary.json", summary | changes)


def begun(folder, *swept: str):
    """A sweep over the options that are given as they are typed."""
    hydra = {"overrides": {"task": ["model=mini", *swept]}, "sweeper": {"params": None}}
    sweep.begin(folder, OmegaConf.create({"hydra": hydra, "tracking": {"uri": None}}))
    return folder


def table_of(folder, capsys) -> dict[str, list]:
    sweep.finish(folder)
    capsys.readouterr()
    table = read_table(folder / "layers.parquet")
    columns = (folder / "columns.md").read_text("utf-8")
    assert [name for name in table if f"| `{name}` |" not in columns] == []
    # What was computed of job 3, layer 2 is 3.02
    assert table["value"].tolist() == [
        number + layer / 100 for number, layer in zip(table["job"], table["layer"], strict=True)
    ]
    return {name: values.tolist() for name, values in table.items()}


def test_rows_keep_their_jobs_number_and_options_when_one_in_the_middle_fails(tmp_path, capsys):
    folder = begun(tmp_path / "sweep", "model.name=/a/x,/b/x,/c/x")
    for number, name in enumerate("abc"):
        job(folder, number, f"model.name=/{name}/x", layers=(0, 1), fails=number == 1)
    table = table_of(folder, capsys)
    assert table["job"] == [0, 2, 0, 2]
    assert table["model.name"] == ["/a/x", "/c/x", "/a/x", "/c/x"]
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert [one["swept"] for one in summary["jobs"]] == [{"model.name": "/a/x"}, {"model.name": "/c/x"}]
    assert summary["failed"] == ["1\ttoo much"]
    assert summary["swept"] == ["model.name"]


def test_an_option_that_was_swept_is_a_column_though_one_value_is_left(tmp_path, capsys):
    folder = begun(tmp_path / "sweep", "experiment.permutations=8,16")
    job(folder, 0, "experiment.permutations=8", fails=True)
    job(folder, 1, "experiment.permutations=16")
    assert table_of(folder, capsys)["experiment.permutations"] == [16]


def test_twelve_jobs_come_in_the_order_of_their_numbers(tmp_path, capsys):
    folder = begun(tmp_path / "sweep", "run.seed=range(12)")
    for number in (11, 3, 0, 10, 2, 9, 1, 4, 5, 8, 6, 7):
        job(folder, number, f"run.seed={number + 100}")
    table = table_of(folder, capsys)
    assert table["job"] == list(range(12))
    assert table["run.seed"] == list(range(100, 112))
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert [one["job"] for one in summary["jobs"]] == [str(number) for number in range(12)]


def test_groups_lists_and_options_of_one_last_name_each_have_their_column(tmp_path, capsys):
    folder = begun(
        tmp_path / "sweep", "device=cpu,auto", "model.name=a,b", "device.name=cpu,cuda", "+extra.list=[1],[2,3]"
    )
    job(folder, 0, "device=cpu", "model.name=a", "device.name=cuda", "+extra.list=[1]")
    job(folder, 1, "device=auto", "model.name=b", "device.name=cpu", "+extra.list=[2,3]")
    table = table_of(folder, capsys)
    assert table["device"] == ["cpu", "auto"]
    assert table["model.name"] == ["a", "b"]
    assert table["device.name"] == ["cuda", "cpu"]
    assert table["extra.list"] == ["[1]", "[2, 3]"]


def test_folders_of_any_name_and_depth_are_the_jobs(tmp_path, capsys):
    """As `hydra.sweep.subdir` makes them; what lies beside them, such as MLflow's copies, is no job."""
    folder = begun(tmp_path / "sweep", "run.seed=5,6")
    job(folder, 0, "run.seed=5", folder="model=/a/x,run.seed=5")
    job(folder, 1, "run.seed=6", folder="7")
    shutil.copytree(folder / "7", folder / "0")
    shutil.copytree(folder / "7", folder / "outputs" / "mlartifacts" / "token_length" / "0123" / "artifacts")
    table = table_of(folder, capsys)
    assert (table["job"], table["run.seed"]) == ([0, 1], [5, 6])


def test_a_run_of_other_options_in_a_jobs_folder_is_no_row_of_it(tmp_path, capsys):
    folder = begun(tmp_path / "sweep", "run.seed=5,6")
    job(folder, 0, "run.seed=5")
    job(folder, 1, "run.seed=6")
    sweep._held.pop().release()
    begun(folder, "run.seed=5,7,8")  # goes on with another sweep
    with pytest.raises(UserError, match=r"job 1 was done with other options \(run.seed=6 there, 7 here\)"):
        sweep.begin_job(folder, 1, folder / "1", ["run.seed=7"], composed("run.seed=7", "run.resume=true"))
    sweep.note_failure(folder, 1, "done with other options")
    assert sweep.begin_job(folder, 0, folder / "0", ["run.seed=5"], composed("run.seed=5", "run.resume=true"))
    table = table_of(folder, capsys)
    assert (table["job"], table["run.seed"]) == ([0], [5])


def test_two_jobs_with_one_folder_are_told_so(tmp_path):
    folder = begun(tmp_path / "sweep", "run.seed=5,6")
    job(folder, 0, "run.seed=5", folder="same")
    with pytest.raises(UserError, match=r"^hydra\.sweep\.subdir: two jobs of this sweep have the folder .*run\.seed=5"):
        job(folder, 1, "run.seed=6", folder="same")


def test_a_job_whose_folder_holds_the_results_of_another_is_told(tmp_path, capsys):
    """As when two processes start jobs with one folder at the same moment."""
    folder = begun(tmp_path / "sweep", "run.seed=5,6")
    sweep.begin_job(folder, 1, folder / "same", ["run.seed=6"], composed("run.seed=6"))
    job(folder, 0, "run.seed=5", folder="same")
    assert table_of(folder, capsys)["run.seed"] == [5]
    assert sweep.failures(folder) == [f"1\t{folder / 'same'} holds no results of its options"]


def test_a_job_that_mlflow_did_not_take_is_a_row_and_is_not_drawn_as_missing(tmp_path, capsys):
    folder = begun(tmp_path / "sweep", "experiment.layer=0,1")
    for number in (0, 1):
        job(folder, number, f"experiment.layer={number}", layers=(number,))
    sweep.note_failure(folder, 1, "tracking: MLflow did not take the run")
    sweep.finish(folder)
    assert ": 2 jobs finished, 0 failed\n" in capsys.readouterr().out
    assert sweep.failures(folder) == ["1\ttracking: MLflow did not take the run"]  # and so the exit code is 1
    assert table_of(folder, capsys)["job"] == [0, 1]


def test_values_that_look_like_numbers_keep_apart_what_the_jobs_had():
    assert _typed(["7", "007", "1_000"]).tolist() == ["7", "007", "1_000"]
    assert _typed(["1e-05", "3"]).tolist() == [1e-05, 3.0]
    assert _typed(["1", "1" + "0" * 30]).tolist() == ["1", "1" + "0" * 30]


def test_columns_that_only_some_jobs_have_are_named(tmp_path, capsys):
    folder = begun(tmp_path / "sweep", "run.seed=5,6")
    for number in (0, 1):
        job(folder, number, f"run.seed={number + 5}")
    table = read_table(folder / "1" / "layers.parquet")
    write_table(folder / "1" / "layers.parquet", table | {"more": table["value"]})
    assert "more" not in table_of(folder, capsys)
    report = report_of(sweep._finished(folder), folder, ["run.seed"], [])
    assert report.findings[-1] == "Columns that only some jobs have are in their own tables alone: more"


def test_the_end_of_a_sweep_that_goes_on_forgets_why_it_failed_and_other_stores_runs(finished, tmp_path, capsys):
    """A job that was killed while the sweep was tracked elsewhere has a run that this store does not know."""
    config, outputs, folder = (
        TrackingConfig(Backend.mlflow),
        tmp_path / "outputs",
        begun(tmp_path / "sweep", "run.seed=5"),
    )
    outputs.mkdir()
    shutil.copy(finished.outputs / "mlflow.db", outputs)
    parent = str(sweep.parent(config, outputs, "token_length", folder))
    job(folder, 0, "run.seed=5", fails=True)
    sweep.finish(folder)
    client = MlflowClient(tracking_uri=f"sqlite:///{outputs / 'mlflow.db'}")
    assert client.get_run(parent).data.tags["reason"] == "0: too much"
    sweep._held.pop().release()
    begun(folder, "run.seed=5")
    assert sweep.parent(config, outputs, "token_length", folder) == parent
    assert client.get_run(parent).info.status == "RUNNING"
    job(folder, 0, "run.seed=5")
    note = {"options": {}, "started": 1.0, "run_id": "0" * 32}
    (folder / "0" / "checkpoint.json").write_text(json.dumps(note))
    sweep.finish(folder)
    run = client.get_run(parent)
    assert (run.info.status, "reason" in run.data.tags) == ("FINISHED", False)
    # The parent's note and metrics are the sweep's, and those by layer are called so
    assert run.data.tags["mlflow.note.content"] == "- The value of the job is largest in layer 0: 0"
    assert run.data.metrics == {"value_most": 0, "value_most_layer": 0, "by_layer/value": 0}


def test_what_jobs_define_differently_is_defined_for_each(tmp_path, capsys):
    folder = begun(tmp_path / "sweep", "experiment.correction=bh,by")
    job(folder, 0, "experiment.correction=bh", defined="Benjamini-Hochberg")
    job(folder, 1, "experiment.correction=by", defined="Benjamini-Yekutieli")
    table_of(folder, capsys)
    assert "| `value` | job 0: Benjamini-Hochberg; job 1: Benjamini-Yekutieli |" in (folder / "columns.md").read_text()


def test_only_a_sweep_over_layers_alone_is_drawn_over_layers(tmp_path, capsys):
    folder = begun(tmp_path / "sweep", "experiment.layer=0,1,2")
    for number in (0, 1, 2):
        job(folder, number, f"experiment.layer={number}", layers=(number,), fails=number == 1)
    jobs = sweep._finished(folder)
    report = report_of(jobs, folder, ["experiment.layer"], [one for one in sweep.jobs_in(folder) if one.error])
    assert (report.step_column, list(report.figures)) == ("layer", ["over_layers"])
    assert report.findings == ["The value of the job is largest in layer 2: 2.02"]
    texts = report.figures["over_layers"]().findobj(lambda artist: hasattr(artist, "get_text"))
    assert "job 1 (experiment.layer=1) failed" in " ".join(text.get_text().replace("\n", " ") for text in texts)

    folder = begun(tmp_path / "other", "model.name=a,b")  # each has one layer, another one
    job(folder, 0, "model.name=a", "experiment.layer=0", layers=(0,))
    job(folder, 1, "model.name=b", "experiment.layer=1", layers=(1,))
    report = report_of(sweep._finished(folder), folder, ["model.name"], [])
    assert (report.step_column, report.figures) == (None, {})
    assert report.findings == ["The value of the job is largest in layer 1 of job 1 (model.name=b): 1.01"]
    assert report.metrics == {"value_most": 1.01, "value_most_layer": 1, "value_most_job": 1}


def test_a_sweep_over_seeds_has_their_means_and_ranges(tmp_path, capsys):
    folder = begun(tmp_path / "sweep", "run.seed=5,6,7")
    for number in range(3):
        job(folder, number, f"run.seed={number + 5}", layers=(0, 1))
    table_of(folder, capsys)
    by_layer, metrics = (read_table(folder / f"{name}.parquet") for name in ("seeds", "seeds_metrics"))
    each = np.array([[number + layer / 100 for number in range(3)] for layer in (0, 1)])
    assert by_layer["column"].tolist() == ["value", "value"]
    assert by_layer["mean"] == pytest.approx(each.mean(1))
    assert by_layer["sd"] == pytest.approx(each.std(1, ddof=1))
    assert (by_layer["smallest"].tolist(), by_layer["largest"].tolist()) == ([0, 0.01], [2, 2.01])
    assert {name: values.tolist() for name, values in metrics.items()} == {
        "metric": ["value_all"], "jobs": [3], "mean": [1], "sd": [1], "smallest": [0], "largest": [2],
    }  # fmt: skip
    report = report_of(sweep._finished(folder), folder, ["run.seed"], [])
    report.check()
    assert report.findings == [
        "Over 3 seeds, the value of the job is largest in layer 1: 1.01 on average (0.01 to 2.01); "
        "value_all: 1 on average (0 to 2)"
    ]
    assert report.metrics == {
        "value_most": 1.01, "value_most_layer": 1, "value_most_smallest": 0.01, "value_most_largest": 2.01
    }  # fmt: skip
    axes = report.figures["over_seeds"]().axes[0]
    assert axes.get_lines()[0].get_ydata().tolist() == [1.0, 1.01]
    ends = [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()]
    assert ends == [pytest.approx([0, 2]), pytest.approx([0.01, 2.01])]


def test_seeds_are_summed_up_within_the_values_of_other_options(tmp_path, capsys):
    folder = begun(tmp_path / "sweep", "run.seed=5,6", "dataset.tokens=512,1024")
    for number, (seed, tokens) in enumerate(((5, 512), (6, 512), (5, 1024), (6, 1024))):
        job(folder, number, f"run.seed={seed}", f"dataset.tokens={tokens}")
    table_of(folder, capsys)
    by_layer = read_table(folder / "seeds.parquet")
    assert by_layer["dataset.tokens"].tolist() == [512, 1024]
    assert by_layer["mean"].tolist() == [0.5, 2.5]
    report = report_of(sweep._finished(folder), folder, ["run.seed", "dataset.tokens"], [])
    assert "of job 3" in report.findings[0]  # of all options together there is no mean over seeds
    assert report.figures == {}


def test_a_run_in_mlflow_is_called_by_what_was_swept_and_by_nothing_else(tmp_path):
    folder = begun(tmp_path / "sweep", "+pair=a,b", "model.name='/x y/m',/z/m", "dataset.tokens=512")
    overrides = ["model=mini", "+pair=a", "model.name='/x y/m'", "dataset.tokens=512"]
    assert sweep.varied(folder, overrides) == ["pair=a", "model.name='/x y/m'"]


def test_a_sweep_that_ended_before_its_first_job_leaves_its_folder_to_the_next(tmp_path):
    folder = begun(tmp_path / "sweep", "run.seed=5,6")
    (folder / "multirun.yaml").write_text("")
    assert not sweep.is_used(folder)
    job(folder, 0, "run.seed=5", fails=True)
    assert sweep.is_used(folder)


def test_a_store_that_does_not_take_the_sweep_leaves_its_table_and_says_what_to_do(tmp_path, capsys):
    folder = begun(tmp_path / "sweep", "run.seed=5,6")
    job(folder, 0, "run.seed=5")
    write_json(folder / "parent.json", {"run_id": "0123", "store": "http://***@127.0.0.1:9"})
    with pytest.raises(UserError, match=r"the password of .*; give tracking\.uri=ADDRESS\); .* run\.resume=true"):
        sweep.finish(folder)
    assert read_table(folder / "layers.parquet")["job"].tolist() == [0]
    capsys.readouterr()
    assert not cli._end_sweep(folder, None)
    output = capsys.readouterr()
    assert "What did not finish" not in output.out  # all jobs did
    assert len(output.err.splitlines()) == 1


@pytest.mark.slow
def test_presets_pair_options_and_each_job_can_be_done_again(quick_cli, tmp_path):
    """A sweep over pairs: a folder of presets of the user's own, each of which sets several options."""
    pairs = tmp_path / "presets" / "pair"
    pairs.mkdir(parents=True)
    (tmp_path / "a.txt").write_text("She sells sea shells by the sea shore, and the shells are hers.\n" * 60)
    head = "# @package _global_\ndefaults:\n"
    (pairs / "a.yaml").write_text(
        f"{head}  - override /dataset: text\ndataset:\n  path: a.txt\nexperiment:\n  layer: 1\n"
    )
    (pairs / "b.yaml").write_text(f"{head}  - override /dataset: pydoc\nexperiment:\n  layer: 4\n")
    options = (
        "model=mini",
        "dataset.tokens=256",
        "dataset.sequence_length=64",
        "tracking=off",
        "hydra.sweep.dir=sweep",
    )
    process = quick_cli("-m", "--config-dir", "presets", "+pair=a,b", *options)
    assert process.returncode == 0, process.stderr
    table = {name: values.tolist() for name, values in read_table(tmp_path / "sweep" / "layers.parquet").items()}
    assert (table["job"], table["pair"], table["layer"]) == ([0, 1], ["a", "b"], [1, 4])
    assert table["dataset.source"] == ["files", "pydoc"]
    again = quick_cli("sweep/0", module="neurexp.rerun")
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "Results are identical."), again.stderr
