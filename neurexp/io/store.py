"""What was captured before, found again by what it is of: rows of activations, and reducers' states after a pass.

The address is a hash of everything the activations depend on (weights, tokens, dtype, …) and of what was kept of them,
so what is stored is never another model's or another text's. Knows neither models nor words.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file as load_states
from safetensors.torch import save_file as save_states

from neurexp.engine.reducers.base import Reducer, joined_states, take_over
from neurexp.errors import one_line
from neurexp.io.files import NotWritableError, make_folder, remove_old, whole_file, write_tensors

log = logging.getLogger(__name__)

FORMAT = 1  # raised when what is stored comes to mean something else, so that the old is not taken for new


def _address(key: dict[str, Any]) -> str:
    """`key` names all that the stored depends on; it is hashed as JSON."""
    return hashlib.sha256(json.dumps({"format": FORMAT, **key}, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def _held(file: Path, what: str) -> Iterator[None]:
    """A lock; says so when another process has it, for that may last as long as a pass."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        log.info("Another run is at %s: waiting for it (%s)", what, file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class RowStore:
    """The stored layers of one capture of rows, a file each; of processes that start at once one captures."""

    def __init__(self, folder: Path, key: dict[str, Any]):
        self._folder = folder / f"rows_{_address(key)}"

    def _file(self, layer: int) -> Path:
        return self._folder / f"{layer}.safetensors"

    def load(self, layers: Sequence[int]) -> dict[int, np.ndarray] | None:
        """Layer → `[rows, neurons]` float32 of all `layers`, or None unless all are there and whole.

        The arrays are mapped from the files: what is not looked at takes no memory.
        """
        found = {}
        for layer in layers:
            try:
                found[layer] = load_states(self._file(layer))["rows"].numpy()
            except (SafetensorError, KeyError):  # not whole
                self._file(layer).unlink(missing_ok=True)
                return None
            except OSError:  # not there, or not to be read
                return None
        return found

    def save(self, layer: int, rows: np.ndarray) -> None:
        """Stores one layer's rows; the file appears whole or not at all. Where it cannot, a warning says so."""
        try:
            make_folder(self._folder)
            write_tensors(self._file(layer), {"rows": rows})
        except NotWritableError as error:
            log.warning("The rows could not be kept for later runs (%s)", one_line(error))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by the process that captures; released when it ends, however it ends."""
        make_folder(self._folder)
        with _held(self._folder / ".lock", "the same capture"):
            yield


class StateStore:
    """The states of the reducers of one pass, in one file. All such files of a folder together stay below a size."""

    LARGEST = 2 * 2**30  # bytes: some twenty passes over a 125M model

    def __init__(self, folder: Path, key: dict[str, Any]):
        self._file = folder / f"statistics_{_address(key)}.safetensors"

    @property
    def exists(self) -> bool:
        """Whether there is something to load."""
        return self._file.exists()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by the process that runs the pass: of those that want the same, the others find it done."""
        make_folder(self._file.parent)
        lock = self._file.with_name(f".{self._file.name}.lock")
        with _held(lock, "the same pass"):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)  # while it is held: who waits for it notices, and makes it anew

    def load(self, reducers: Sequence[Reducer]) -> bool:
        """Gives each reducer its state of that pass; False, and nothing done, unless all of it is there and whole."""
        try:
            stored = load_states(self._file)
            os.utime(self._file)  # the least recently used goes first
        except SafetensorError:  # not whole
            self._file.unlink(missing_ok=True)
            return False
        except OSError:  # not there, or not to be read
            return False
        wanted = {f"{index}.{name}" for index, one in enumerate(reducers) for name in one.summed + one.fixed}
        if set(stored) != wanted:
            return False
        take_over(stored, reducers)
        return True

    def save(self, reducers: Sequence[Reducer]) -> None:
        """Stores the states; the file appears whole or not at all, and the least recently used make room for it.

        Where it cannot be written a warning says so: the pass is worth more than its copy.
        """
        try:
            make_folder(self._file.parent)
            with whole_file(self._file) as path:
                save_states(joined_states(reducers), path)
            self._make_room()
        except OSError as error:
            log.warning("The statistics could not be kept for later runs (%s)", one_line(error))

    def _make_room(self) -> None:
        remove_old(self._file.parent)
        size = 0
        for file in sorted(self._file.parent.glob("statistics_*.safetensors"), key=_age):
            with suppress(FileNotFoundError):  # another process makes room as well
                size += file.stat().st_size
            if size > self.LARGEST and file != self._file:
                file.unlink(missing_ok=True)


def _age(file: Path) -> float:
    return -file.stat().st_mtime if file.exists() else 0.0
