"""Candidates: which of a batch's activations may be among the highest ones so far, found fast on a CPU.

Most activations are not, once some thousand tokens have been seen. So only the maximum of each block of tokens is taken
from all activations, and what is inside of a block is looked at where its maximum is high enough.
"""

from dataclasses import dataclass

import numpy as np
import torch

from neurexp.engine.reducers.ranking import ranked_from_left

BLOCK = 16  # tokens
FEW = 8  # candidates of a unit; a table of them has as many columns as the unit with the most needs


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
        self.empty = self.mixed[~live.any(1)]

    def maxima(self, x: torch.Tensor) -> torch.Tensor:
        """The highest score in each block, `[2, blocks, neurons]` float32; −∞ if no token of it counts."""
        found = x.new_empty(2, len(self.rows), x.shape[1])
        full = x[: self.whole * BLOCK].unflatten(0, (self.whole, BLOCK))
        for end, reduce in enumerate((torch.amax, torch.amin)):
            if self.whole:
                reduce(full, 1, out=found[end, : self.whole])
            if self.whole < len(self.rows):
                found[end, -1] = reduce(x[self.whole * BLOCK :], 0)
            if len(self.mixed):
                found[end, self.mixed] = reduce(x[self.instead], 1)
        found[1].neg_()
        if len(self.empty):
            found[:, self.empty] = -torch.inf
        return found.float()


@dataclass
class Candidates:
    """Activations that may be among the highest or the lowest, ordered by end and neuron, then by token."""

    units: np.ndarray  # [units] int64, ascending: end · neurons + neuron, of those that have any
    first: np.ndarray  # [units] int64: of each, the place of its first one in the arrays below
    count: np.ndarray  # [units] int64
    rows: np.ndarray  # [candidates] int64, among the batch's valid tokens
    scores: np.ndarray  # [candidates] float32; a zero has no sign


def find(x: torch.Tensor, blocks: Blocks, worst: torch.Tensor, with_equal: bool, k: int | None = None) -> Candidates:
    """The counted activations of x `[tokens, neurons]` with a higher score than their neuron's `worst` one.

    A score is the activation at the upper end, its negative at the lower end: `worst` is `[2, neurons]`. `with_equal`:
    those with an equal score as well. With `k`, as few as hold the k best of each neuron, if that is known fast.
    """
    tokens, neurons = x.shape
    maxima = blocks.maxima(x)
    if k is not None and k <= maxima.shape[1] and bool((worst <= torch.finfo(torch.float32).min).any()):
        # At least k activations are as high as the k-th highest of the blocks' maxima
        worst, with_equal = torch.maximum(worst, maxima.topk(k, 1).values[:, -1]), True
    compare = torch.ge if with_equal else torch.gt
    found = np.flatnonzero(compare(maxima, worst[:, None]).numpy())
    end_and_block, neuron = np.divmod(found, neurons)
    end, block = np.divmod(end_and_block, len(blocks.rows))
    sign = torch.from_numpy(1 - 2 * end.astype(np.float32))[:, None]
    rows, unit = blocks.rows[block], end * neurons + neuron
    scores = x[rows, torch.from_numpy(neuron)[:, None]].float() * sign
    enough = compare(scores, worst.view(-1)[unit][:, None]).logical_and_(blocks.live[block])
    chosen = np.flatnonzero(enough.numpy())
    keys = (unit * tokens)[chosen // BLOCK] + rows.numpy().ravel()[chosen]
    order = keys.argsort()
    units, rows = np.divmod(keys[order], tokens)
    first = np.flatnonzero(np.diff(units, prepend=-1))
    count = np.diff(first, append=len(units))
    return Candidates(units[first], first, count, rows, scores.numpy().ravel()[chosen[order]] + np.float32(0))


@dataclass(frozen=True)
class Part:
    """The tokens of one document in a batch."""

    document: int
    rows: torch.Tensor  # [tokens of it] int64, among the batch's valid tokens, ascending
    blocks: Blocks  # of these tokens

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Its activations, without a copy where its tokens lie side by side."""
        first, last = int(self.rows[0]), int(self.rows[-1])
        return x[first : last + 1] if last - first + 1 == len(self.rows) else x[self.rows]


def parts_of(document: torch.Tensor, counted: torch.Tensor) -> list[Part]:
    """The documents of a batch that have a token that counts; `document` and `counted` are `[tokens]`."""
    parts = []
    for one in document[counted].unique().tolist():
        (rows,) = (document == one).nonzero(as_tuple=True)
        parts.append(Part(one, rows, Blocks(counted[rows])))
    return parts


def find_by_document(
    x: torch.Tensor,
    parts: list[Part],
    worst: torch.Tensor,
    kept: torch.Tensor,
    documents: torch.Tensor,
    with_equal: bool,
    most: int,
) -> Candidates:
    """As `find`, where at most `most` of a document count: a batch may hold far more of one document that are high.

    Args:
        x, worst, with_equal: as in `find`.
        parts: of `parts_of`.
        kept, documents: the scores and the documents that are kept so far, `[2, neurons, k]` each.
        most: of a document, at each end of a neuron.

    Returns:
        The `most` best of each document, or fewer: of a document that has as many kept ones, those that are better.
    """
    tokens, found = len(x), []
    for part in parts:
        here = documents == part.document
        own = kept.masked_fill(~here, torch.inf).amin(2)
        floor = torch.maximum(worst, own.masked_fill(here.sum(2) < most, -torch.inf))
        if not with_equal:  # what is equal to the next number is higher
            floor = torch.nextafter(floor, torch.full_like(floor, torch.inf))
        few = find(part.of(x), part.blocks, floor, True, most)
        for which, index in tables(few):
            scores = np.where(index >= 0, few.scores[index], np.float32(-np.inf))
            index = np.take_along_axis(index, ranked_from_left(scores)[:, :most], 1)
            unit = np.broadcast_to(few.units[which, None], index.shape)[index >= 0]
            index = index[index >= 0]
            found.append((unit * tokens + part.rows.numpy()[few.rows[index]], few.scores[index]))
    if not found:
        none = np.zeros(0, dtype=np.int64)
        return Candidates(none, none, none, none, np.zeros(0, dtype=np.float32))
    keys, scores = (np.concatenate(one) for one in zip(*found, strict=True))
    order = keys.argsort()
    units, rows = np.divmod(keys[order], tokens)
    first = np.flatnonzero(np.diff(units, prepend=-1))
    return Candidates(units[first], first, np.diff(first, append=len(units)), rows, scores[order])


def tables(found: Candidates) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits the units into those with few and with many candidates.

    Returns:
        For each part the places of its units in `found.units`, `[units]`, and their candidates as indices of
        `found.rows`, `[units, most]`, −1 where a unit has fewer.
    """
    parts = []
    few = found.count <= FEW
    for some in (np.flatnonzero(few), np.flatnonzero(~few)):
        if len(some):
            offsets = np.arange(found.count[some].max())
            index = found.first[some, None] + offsets
            parts.append((some, np.where(offsets < found.count[some, None], index, -1)))
    return parts
