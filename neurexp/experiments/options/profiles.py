"""The options of profiles. Imports nothing heavy."""

from dataclasses import dataclass
from typing import ClassVar

from neurexp.errors import UserError
from neurexp.experiments.options import base


@dataclass
class ProfileOptions(base.Options):
    """Options of every profile."""

    controls: ClassVar[tuple[str, ...]] = ("off", "random", "shuffled_text")

    skip_positions: int = 0
    permutations: int = 32
    blocks: int = 32
    correction: str = "bh"
    bins: int = 96

    def check(self) -> None:
        super().check()
        if self.skip_positions < 0:
            raise UserError(f"experiment.skip_positions={self.skip_positions}: give a whole number of 0 or more")
        self.check_range(8, 4096, "bins")
        self.check_range(8, 1024, "permutations")
        self.check_range(16, 64, "blocks")
        if self.correction not in ("bh", "by"):
            raise UserError(
                f"experiment.correction={self.correction}: give bh (Benjamini-Hochberg) or by (Benjamini-Yekutieli)"
            )


@dataclass
class TokenLengthOptions(ProfileOptions):
    """The options of conf/experiment/token_length.yaml."""

    strip_space: bool = False
