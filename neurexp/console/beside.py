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

GLANCE = 0.1  # seconds between looks for an answer: an interrupt comes between two of them


class Beside:
    """The process. Its calls are done one after the other, in the order in which they are made."""

    def __init__(self, prepare: Callable[[], object], what: str):
        """`prepare` is called first, without waiting for it; calls may rely on nothing of it, because its errors are
        dropped. `what` says what the process does, for messages."""
        self._what, self._asked, self._lock = what, 0, threading.Lock()
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
        with self._lock:
            self._asked += 1
            try:
                self._connection.send((self._asked, function, arguments))
                answered = 0
                while answered != self._asked:  # the answer to an interrupted call may come first
                    while not self._connection.poll(GLANCE):
                        pass
                    answered, result, error, trace = self._connection.recv()
            except (EOFError, OSError) as ended:
                raise UserError(f"the process that {self._what} has ended, as if it were killed") from ended
        if isinstance(error, UserError):
            raise error
        if error is not None:
            told = RuntimeError(error)
            told.add_note(trace)
            raise told
        return result

    def end(self) -> None:
        """Ends the process. All calls that were answered are done."""
        with suppress(OSError):
            self._connection.close()
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._process, signal.SIGKILL)  # it has nothing left to do, and its exit would take long
            os.waitpid(self._process, 0)


def _serve(connection: Any, prepare: Callable[[], object]) -> NoReturn:
    """Answers calls until the other end is closed, or its process ends."""
    try:
        with suppress(Exception):
            prepare()
        while True:
            number, function, arguments = connection.recv()
            result = error = trace = None
            try:
                result = function(*arguments)
            except UserError as mistake:
                error = mistake
            except BaseException as other:
                error, trace = one_line(other), "".join(traceback.format_exception(other))
            connection.send((number, result, error, trace))
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)
