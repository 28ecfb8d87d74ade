"""What lies in MLflow and in the run folder after a run, good or bad."""

import importlib
import json
import os
import signal
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from background import wait_for
from pyarrow import parquet

from neurexp.config.schema import Backend, TrackingConfig
from neurexp.errors import UserError
from neurexp.io.files import whole_file, write_json, write_table
from neurexp.report.clock import Stopwatch
from neurexp.report.folder import write_report
from neurexp.report.report import Report
from neurexp.runs.resume import redact
from neurexp.tracking.tracker import Tracker, log_later, start

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mlflow's own, about SQLAlchemy
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    from mlflow import MlflowClient
    from mlflow.entities import Run

SMALL = ("model=mini", "dataset=pydoc", "dataset.tokens=64", "dataset.sequence_length=32")


def store_of(outputs: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{outputs / 'mlflow.db'}")


def runs_in(outputs: Path) -> list[Run]:
    client = store_of(outputs)
    experiment = client.get_experiment_by_name("token_length")
    assert experiment is not None
    return client.search_runs([experiment.experiment_id])


@pytest.fixture(scope="module")
def tracked(finished) -> Run:
    (run,) = runs_in(finished.outputs)
    return run


def test_the_run_is_finished_and_is_the_one_that_the_summary_names(finished, tracked):
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_id == json.loads((finished.folder / "summary.json").read_text())["mlflow_run_id"]
    assert tracked.info.run_name == "mini on pydoc"
    assert tracked.info.end_time >= tracked.info.start_time


def test_the_parameters_are_the_resolved_config(tracked):
    parameters = tracked.data.params
    for name, value in {
        "model.name": "mini",
        "model.weights": "pretrained",
        "device.name": "cpu",
        "device.dtype": "float32",
        "dataset.tokens": "1200",
        "dataset.sequence_length": "256",
        "dataset.source": "pydoc",
        "experiment.name": "token_length",
        "experiment.layer": "all",
        "experiment.bins": "96",
        "run.seed": "0",
    }.items():
        assert parameters[name] == value, name


def test_the_metrics_are_those_of_the_summary_and_of_every_layer_by_step(finished, tracked):
    client = store_of(finished.outputs)
    headline = json.loads((finished.folder / "summary.json").read_text())["metrics"]
    layers = parquet.read_table(finished.folder / "layers.parquet").to_pydict()
    assert set(tracked.data.metrics) == set(headline) | set(layers) - {"layer"}
    for name, value in headline.items():
        assert tracked.data.metrics[name] == value
    for name in set(layers) - {"layer"}:
        history = client.get_metric_history(tracked.info.run_id, name)
        logged = {metric.step: metric.value for metric in history}
        expected = dict(zip(layers["layer"], layers[name], strict=True))
        assert logged == {layer: value for layer, value in expected.items() if np.isfinite(value)}, name


def test_the_tags_say_what_was_run_where(finished, tracked):
    provenance = json.loads((finished.folder / "summary.json").read_text())["provenance"]
    tags = tracked.data.tags
    assert (tags["experiment"], tags["model"], tags["dataset"], tags["device"]) == (
        "token_length",
        "mini",
        "pydoc",
        "cpu",
    )
    assert tags["run_folder"] == str(finished.folder)
    assert tags["token_hash"] == provenance["token_hash"]
    assert tags["git_commit"] == str(provenance["git_commit"])
    assert "reason" not in tags


def test_the_dataset_is_an_input_of_the_run(finished, tracked):
    (given,) = tracked.inputs.dataset_inputs
    provenance = json.loads((finished.folder / "summary.json").read_text())["provenance"]
    assert (given.dataset.name, given.dataset.source_type) == ("pydoc", "pydoc")
    assert provenance["token_hash"].startswith(given.dataset.digest)


def test_the_artifacts_are_the_run_folders_files(finished, tracked):
    artifacts = finished.outputs / "mlartifacts" / "token_length" / tracked.info.run_id / "artifacts"
    assert tracked.info.artifact_uri == artifacts.as_uri()
    files, copies = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (finished.folder, artifacts)
    )
    assert set(copies) == set(files)
    log = Path("neurexp.log")  # goes on for a few lines after the copy is made
    assert files.pop(log).startswith(copies.pop(log))
    assert copies == files


def test_nothing_else_lies_beside_the_outputs(finished):
    assert {path.name for path in finished.outputs.parent.iterdir()} == {"outputs"}
    beside = {path.name for path in finished.outputs.iterdir()}
    assert beside == {"mlflow.db", "mlartifacts", "token_length", "cache"}


@pytest.fixture(scope="module")
def several(commands, tmp_path_factory) -> tuple[Path, list[subprocess.CompletedProcess[str]], list[Run]]:
    """Into one store: a run with too little text, one whose mistake is seen before, and a sweep over two layers."""
    where = tmp_path_factory.mktemp("several")
    processes = [
        commands.run(arguments, where)
        for arguments in (
            ("model=mini", "dataset=pydoc", "dataset.tokens=10000000"),
            (*SMALL, "experiment.layer=99"),
            ("--multirun", *SMALL, "experiment.layer=0,1", "hydra.job.chdir=true"),  # which moves nothing of ours
        )
    ]
    return where / "outputs", processes, sorted(runs_in(where / "outputs"), key=lambda run: run.info.start_time)


def test_a_run_that_fails_after_its_start_is_marked_with_the_reason(several):
    outputs, processes, runs = several
    for process in processes[:2]:
        assert process.returncode == 1
        assert len(process.stderr.splitlines()) == 1
    assert runs[0].info.status == "FAILED"
    assert runs[0].data.tags["reason"] == processes[0].stderr.strip().replace("error:", "UserError:")
    assert runs[0].info.end_time is not None
    assert "dataset.tokens=10000000" in runs[0].data.tags["reason"]
    assert not list((outputs / "token_length").iterdir())


def test_a_sweep_logs_a_run_per_job_and_earlier_failures_spoil_nothing(several):
    outputs, processes, runs = several
    assert processes[2].returncode == 0
    assert [run.info.status for run in runs] == ["FAILED", "FINISHED", "FINISHED", "FINISHED"]
    parent, *children = runs[1:]
    assert [run.data.params["experiment.layer"] for run in (runs[0], *children)] == ["all", "0", "1"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert "mlflow.parentRunId" not in parent.data.tags
    for number, run in enumerate(children):
        folder = Path(run.data.tags["run_folder"])
        assert folder.parent.parent == outputs / "multirun"
        assert folder.name == str(number)
        assert json.loads((folder / "summary.json").read_text())["mlflow_run_id"] == run.info.run_id


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_marked_so_and_is_no_result(quick_start, tmp_path, sent):
    arguments = ("model=mini", "dataset=pydoc", "dataset.tokens=100000", "hydra.run.dir=run")
    process = quick_start(*arguments)
    wait_for(lambda: "\nText: " in process.said(), process)
    os.kill(process.pid, sent)
    process.communicate(timeout=60)
    assert process.returncode != 0
    (run,) = runs_in(tmp_path / "outputs")
    assert (run.info.status, run.data.tags["reason"]) == ("KILLED", "interrupted")
    assert not (tmp_path / "run" / "summary.json").exists()


def test_another_store_can_be_named_and_nothing_strays_into_the_working_folder(quick_cli, tmp_path):
    process = quick_cli(*SMALL, f"tracking.uri=sqlite:///{tmp_path / 'mine.db'}")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "mine.db").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"mine.db", "outputs"}


def test_tracking_off_leaves_no_store(quick_cli, tmp_path):
    assert quick_cli(*SMALL, "tracking=off").returncode == 0
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["cache", "token_length"]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://place"])
def test_a_store_that_cannot_be_opened_is_one_line_and_leaves_nothing(quick_cli, tmp_path, uri):
    process = quick_cli(*SMALL, f"tracking.uri={uri}", timeout=60)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: tracking.uri={uri}: MLflow cannot be opened there")
    assert line.endswith("tracking=off works")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_outputs_that_cannot_hold_the_store_are_named(tmp_path):
    (tmp_path / "a_file").write_text("")
    with pytest.raises(UserError, match=r"^run\.outputs=.*a_file: .*tracking=off works$"):
        start(TrackingConfig(Backend.mlflow), tmp_path / "a_file", "token_length", "name", {})


def test_the_tracker_that_is_off_does_nothing(tmp_path):
    tracker = start(TrackingConfig(Backend.off), tmp_path / "outputs", "token_length", "name", {})
    assert type(tracker) is Tracker
    tracker.log_folder(tmp_path)
    tracker.finish("FINISHED")
    assert tracker.run_id is None
    assert not list(tmp_path.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"metric": float("nan")})
    assert not list(tmp_path.iterdir())
    write_json(path, {"metric": 1.5, "text": "é — ü"})
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text("utf-8")) == {"metric": 1.5, "text": "é — ü"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_tables_keep_their_types_and_missing_numbers(tmp_path):
    write_table(tmp_path / "table.parquet", {"layer": np.arange(2), "mean": np.array([0.1, np.nan])})
    table = parquet.read_table(tmp_path / "table.parquet")
    assert [str(kind) for kind in table.schema.types] == ["int64", "double"]
    assert table["layer"].to_pylist() == [0, 1]
    assert table["mean"].to_pylist()[0] == 0.1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"metrics": {"unheard_of": 1.0}}, "no definition in the data dictionary for .*unheard_of"),
        ({"layers": {"layer": np.arange(2), "mean": np.arange(3)}}, "layers differ in length"),
        ({"metrics": {"mean_all": float("nan")}}, "no number"),
        ({"metrics": {"mean": 1.0}}, "could not tell apart"),
    ],
)
def test_a_report_that_contradicts_itself_is_not_written(tmp_path, change, complaint):
    sound = {
        "findings": [],
        "metrics": {"mean_all": 1.0},
        "layers": {"layer": np.arange(2), "mean": np.arange(2.0)},
        "neurons": {"layer": np.arange(2)},
        "columns": {"layer": "block index", "mean": "mean activation", "mean_all": "the same over all layers"},
        "statistic": "mean",
    }
    with pytest.raises(ValueError, match=complaint):
        write_report(tmp_path, Report(**(sound | change)))
    assert not list(tmp_path.iterdir())
    write_report(tmp_path, Report(**sound))
    assert {path.name for path in tmp_path.iterdir()} == {
        "layers.parquet",
        "neurons.parquet",
        "columns.json",
        "columns.md",
    }


def test_the_stopwatch_adds_up_repeated_stages_and_stops_on_an_error():
    clock = Stopwatch()
    for _ in range(2):
        with pytest.raises(RuntimeError), clock("stage"):
            raise RuntimeError
    first = clock.stages["stage"]
    assert first > 0
    assert set(clock.seconds()) == {"stage", "total"}
    assert clock.seconds()["total"] >= clock.seconds()["stage"]


def test_passwords_do_not_stay_in_what_hydra_wrote_down_and_mlflow_gets(tmp_path):
    (tmp_path / "config.yaml").write_text("tracking:\n  uri: https://me:secret@host/x\nrun:\n  seed: 0\n", "utf-8")
    (tmp_path / "overrides.yaml").write_text("- tracking.uri=https://me:secret@host/x\n", "utf-8")
    redact(tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "tracking:\n  uri: https://***@host/x\nrun:\n  seed: 0\n"
    assert (tmp_path / "overrides.yaml").read_text() == "- tracking.uri=https://***@host/x\n"


def test_a_run_whose_password_is_not_kept_asks_for_it(tmp_path):
    (tmp_path / ".hydra").mkdir()
    config = "tracking:\n  uri: https://***@host/x\nrun:\n  outputs: o\nexperiment:\n  name: e\n"
    (tmp_path / ".hydra" / "config.yaml").write_text(config)
    (tmp_path / ".hydra" / "hydra.yaml").write_text(f"hydra:\n  runtime:\n    cwd: {tmp_path}\n")
    (tmp_path / "summary.json").write_text('{"experiment": "sweep"}')
    with pytest.raises(UserError, match="is no run of an experiment; give one of its runs"):
        log_later(tmp_path)
    (tmp_path / "summary.json").write_text('{"provenance": {}}')
    with pytest.raises(UserError, match="the password of https://\\*\\*\\*@host/x is not stored; give --uri=ADDRESS"):
        log_later(tmp_path)
