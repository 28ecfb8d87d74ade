"""The tokens of a text grouped by a covariate: below, at and above its median. Knows no activations."""

from dataclasses import dataclass

import numpy as np

from neurexp.experiments.profile.covariate import UNDEFINED, Covariate
from neurexp.stats.groups import MedianSplit, median_split
from neurexp.text.tokens import Tokens


@dataclass(frozen=True)
class Grouping:
    """The median split of a text's tokens.

    Args:
        values: `[sequences, length]` int64 the covariate of each token; `UNDEFINED` where it has none.
        counted: `[sequences, length]` bool: the token has a value, and is not at a skipped position.
        value_counts: `[largest value + 1]` counted tokens of each value.
        split: of the counted values; None where there are none.
    """

    values: np.ndarray
    counted: np.ndarray
    value_counts: np.ndarray
    split: MedianSplit | None

    @classmethod
    def of(cls, covariate: Covariate, tokens: Tokens, skip_positions: int) -> "Grouping":
        """Groups tokens; those at positions below `skip_positions` belong to no group."""
        values = covariate.of_tokens(tokens)
        counted = values != UNDEFINED
        counted[:, :skip_positions] = False
        value_counts = np.bincount(values[counted], minlength=int(covariate.values.max()) + 1)
        return cls(values, counted, value_counts, median_split(value_counts) if value_counts.any() else None)

    def members(self, group: int) -> np.ndarray:
        """The tokens of a group (`LOW`, `EQUAL` or `HIGH` of `stats.groups`), `[sequences, length]` bool."""
        if self.split is None:
            return np.zeros_like(self.counted)
        return self.counted & (self.split.group(self.values) == group)
