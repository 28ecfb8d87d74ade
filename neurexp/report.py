"""What an experiment says when it is done: numbers, tables with their data dictionary, tensors and figures.

Knows neither where a report is written nor which experiment made it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = dict[str, np.ndarray]  # column → values, all of one length


@dataclass
class Report:
    """The result of one run.

    `columns` is the data dictionary: it defines every column of `layers` and `neurons`, and every metric.
    """

    findings: list[str]  # what a person reads first, a sentence each
    metrics: dict[str, float]
    layers: Table  # a row per layer, with the column `layer`
    neurons: Table  # a row per layer and neuron
    columns: dict[str, str]
    tensors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # file name without ending → tensors
    figures: dict[str, Callable[[], "Figure"]] = field(default_factory=dict)  # file name without ending → drawing

    def check(self) -> None:
        """Raises ValueError for a column without definition, unequal lengths, or a metric that is no number."""
        undefined = {*self.layers, *self.neurons, *self.metrics} - set(self.columns)
        if undefined:
            raise ValueError(f"no definition in the data dictionary for {sorted(undefined)}")
        for name, table in (("layers", self.layers), ("neurons", self.neurons)):
            if len({len(values) for values in table.values()}) > 1:
                raise ValueError(f"the columns of {name} differ in length")
        not_finite = [name for name, value in self.metrics.items() if not np.isfinite(value)]
        if not_finite:
            raise ValueError(f"metrics that are no number: {not_finite}")
