"""Context: how much of an activation is the token's own, and how much comes from what stands before it?

Data flows one way: `experiment` plans the passes, `data` holds the plan and the passes' rows, `analysis` makes the
tables, and `report`, `findings`, `figures` and `columns` say what was found. Knows no hook.
"""

from neurexp.experiments.context.data import Comparison, ContextData, ContextPlan, Options
from neurexp.experiments.context.experiment import Context

__all__ = ["Comparison", "Context", "ContextData", "ContextPlan", "Options"]
