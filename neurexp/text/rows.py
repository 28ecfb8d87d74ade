"""One row of a text or table: its text, or the reason why it cannot be used.

Knows nothing of files.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from neurexp.errors import closest

# Usual names of the text column: an error line suggests the first one that a table has
TEXT_COLUMNS = ("content", "messages", "conversations", "body", "document", "article", "story", "sentence", "prompt")
BINARY = "binary, not text: it has a NUL character"
_MESSAGE_KEYS = ("content", "value", "text")  # keys of the text in a chat message


@dataclass(frozen=True, slots=True)
class Row:
    """A row, with its value in the text column."""

    number: int  # from 1; the line number in a file with a row per line
    value: Any


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used; its number is 0 for a whole file, or for the rest of one."""

    number: int
    reason: str
    no_column: bool = False  # the row or table is readable, but has no text column


def text_of(value: Any) -> str:
    """The text of a value of the text column; empty if it is null.

    The text of chat messages (a list of objects with a `content` or `value`) is their contents, joined by blank lines.

    Raises:
        ValueError: the value is not text; the message is the reason.
    """
    if value is None:
        return ""
    if isinstance(value, dict):  # `datasets` may return a list of objects as an object of lists
        contents = next((value[key] for key in _MESSAGE_KEYS if key in value), None)
        value = [{"content": content} for content in contents] if isinstance(contents, list) else value
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
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
            surrogate = value[error.start]
            if "\udc80" <= surrogate <= "\udcff":  # stands for a byte that is not UTF-8
                raise ValueError(f"not UTF-8 text (byte 0x{ord(surrogate) - 0xDC00:02x})") from None
            raise ValueError(f"half a character (\\u{ord(surrogate):04x})") from None
    return value


def is_chat(value: Any) -> bool:
    """Whether a value that `text_of` accepts is a list of chat messages."""
    return isinstance(value, list | dict)


def _content(message: dict[str, Any]) -> str:
    """The text of a chat message; empty if it is null, as for tool calls."""
    key = next((key for key in _MESSAGE_KEYS if key in message), None)
    if key is None:
        raise ValueError("a list of objects without content, in place of text")
    content = message[key]
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        content = "\n\n".join(str(part["text"]) for part in content)
    if not isinstance(content, str | None):
        raise ValueError("a chat message whose content is not text")
    return content or ""


def no_column(column: str, columns: Iterable[str]) -> str:
    """The reason for a row or table without the text column; it lists the columns and may suggest one of them."""
    names = [str(name) for name in columns]
    usual = next((f"; did you mean {name}?" for name in TEXT_COLUMNS if name in names), "")
    return f"no column {column}; the columns are {', '.join(names) or 'none'}{closest(column, names) or usual}"
