"""Work in parts, so that memory does not depend on how many rows, neurons or labellings there are.

A step of a statistic holds a few arrays of `CELLS` float64 numbers at once, whatever the size of the whole. Rows may be
given in float32: only the neurons at work are taken to float64. Up to `CELLS` numbers there is a single part. Each
part takes well below a second, so that an interrupt need not wait.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar

import numpy as np

CELLS = 2**22  # numbers in one array of one step: 32 MiB in float64
LABELLINGS = 500  # of the same rows, at once

Function = TypeVar("Function", bound=Callable[..., Any])
Advance = Callable[[float], None]  # is told the share of a call's work that was done since it was last told


def no_progress(share: float) -> None:
    """The `Advance` of a call whose progress nobody follows."""


def parts(count: int, size: int) -> Iterator[slice]:
    """The slices of `count` things, of at most `size` each (at least one)."""
    for start in range(0, count, max(1, size)):
        yield slice(start, min(start + max(1, size), count))


def of_neurons(x: np.ndarray, height: int = 0) -> list[slice]:
    """The parts of the columns of `x` `[rows, neurons]`; `height`: of the tallest other array that a step holds."""
    return list(parts(x.shape[1], CELLS // max(len(x), height, 1))) or [slice(0, 0)]


def of_labellings(count: int, width: int) -> Iterator[slice]:
    """The parts of `count` labellings, of which each needs `width` numbers."""
    return parts(count, min(LABELLINGS, CELLS // max(width, 1)))


def in_float64(x: np.ndarray, columns: slice) -> np.ndarray:
    """These columns, contiguous."""
    return np.ascontiguousarray(x[:, columns], dtype=np.float64)


def by_neurons(function: Function) -> Function:
    """For a function of `x` `[rows, neurons]` (its first argument) whose results end in the axis of the neurons.

    The function sees float64 columns, a part at a time; its arrays, tuples or dataclasses of arrays are joined.
    """

    @wraps(function)
    def in_parts(x: np.ndarray, *others: Any, **named: Any) -> Any:
        tallest = max((one[..., 0].size for one in others if isinstance(one, np.ndarray) and one.ndim > 1), default=0)
        return _joined([function(in_float64(x, columns), *others, **named) for columns in of_neurons(x, tallest)])

    return in_parts  # type: ignore[return-value]


def _joined(found: list[Any]) -> Any:
    first = found[0]
    if len(found) == 1:
        return first
    if isinstance(first, np.ndarray):
        return np.concatenate(found, axis=-1)
    if is_dataclass(first) and not isinstance(first, type):
        names = [one.name for one in fields(first)]
        return type(first)(*(_joined([getattr(part, name) for part in found]) for name in names))
    return tuple(_joined(list(of_each)) for of_each in zip(*found, strict=True))
