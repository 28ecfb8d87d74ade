"""Daemons of a test: free ports of loopback, and processes that end with the test, whatever happens."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """So many ports of loopback on which nothing listens now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def start_daemon(
    stack: ExitStack, log: Path, command: list[str], environment: dict[str, str], end: signal.Signals = signal.SIGTERM
) -> subprocess.Popen:
    """Starts a command in the folder of its log. `end` is sent to it when `stack` closes, or this process is killed."""
    output = stack.enter_context(log.open("w"))
    tied = ["setpriv", "--pdeathsig", end.name.removeprefix("SIG")]
    process = subprocess.Popen(
        [*tied, *command], cwd=log.parent, env=environment, stdout=output, stderr=subprocess.STDOUT
    )
    stack.callback(_stop, process, end)
    return process


def _stop(process: subprocess.Popen, end: signal.Signals) -> None:
    process.send_signal(end)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    """Waits; what the daemons have said in the logs of `folder`, if it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, {log.name: log.read_text(errors="replace") for log in folder.glob("*.log")}
        time.sleep(0.1)
