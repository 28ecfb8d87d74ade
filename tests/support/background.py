"""Commands that run in the background, to be killed or waited for."""

import os
import subprocess
import sys
import time
from pathlib import Path

from conftest import NO_HUB, environment


def start(folder: Path, *arguments: str, command=(sys.executable, "-m", "neurexp")) -> subprocess.Popen:
    """A command that runs on in `folder`, with no Hub to be reached."""
    return subprocess.Popen(
        [*command, *arguments],
        cwd=folder,
        env=environment(folder / "hf", HF_ENDPOINT=NO_HUB),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, process: subprocess.Popen, seconds: float = 120):
    """Waits for what a process does; what it said, if it ended before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)


def process_of_rank(rank: int, folder: Path) -> int:
    """The process id of one of the processes that torchrun has started in `folder`."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            set_there = (place / "environ").read_bytes().split(b"\0")
            if b"RANK=%d" % rank in set_there and (place / "cwd").readlink() == folder:
                return int(place.name)
        except OSError:  # it has ended
            continue
    raise AssertionError(f"no process {rank} in {folder}")


def is_left(process: int) -> bool:
    """Whether a process runs, or has ended and its maker has not waited for it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
