"""The one exception that stands for a user's mistake: its text is the whole message, on one line."""

import difflib
import logging
import re
from collections.abc import Iterable

HIDDEN = "***"  # in the place of a password
SECRET_IN_QUERY = re.compile(r"([?&](?:password|passwd|pwd|\w*token|\w*secret|api_?key|sig)=)[^&\s'\"]+", re.IGNORECASE)


class UserError(Exception):
    """A mistake that a user can mend. The text names the option, what was given and what would work."""

    def __init__(self, message: str):
        super().__init__(printable(without_secrets(message)))


class PrintableFormatter(logging.Formatter):
    """For the log on the terminal: names of models and files, and words, cannot steer it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return printable(super().formatMessage(record))


def printable(text: str) -> str:
    """The text on one line, with every control, bidirectional or otherwise invisible character as its escape.

    What a message quotes comes from outside: an escape sequence in it must not reach a terminal, nor a second line.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def without_secrets(text: str) -> str:
    """The text without the user and password of any address in it, whether before the host or in the query."""
    text = re.sub(r"://[^/\s]+@", f"://{HIDDEN}@", text)
    return SECRET_IN_QUERY.sub(rf"\1{HIDDEN}", text)


def closest(given: str, choices: Iterable[str]) -> str:
    """`"; did you mean X?"` for the nearest of `choices`, or nothing where none is near."""
    near = difflib.get_close_matches(given, list(choices), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def one_line(error: BaseException) -> str:
    """The first line with words of an exception's text (and the next while it ends with a colon), or its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((index for index, line in enumerate(lines) if not line.endswith(":")), len(lines) - 1)
    return printable(without_secrets(" ".join(lines[: told + 1]))) or type(error).__name__
