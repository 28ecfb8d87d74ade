"""The covariate of a profile: a whole number for each token, and the words that columns and figures have for it."""

from dataclasses import dataclass

import numpy as np

from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import UNDEFINED

MOST_VALUES = 256  # each value that occurs is a category of η²
LARGEST_VALUE = 1_000_000  # tables have a row for each value up to the largest


@dataclass(frozen=True)
class Covariate:
    """A property of tokens.

    Args:
        values: whole numbers of 0 or more, `UNDEFINED` (−1) where a token has none. `[vocabulary]` if the property
            belongs to the token type, as the length does: the null then deals the values out anew among token types of
            about the same frequency. `[sequences, length]` if it belongs to the token in its place, as the position in
            its sentence does: the null then shifts the values along the text, which keeps their order.
        name: in the names of columns, metrics and files, such as `length` in `r_length`.
        noun: in sentences, such as “token length”.
        unit: of the values, for axes.
        groups: names of the tokens below, at and above the median value, such as `shorter` in `mean_shorter`.
        detail: how the value is defined, for the axis of its distribution.
        plural: of `name`, in the names of files and tensors; `name` with an s if not given.

    Raises:
        ValueError: the values are not such numbers, or a name cannot be part of a column's name.
    """

    values: np.ndarray
    name: str
    noun: str
    unit: str
    groups: tuple[str, str, str] = ("lower", "equal", "higher")
    detail: str = ""
    plural: str = ""

    def __post_init__(self) -> None:
        for word in (self.name, self.plural or self.name, *self.groups):
            if not (word.isidentifier() and word.islower()):
                raise ValueError(f"the covariate {self.name!r}: {word!r} must be one word in lower case")
        values = np.asarray(self.values)
        if values.dtype.kind not in "iu" or values.ndim not in (1, 2) or not values.size:
            raise ValueError(
                f"the values of {self.name} must be whole numbers [vocabulary] or [sequences, length]; they are "
                f"{values.dtype} {list(values.shape)}"
            )
        if values.min() < UNDEFINED or values.max() > LARGEST_VALUE:
            raise ValueError(
                f"the values of {self.name} run from {values.min()} to {values.max()}; give values from 0 to "
                f"{LARGEST_VALUE}, and {UNDEFINED} where a token has none"
            )
        object.__setattr__(self, "values", values.astype(np.int64, copy=False))
        object.__setattr__(self, "plural", self.plural or f"{self.name}s")

    @property
    def by_type(self) -> bool:
        """Whether the value belongs to the token type."""
        return self.values.ndim == 1

    def of_tokens(self, tokens: Tokens) -> np.ndarray:
        """The value of each token `[sequences, length]`; a pad has none.

        Raises:
            ValueError: the values are those of other sequences.
        """
        if self.by_type:
            return np.where(tokens.valid, self.values[np.where(tokens.valid, tokens.input_ids, 0)], UNDEFINED)
        if self.values.shape != tokens.valid.shape:
            raise ValueError(
                f"the values of {self.name} are {list(self.values.shape)}, the tokens {list(tokens.valid.shape)}"
            )
        return np.where(tokens.valid, self.values, UNDEFINED)

    @property
    def difference(self) -> str:
        """The column of the standardised difference between the groups above and below the median."""
        return f"d_{self.groups[2]}_{self.groups[0]}"
