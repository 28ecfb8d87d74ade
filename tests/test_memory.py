"""The memory of a run does not grow with its text: 100,000 tokens within what 8192 take above the model."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

MEBIBYTE = 1024  # of Linux's ru_maxrss


def peak(folder, code: str, *arguments: str) -> int:
    """The peak resident size of a fresh interpreter that runs `code`, in KiB."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


LOADED = """
import sys
import matplotlib.backends.backend_agg, matplotlib.figure, pyarrow.parquet, scipy.stats, scipy.signal, scipy.ndimage
import neurexp.run, neurexp.tracking, neurexp.experiments.token_length, neurexp.engine.passes
from neurexp.models.load import load_model
load_model("mini", device="cpu")
"""
RUN = """
from neurexp.run import main
main()
"""


def test_memory_does_not_grow_with_the_text(tmp_path):
    def run(tokens: int) -> int:
        options = (
            "model=mini", "dataset=pydoc", "device=cpu", "tracking=off", "experiment=token_length",
            f"dataset.tokens={tokens}", f"hydra.run.dir={tmp_path}/{tokens}",
        )  # fmt: skip
        return peak(tmp_path, RUN, *options)

    model, short, long = peak(tmp_path, LOADED), run(8192), run(100_000)
    print(*(f"{name} {size / MEBIBYTE:.0f} MiB" for name, size in (("model", model), ("8192", short), ("100k", long))))
    assert short > model
    assert long - model < 1.1 * (short - model)
