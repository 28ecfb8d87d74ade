"""Lanes: on a CPU several batches of a pass run side by side, each in a thread with its share of the cores.

While one lane waits for memory, or for Python, another multiplies. What the lanes add up they add in the order of the
batches, site by site, so that the sums are those of one lane, to the bit. Knows neither models nor reducers.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

LANES = 2  # as many again on a machine of more cores were not measured


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
        self._turn = [first] * steps  # whose turn it is at each step
        self._next = first
        self._changed = threading.Condition()
        self._failure: BaseException | None = None

    @property
    def begun(self) -> int:
        """The first number that no lane has begun with."""
        return self._next

    @contextmanager
    def turn(self, number: int, step: int) -> Iterator[None]:
        """A step of one piece of work: begins when all smaller numbers have done with it."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn[step] == number or self._failure is not None)
            if self._failure is not None:
                raise _OtherLaneFailed
        yield  # a step that fails leaves the turn with it: `run` lets no other go on
        with self._changed:
            self._turn[step] = number + 1
            self._changed.notify_all()

    def run(self, work: Callable[[int], None], end: int, pause: Callable[[], bool] = lambda: False) -> None:
        """Calls work(number) for the numbers up to `end`, or until `pause` says so: then `begun` is less than `end`.

        One number at least is worked off, and all that are begun with are done in the end.
        This thread is one of the lanes. PyTorch's threads are shared out among them for as long.

        Raises:
            BaseException: what a piece of work raised first; the others are ended at their next step.
        """
        threads, first, paused = torch.get_num_threads(), self._next, False

        def take() -> int | None:
            nonlocal paused
            with self._changed:
                paused = paused or self._failure is not None or self._next >= end or (self._next > first and pause())
                if paused:
                    return None
                self._next += 1
                return self._next - 1

        def lane() -> None:
            try:
                torch.set_num_threads(threads // self.count)  # however few are left: sums hang on it
                while (number := take()) is not None:
                    work(number)
            except _OtherLaneFailed:
                pass
            except BaseException as error:  # an interrupt as well
                self._fail(error)

        others = [
            threading.Thread(target=lane, name=f"lane {index}") for index in range(1, min(self.count, end - first))
        ]
        try:
            for other in others:
                other.start()
            lane()
            for other in others:
                other.join()
        except BaseException as error:  # an interrupt between two pieces of work
            self._fail(error)
            for other in others:
                if other.ident is not None:
                    other.join()
        finally:
            torch.set_num_threads(threads)
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()
