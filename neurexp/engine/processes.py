"""Passes under `torchrun`: each process runs a part of the sequences, and process 0 merges the results.

Only the reducers' states are sent, once, after the pass, by gloo through the CPU. Processes of one machine talk over
loopback. Messages are texts and safetensors: PyTorch's own functions for objects (`broadcast_object_list`,
`gather_object`) unpickle what arrives, and a pickle can carry code. Knows no experiment.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from neurexp.errors import UserError

if TYPE_CHECKING:
    from neurexp.engine.reducers.base import Reducer

PATIENCE = timedelta(hours=6)  # for the slowest process


def count() -> int:
    """The number of processes; 1 without `torchrun`, also if a scheduler has set WORLD_SIZE."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """The number of this process, from 0. Process 0 does everything that is done once."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def own_part(sequences: int) -> slice:
    """The part of the sequences that this process runs. Parts are contiguous and in the order of ranks."""
    return slice(sequences * rank() // count(), sequences * (rank() + 1) // count())


def connect() -> None:
    """Connects to the other processes. Does nothing without `torchrun`, or if the connection exists."""
    if count() == 1:
        return
    import torch

    if torch.distributed.is_initialized():
        return
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", timeout=PATIENCE)


def broadcast(text: str) -> str:
    """Sends the text of process 0 to every process.

    Returns:
        The text of process 0, in every process.

    Raises:
        UserError: another process has ended.
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
    """Replaces gloo's error about a process that has ended. That process has printed the cause."""
    try:
        yield
    except RuntimeError as error:
        raise UserError("torchrun: another process has ended before this one; its own message says why") from error


def merge(reducers: "Sequence[Reducer]") -> None:
    """Merges the reducers of all processes into those of process 0, in the order of ranks.

    Raises:
        UserError: another process ended before it had sent its states.
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
        UserError: another process has ended.
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
