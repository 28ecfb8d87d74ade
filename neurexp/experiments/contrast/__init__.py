"""Contrasts: which neurons tell labelled rows apart?"""

from neurexp.experiments.contrast.base import Condition, Contrast, Options, positions_of

__all__ = ["Condition", "Contrast", "Options", "positions_of"]
