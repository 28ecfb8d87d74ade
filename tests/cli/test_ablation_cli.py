"""`experiment=ablation` from the command line: runs that go on from others, are stored, resumed, repeated and swept."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from background import wait_for
from conftest import Finished
from mlflow import MlflowClient
from pyarrow.parquet import read_table

MINI = (
    "experiment=ablation", "model=mini", "dataset=pydoc", "device=cpu", "device.threads=1",
    "dataset.sequence_length=64", "device.batch_size=2",
)  # fmt: skip
FEW = (*MINI, "dataset.tokens=256", "experiment.draws=20", "experiment.sample=3", "experiment.alone=false")
NEURONS = "experiment.neurons=[[5,3],[5,700]]"  # in the last layer, so that an edited model runs one block only
FILES = ("effects.parquet", "neurons.parquet", "layers.parquet", "direct.parquet", "tokens.safetensors")


def summary_of(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text("utf-8"))


def assert_same_bits(run: Path, other: Path) -> None:
    for name in FILES:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("metrics", "findings"):
        assert summary_of(run)[name] == summary_of(other)[name]


@pytest.fixture(scope="module")
def folder(commands, tmp_path_factory) -> Path:
    """A folder in which an ablation of two named neurons has run; its run folder is `first`."""
    folder = tmp_path_factory.mktemp("ablation")
    process = commands.run([*FEW, NEURONS, "experiment.ks=[1,2]", "hydra.run.dir=first"], folder)
    assert process.returncode == 0, process.stderr
    return folder


def test_a_run_is_whole_and_logged(folder):
    run, summary = folder / "first", summary_of(folder / "first")
    effects = read_table(run / "effects.parquet").to_pandas()
    issue = {"set", "k", "kind", "tokens", "delta_loss", "delta_loss_low", "delta_loss_high"}
    issue |= {"null_mean", "null_sd", "p"}
    assert issue <= set(effects.columns)
    assert list(effects["k"]) == [1, 2]
    assert effects[sorted(issue)].notna().all().all()
    neurons = read_table(run / "neurons.parquet").to_pandas()
    assert {"layer", "neuron", "delta_loss_estimate"} <= set(neurons.columns)
    assert len(neurons) == 6 * 768
    defined = (run / "columns.md").read_text("utf-8")
    names = [*neurons.columns, *summary["metrics"], *(f"effects.{name}" for name in effects.columns)]
    assert not [name for name in names if f"`{name}`" not in defined]
    assert {path.stem for path in (run / "figures").iterdir()} == {
        "dose_response", "effects_by_tokens", "estimate_against_exact", "direct_path",
    }  # fmt: skip
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'outputs' / 'mlflow.db'}")
    logged = client.get_run(summary["mlflow_run_id"])
    assert logged.info.run_name.startswith("mini on pydoc, neurons=[[5,3],[5,700]]")
    assert logged.data.metrics["delta_loss_chosen"] == summary["metrics"]["delta_loss_chosen"]
    assert {"effects.parquet", "neurons.parquet", "figures"} <= {
        one.path for one in client.list_artifacts(logged.info.run_id)
    }


def test_another_analysis_of_the_same_edits_reuses_them(folder, commands):
    arguments = (*FEW, NEURONS, "experiment.ks=[1,2]", "tracking=off", "experiment.bootstraps=300")
    process = commands.run([*arguments, "hydra.run.dir=second"], folder)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("taken from an earlier pass") == 2
    first, second = (read_table(folder / name / "effects.parquet").to_pandas() for name in ("first", "second"))
    bounds = [name for name in first.columns if name.endswith(("_low", "_high")) and "null" not in name]
    assert first.drop(columns=bounds).equals(second.drop(columns=bounds))
    assert summary_of(folder / "second")["provenance"]["reused"] == ["gradients", "edits"]


def test_the_neurons_of_a_finished_run(finished: Finished, quick_cli, tmp_path):
    source = f"experiment.run={finished.folder}"
    process = quick_cli(*FEW, source, "experiment.count=1", "tracking=off", "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    summary = summary_of(tmp_path / "run")
    assert {"delta_loss_longer", "delta_loss_longer_own", "specific_p_shorter_next"} <= summary["metrics"].keys()
    assert summary["provenance"]["source_run"] == str(finished.folder)
    table = read_table(finished.folder / "neurons.parquet").to_pandas()
    best = table.loc[table["r_length"].idxmax()]
    effects = read_table(tmp_path / "run" / "effects.parquet").to_pandas()
    assert effects.loc[effects["set"] == "longer", "neurons"].unique() == [f"{best['layer']:.0f}.{best['neuron']:.0f}"]
    assert set(effects["tokens"]) == {"all", "next: longer", "own: longer", "next: shorter", "own: shorter"}


@pytest.fixture
def mistake(quick_cli):
    """The line of a command that is refused."""

    def of(*arguments: str) -> str:
        process = quick_cli(*FEW, "tracking=off", *arguments)
        assert process.returncode == 1
        (line,) = process.stderr.splitlines()
        return line

    return of


def test_a_run_of_another_model_and_a_neuron_that_is_not_there(finished: Finished, mistake, tmp_path):
    line = mistake(f"experiment.run={finished.folder}", "model.weights=random")
    assert line.startswith(
        f"error: experiment.run={finished.folder}: is of mini, and model.name=mini gives other weights"
    )
    line = mistake("experiment.neurons=[[5,768]]")
    assert line == (
        "error: experiment.neurons=[[5,768]]: there is no neuron 768 in layer 5; NEURON has neurons 0 to 767 there"
    )
    assert not (tmp_path / "outputs" / "ablation").exists() or not list((tmp_path / "outputs" / "ablation").iterdir())


@pytest.mark.slow
def test_folders_that_are_no_run(finished: Finished, mistake, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "experiment.run=empty: not the folder of a finished run (summary.json" in mistake("experiment.run=empty")
    assert "experiment.run=no/such: no such folder; give the folder of a finished run" in mistake(
        "experiment.run=no/such"
    )
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "summary.json").write_text(json.dumps({"experiment": "sweep"}))
    assert "this is a sweep: give the folders of its jobs" in mistake("experiment.run=sweep")
    line = mistake(f"experiment.run={finished.folder}", "experiment.ks=[1,1000]")
    assert "experiment.ks=[1,1000]: the set longer has 16 neurons; give numbers from 1 to 16" in line
    line = mistake(f"experiment.run={finished.folder}", "experiment.by=nothing")
    assert "experiment.by=nothing: " in line
    assert "dataset.tokens" in mistake(NEURONS, "dataset.tokens=1")


@pytest.mark.slow
def test_a_run_that_is_killed_in_its_edits_goes_on_to_the_same_bits(quick_cli, quick_start, tmp_path):
    arguments = (
        *FEW, NEURONS, "dataset.tokens=1024", "experiment.ks=[2]", "run.reuse=false", "run.checkpoint_every=0.01",
        "experiment.kind=[mean,resample]",
    )  # fmt: skip
    process = quick_cli(*arguments, "tracking=off", "hydra.run.dir=whole")
    assert process.returncode == 0, process.stderr
    running = quick_start(*arguments, "tracking=off")
    wait_for(lambda: list(tmp_path.glob("outputs/ablation/*/checkpoint_edits*.safetensors")), running)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    (run,) = tmp_path.glob("outputs/ablation/*")
    process = quick_cli(*arguments, "tracking=off", "run.resume=true")
    assert process.returncode == 0, process.stderr
    assert summary_of(run)["provenance"]["resumed"]["edits"] > 0
    assert_same_bits(run, tmp_path / "whole")


@pytest.mark.slow
def test_a_run_is_repeated_to_the_bit(folder, quick_cli, tmp_path):
    again = quick_cli(str(folder / "first"), f"--into={tmp_path / 'again'}", module="neurexp.rerun")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.endswith("Results are identical.\n")
    assert_same_bits(tmp_path / "again", folder / "first")


@pytest.mark.slow
def test_a_sweep_over_kinds_is_tabulated_and_its_jobs_compared(quick_cli, tmp_path):
    process = quick_cli("-m", *FEW, NEURONS, "experiment.kind=mean,zero")
    assert process.returncode == 0, process.stderr
    (sweep,) = (tmp_path / "outputs" / "multirun").iterdir()
    assert summary_of(sweep)["experiment"] == "sweep"
    jobs = sorted(path.parent for path in sweep.glob("*/summary.json"))
    kinds = [read_table(job / "effects.parquet").to_pandas()["kind"].unique().tolist() for job in jobs]
    assert sorted(kinds) == [["mean"], ["zero"]]
    compared = quick_cli(*map(str, jobs), module="neurexp.compare")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert "delta_loss_chosen" in compared.stdout
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    logged = client.search_runs([client.get_experiment_by_name("ablation").experiment_id])
    assert len(logged) == 3  # the sweep and its jobs


@pytest.mark.slow
def test_several_processes_give_the_result_of_one(quick_cli, tmp_path):
    options = (
        *FEW, NEURONS, "dataset.tokens=300", "device.batch_size=1", "experiment.kind=[resample,peak]", "tracking=off",
        "run.reuse=false",
    )  # fmt: skip
    process = quick_cli(*options, "hydra.run.dir=one")
    assert process.returncode == 0, process.stderr
    process = quick_cli(*options, "hydra.run.dir=two", processes=2)
    assert process.returncode == 0, process.stderr
    one, two = (read_table(tmp_path / name / "effects.parquet").to_pandas() for name in ("one", "two"))
    assert list(one["neurons"]) == list(two["neurons"])
    for name in one.columns:
        if one[name].dtype.kind == "f":
            np.testing.assert_allclose(two[name], one[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_experiment_and_its_options_are_listed(quick_cli):
    process = quick_cli("experiment=ablation", "--cfg", "job")
    assert process.returncode == 0, process.stderr
    for name in ("run: null", "run_site: null", "neurons: null", "kind: mean", "draws: 200", "site: NEURON"):
        assert f"  {name}\n" in process.stdout
    assert "ablation" in quick_cli("--help").stdout
