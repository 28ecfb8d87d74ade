"""Maximise: which input excites chosen units most?"""

from collections.abc import Sequence

from neurexp.experiments import optimisation
from neurexp.experiments.base import Inputs
from neurexp.experiments.options.optimisations import MaximiseOptions as Options


class Maximise(optimisation.Optimisation):
    """The experiment `maximise`."""

    Options = Options

    def units(self, inputs: Inputs) -> Sequence[tuple[int, int]]:
        return [(layer, neuron) for layer, neuron in self.options.units]
