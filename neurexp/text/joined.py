"""The characters that the bytes of consecutive tokens make. Knows no tokenizer; imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Characters:
    """A text and the characters [start, stop) that each token covers, entirely or in part.

    Tokens that are parts of one character all cover that character. A byte that is not part of a whole character, as
    where a sequence begins or ends within a character, is a lone surrogate in `text`, U+DC80 to U+DCFF.
    """

    text: str
    start: np.ndarray  # [tokens] int64, never decreasing
    stop: np.ndarray  # [tokens] int64, never decreasing


def characters(parts: Sequence[bytes]) -> Characters:
    """The characters of consecutive tokens, from the bytes of each token (`token_bytes`)."""
    text = b"".join(parts).decode("utf-8", "surrogateescape")
    stop = np.cumsum([len(part) for part in parts], dtype=np.int64)
    start = np.concatenate([np.zeros(1, dtype=np.int64), stop[:-1]]) if len(parts) else stop
    if len(text) == (stop[-1] if len(parts) else 0):  # every character is one byte
        return Characters(text, start, stop)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    lone = (codes >= 0xDC80) & (codes <= 0xDCFF)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    offsets = np.concatenate([[0], np.cumsum(np.where(lone, 1, widths))])  # in bytes: every character, and the end
    return Characters(text, np.searchsorted(offsets, start, "right") - 1, np.searchsorted(offsets, stop, "left"))
