"""The options of the experiments without a base of their own. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from neurexp.errors import UserError
from neurexp.experiments.options import base
from neurexp.experiments.options.profiles import TokenLengthOptions

FEWEST_ROUNDS = 3  # fewer have no meaningful range
FEWEST_ITEMS = 8  # of a comparison of `context`, and types with several occurrences
SITES = ("RESID_PRE", "RESID_MID", "RESID_POST", "ATTN_OUT", "PROJ")  # that `identities` compares


@dataclass
class TopContextsOptions(base.Options):
    """The options of conf/experiment/top_contexts.yaml."""

    controls: ClassVar[tuple[str, ...]] = ("off", "random", "shuffled_text")

    k: int = 20
    per_document: int = 0
    before: int = 20
    after: int = 8
    skip_positions: int = 0
    histogram: int = 0
    bins: int = 64
    permutations: int = 32
    property_tokens: int = 65536
    direct: int = 10
    winners: Any = None
    batches: int = 1000
    batch_sequences: int = 32
    pages: bool = True

    def check(self) -> None:
        super().check()
        self.check_range(1, 1000, "k")
        self.check_range(0, 1000, "per_document", "before", "after", "direct")
        self.check_range(0, 2**31 - 1, "skip_positions", "histogram")
        self.check_range(8, 1024, "bins", "permutations")
        self.check_range(1024, 2**31 - 1, "property_tokens")
        self.check_range(1, 10_000_000, "batches", "batch_sequences")
        if self.winners is not None and not base.is_pairs(self.winners):
            raise UserError(
                f"{base.given('winners', self.winners)}: give pairs of a layer and a neuron, such as "
                "[[2,345],[6,5]], or null"
            )


@dataclass
class ContextOptions(base.Options):
    """The options of conf/experiment/context.yaml."""

    controls: ClassVar[tuple[str, ...]] = ("off", "random", "shuffled_text")

    tokens: int = 200
    types: int = 300
    occurrences: int = 4
    neutral: str = "\n"
    prompt: str | None = None
    generated: int = 2000
    permutations: int = 499

    def check(self) -> None:
        super().check()
        self.check_range(FEWEST_ITEMS, 100_000, "tokens", "types")
        self.check_range(2, 10_000, "occurrences")
        self.check_range(32, 1_000_000, "generated")
        self.check_range(19, 1_000_000, "permutations")
        if self.prompt is not None and self.control == "shuffled_text":
            raise UserError(
                "experiment.control=shuffled_text: it shuffles the dataset's text, and experiment.prompt lets the "
                "model write its own; give experiment.control=random, or leave experiment.prompt out"
            )


@dataclass
class IdentitiesOptions(base.Options):
    """The options of conf/experiment/identities.yaml."""

    controls: ClassVar[tuple[str, ...]] = ("off",)

    sequences: int = 4
    length: int = 128
    tolerance: float | None = None

    def check(self) -> None:
        super().check()
        self.check_range(2, 1024, "sequences")
        self.check_range(4, 4096, "length")
        if self.site != "MLP":
            raise UserError(f"{base.given('site', self.site)}: identities compares {', '.join(SITES)}; leave it out")
        if self.tolerance is not None and not self.tolerance > 0:
            raise UserError(f"experiment.tolerance={self.tolerance}: give a number above 0, such as 1e-4, or null")


@dataclass
class BenchmarkOptions(TokenLengthOptions):
    """The options of conf/experiment/benchmark.yaml: those of what is measured, and how."""

    controls: ClassVar[tuple[str, ...]] = ("off",)

    rounds: int = 5
    batch_sizes: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    peers: bool = True
    bf16: Any = "auto"  # true, false or auto
    edits: int = 8  # sets of neurons that are edited in turn; 0: none
    contexts: bool = False  # also what top contexts cost
    commands: int = 5  # starts of the whole command; 0: none

    def check(self) -> None:
        super().check()
        self.check_one_site("measures")
        if self.rounds < FEWEST_ROUNDS:
            raise UserError(f"experiment.rounds={self.rounds}: give a whole number of {FEWEST_ROUNDS} or more")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UserError(f"{base.given('batch_sizes', self.batch_sizes)}: give a list of whole numbers of 1 or more")
        if self.bf16 not in (True, False, "auto"):
            raise UserError(f"experiment.bf16={self.bf16}: give true, false or auto")
        self.check_range(0, 1000, "commands")
        if self.edits < 0 or self.edits == 1:
            raise UserError(f"experiment.edits={self.edits}: give a whole number of 2 or more, or 0 for none")
