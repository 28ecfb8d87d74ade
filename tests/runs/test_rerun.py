"""`python -m neurexp.rerun`: a run again, from what it logged."""

import json
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient
from omegaconf import OmegaConf
from pyarrow import parquet

from neurexp.config.schema import CONFIG_FOLDER, checked, quoted
from neurexp.errors import UserError
from neurexp.runs.rerun import arguments_of, repeat

ARGUMENTS = (
    "model=mini", "dataset=text", "dataset.path=prose.txt", "dataset.tokens=300", "dataset.sequence_length=64",
    "device=cpu", "device.threads=1", "experiment.permutations=8", "experiment.layer=[0,3]",
)  # fmt: skip


@pytest.fixture(scope="module")
def once(commands, tmp_path_factory) -> Path:
    """The working folder of a finished run, whose run folder is `once`."""
    folder = tmp_path_factory.mktemp("rerun")
    (folder / "prose.txt").write_text(
        "She sells sea shells by the sea shore, and the shells she sells are hers.\n" * 40
    )
    process = commands.run([*ARGUMENTS, "hydra.run.dir=once"], folder)
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture
def rerun(commands):
    """`rerun(FOLDER, …)`: `python -m neurexp.rerun` there; the run itself is a process of its own."""
    return lambda here, *arguments: commands.run(arguments, here, module="neurexp.rerun", timeout=300)


@pytest.mark.slow
def test_a_run_is_repeated_to_the_bit_from_anywhere(once, tmp_path, rerun):
    process = rerun(tmp_path, str(once / "once"), f"--into={tmp_path / 'again'}")
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.endswith("Circumstances are identical.\nResults are identical.\n")
    again = json.loads((tmp_path / "again" / "summary.json").read_text("utf-8"))
    assert again["provenance"]["reused"] == []  # a fresh pass
    assert "capture" in again["timings"]
    first = json.loads((once / "once" / "summary.json").read_text("utf-8"))
    assert again["metrics"] == first["metrics"]
    assert again["provenance"]["model_hash"] == first["provenance"]["model_hash"]


def test_threads_and_batches_are_those_of_then_though_nobody_gave_them(tmp_path):
    """What suits a device may be another number tomorrow, or on another device."""
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(["model=mini", "dataset=pydoc"], tmp_path / ".hydra" / "overrides.yaml")
    facts = {"threads": 3, "batch_size": 7, "model_revision": "shipped", "dataset": {"source": "pydoc"}}
    arguments = arguments_of(tmp_path, OmegaConf.create(), facts)
    assert {"++device.threads=3", "++device.batch_size=7"} <= set(arguments)


@pytest.mark.parametrize(("then", "wanted"), [(None, None), (True, True), (False, False), ("auto", None)])
@pytest.mark.parametrize("overridden", [False, True])
def test_a_run_from_before_auto_begins_its_sequences_as_it_did(tmp_path, then, wanted, overridden):
    """Its config has `bos: null`, and no `eos`."""
    folder = tmp_path / ".hydra"
    folder.mkdir()
    given = ["model=mini", "dataset=pydoc", *([f"dataset.bos={quoted(then)}"] if overridden else [])]
    OmegaConf.save(given, folder / "overrides.yaml")
    OmegaConf.save({"dataset": {"source": "pydoc", "bos": then}}, folder / "config.yaml")
    facts = {"threads": 3, "batch_size": 7, "model_revision": "shipped", "dataset": {"source": "pydoc"}}
    arguments = arguments_of(tmp_path, OmegaConf.load(folder / "config.yaml"), facts)
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        dataset = checked(compose("config", arguments)).dataset
    assert (dataset.bos.wanted, dataset.eos.wanted) == (wanted, None)


def test_a_store_is_that_of_the_folder_where_its_address_was_typed(finished, tmp_path, monkeypatch):
    """The new process starts in the old run's folder."""
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the run failed this time"):
        repeat(finished.folder, uri="sqlite:///mine.db")
    assert f"tracking.uri='sqlite:///{tmp_path}/mine.db'" in commands[0]


@pytest.mark.slow
def test_a_run_of_mlflow_is_repeated_by_its_id_with_the_options_of_then(once, tmp_path, rerun):
    store = once / "outputs" / "mlflow.db"
    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    (run, *_) = client.search_runs(
        [client.get_experiment_by_name("token_length").experiment_id], order_by=["start_time"]
    )
    process = rerun(once, run.info.run_id)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Results are identical." in process.stdout
    (again,) = (once / "outputs" / "token_length").glob("*_again")
    assert (again / "summary.json").exists()


@pytest.mark.slow
def test_what_differs_is_named_metric_by_metric_and_column_by_column(once, tmp_path, rerun):
    """Another text in the file's place, other numbers in the old run, and defaults that have changed since."""
    old = tmp_path / "old"
    shutil.copytree(once / "once", old)
    config = OmegaConf.load(old / ".hydra" / "config.yaml")
    config.experiment.bins = 32  # as if it had been the default when the run was made
    OmegaConf.save(config, old / ".hydra" / "config.yaml")
    summary = json.loads((old / "summary.json").read_text("utf-8"))
    summary["metrics"]["tokens"] += 1
    summary["provenance"]["versions"]["torch"] = "1.0"
    summary["provenance"]["token_hash"] = "another"
    (old / "summary.json").write_text(json.dumps(summary))
    table = parquet.read_table(old / "neurons.parquet")
    place = table.column_names.index("r_length")
    values = table["r_length"].to_numpy() + 0.25
    parquet.write_table(table.set_column(place, "r_length", pa.array(values)), old / "neurons.parquet")
    process = rerun(tmp_path, str(old), f"--into={tmp_path / 'again'}")
    assert process.returncode == 1, process.stdout + process.stderr
    assert "++experiment.bins=32" in process.stdout.splitlines()[0]
    told = process.stdout.split("\nCircumstances differ in 2:\n")[1]
    assert told.startswith("  token_hash: another, now ")
    assert "  versions.torch: 1.0, now 2." in told
    assert "  tokens: 301, now 300\n" in told
    assert "  neurons.parquet r_length: by up to 0.25\n" in told
    assert "  neurons.parquet r_length_partial" not in told
    assert "  histograms.safetensors counts: of another shape, or only in one of the two\n" in told


@pytest.mark.parametrize(
    ("run", "answer"),
    [
        ("no_such", "no_such: no such run folder, and no MLflow store at "),
        ("unfinished", "no summary.json there, so no finished run"),
        ("sweep", "is no run of an experiment; give one of its runs"),
    ],
)
def test_what_cannot_be_repeated_is_one_line(rerun, tmp_path, run, answer):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "summary.json").write_text('{"experiment": "sweep"}')
    process = rerun(tmp_path, run)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    assert answer in line
