"""Causal attention on a CPU: some queries at a time, only against the keys that they may see, in reused memory.

PyTorch's own fused attention uses tiles that are too small for a CPU, and does not skip keys outside a window. Knows no
model: what comes in are queries, keys and values that are ready to be multiplied.
"""

import threading
from functools import cache

import torch

ALIGNED = 16  # keys; widths that are multiples of it multiply faster


class BlockedAttention:
    """softmax(QKᵀ)V with a causal mask, and with a window if one is given. It has no gradient.

    Any number of threads may call it at the same time: each has memory of its own.
    """

    def __init__(self, block: int):
        """`block` is the number of queries at once."""
        self._block = block
        self._own = threading.local()
        self._blocks = cache(_query_blocks)

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int, out: torch.Tensor
    ) -> None:
        """Attends within one sequence.

        Args:
            queries: `[key heads, length, groups, width]` float32, already scaled; `view` can join length and groups.
                The `groups` heads of a key head share its keys and values, which are not copied.
            keys, values: `[key heads, length, width]` float32.
            window: how many tokens a query sees, with its own; `length` or more for all.
            out: `[length, key heads, groups, width]`, any format; written to.
        """
        heads, length, groups, width = queries.shape
        for start, stop, first, hidden in self._blocks(length, min(window, length), self._block):
            rows, seen = stop - start, stop - first
            scores = self.memory("scores", heads, rows * groups, seen)
            some = queries[:, start:stop].view(heads, rows * groups, width)
            torch.bmm(some, keys[:, first:stop].transpose(1, 2), out=scores)
            by_head = scores.view(heads, rows, groups, seen)
            by_head[..., start - first :] += hidden[:, None, start - first :]
            if stop - window > first:  # not every query sees the first keys
                by_head[..., : start - first] += hidden[:, None, : start - first]
            torch.softmax(scores, -1, out=scores)
            found = torch.bmm(scores, values[:, first:stop]).view(heads, rows, groups, width)
            out[start:stop] = found.transpose(0, 1)

    def memory(self, name: str, *shape: int) -> torch.Tensor:
        """Uninitialised float32 memory of the calling thread; the next call with the same name takes it again."""
        size = torch.Size(shape).numel()
        scratch = getattr(self._own, name, None)
        if scratch is None or scratch.numel() < size:
            with torch.inference_mode(False):  # it serves inside of that mode and outside
                scratch = torch.empty(size)
            setattr(self._own, name, scratch)
        return scratch[:size].view(shape)


def _query_blocks(length: int, window: int, block: int) -> list[tuple[int, int, int, torch.Tensor]]:
    """Queries start … stop, the first key that any of them may see, and −∞ `[queries, keys]` where one may not."""
    place, blocks = torch.arange(length), []
    for start in range(0, length, block):
        stop, first = min(start + block, length), max(0, start - window + 1) // ALIGNED * ALIGNED
        distance = place[start:stop, None] - place[first:stop]
        hidden = torch.zeros(distance.shape)
        blocks.append((start, stop, first, hidden.masked_fill_((distance < 0) | (distance >= window), -torch.inf)))
    return blocks
