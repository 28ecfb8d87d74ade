"""Lanes: on a CPU several batches of a pass run at the same time, each in a thread with its share of the cores.

While one lane waits for memory or for Python, another one computes. At each site the lanes add to the sums in the order
of the batches, so the result equals that of one lane to the bit. Knows neither models nor reducers.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

LANES = 2  # more lanes, on machines with more cores, were not measured
POLL = 0.05  # seconds between two checks whether the lanes must stop


class _OtherLaneFailed(BaseException):
    """Ends a lane in the middle of a forward. It is no Exception, so that no handler inside a model catches it."""


def lanes_on(device: torch.device) -> int:
    """How many lanes to use for a device and PyTorch's number of threads, which the lanes share evenly."""
    return LANES if device.type == "cpu" and torch.get_num_threads() % LANES == 0 else 1


class Lanes:
    """Runs numbered jobs, several at a time. Each step of the jobs runs in the order of their numbers."""

    def __init__(self, count: int, steps: int, first: int = 0):
        """`count` lanes; each job has `steps` steps, and the first job has the number `first`."""
        self.count = count
        self.begun = first  # the number of the next job to start
        self._turn = [first] * steps  # the job whose turn it is, for each step
        self._working = 0  # lanes that are running a job
        self._changed = threading.Condition()
        self._failure: BaseException | None = None

    @contextmanager
    def turn(self, number: int, step: int) -> Iterator[None]:
        """One step of a job. It starts when all jobs with smaller numbers have finished this step.

        Raises:
            RuntimeError: this job has already done the step.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._turn[step] >= number or self._failure is not None)
            if self._failure is not None:
                raise _OtherLaneFailed
            if self._turn[step] > number:
                raise RuntimeError(f"step {step} of {number} came twice")
        yield  # after a failure the turn stays here, and `run` stops the other lanes
        with self._changed:
            self._turn[step] = number + 1
            self._changed.notify_all()

    def run(self, work: Callable[[int], None], end: int, pause: Callable[[], bool] = lambda: False) -> None:
        """Calls work(number) for the numbers up to `end`, or until `pause` returns True; then `begun` is less than
        `end`.

        At least one job runs, and every job that has started is finished. Meanwhile the lanes share PyTorch's threads.
        A single lane runs in the calling thread. Several lanes run in threads of their own: Python delivers signals to
        the main thread, which must not hold anything that the lanes wait for.

        Raises:
            BaseException: the first error of a job; the other jobs are stopped at their next step.
        """
        first, paused = self.begun, False
        threads = torch.get_num_threads()

        def take() -> int | None:
            nonlocal paused
            with self._changed:
                paused = paused or self._failure is not None or self.begun >= end or (self.begun > first and pause())
                if paused:
                    return None
                self.begun += 1
                self._working += 1
                return self.begun - 1

        def lane() -> None:
            while (number := take()) is not None:
                try:
                    # Also when few jobs are left: the last bits of a product may depend on the number of threads
                    torch.set_num_threads(threads // self.count)
                    work(number)
                finally:
                    with self._changed:
                        self._working -= 1

        if self.count == 1:
            lane()
            return

        ended: queue.SimpleQueue[None] = queue.SimpleQueue()

        def in_a_thread() -> None:
            try:
                lane()
            except _OtherLaneFailed:
                pass
            except BaseException as error:
                self._fail(error)
            finally:
                ended.put(None)

        count = min(self.count, end - first)
        try:
            for _ in range(count):
                threading.Thread(target=in_a_thread, name="lane", daemon=True).start()
            for _ in range(count):
                while True:
                    with suppress(queue.Empty):
                        ended.get(timeout=POLL)  # `interrupts` cannot reach this wait
                        break
        except BaseException as error:
            # An interrupt in the middle of `start` may come as another error of its locks
            self._fail(error.__context__ if isinstance(error.__context__, KeyboardInterrupt) else error)
            # Idle lanes must not start another job
            while self._working:
                time.sleep(0.001)
        finally:
            torch.set_num_threads(threads)
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            # An interrupt takes precedence over a failure
            if self._failure is None or not isinstance(error, Exception):
                self._failure = error
            self._changed.notify_all()
