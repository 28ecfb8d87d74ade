"""Computation in chunks: memory does not depend on the number of rows, neurons or labellings.

A step of a statistic holds a few float64 arrays of at most `CHUNK_SIZE` numbers each. The rows may be float32; only the
neurons of the current chunk are converted to float64. A chunk takes well below a second, so Ctrl-C works promptly.
Knows no statistic.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar

import numpy as np

CHUNK_SIZE = 2**22  # numbers in one array of one step: 32 MiB in float64
MOST_LABELLINGS = 500  # in one chunk

Function = TypeVar("Function", bound=Callable[..., Any])
ProgressCallback = Callable[[float], None]  # called after each step with the share of the work that the step was


def no_progress(share: float) -> None:
    """The default `ProgressCallback`: does nothing."""


def chunks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices that cover `count` items, with at most `size` items each (at least one)."""
    for start in range(0, count, max(1, size)):
        yield slice(start, min(start + max(1, size), count))


def neuron_chunks(x: np.ndarray, height: int = 0) -> list[slice]:
    """Slices of the columns of `x` `[rows, neurons]`; one empty slice if there are no columns.

    Args:
        x: the rows.
        height: the number of rows of the tallest other array that a step holds for the same columns.
    """
    return list(chunks(x.shape[1], CHUNK_SIZE // max(len(x), height, 1))) or [slice(0, 0)]


def labelling_chunks(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` labellings, where a step needs `width` numbers for each labelling."""
    return chunks(count, min(MOST_LABELLINGS, CHUNK_SIZE // max(width, 1)))


def in_float64(x: np.ndarray, columns: slice) -> np.ndarray:
    """A contiguous float64 copy of some columns of `x` `[rows, neurons]`."""
    return np.ascontiguousarray(x[:, columns], dtype=np.float64)


def in_neuron_chunks(function: Function) -> Function:
    """Decorates a function of `x` `[rows, neurons]` so that it runs on one chunk of neurons at a time.

    `x` is the first argument; the function gets float64 columns. It returns an array, or a tuple or dataclass of
    arrays, whose last axis is that of the neurons. The results of all chunks are concatenated along this axis.
    """

    @wraps(function)
    def chunked(x: np.ndarray, *others: Any, **named: Any) -> Any:
        tallest = max((arg[..., 0].size for arg in others if isinstance(arg, np.ndarray) and arg.ndim > 1), default=0)
        return _concatenated(
            [function(in_float64(x, columns), *others, **named) for columns in neuron_chunks(x, tallest)]
        )

    return chunked  # type: ignore[return-value]


def _concatenated(results: list[Any]) -> Any:
    first = results[0]
    if len(results) == 1:
        return first
    if isinstance(first, np.ndarray):
        return np.concatenate(results, axis=-1)
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first)]
        return type(first)(*(_concatenated([getattr(result, name) for result in results]) for name in names))
    return tuple(_concatenated(list(values)) for values in zip(*results, strict=True))
