"""Top contexts: what excites a neuron? Its highest and lowest activations, held against chance.

Data flows one way: `design` says what is summed, `experiment` plans the pass, `data` holds its results, `analysis`
makes the tables, and `report`, `findings`, `figures` and `columns` say what was found. Knows no hook.
"""

from neurexp.experiments.top_contexts.data import Options, TopContextsData, TopContextsPlan
from neurexp.experiments.top_contexts.experiment import TopContexts

__all__ = ["Options", "TopContexts", "TopContextsData", "TopContextsPlan"]
