"""How many processors this process may use: fewer than the machine has, in a container or under `taskset`.

Knows no option. Imports nothing heavy.
"""

import math
import os
from contextlib import suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")  # of control groups: a container sees its own there


def processors() -> int:
    """The processors that this process may run on, and no more than its container's share of them, at least 1.

    PyTorch and OpenMP know the first of the two. With more threads than the container's share, the system stops all of
    them for most of the time.
    """
    # Only Linux has the function
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _share())))


def _share() -> float:
    """The processors that the container's quota amounts to; infinity where there is none."""
    with suppress(OSError, ValueError):  # version 2: "QUOTA PERIOD" or "max PERIOD", in microseconds
        quota, period = (GROUPS / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):  # version 1: −1 is none
        quota, period = (int((GROUPS / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return math.inf if quota <= 0 else quota / period
    return math.inf
