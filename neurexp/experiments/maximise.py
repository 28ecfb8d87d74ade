"""Maximise: which input excites chosen units most?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neurexp.errors import UserError
from neurexp.experiments import optimisation
from neurexp.experiments.base import Inputs
from neurexp.experiments.named_neurons import is_pairs


@dataclass
class Options(optimisation.Options):
    """The options of conf/experiment/maximise.yaml."""

    units: Any = None


class Maximise(optimisation.Optimisation):
    """The experiment `maximise`."""

    Options = Options

    def __init__(self, options: Any):
        super().__init__(options)
        given = options.units
        form = "a list of pairs of a layer and a neuron, such as [[2,345],[6,5]]"
        if given is None:
            raise UserError(f"experiment.units is missing: give {form}")
        if not given or not is_pairs(given):
            shown = str(given).replace("'", "").replace(" ", "")
            raise UserError(f"experiment.units={shown}: give {form}")

    def units(self, inputs: Inputs) -> Sequence[tuple[int, int]]:
        return [(layer, neuron) for layer, neuron in self.options.units]
