"""A word in its place in a text. Imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A text whose characters [start, stop) are the word."""

    text: str
    start: int
    stop: int
    word: str
    category: int
