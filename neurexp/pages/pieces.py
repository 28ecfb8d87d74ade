"""Pieces of data as scripts: what a page opened from disk can load. Knows nothing of what they hold."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

# One printable character for each level from −STEPS to STEPS; a space for no token
ALPHABET = "".join(chr(code) for code in range(33, 127) if chr(code) not in '"\\<')
STEPS = len(ALPHABET) // 2
MISSING = -128


def write_piece(folder: Path, name: str, content: Any) -> None:
    """Writes `folder/NAME.js`, which hands the content to the page's `take(NAME, CONTENT)`.

    Raises ValueError for NaN or infinity, which JSON does not have.
    """
    (folder / f"{name}.js").write_text(f"take({script_of(name)},{script_of(content)});\n", "utf-8")


def script_of(content: Any) -> str:
    """JSON that can also stand in a script and in a page: no `<` and no line separator of Unicode."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def packed(values: np.ndarray, dtype: str) -> str:
    """Numbers as base64 of their bytes, little-endian: `<f4`, `<u4`, `<u2` or `u1`."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")


def packed_words(texts: np.ndarray) -> dict[str, Any]:
    """Texts as the different ones, and the index of each in them."""
    words, codes = np.unique(np.asarray(texts, dtype=str), return_inverse=True)
    return {"words": words.tolist(), "codes": packed(codes, "<u4")}


def level_text(levels: np.ndarray) -> str:
    """Levels in hundredths, −128 for no token, as one printable character each.

    The first and the last character stand for ±100 alone: they say that the activation is at the limit or beyond.
    """
    steps = np.rint(levels.astype(np.float32) * (STEPS / 100)).astype(np.int64)
    steps = np.where(np.abs(levels.astype(np.int64)) >= 100, steps, np.clip(steps, 1 - STEPS, STEPS - 1))
    letters = np.frombuffer(ALPHABET.encode("ascii"), dtype=np.uint8)[np.clip(steps, -STEPS, STEPS) + STEPS]
    return np.where(levels == MISSING, np.uint8(32), letters).tobytes().decode("ascii")
