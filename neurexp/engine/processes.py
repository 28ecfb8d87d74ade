"""A pass split over the processes that `torchrun` started: each takes a stretch of the sequences, process 0 merges.

Only reducers' states travel, once, after the pass: through gloo and the CPU, whatever the device. Between processes of
one machine our sockets are on loopback. Knows no experiment.
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
    """How many processes take part; 1 without `torchrun`, whatever else a scheduler has set."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """Which of them this one is; 0 does all that is done once."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def own_part(sequences: int) -> slice:
    """This process's stretch of so many sequences; all stretches together are the whole, in the order of ranks."""
    return slice(sequences * rank() // count(), sequences * (rank() + 1) // count())


def connect() -> None:
    """Meets the other processes, before there is anything to lose. Does nothing where there are none."""
    if count() == 1:
        return
    import torch

    if torch.distributed.is_initialized():
        return
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", timeout=PATIENCE)


def broadcast(text: str) -> str:
    """The text of process 0, in every process. Raises UserError if process 0 ended before."""
    if count() == 1:
        return text
    with _together():
        if rank() > 0:
            return _receive(0).decode()
        for other in range(1, count()):
            _send(text.encode(), other)
    return text


@contextmanager
def _together() -> Iterator[None]:
    """What gloo says of a process that has ended is not what went wrong there."""
    try:
        yield
    except RuntimeError as error:
        raise UserError("torchrun: another process has ended before this one; its own message says why") from error


def merge(reducers: "Sequence[Reducer]") -> None:
    """Merges every process's reducers into those of process 0, in the order of ranks. Does nothing where there is one.

    Raises:
        UserError: another process ended before it had sent what it saw.
        ValueError: the processes were calibrated differently: they did not run the same model on the same text.
    """
    if count() == 1:
        return
    from safetensors.torch import load, save

    if rank() > 0:
        with _together():
            for reducer in reducers:
                _send(save(reducer.state()), 0)
        return
    for source in range(1, count()):
        for reducer in reducers:
            other = copy.copy(reducer)
            with _together():
                state = _receive(source)
            other.load(load(state))
            reducer.merge(other)


def shut_down() -> None:
    """Ends what `connect` opened."""
    if count() == 1:
        return
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _send(content: bytes, target: int) -> None:
    import torch

    torch.distributed.send(torch.tensor([len(content)]), target)
    torch.distributed.send(torch.frombuffer(bytearray(content), dtype=torch.uint8), target)


def _receive(source: int) -> bytes:
    import torch

    size = torch.zeros(1, dtype=torch.int64)
    torch.distributed.recv(size, source)
    content = torch.zeros(int(size), dtype=torch.uint8)
    torch.distributed.recv(content, source)
    return content.numpy().tobytes()
