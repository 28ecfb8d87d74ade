"""Numbers in sentences, and columns in words. Knows no experiment."""

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurexp.report.report import Table

LONGEST = 70  # characters of a column's name in words


def number_of(count: int, what: str) -> str:
    """A number of things: “1 token”, “8,192 tokens”. `what` is a noun in the singular with a regular plural."""
    return f"{count:,} {what}" + ("" if count == 1 else "es" if what.endswith("ch") else "s")


def percent(share: float, decimals: int = 0) -> str:
    """A share with so many decimals; a small one with more, so that two of its digits are left: “43%”, “0.15%”."""
    if share > 0:
        decimals = max(decimals, 1 - math.floor(math.log10(100 * share)))
    return f"{share:.{decimals}%}"


def name_of(neurons: "Table", row: int) -> str:
    """A neuron as findings and figures name it: `layer.neuron`.

    Args:
        neurons: a table with the columns `layer` and `neuron`.
        row: of the table.
    """
    return f"{neurons['layer'][row]}.{neurons['neuron'][row]}"


def in_words(column: str, definition: str) -> str:
    """A column for an axis: the beginning of its definition, with its name; only the name if that says too little."""
    words = re.split(r"; |: |, | over | \(", definition, maxsplit=1)[0]
    if not words or len(words) > LONGEST or words.startswith("the same"):
        return column
    return f"{words} ({column})"
