"""Contrasts: which neurons tell labelled rows apart?

Data flows one way: `base` plans the capture of the rows, `data` holds their activations, `analysis` tests a layer, and
`report`, `findings`, `figures` and `columns` present the results. Knows no hook and no kind of word.
"""

from neurexp.experiments.contrast.base import Contrast
from neurexp.experiments.contrast.data import Condition, ContrastData, ContrastPlan, Options

__all__ = ["Condition", "Contrast", "ContrastData", "ContrastPlan", "Options"]
