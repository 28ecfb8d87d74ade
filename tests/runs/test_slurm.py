"""Runs on a real Slurm (`support/slurm.py`): the jobs of a sweep through Hydra's submitit launcher."""

import json
import sys
from collections.abc import Iterator

import pytest
from slurm import Slurm


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
