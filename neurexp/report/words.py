"""Numbers in sentences, and columns in words. Knows no experiment."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurexp.report.report import Table

LONGEST = 70  # characters of a column's name in words


def number_of(count: int, what: str) -> str:
    """A number of things: “1 token”, “8,192 tokens”. `what` is a noun in the singular with a regular plural."""
    return f"{count:,} {what}" + ("" if count == 1 else "es" if what.endswith("ch") else "s")


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
