"""Reducers: what is left of a site's activations once a batch is over. They know neither models nor words."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.engine.reducers.base import Batch, Histogram, Keep, NotFiniteError, Reducer, Rows
    from neurexp.engine.reducers.gram import Cells, Gram

__all__ = ["Batch", "Cells", "Gram", "Histogram", "Keep", "NotFiniteError", "Reducer", "Rows"]

_HOMES = {
    "Batch": "neurexp.engine.reducers.base",
    "Cells": "neurexp.engine.reducers.gram",
    "Gram": "neurexp.engine.reducers.gram",
    "Histogram": "neurexp.engine.reducers.base",
    "Keep": "neurexp.engine.reducers.base",
    "NotFiniteError": "neurexp.engine.reducers.base",
    "Reducer": "neurexp.engine.reducers.base",
    "Rows": "neurexp.engine.reducers.base",
}
__getattr__ = lazy(__name__, _HOMES)
