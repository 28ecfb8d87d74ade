"""The options of regressions. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Any

from neurexp.errors import UserError
from neurexp.experiments.options import base
from neurexp.models.choices import POOLINGS

FEWEST = 10  # rows of a category; a smaller one is not compared


@dataclass
class RegressionOptions(base.Options):
    """Options of every regression."""

    pooling: str = "mean"
    rows: int = 500
    shuffles: int = 5
    permutations: int = 1000
    heldout: float = 1 / 3
    excerpt: int = 120

    def check(self) -> None:
        super().check()
        self.check_range(2 * FEWEST, 100_000, "rows")
        self.check_range(1, 1000, "shuffles")
        self.check_range(100, 1_000_000, "permutations")
        self.check_range(8, 1000, "excerpt")
        self.check_one_of("pooling", POOLINGS)
        if not 0.1 <= self.heldout <= 0.9:
            raise UserError(f"experiment.heldout={self.heldout:g}: give a share of the text from 0.1 to 0.9")


@dataclass
class ProperNounsOptions(RegressionOptions):
    """The options of conf/experiment/proper_nouns.yaml."""

    occurrences: int = 4

    def check(self) -> None:
        super().check()
        self.check_range(1, 1000, "occurrences")


@dataclass
class NegationOptions(RegressionOptions):
    """The options of conf/experiment/negation.yaml."""

    site: Any = field(default_factory=lambda: ["MLP", "NEURON", "Q", "K", "V"])
    before: int = 90
    after: int = 10
    rows: int = 120
    occurrences: int = 12
    verbs: int = 6
    shuffles: int = 2
    excerpt: int = 100

    def check(self) -> None:
        super().check()
        self.check_range(0, 10_000, "before", "after")
        self.check_range(1, 1000, "occurrences")
        self.check_range(4, 100, "verbs")
