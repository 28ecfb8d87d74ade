"""Lanes: on a CPU several batches of a pass run side by side, each in a thread with its share of the cores.

While one lane waits for memory, or for Python, another multiplies. What the lanes add up they add in the order of the
batches, site by site, so that the sums are those of one lane, to the bit. Knows neither models nor reducers.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

LANES = 2  # more of them, on machines with more cores, were not measured
GLANCE = 0.05  # seconds after which the thread that waits for the lanes looks whether it is to stop


class _OtherLaneFailed(BaseException):
    """Ends a lane that is in the middle of a forward. No Exception, so that no handler inside a model takes it."""


def lanes_on(device: torch.device) -> int:
    """How many lanes suit the device and PyTorch's number of threads, which they share out evenly."""
    return LANES if device.type == "cpu" and torch.get_num_threads() % LANES == 0 else 1


class Lanes:
    """Runs a piece of work for each of a row of numbers, several at a time, its steps in the order of the numbers."""

    def __init__(self, count: int, steps: int, first: int = 0):
        """`count` lanes; every piece of work has so many `steps`, and they begin with number `first`."""
        self.count = count
        self.begun = first  # the first number that no lane has begun with
        self._turn = [first] * steps  # whose turn it is at each step
        self._working = 0  # lanes that are in a piece of work
        self._changed = threading.Condition()
        self._failure: BaseException | None = None

    @contextmanager
    def turn(self, number: int, step: int) -> Iterator[None]:
        """A step of one piece of work: begins when all smaller numbers have done with it.

        Raises:
            RuntimeError: this piece of work has done the step before.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._turn[step] >= number or self._failure is not None)
            if self._failure is not None:
                raise _OtherLaneFailed
            if self._turn[step] > number:
                raise RuntimeError(f"step {step} of {number} came twice")
        yield  # a step that fails leaves the turn with it: `run` lets no other go on
        with self._changed:
            self._turn[step] = number + 1
            self._changed.notify_all()

    def run(self, work: Callable[[int], None], end: int, pause: Callable[[], bool] = lambda: False) -> None:
        """Calls work(number) for the numbers up to `end`, or until `pause` says so: then `begun` is less than `end`.

        One number at least is worked off, and all that are begun with are done in the end. PyTorch's threads are shared
        out among the lanes for as long. One lane is the calling thread itself; of several none is, so that a signal,
        which Python hands to the main thread, cannot come while it holds what the lanes wait for.

        Raises:
            BaseException: what a piece of work raised first; the others are ended at their next step.
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
                    # However few numbers are left: the last bits of a product may hang on the number of threads
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
                        ended.get(timeout=GLANCE)  # what `interrupts` sends is not heard in here
                        break
        except BaseException as error:  # an interrupt, at whatever point: perhaps in the middle of `start`
            # whose own locks make another error of it
            self._fail(error.__context__ if isinstance(error.__context__, KeyboardInterrupt) else error)
            # Who has no work yet gets none any more
            while self._working:
                time.sleep(0.001)
        finally:
            torch.set_num_threads(threads)
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._failure is None or not isinstance(error, Exception):  # an interrupt outdoes a failure
                self._failure = error
            self._changed.notify_all()
