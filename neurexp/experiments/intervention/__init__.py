"""Interventions: does the model use what was found? Chosen neurons are edited, and its predictions compared.

`selection` says which neurons: those that a finished run found, or those that the user names.
"""

from neurexp.experiments.intervention.selection import FoundNeurons, neurons_found, neurons_given

__all__ = ["FoundNeurons", "neurons_found", "neurons_given"]
