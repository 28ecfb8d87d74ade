"""Passes under `torchrun`: each process runs a part of the sequences, and process 0 merges the results.

Only the reducers' states are sent, once, after the pass, by gloo through the CPU. Processes of one machine talk over
loopback. Messages are texts and safetensors: PyTorch's own functions for objects (`broadcast_object_list`,
`gather_object`) unpickle what arrives, and a pickle can carry code. Knows no experiment.
"""

import atexit
import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from neurexp.engine.watch import DONE, FAILED, INTERRUPTED, Watch, open_store
from neurexp.errors import UserError

if TYPE_CHECKING:
    from neurexp.engine.reducers.base import Reducer

PATIENCE = timedelta(hours=6)  # for the slowest process that is still at work

_watch: Watch | None = None


class LostProcessError(UserError):
    """Another process has ended before its time. The text says which, and how as far as it is known."""


def count() -> int:
    """The number of processes; 1 without `torchrun`, also if a scheduler has set WORLD_SIZE."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """The number of this process, from 0. Process 0 does everything that is done once."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def connect() -> None:
    """Connects to the other processes. Does nothing without `torchrun`, or if the connection exists."""
    if count() == 1:
        return
    import torch

    if torch.distributed.is_initialized():
        return
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    global _watch
    store = open_store()
    _watch = Watch(open_store(), rank(), count())
    atexit.register(leave, INTERRUPTED)  # a thread in native code must not outlive the interpreter
    torch.distributed.init_process_group("gloo", store=store, rank=rank(), world_size=count(), timeout=PATIENCE)


def broadcast(text: str) -> str:
    """Sends the text of process 0 to every process.

    Returns:
        The text of process 0, in every process.

    Raises:
        LostProcessError: another process has ended.
    """
    if count() == 1:
        return text
    with _explaining_lost_process():
        if rank() > 0:
            return _receive(0).decode()
        for other in range(1, count()):
            _send(text.encode(), other)
    return text


@contextmanager
def _explaining_lost_process() -> Iterator[None]:
    """Replaces gloo's error about a process that has ended."""
    try:
        yield
    except RuntimeError as error:
        unknown = "torchrun: another process has ended before this one; its own message says why"
        raise LostProcessError(lost() or unknown) from error


def lost() -> str | None:
    """Which other process was lost, to a process that is being ended, perhaps because of that; None if none was."""
    return None if _watch is None else _watch.why()


def leave(how: str = FAILED, why: str = "") -> None:
    """Tells the other processes that this one ends before its time. Only the first call counts."""
    global _watch
    if _watch is not None:
        _watch.leave(how, why)
        _watch = None


def merge(reducers: "Sequence[Reducer]") -> None:
    """Merges the reducers of all processes into those of process 0, in the order of ranks.

    Raises:
        LostProcessError: another process ended before it had sent its states.
        ValueError: the processes were calibrated differently: they did not run the same model on the same text.
    """
    if count() == 1:
        return
    from safetensors.torch import load, save

    if rank() > 0:
        with _explaining_lost_process():
            for reducer in reducers:
                _send(save(reducer.state()), 0)
        return
    for source in range(1, count()):
        for reducer in reducers:
            other = copy.copy(reducer)
            with _explaining_lost_process():
                state = _receive(source)
            other.load(load(state))
            reducer.merge(other)


def share(reducers: "Sequence[Reducer]") -> None:
    """Gives the states of process 0 to all processes, after `merge`.

    Raises:
        LostProcessError: another process has ended.
    """
    if count() == 1:
        return
    from safetensors.torch import load, save

    with _explaining_lost_process():
        for reducer in reducers:
            if rank() > 0:
                reducer.load(load(_receive(0)))
            else:
                content = save(reducer.state())
                for other in range(1, count()):
                    _send(content, other)


def shut_down() -> None:
    """Closes the connection of `connect`."""
    if count() == 1:
        return
    import torch

    leave(DONE)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _send(content: bytes, target: int) -> None:
    import torch

    torch.distributed.send(torch.tensor([len(content)]), target)
    if content:
        torch.distributed.send(torch.frombuffer(bytearray(content), dtype=torch.uint8), target)


def _receive(source: int) -> bytes:
    import torch

    size = torch.zeros(1, dtype=torch.int64)
    torch.distributed.recv(size, source)
    content = torch.empty(int(size), dtype=torch.uint8)
    if len(content):
        torch.distributed.recv(content, source)
    return content.numpy().tobytes()
