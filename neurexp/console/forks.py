"""Independent pieces of work that leave files behind, shared out over forks of this process.

A fork has everything that this process has in memory, and gives nothing back but its files. So it suits figures, whose
data are large and whose results are files. What a fork did not do, this process does: it knows no other way to fail.
Knows nothing of the work; imports nothing heavy.
"""

import ctypes
import os
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NoReturn, TypeVar

from neurexp.console.processors import processors

T = TypeVar("T")

MOST = 4  # processes, this one included: more would wait for the disk
PATIENCE = 10.0  # seconds that a fork gets beyond three times those of this process's own share
GRACE = 0.3  # seconds that a fork gets to remove its unfinished files
GLANCE = 0.005  # seconds between looks at a fork
SIGNALS = (signal.SIGINT, signal.SIGTERM)
PARENT_DEATH_SIGNAL = 1  # of Linux's prctl


def shared_out(work: Callable[[T], object], items: Sequence[T], processes: int | None = None) -> None:
    """Calls `work` with every item, some of them in forks of this process.

    A fork takes no locks and no threads of ours along, so `work` must use nothing but Python, numpy and files: no
    PyTorch, no MLflow. Whoever has finished an item takes the next one. Where a fork fails, is killed or hangs, the
    item that it had is done here, and its error rises here.

    Args:
        work: leaves its result in files. It may be called twice with an item.
        items: are independent of each other; some thousands at most. The longest should come first.
        processes: how many share the items; as many as there are processors for this process, up to `MOST`, unless
            given. One where the system is not Linux, because elsewhere libraries do not survive a fork.
    """
    if processes is None:
        processes = min(MOST, processors()) if sys.platform == "linux" else 1
    left, done = _Numbers(), _Numbers()
    for number in range(len(items)):
        left.put(number)
    forks, finished, began = [], set[int](), time.monotonic()
    try:
        forks.extend(_fork(work, items, left, done) for _ in range(1, min(processes, len(items))))
        for number in left:
            work(items[number])
            finished.add(number)
        until = time.monotonic() + PATIENCE + 3 * (time.monotonic() - began)
        for process in forks:
            _wait(process, until)
        finished.update(done)
    except BaseException:
        _end(forks)
        raise
    finally:
        left.close()
        done.close()
    for number, item in enumerate(items):
        if number not in finished:
            work(item)


class _Numbers:
    """Whole numbers that this process and its forks put and take; each number is taken once. It never waits."""

    _FORMAT = struct.Struct("i")

    def __init__(self) -> None:
        self._taken, self._put = os.pipe()  # a read or a write of few bytes is never divided
        for end in (self._taken, self._put):
            os.set_blocking(end, False)

    def put(self, number: int) -> None:
        os.write(self._put, self._FORMAT.pack(number))

    def __iter__(self) -> Iterator[int]:
        """Takes number after number until there is none."""
        with suppress(BlockingIOError):
            while taken := os.read(self._taken, self._FORMAT.size):
                yield self._FORMAT.unpack(taken)[0]

    def close(self) -> None:
        os.close(self._taken)
        os.close(self._put)


def forked() -> int:
    """`os.fork()`. The fork ignores SIGINT and SIGTERM from its first moment on.

    They are for the process that it is of, whose handlers may raise: the fork would then run that process's cleanup.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's, of forks beside threads
            process = os.fork()
        if process == 0:
            for one in SIGNALS:
                signal.signal(one, signal.SIG_IGN)
        return process
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _fork(work: Callable[[T], object], items: Sequence[T], left: _Numbers, done: _Numbers) -> int:
    """Starts a fork that does what is left, with the others. Returns its process id."""
    parent = os.getpid()
    process = forked()
    return process if process else _work_and_end(work, items, left, done, parent)


def _work_and_end(
    work: Callable[[T], object], items: Sequence[T], left: _Numbers, done: _Numbers, parent: int
) -> NoReturn:
    """What a fork does. It leaves the terminal, the exit's tasks and Python's buffers to the process it is of."""
    try:
        _end_with_parent(parent)
        signal.signal(signal.SIGTERM, _raise_exit)
        for number in left:
            work(items[number])
            done.put(number)
    finally:
        os._exit(0)


def _wait(process: int, until: float) -> None:
    """Waits for a fork, which has ended then in any case: after `until` it is ended."""
    try:
        while time.monotonic() < until:
            if os.waitpid(process, os.WNOHANG)[0]:
                return
            time.sleep(GLANCE)
    except ChildProcessError:  # somebody else has waited for it
        return
    _end([process])


def _end_with_parent(parent: int) -> None:
    """Lets the system kill this fork when its parent ends: a fork that hangs would keep the parent's locks for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(1)


def _raise_exit(*_: object) -> NoReturn:
    raise SystemExit(1)


def _end(processes: Sequence[int]) -> None:
    """Ends forks: they remove their unfinished files, unless that takes longer than `GRACE`."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    until = time.monotonic() + GRACE
    for process in processes:
        with suppress(ProcessLookupError, ChildProcessError):
            while not os.waitpid(process, os.WNOHANG)[0]:
                if time.monotonic() > until:
                    os.kill(process, signal.SIGKILL)
                    os.waitpid(process, 0)
                    break
                time.sleep(GLANCE)
