"""`torchrun` splits a run over processes, and the result is that of one process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import run_in
from mlflow import MlflowClient
from pyarrow.parquet import read_table
from safetensors.numpy import load_file

# Eleven sequences, the last one padded; one sequence a batch, so that both ways cut the text alike
ARGUMENTS = (
    "model=mini", "dataset=pydoc", "device=cpu", "device.threads=1", "device.batch_size=1", "dataset.tokens=2700",
    "dataset.sequence_length=256", "run.outputs=out",
)  # fmt: skip


def torchrun(folder: Path, count: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    torchrun = (sys.executable, "-m", "torch.distributed.run")  # what the script `torchrun` runs
    return run_in(folder, *torchrun, f"--nproc-per-node={count}", "--standalone", "-m", "neurexp", *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_give_the_result_of_one(quick_cli, tmp_path, count):
    process = quick_cli(*ARGUMENTS, "hydra.run.dir=one")
    assert process.returncode == 0, process.stderr
    if count == 2:
        process = torchrun(tmp_path, count, *ARGUMENTS, "hydra.run.dir=several")
    else:
        process = quick_cli(*ARGUMENTS, "hydra.run.dir=several", processes=count)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("Run folder:") == 1

    one, several = (read_table(tmp_path / name / "neurons.parquet").to_pandas() for name in ("one", "several"))
    assert list(one.columns) == list(several.columns)
    for name in one.columns:
        np.testing.assert_allclose(several[name], one[name], rtol=1e-9, atol=1e-12, err_msg=name)
    one, several = (load_file(tmp_path / name / "histograms.safetensors") for name in ("one", "several"))
    assert all(np.array_equal(one[name], several[name]) for name in one)

    summary = json.loads((tmp_path / "several" / "summary.json").read_text("utf-8"))
    assert (summary["provenance"]["processes"], summary["provenance"]["threads"]) == (count, 1)
    assert summary["metrics"]["tokens"] == 2700
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("token_length").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 2  # one of each command
    left = {path.name for path in tmp_path.iterdir()} | {path.name for path in (tmp_path / "out").iterdir()}
    assert left <= {"one", "several", "out", "hf", "mlflow.db", "mlartifacts", "cache", ".mlflow.lock"}


@pytest.mark.slow
def test_with_more_processes_than_sequences_the_result_stands(quick_cli, tmp_path):
    arguments = (*ARGUMENTS, "dataset.tokens=512", "tracking=off")
    assert quick_cli(*arguments, "hydra.run.dir=one").returncode == 0
    assert quick_cli(*arguments, "hydra.run.dir=several", processes=3).returncode == 0
    one, several = (read_table(tmp_path / name / "neurons.parquet").to_pandas() for name in ("one", "several"))
    np.testing.assert_allclose(several["r_length"], one["r_length"], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_contrast_runs_in_the_first_process_alone(quick_cli, tmp_path):
    options = ("experiment=grammar_tuning", "experiment.text=false", "experiment.permutations=100")
    cheap = ("experiment.splits=4", "experiment.shuffles=2", "tracking=off", "hydra.run.dir=run")
    process = quick_cli(*ARGUMENTS, *options, *cheap, processes=2)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow
def test_an_ablation_has_the_effects_of_one_process(quick_cli, tmp_path):
    """Random neurons are drawn by what the first passes measured, whose sums differ in their last bits."""
    neurons = ("experiment=ablation", "experiment.neurons=[[2,5],[3,7]]", "experiment.kind=[mean,resample]")
    cheap = ("experiment.draws=20", "experiment.sample=0", "experiment.ks=[1]", "dataset.tokens=320")
    arguments = (*ARGUMENTS, *neurons, *cheap, "dataset.sequence_length=64", "tracking=off")
    for count in (1, 2):
        process = quick_cli(*arguments, f"hydra.run.dir={count}", processes=count)
        assert process.returncode == 0, process.stderr
    one, two = (read_table(tmp_path / name / "effects.parquet").to_pandas() for name in "12")
    assert len(one) > 0
    assert list(one.columns) == list(two.columns)
    for name in one.columns:
        if one[name].dtype.kind == "f":
            np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            assert list(two[name]) == list(one[name]), name


@pytest.mark.slow
def test_a_mistake_ends_all_processes(tmp_path):
    process = torchrun(tmp_path, 2, *ARGUMENTS, "dataset.tokens=0")
    assert process.returncode != 0
    assert "error: dataset.tokens=0" in process.stderr
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.slow
def test_a_sweep_is_refused(tmp_path):
    process = torchrun(tmp_path, 2, "-m", *ARGUMENTS, "experiment.layer=0,1")
    assert process.returncode != 0
    assert "error: torchrun" in process.stderr
