"""The options of optimisations. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Any, ClassVar

from neurexp.errors import UserError
from neurexp.experiments.options import base

DECODED = 1000  # tokens of a unit at most: chance takes random directions for each


@dataclass
class OptimisationOptions(base.Options):
    """The options of conf/optimisation.yaml."""

    controls: ClassVar[tuple[str, ...]] = ("off",)

    site: Any = "NEURON"
    length: int = 5
    starts: int = 10
    steps: int = 500
    rate: float = 0.001
    penalty: float = 0.001
    search: bool = True
    search_starts: int = 4
    from_text: bool = True
    search_steps: int = 50
    top: int = 64
    candidates: int = 64
    windows: int = 20
    draws: int = 99

    def check(self) -> None:
        super().check()
        self.check_range(1, 64, "length")
        self.check_range(2, 1000, "starts")
        self.check_range(1, 1_000_000, "steps", "search_steps")
        self.check_range(1, 1000, "search_starts", "windows")
        self.check_range(1, 100_000, "top", "candidates")
        self.check_range(19, 9999, "draws")
        if self.starts * self.length > DECODED:
            raise UserError(
                f"experiment.starts={self.starts}: with experiment.length={self.length} it makes "
                f"{self.starts * self.length:,} tokens to decode; give {DECODED // self.length} or fewer"
            )
        if not 0 < self.rate < float("inf"):
            raise UserError(f"experiment.rate={self.rate}: give a number above 0, such as 0.001")
        if not 0 <= self.penalty < float("inf"):
            raise UserError(f"experiment.penalty={self.penalty}: give a number of 0 or more, such as 0.001")
        self.check_one_site("looks at")


@dataclass
class MaximiseOptions(OptimisationOptions):
    """The options of conf/experiment/maximise.yaml."""

    units: Any = None

    def check(self) -> None:
        super().check()
        form = "a list of pairs of a layer and a neuron, such as [[2,345],[6,5]]"
        if self.units is None:
            raise UserError(f"experiment.units is missing: give {form}")
        if not self.units or not base.is_pairs(self.units):
            raise UserError(f"{base.given('units', self.units)}: give {form}")
