"""The order of the activations of some neurons: by value, then by place, with some of each document at most.

An activation's score is the higher the more extreme it is: the activation itself, or its negative at the lower end.
"""

from collections.abc import Sequence

import numpy as np
import torch

BLOCK = 16  # rows
_LAST = torch.iinfo(torch.int64).max  # sorts behind every place


def ranked_from_left(scores: np.ndarray) -> np.ndarray:
    """The indices that sort each row of scores `[rows, columns]` float32 downwards; equal ones from the left.

    There must be no −0, which would come after 0. Much faster than a stable sort.
    """
    bits = scores.view(np.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)  # whole numbers in the same order
    last = (1 << 32) - 1
    keys = (ordered << 32) | (last - np.arange(scores.shape[1]))
    keys.sort(axis=1)
    return last - (keys[:, ::-1] & last)


def ranked(
    scores: torch.Tensor, places: torch.Tensor, documents: torch.Tensor | None, per_document: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorts each row by score, downwards, and equal ones by place. What is missing, or one too many, comes last.

    Args:
        scores: `[rows, columns]` float32; −∞ where one is missing.
        places: `[rows, columns]` int64.
        documents: `[rows, columns]` int64, if at most `per_document` of each count.

    Returns:
        The indices of the columns in that order, and whether the one at an index is missing or one too many;
        `[rows, columns]` each.
    """
    missing = ~scores.isfinite()
    scores = scores.masked_fill(missing, -torch.inf)
    order = places.masked_fill(missing, _LAST).argsort(dim=1, stable=True)
    order = order.gather(1, scores.gather(1, order).argsort(dim=1, stable=True, descending=True))
    gone = missing.gather(1, order)
    if documents is not None:
        gone |= _beyond(documents.gather(1, order), per_document)
        again = gone.int().argsort(dim=1, stable=True)
        order, gone = order.gather(1, again), gone.gather(1, again)
    return order, gone


def best_rows(
    scores: torch.Tensor, k: int, groups: Sequence[torch.Tensor] | None = None, per_group: int = 0
) -> torch.Tensor:
    """The rows of the `k` highest scores of each column, `[k, columns]` int64, in order; or of all if there are fewer.

    Equal scores are ordered by their rows, lower ones first. A device is not waited for: how much is done depends on no
    score.

    Args:
        scores: `[rows, columns]` float32 without NaN.
        k: how many.
        groups: the rows of each group, ascending, if at most `per_group` of each count.
    """
    bits = (scores + 0.0).view(torch.int32)  # a zero has no sign
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # whole numbers in the same order
    last = len(scores) - 1 - torch.arange(len(scores), device=scores.device)
    keys = (ordered.long() << 32) | last[:, None]
    if groups is None:
        best = _highest(keys, k)
    else:
        best = torch.cat([_highest(keys[rows], per_group) for rows in groups])
        best = best.topk(min(k, len(best)), dim=0).values
    return len(scores) - 1 - (best & 0xFFFFFFFF)


def _highest(keys: torch.Tensor, k: int) -> torch.Tensor:
    """The `k` highest of each column of unlike keys `[rows, columns]`, in order."""
    whole = len(keys) // BLOCK
    if whole > 2 * k:  # the k highest are in the k blocks with the highest maxima
        blocks = keys[: whole * BLOCK].unflatten(0, (whole, BLOCK))
        chosen = blocks.amax(1).topk(k, dim=0).indices
        inside = blocks.gather(0, chosen[:, None].expand(-1, BLOCK, -1))
        keys = torch.cat([inside.flatten(0, 1), keys[whole * BLOCK :]])
    return keys.topk(min(k, len(keys)), dim=0).values


def _beyond(documents: torch.Tensor, most: int) -> torch.Tensor:
    """Whether `most` entries of the same document come before an entry in its row `[rows, columns]`."""
    by = documents.argsort(dim=1, stable=True)
    in_order = documents.gather(1, by)
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    is_first = torch.ones_like(documents, dtype=torch.bool)
    is_first[:, 1:] = in_order[:, 1:] != in_order[:, :-1]
    start = index.where(is_first, 0).cummax(1).values
    return torch.zeros_like(is_first).scatter(1, by, index - start >= most)
