"""Signals that are heard while native code runs for long: a Ctrl-C within a second, whatever a run is in.

Python hands a signal to the main thread, and only between two steps of Python: in the middle of an eigendecomposition
nothing is heard. So the work is done by a thread of its own, and the main thread only waits.
Native code that keeps Python's lock for itself (scipy.linalg does, numpy.linalg does not) cannot be left in this way.
Knows nothing of what the work is; imports nothing heavy.
"""

import contextvars
import ctypes
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

GRACE = 0.5  # seconds that interrupted work has to put its things in order
GLANCE = 0.2  # seconds; a signal that comes just before the main thread falls asleep does not wake it
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_left: list["_Work"] = []  # interrupted, and perhaps still in native code


def hearing_signals(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """`function(*arguments, **options)`, in a thread that the main thread waits for.

    What a signal's handler raises meanwhile, as KeyboardInterrupt, is raised here at once. The work is sent a
    KeyboardInterrupt too, which it gets at its next step of Python, and is waited for no longer than `GRACE`.

    Context variables are the caller's, PyTorch's number of threads is the process's, and what else PyTorch holds for
    each thread (`inference_mode`, `no_grad`) is as in a new thread. Outside of the main thread, where no signal comes,
    the function is just called.

    Raises:
        BaseException: what the function raised.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments, **options)
    work = _Work(partial(function, *arguments, **options))
    try:
        work.start()
        while not work.ended.wait(GLANCE):
            pass
    except BaseException:
        work.interrupt()
        raise
    return work.outcome()


def work_is_left() -> bool:
    """Whether work that was interrupted is still under way, in native code or because it took no notice."""
    return any(not work.ended.is_set() for work in _left)


class _Work:
    """A function in a thread of its own."""

    def __init__(self, function: Callable[[], Any]):
        self.ended = threading.Event()
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        self._interruptible = True
        self._guard = threading.Lock()  # of `_interruptible`
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name="work", daemon=True)

    def start(self) -> None:
        """Starts the thread. A signal has to wait for so long: `Thread.start` cannot be left in the middle."""
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)  # or the commands that the work starts would be deaf
        try:
            try:
                self._result = self._function()
            except BaseException as error:
                self._error = error
            with self._guard:
                self._interruptible = False
        except BaseException as error:  # an interrupt that came as the work was done
            self._error = error
        finally:
            self.ended.set()

    def interrupt(self) -> None:
        """Sends the work a KeyboardInterrupt, and gives it the time to end."""
        with self._guard:
            if self._thread.ident is None or not self._interruptible:
                return
            identity = ctypes.c_ulong(self._thread.ident)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(KeyboardInterrupt))
        _left.append(self)
        if self.ended.wait(GRACE):
            _left.remove(self)

    def outcome(self) -> Any:
        """What the function returned; raises what it raised."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # its traceback holds this frame
