"""A row of a text or table: its text, or the reason why it has none.

Knows nothing of files.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from neurexp.errors import closest

# Usual names of the text column: the first that a table has is suggested
TEXT_COLUMNS = ("content", "messages", "conversations", "body", "document", "article", "story", "sentence", "prompt")
BINARY = "binary, not text: it has a NUL character"
_CONTENTS = ("content", "value", "text")  # names of the text in a chat message


@dataclass(frozen=True, slots=True)
class Row:
    """What a row has in the text column."""

    number: int  # from 1; of a file of lines, the line
    value: Any


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used; number 0 means the whole file or the rest of it."""

    number: int
    reason: str
    no_column: bool = False  # the row or table is good, but has no text column


def text_of(value: Any) -> str:
    """The text of a value of the text column; empty if it is null.

    Chat messages, a list of objects with a `content` (or `value`), are their contents in order, joined by blank lines.

    Raises:
        ValueError: the value is no text; the message says why.
    """
    if value is None:
        return ""
    if isinstance(value, dict):  # `datasets` may hold a list of objects as an object of lists
        contents = next((value[key] for key in _CONTENTS if key in value), None)
        value = [{"content": content} for content in contents] if isinstance(contents, list) else value
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        value = "\n\n".join(filter(None, map(_content, value)))
    if not isinstance(value, str):
        names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
        raise ValueError(f"{names.get(type(value), type(value).__name__)} in place of text")
    if "\0" in value:
        raise ValueError(BINARY)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = value[error.start]
            if "\udc80" <= half <= "\udcff":  # a byte that was no UTF-8
                raise ValueError(f"not UTF-8 text (byte 0x{ord(half) - 0xDC00:02x})") from None
            raise ValueError(f"half a character (\\u{ord(half):04x})") from None
    return value


def is_chat(value: Any) -> bool:
    """Whether a value that `text_of` takes is a list of messages."""
    return isinstance(value, list | dict)


def _content(message: dict[str, Any]) -> str:
    """The text of a chat message; empty if it is null, as with tool calls."""
    key = next((key for key in _CONTENTS if key in message), None)
    if key is None:
        raise ValueError("a list of objects without content, in place of text")
    content = message[key]
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        content = "\n\n".join(str(part["text"]) for part in content)
    if not isinstance(content, str | None):
        raise ValueError("a chat message whose content is no text")
    return content or ""


def no_column(column: str, there: Iterable[str]) -> str:
    """Why a row or table has no text, with the column that was perhaps meant."""
    names = [str(name) for name in there]
    known = next((f"; did you mean {name}?" for name in TEXT_COLUMNS if name in names), "")
    return f"no column {column}; there are {', '.join(names) or 'none'}{closest(column, names) or known}"
