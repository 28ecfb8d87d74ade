"""Runs on a real Slurm (`support/slurm.py`): the jobs of a sweep, and one run over two nodes."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from background import process_of_rank
from daemons import wait_until
from pyarrow.parquet import read_table
from slurm import Slurm

DOCS = Path(__file__).parents[2] / "docs" / "cluster.md"


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with Slurm(nodes=2) as cluster:
        yield cluster


@pytest.mark.slow
def test_jobs_of_a_sweep_run_on_slurm_as_they_do_here(slurm, quick_cli, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    small = ("model=mini", "dataset=pydoc", "dataset.tokens=256", "dataset.sequence_length=128", "device=cpu")
    sweep = ("-m", *small, "device.threads=1", "experiment.layer=0,1", "run.reuse=false")
    launcher = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=5")
    command = (sys.executable, "-m", "neurexp", *sweep, *launcher, "hydra.sweep.dir=there")
    process = slurm.run(*command, folder=tmp_path)
    assert process.returncode == 0, (process.stdout, process.stderr, slurm.logs())
    assert "2 jobs finished, 0 failed" in process.stdout
    assert "parent run " in process.stdout
    said = "".join(file.read_text() for file in tmp_path.glob("there/.submitit/*/*_log.out"))
    assert said.count("Run folder:") == 2  # not by this process

    assert quick_cli(*sweep, "tracking=off", "hydra.sweep.dir=here").returncode == 0
    assert (tmp_path / "there" / "layers.parquet").read_bytes() == (tmp_path / "here" / "layers.parquet").read_bytes()
    for job in "01":
        there, here = (json.loads((tmp_path / place / job / "summary.json").read_text()) for place in ("there", "here"))
        assert there["metrics"] == here["metrics"]


@pytest.mark.slow
def test_one_run_over_two_nodes_and_a_lost_one_that_a_single_process_takes_over(slurm, quick_cli, tmp_path):
    """By the batch script of the docs. One sequence a batch, so that all cut the text alike."""
    script = tmp_path / "run.sh"
    script.write_text(DOCS.read_text("utf-8").partition("```bash\n")[2].partition("```")[0])
    text = ("model=mini", "dataset=pydoc", "dataset.tokens=20000", "dataset.sequence_length=64", "device=cpu")
    options = (*text, "device.threads=1", "device.batch_size=1", "experiment.layer=[0,5]", "run.reuse=false")
    options += ("tracking=off", "run.checkpoint_every=0.05")

    job = slurm.submit(script, *options, "hydra.run.dir=two", folder=tmp_path)
    said = slurm.wait(job, tmp_path)
    assert (tmp_path / "two" / "summary.json").exists(), (said, slurm.logs())
    assert said.count("Run folder:") == 1

    job = slurm.submit(script, *options, "hydra.run.dir=lost", folder=tmp_path)
    names = {"checkpoint_text-0of2", "checkpoint_text-1of2"}
    lost = tmp_path / "lost"
    wait_until(lambda: {file.name[:20] for file in lost.glob("checkpoint_*.safetensors")} == names, tmp_path)
    os.kill(process_of_rank(1, tmp_path), signal.SIGKILL)
    said = slurm.wait(job, tmp_path, 60)
    lines = [line for line in said.splitlines() if line.startswith("error: torchrun")]
    assert len(lines) == 1, said
    (line,) = lines
    assert line.startswith("error: torchrun: process 1 of 2, on ")
    assert f"add run.resume=true hydra.run.dir={lost} to go on from the last checkpoints" in line

    process = quick_cli(*options, f"hydra.run.dir={lost}", "run.resume=true")
    assert process.returncode == 0, process.stderr
    assert json.loads((lost / "summary.json").read_text())["provenance"]["resumed"]["text"] >= 2
    assert not list(lost.glob("checkpoint*"))
    assert quick_cli(*options, "hydra.run.dir=one").returncode == 0
    one = read_table(tmp_path / "one" / "neurons.parquet").to_pandas()
    for place in ("two", "lost"):
        found = read_table(tmp_path / place / "neurons.parquet").to_pandas()
        assert list(found.columns) == list(one.columns)
        for name in one.columns:
            np.testing.assert_allclose(found[name], one[name], rtol=1e-8, atol=1e-11, err_msg=f"{place}: {name}")
