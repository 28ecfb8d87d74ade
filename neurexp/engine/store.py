"""Rows of activations that were captured before, found again by what they are of: a file for each layer.

The address is a hash of everything the activations depend on (weights, tokens, spans, pooling, dtype, …), so a stored
row is never another model's or another text's. Safe for processes that start at once: one captures, the others wait.
Knows neither models nor words.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import load_file

from neurexp.files import write_tensors

FORMAT = 1  # raised when rows come to mean something else, so that old ones are not taken for new


class RowStore:
    """The stored layers of one capture."""

    def __init__(self, folder: Path, key: dict[str, Any]):
        """`key` names all that the activations depend on; it is hashed as JSON."""
        text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._folder = folder / f"rows_{name}"

    def _file(self, layer: int) -> Path:
        return self._folder / f"{layer}.safetensors"

    def load(self, layers: Sequence[int]) -> dict[int, np.ndarray] | None:
        """Layer → `[rows, neurons]` float32 of all `layers`, or None unless all are there and whole."""
        found = {}
        for layer in layers:
            try:
                found[layer] = load_file(self._file(layer))["rows"]
            except (SafetensorError, KeyError):  # not whole
                self._file(layer).unlink(missing_ok=True)
                return None
            except OSError:  # not there, or not to be read
                return None
        return found

    def save(self, layer: int, rows: np.ndarray) -> None:
        """Stores one layer's rows; the file appears whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_tensors(self._file(layer), {"rows": rows})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by the process that captures; released when it ends, however it ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / ".lock"):
            yield
