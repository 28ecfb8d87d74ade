"""Interventions: does the model use what was found? Chosen neurons are edited, and its predictions compared.

`Intervention` is the base. `selection` says which neurons: those that a finished run found, or those that the user
names. `trials` lists what is edited together, `draws` the random neurons that it is compared with.
"""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.experiments.intervention.base import MOST, Intervention
    from neurexp.experiments.intervention.data import Options
    from neurexp.experiments.intervention.selection import FoundNeurons, neurons_found, neurons_given

__all__ = ["MOST", "FoundNeurons", "Intervention", "Options", "neurons_found", "neurons_given"]

_HOMES = {
    "MOST": "neurexp.experiments.intervention.base",
    "FoundNeurons": "neurexp.experiments.intervention.selection",
    "Intervention": "neurexp.experiments.intervention.base",
    "Options": "neurexp.experiments.intervention.data",
    "neurons_found": "neurexp.experiments.intervention.selection",
    "neurons_given": "neurexp.experiments.intervention.selection",
}
__getattr__ = lazy(__name__, _HOMES)
