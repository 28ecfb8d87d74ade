"""A process beside this one that does calls for it: for a library whose imports take long, on another processor.

It is a fork, made before this process imports anything heavy. It ends with this process, however that ends. Knows
nothing of the calls.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from neurexp.console.forks import forked
from neurexp.console.processors import processors
from neurexp.errors import UserError, one_line

GLANCE = 0.1  # seconds between looks for an answer: a signal just before the main thread sleeps does not wake it


class Beside:
    """The process. Its calls are done one after the other, in the order in which they are made."""

    def __init__(self, prepare: Callable[[], object], what: str):
        """`prepare` is called first, without waiting for it; calls may rely on nothing of it, because its errors are
        dropped. `what` says what the process does, for messages."""
        self._what, self._lock = what, threading.Lock()
        self._connection, theirs = multiprocessing.Pipe()
        self._process = forked()
        if self._process == 0:
            self._connection.close()  # or it would not see that the other end was closed
            _serve(theirs, prepare)
        theirs.close()

    @staticmethod
    def is_of_use() -> bool:
        """Whether there is a second processor for it, on a system where libraries survive a fork."""
        return sys.platform == "linux" and processors() > 1

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)` over there; function, arguments and result must be picklable.

        Raises:
            UserError: what the function raised, or the process has ended.
            RuntimeError: with the text of another exception that the function raised, and its traceback as a note.
        """
        call = _Call(function, arguments)
        threading.Thread(target=self._do, args=(call,), name="beside", daemon=True).start()
        while not call.ended.wait(GLANCE):
            pass
        if isinstance(call.error, EOFError | OSError):
            raise UserError(f"the process that {self._what} has ended, as if it were killed") from call.error
        if call.error is not None:
            raise call.error
        result, error, trace = call.answer
        if isinstance(error, UserError):
            raise error
        if error is not None:
            told = RuntimeError(error)
            told.add_note(trace)
            raise told
        return result

    def _do(self, call: "_Call") -> None:
        """Sends a call and receives its answer. It runs in a thread, which no interrupt reaches: half a message, or an
        answer that nobody took, would spoil the next call."""
        try:
            with self._lock:
                self._connection.send((call.function, call.arguments))
                call.answer = self._connection.recv()
        except Exception as error:
            call.error = error
        finally:
            call.ended.set()

    def end(self) -> None:
        """Ends the process. All calls that were answered are done."""
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._process, signal.SIGKILL)  # it has nothing left to do, and its exit would take long
            os.waitpid(self._process, 0)
        with self._lock:  # an interrupted call sees now that the process has ended
            self._connection.close()


class _Call:
    """A call on its way to the process, and what came of it."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]):
        self.function, self.arguments = function, arguments
        self.ended = threading.Event()
        self.answer: tuple[Any, UserError | str | None, Any] = None, None, None
        self.error: Exception | None = None  # of the connection


def _serve(connection: Any, prepare: Callable[[], object]) -> NoReturn:
    """Answers calls until the other end is closed, or its process ends."""
    try:
        with suppress(Exception):
            prepare()
        while True:
            function, arguments = connection.recv()
            result = error = trace = None
            try:
                result = function(*arguments)
            except UserError as mistake:
                error = mistake
            except BaseException as other:
                error, trace = one_line(other), "".join(traceback.format_exception(other))
            connection.send((result, error, trace))
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)
