"""The one store of what is kept between runs: token sequences, rows of activations, the states of a pass's reducers.

An entry is found by a hash of everything that it depends on, so it is never taken for another model's or another
text's. Its files appear whole or not at all. Knows neither models nor words.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from neurexp.errors import one_line
from neurexp.io.files import NotWritableError, make_folder, remove_old, write_tensors

log = logging.getLogger(__name__)

FORMAT = 2  # increased when the meaning of an entry's content changes
LARGEST = 4 * 2**30  # bytes of a store


class Store:
    """A folder of entries. When it exceeds `largest` bytes, the least recently used files are removed."""

    def __init__(self, folder: Path, largest: int = LARGEST):
        self.folder, self.largest = folder, largest

    def entry(self, kind: str, key: Mapping[str, Any]) -> "Entry":
        """The entry of a kind whose content depends on `key`, which is hashed as JSON."""
        return Entry(self, kind, key)

    def make_room(self, newest: str) -> None:
        """Removes the least recently used files, but none of the entry `newest`."""
        remove_old(self.folder)
        size = 0
        for file in sorted(self.folder.glob("*.safetensors"), key=_age):
            with suppress(OSError):  # another process may also make room
                size += file.stat().st_size
                if size > self.largest and not file.name.startswith(newest):
                    file.unlink()


class Entry:
    """One entry: a safetensors file, or one for each of its parts."""

    def __init__(self, store: Store, kind: str, key: Mapping[str, Any]):
        whole = json.dumps({"format": FORMAT, "kind": kind, **key}, sort_keys=True)
        self._store, self._kind = store, kind
        self._name = f"{kind}_{hashlib.sha256(whole.encode()).hexdigest()[:32]}"

    def _file(self, part: str) -> Path:
        return self._store.folder / f"{self._name}{part and '_'}{part}.safetensors"

    def load(self, part: str = "") -> dict[str, np.ndarray] | None:
        """The arrays of a part, or None unless it is there and whole.

        The arrays are mapped from the file, so unused ones take no memory.
        """
        from safetensors.torch import load_file

        file = self._file(part)
        try:
            found = {name: values.numpy() for name, values in load_file(file).items()}
            os.utime(file)  # for `make_room`
        except SafetensorError:  # damaged
            with suppress(OSError):
                file.unlink()
            return None
        except OSError:  # missing or not readable
            return None
        return found

    def save(self, arrays: Mapping[str, np.ndarray], part: str = "") -> None:
        """Stores the arrays of a part. Logs a warning if that fails: the run can go on without the copy."""
        try:
            make_folder(self._store.folder)
            write_tensors(self._file(part), dict(arrays))
            self._store.make_room(self._name)
        except (NotWritableError, OSError) as error:
            log.warning("The %s could not be kept for later runs (%s)", self._kind, one_line(error))

    @contextmanager
    def lock(self, work: str) -> Iterator[None]:
        """Locks the entry while this process makes it. Other processes that need it wait, and then find it.

        Args:
            work: what the process does, for the log line of waiting processes.

        Raises:
            NotWritableError: the store's folder cannot be made.
        """
        made = not self._store.folder.exists()
        make_folder(self._store.folder)
        file = self._store.folder / f".{self._name}.lock"
        lock = FileLock(file)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            log.info("Another run is at %s: waiting for it (%s)", work, file)
            lock.acquire()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)  # while it is held: a waiting process notices, and makes a new one
            lock.release()
            if made:
                with suppress(OSError):  # the folder is not empty
                    self._store.folder.rmdir()


def _age(file: Path) -> float:
    return -file.stat().st_mtime if file.exists() else 0.0
