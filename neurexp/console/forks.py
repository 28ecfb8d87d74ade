"""Independent pieces of work that leave files behind, shared out over forks of this process.

A fork has everything that this process has in memory, and gives nothing back but its files. So it suits figures, whose
data are large and whose results are files. What a fork did not do, this process does: it knows no other way to fail.
Knows nothing of the work; imports nothing heavy.
"""

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from neurexp.console.processors import processors

T = TypeVar("T")

MOST = 4  # processes, this one included: more would wait for the disk
PATIENCE = 10.0  # seconds that a fork gets beyond three times those of this process's own share
GLANCE = 0.005  # seconds between looks at a fork


def shared_out(work: Callable[[T], object], items: Sequence[T], processes: int | None = None) -> None:
    """Calls `work` with every item, some of them in forks of this process.

    A fork takes no locks and no threads of ours along, so `work` must use nothing but Python, numpy and files: no
    PyTorch, no MLflow. Where a fork fails, is killed or hangs, its items are done here, and their errors rise here.

    Args:
        work: leaves its result in files. It may be called twice with an item.
        items: are independent of each other.
        processes: how many share the items; as many as there are processors for this process, up to `MOST`, unless
            given. One where the system is not Linux, because elsewhere libraries do not survive a fork.
    """
    if processes is None:
        processes = min(MOST, processors()) if sys.platform == "linux" else 1
    processes = max(1, min(processes, len(items)))
    shares = [items[first::processes] for first in range(processes)]
    began = time.monotonic()
    forks = [(_fork(work, share), share) for share in shares[1:]]
    try:
        for item in shares[0]:
            work(item)
        until = time.monotonic() + PATIENCE + 3 * (time.monotonic() - began)
        left = [item for process, share in forks if not _is_done(process, until) for item in share]
    except BaseException:
        for process, _ in forks:
            _kill(process)
        raise
    for item in left:
        work(item)


def _fork(work: Callable[[T], object], share: Sequence[T]) -> int:
    """Starts a fork that does the share. Returns its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's, of forks beside threads
        process = os.fork()
    return process if process else _work_and_end(work, share)


def _work_and_end(work: Callable[[T], object], share: Sequence[T]) -> NoReturn:
    """What a fork does. It leaves the terminal, the exit's tasks and Python's buffers to the process it is of."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the process that waits for this one
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for item in share:
            work(item)
        status = 0
    finally:
        os._exit(status)


def _is_done(process: int, until: float) -> bool:
    """Waits for a fork. Returns whether it did all its work before `until`; it has ended then in any case."""
    try:
        while time.monotonic() < until:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return status == 0
            time.sleep(GLANCE)
    except ChildProcessError:  # somebody else has waited for it
        return False
    _kill(process)
    return False


def _kill(process: int) -> None:
    """Ends a fork at once."""
    try:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
