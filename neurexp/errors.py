"""The one exception that stands for a user's mistake: its text is the whole message, on one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that a user can mend. The text names the option, what was given and what would work."""


def closest(given: str, choices: Iterable[str]) -> str:
    """`"; did you mean X?"` for the nearest of `choices`, or nothing where none is near."""
    near = difflib.get_close_matches(given, list(choices), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def one_line(error: BaseException) -> str:
    """The first line with words of an exception's text, or its type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
