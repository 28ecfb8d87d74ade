"""Top contexts: what excites a neuron? Its highest and lowest activations, held against chance.

Data flows one way: `design` says what is summed, `experiment` plans the pass, `data` holds its results, `analysis`
makes the tables, and `report`, `findings`, `figures` and `columns` say what was found. Knows no hook.
"""

__all__ = []
