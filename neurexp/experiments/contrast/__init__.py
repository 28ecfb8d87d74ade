"""Contrasts: which neurons tell labelled rows apart?

Data flows one way: `base` plans the capture of rows, `data` holds them, `analysis` tests a layer, and `report`,
`findings`, `figures` and `columns` say what was found. Knows no hook, and no kind of word.
"""

from neurexp.experiments.contrast.base import Contrast, positions_of
from neurexp.experiments.contrast.data import Condition, ContrastData, ContrastPlan, Options

__all__ = ["Condition", "Contrast", "ContrastData", "ContrastPlan", "Options", "positions_of"]
