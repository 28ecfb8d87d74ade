"""The exception for a user's mistake. Its text is the whole message, on one line."""

import difflib
import logging
import re
import unicodedata
from collections.abc import Iterable

HIDDEN = "***"  # replaces a password
JOINERS = "\u200c\u200d"  # zero width non-joiner and joiner
_FLAG = re.compile(
    "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f"
)  # flags of regions, such as Scotland's
# Python's Unicode tables lack newer emoji and Chinese characters
_NEWER = re.compile("[\U0001f300-\U0001faff\U00020000-\U0003fffd]")
SECRET_IN_QUERY = re.compile(r"([?&](?:password|passwd|pwd|\w*token|\w*secret|api_?key|sig)=)[^&\s'\"]+", re.IGNORECASE)


class UserError(Exception):
    """A mistake that a user can mend. The text names the option, what was given and what would work."""

    def __init__(self, message: str):
        super().__init__(printable(without_secrets(message)))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the line alone, as on the command line."""
        return [f"UserError: {self}"]


class PrintableFormatter(logging.Formatter):
    """Formats log lines for the terminal: escape sequences in names and words have no effect."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return printable(super().formatMessage(record))


def printable(text: str) -> str:
    """The text on one line; control, bidirectional and other invisible characters become escapes.

    A message quotes text from outside. Neither an escape sequence nor a second line of it may reach the terminal. All
    characters of words in any script stay (`unseen`), and so does a no-break space within words.
    """
    if text.isprintable():
        return text
    hidden = {*unseen(text), *(index for index, one in enumerate(text) if one != " " and _is_loose_space(text, index))}
    return "".join(one.encode("unicode_escape").decode() if index in hidden else one for index, one in enumerate(text))


def unseen(text: str) -> list[int]:
    """The indices of characters that a reader would not see, or that would move or hide others.

    Letters of all scripts, their marks, and spaces of any width are visible. So is a joiner after a character that it
    joins: Hindi, Persian and Sinhala words and composed emoji need it. The tags of a flag are part of the flag.
    """
    if text.isprintable():
        return []
    flags = {place for flag in _FLAG.finditer(text) for place in range(*flag.span())}
    return [index for index in range(len(text)) if index not in flags and not _seen(text, index)]


def _seen(text: str, index: int) -> bool:
    one = text[index]
    if one in JOINERS:
        return index > 0 and unicodedata.category(text[index - 1])[0] in "LMSN"
    return (
        one.isprintable()
        or unicodedata.category(one) == "Zs"  # spaces: no-break, ideographic, thin
        or (unicodedata.category(one) == "Cn" and _NEWER.match(one) is not None)
    )


def _is_loose_space(text: str, index: int) -> bool:
    """Whether a special space is not between two letters, where it would look like a plain one, or like nothing."""
    if unicodedata.category(text[index]) != "Zs":
        return False
    around = (text[index - 1] if index else " ", text[index + 1] if index + 1 < len(text) else " ")
    return not all(unicodedata.category(one)[0] in "LMN" for one in around)


def without_secrets(text: str) -> str:
    """The text without the user and password of any address in it, before the host or in the query."""
    text = re.sub(r"://[^/\s]+@", f"://{HIDDEN}@", text)
    return SECRET_IN_QUERY.sub(rf"\1{HIDDEN}", text)


def closest(given: str, choices: Iterable[str]) -> str:
    """`"; did you mean X?"` for the nearest of `choices`, or an empty text if none is near."""
    near = difflib.get_close_matches(given, list(choices), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def one_line(error: BaseException) -> str:
    """The first line of an exception's text that is not empty (with the next, if it ends with a colon), or its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((index for index, line in enumerate(lines) if not line.endswith(":")), len(lines) - 1)
    return printable(without_secrets(" ".join(lines[: told + 1]))) or type(error).__name__
