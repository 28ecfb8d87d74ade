"""A signal in the first moment of a fork, before it can have set its own handlers."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def signalled_forks() -> Iterator[None]:
    """Within it SIGINT reaches every fork of this process at once. A handler of its maker's would end it."""
    fork = os.fork

    def signalled() -> int:
        process = fork()
        if process == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return process

    before = signal.signal(signal.SIGINT, lambda *_: os._exit(7))
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(os, "fork", signalled)
            yield
    finally:
        signal.signal(signal.SIGINT, before)
