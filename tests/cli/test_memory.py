"""The memory of a run does not grow with its text: 100,000 tokens within what 8192 take above the model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# One thread, one arena, and freed memory given back at once: glibc's own thresholds move with what a program happens
# to free, which makes the peak of one and the same run differ by 100 MiB from start to start.
STEADY = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4194304",
    "MALLOC_TRIM_THRESHOLD_": "4194304",
}
MODEL = "from neurexp.models.load import load_model; load_model('mini', device='cpu')"
COMMAND = "from neurexp.cli import main; main()"
# The kernel's high-water mark of this very program; ru_maxrss would begin with that of the process that started it
TELL = "import atexit, shutil; atexit.register(shutil.copy, '/proc/self/status', 'status'); "


def peak(folder: Path, code: str, *arguments: str) -> float:
    """The peak resident size in MiB of a fresh interpreter that runs `code`."""
    environment = os.environ | STEADY | {"HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-c", TELL + code, *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    lines = dict(line.split(":", 1) for line in (folder / "status").read_text("utf-8").splitlines())
    (folder / "status").unlink()
    return int(lines["VmHWM"].removesuffix("kB")) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_text(tmp_path):
    """The whole command: libraries, text, pass, analysis, tables and figures. Measured: 435, 590 and 596 MiB."""

    def run(tokens: int) -> float:
        options = ("model=mini", "dataset=pydoc", "device=cpu", "tracking=off", "experiment=token_length")
        return peak(tmp_path, COMMAND, *options, f"dataset.tokens={tokens}", f"hydra.run.dir={tmp_path}/{tokens}")

    model, short, long = peak(tmp_path, MODEL), run(8192), run(100_000)
    print(f"model {model:.0f} MiB, 8192 tokens {short:.0f} MiB, 100,000 tokens {long:.0f} MiB")
    assert short > model
    assert long - model < 1.1 * (short - model)
