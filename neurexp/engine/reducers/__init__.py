"""Reducers: what is left of a site's activations once a batch is over. They know neither models nor words."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.engine.reducers.attribution import Attribution
    from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer
    from neurexp.engine.reducers.extremes import Extremes
    from neurexp.engine.reducers.gram import Cells, Gram
    from neurexp.engine.reducers.histogram import Histogram
    from neurexp.engine.reducers.keep import Keep
    from neurexp.engine.reducers.moments import Moments
    from neurexp.engine.reducers.neuron_histogram import NeuronHistogram
    from neurexp.engine.reducers.not_finite import NotFinite
    from neurexp.engine.reducers.rows import Rows
    from neurexp.engine.reducers.sequence_maxima import SequenceMaxima

__all__ = [
    "Attribution",
    "Batch",
    "Cells",
    "Extremes",
    "Gram",
    "Histogram",
    "Keep",
    "Moments",
    "NeuronHistogram",
    "NotFinite",
    "NotFiniteError",
    "Reducer",
    "Rows",
    "SequenceMaxima",
]

_HOMES = {
    "Attribution": "neurexp.engine.reducers.attribution",
    "Batch": "neurexp.engine.reducers.base",
    "Cells": "neurexp.engine.reducers.gram",
    "Extremes": "neurexp.engine.reducers.extremes",
    "Gram": "neurexp.engine.reducers.gram",
    "Histogram": "neurexp.engine.reducers.histogram",
    "Keep": "neurexp.engine.reducers.keep",
    "Moments": "neurexp.engine.reducers.moments",
    "NeuronHistogram": "neurexp.engine.reducers.neuron_histogram",
    "NotFinite": "neurexp.engine.reducers.not_finite",
    "NotFiniteError": "neurexp.engine.reducers.base",
    "Reducer": "neurexp.engine.reducers.base",
    "Rows": "neurexp.engine.reducers.rows",
    "SequenceMaxima": "neurexp.engine.reducers.sequence_maxima",
}
__getattr__ = lazy(__name__, _HOMES)
