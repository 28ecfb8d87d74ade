"""Optimisations: which input excites a unit most? Gradient ascent, a search over tokens, and the text's own best.

`Optimisation` is the base. A subclass says which units, and may say from which token strings to start.
"""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.experiments.optimisation.base import Optimisation
    from neurexp.experiments.optimisation.data import Options

__all__ = ["Optimisation", "Options"]

_HOMES = {
    "Optimisation": "neurexp.experiments.optimisation.base",
    "Options": "neurexp.experiments.optimisation.data",
}
__getattr__ = lazy(__name__, _HOMES)
