"""Interrupts: a Ctrl-C ends a run within a second, also while native code is running.

Python delivers a signal to the main thread, and only between two Python instructions. During an eigendecomposition it
would wait. So the work runs in a thread of its own, and the main thread only waits for it. This does not help against
native code that keeps Python's lock (scipy.linalg does, numpy.linalg does not). Knows nothing of the work; imports
nothing heavy.
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

GRACE = 0.5  # seconds that interrupted work gets to clean up
GLANCE = 0.2  # seconds between checks: a signal just before the main thread sleeps does not wake it
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_left: list["_Work"] = []  # interrupted, and perhaps still in native code


def hearing_signals(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Calls `function(*arguments, **options)` in a thread that the main thread waits for.

    If a signal's handler raises an exception such as KeyboardInterrupt, it is raised here at once. The work gets a
    KeyboardInterrupt too, at its next Python instruction, and `GRACE` seconds to end.

    The thread has the caller's context variables and the process's number of PyTorch threads. PyTorch's other state of
    a thread (`inference_mode`, `no_grad`) is that of a new thread. Outside the main thread, which gets no signals, the
    function is called directly.

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
    """Whether interrupted work is still running, in native code or because it ignored the interrupt."""
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
        """Starts the thread. Signals wait meanwhile, because `Thread.start` cannot be interrupted safely."""
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _run(self) -> None:
        signal.pthread_sigmask(
            signal.SIG_SETMASK, self._mask
        )  # otherwise subprocesses of the work would ignore signals
        try:
            try:
                self._result = self._function()
            except BaseException as error:
                self._error = error
            with self._guard:
                self._interruptible = False
        except BaseException as error:  # the interrupt came just after the work
            self._error = error
        finally:
            self.ended.set()

    def interrupt(self) -> None:
        """Sends the work a KeyboardInterrupt, and waits until it ends, for `GRACE` seconds at most."""
        with self._guard:
            if self._thread.ident is None or not self._interruptible:
                return
            identity = ctypes.c_ulong(self._thread.ident)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(KeyboardInterrupt))
        _left.append(self)
        if self.ended.wait(GRACE):
            _left.remove(self)

    def outcome(self) -> Any:
        """The function's result. Raises what the function raised."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # its traceback holds this frame
