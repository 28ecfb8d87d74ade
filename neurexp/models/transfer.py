"""Copies to a device that the program does not wait for.

A plain `.to(device)` from the CPU's memory waits until a GPU has done everything it was asked before. Knows no model.
"""

import torch


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device, and no wait for that device; the tensor itself if it is there.

    From the CPU to another device it goes by way of page-locked memory, which the device reads when it comes to it.
    PyTorch keeps that memory for the next copy.
    """
    if device.type == "cpu" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class Outbox:
    """Tensors on a device whose numbers the CPU wants, but not yet: they are fetched together, which is one wait.

    They must not be written into any more.
    """

    def __init__(self, most: int = 2**28):
        """It is full once it holds `most` bytes."""
        self._most, self._size = most, 0
        self._waiting: list[torch.Tensor] = []

    def put(self, values: torch.Tensor) -> None:
        """Takes one in. All of them must be of one dtype."""
        self._waiting.append(values)
        self._size += values.numel() * values.element_size()

    @property
    def is_full(self) -> bool:
        """Whether it should be emptied before more is put in."""
        return self._size >= self._most

    def fetch(self) -> list[torch.Tensor]:
        """All of them on the CPU, in their order; it is empty afterwards."""
        waiting, self._waiting, self._size = self._waiting, [], 0
        if not waiting:
            return []
        if len(waiting) == 1:
            return [waiting[0].cpu()]
        flat = torch.cat([one.flatten() for one in waiting]).cpu()
        parts = flat.split([one.numel() for one in waiting])
        return [part.view(one.shape) for part, one in zip(parts, waiting, strict=True)]
