"""Candidates: which of a batch's activations may be among the highest ones so far, found fast on a CPU.

Most activations are not, once some thousand tokens have been seen. So only the maximum of each block of tokens is taken
from all activations, and what is inside of a block is looked at where its maximum is high enough.
"""

from dataclasses import dataclass

import numpy as np
import torch

BLOCK = 32  # tokens
FEW = 8  # candidates of a neuron; a table of them has as many columns as the neuron with the most needs


class Blocks:
    """How the tokens of a batch are cut into blocks, and which of them count."""

    def __init__(self, counted: torch.Tensor):
        """`counted` is `[tokens]` bool."""
        tokens = len(counted)
        self.whole = tokens // BLOCK  # blocks that are full
        count = -(-tokens // BLOCK)
        self.rows = torch.arange(count * BLOCK).view(count, BLOCK).clamp(max=tokens - 1)
        inside = torch.arange(count * BLOCK).view(count, BLOCK) < tokens
        self.live = inside & counted[self.rows]
        # Blocks with a token that does not count get another token of the block in its place
        (self.mixed,) = (inside & ~self.live).any(1).nonzero(as_tuple=True)
        live = self.live[self.mixed]
        first = live.int().argmax(1, keepdim=True)
        self.instead = self.rows[self.mixed].where(live, self.rows[self.mixed].gather(1, first))
        self.without = ~live.any(1)

    def maxima(self, x: torch.Tensor, largest: bool) -> torch.Tensor:
        """The maximum (or minimum) of each block's counted activations, `[blocks, neurons]` of x's dtype."""
        found = x.new_empty(len(self.rows), x.shape[1])
        full = x[: self.whole * BLOCK].unflatten(0, (self.whole, BLOCK))
        reduce = torch.amax if largest else torch.amin
        if self.whole:
            reduce(full, 1, out=found[: self.whole])
        if self.whole < len(self.rows):
            found[-1] = reduce(x[self.whole * BLOCK :], 0)
        if len(self.mixed):
            found[self.mixed] = reduce(x[self.instead], 1)
            found[self.mixed[self.without]] = -torch.inf if largest else torch.inf
        return found


@dataclass
class Candidates:
    """Activations of some neurons at one end, ordered by neuron, then by token. A score is higher the better."""

    neurons: np.ndarray  # [neurons] int64, ascending: those that have any
    first: np.ndarray  # [neurons] int64: of each, the place of its first one in the arrays below
    count: np.ndarray  # [neurons] int64
    rows: np.ndarray  # [candidates] int64, among the batch's valid tokens
    scores: np.ndarray  # [candidates] float32


def find(x: torch.Tensor, blocks: Blocks, worst: torch.Tensor, largest: bool, with_equal: bool) -> Candidates:
    """The counted activations of x `[tokens, neurons]` with a higher score than their neuron's `worst` `[neurons]`.

    The score is the activation, or its negative unless `largest`. `with_equal`: those with an equal score as well.
    """
    limit = worst if largest else -worst
    compare = {(True, True): torch.ge, (False, True): torch.le, (True, False): torch.gt, (False, False): torch.lt}[
        largest, with_equal
    ]
    block, neuron = compare(blocks.maxima(x, largest).float(), limit).nonzero(as_tuple=True)
    rows = blocks.rows[block]
    found = compare(x[rows, neuron[:, None]].float(), limit[neuron][:, None]) & blocks.live[block]
    which, within = found.nonzero(as_tuple=True)
    tokens = len(x)
    ordered = np.sort((neuron[which] * tokens + rows[which, within]).numpy())
    neurons, rows = np.divmod(ordered, tokens)
    scores = x[torch.from_numpy(rows), torch.from_numpy(neurons)].float()
    first = np.flatnonzero(np.diff(neurons, prepend=-1))
    count = np.diff(first, append=len(neurons))
    # Zeros of either sign are equal
    return Candidates(neurons[first], first, count, rows, (scores if largest else -scores).add_(0.0).numpy())


def tables(found: Candidates) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits the neurons into those with few and with many candidates.

    Returns:
        For each part the places of its neurons in `found.neurons`, `[neurons]`, and their candidates as indices of
        `found.rows`, `[neurons, most]`, −1 where a neuron has fewer.
    """
    parts = []
    few = found.count <= FEW
    for some in (np.flatnonzero(few), np.flatnonzero(~few)):
        if len(some):
            offsets = np.arange(found.count[some].max())
            index = found.first[some, None] + offsets
            parts.append((some, np.where(offsets < found.count[some, None], index, -1)))
    return parts
