"""The one store of what is kept between runs: token sequences, rows of activations, the states of a pass's reducers.

An entry is found by a hash of everything that it depends on, so it is never taken for another model's or another
text's. Its files appear whole or not at all. Knows neither models nor words.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
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
MAX_BYTES = 4 * 2**30  # of a store


class Store:
    """A folder of entries. When it exceeds `max_bytes`, the least recently used files are removed."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES):
        self.folder, self.max_bytes = folder, max_bytes

    def entry(self, kind: str, key: Mapping[str, Any]) -> "Entry":
        """The entry of a kind whose content depends on `key`, which is hashed as JSON."""
        return Entry(self, kind, key)

    def make_room(self, newest: str) -> None:
        """Removes the least recently used files, but none of the entry `newest`, nor of an entry that is locked."""
        remove_old(self.folder)
        ages = []
        for file in self.folder.glob("*.safetensors"):
            with suppress(OSError):  # another process may also make room
                status = file.stat()
                ages.append((status.st_mtime, status.st_size, file))
        size = 0
        for _, bytes_of_file, file in sorted(ages, reverse=True):
            size += bytes_of_file
            name = _name_of(file)
            if size > self.max_bytes and name != newest and not _is_locked(self.lock_file(name)):
                with suppress(OSError):
                    file.unlink()

    def lock_file(self, name: str) -> Path:
        """The file that a process locks while it makes the entry of this name."""
        return self.folder / f".{name}.lock"


class Entry:
    """One entry: a safetensors file, or one for each of its parts."""

    def __init__(self, store: Store, kind: str, key: Mapping[str, Any]):
        whole = json.dumps({"format": FORMAT, "kind": kind, **key}, sort_keys=True)
        self._store, self._kind = store, kind
        self.name = f"{kind}_{hashlib.sha256(whole.encode()).hexdigest()[:32]}"

    def file(self, part: str = "") -> Path:
        """Where a part is, if it is there."""
        return self._store.folder / f"{self.name}{part and '_'}{part}.safetensors"

    def load(self, part: str = "") -> dict[str, np.ndarray] | None:
        """The arrays of a part, or None unless it is there and whole.

        The arrays are mapped from the file, so unused ones take no memory.
        """
        from safetensors.torch import load_file

        file = self.file(part)
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

    def save(self, arrays: Mapping[str, np.ndarray], part: str = "") -> bool:
        """Stores the arrays of a part. Returns False and logs a warning if that fails: the run can go on without it."""
        try:
            make_folder(self._store.folder)
            write_tensors(self.file(part), dict(arrays))
            self._store.make_room(self.name)
        except (NotWritableError, OSError) as error:
            log.warning("The %s could not be kept for later runs (%s)", self._kind, one_line(error))
            return False
        return True

    def has(self, part: str = "") -> bool:
        """Whether a part is there. It may be damaged."""
        return self.file(part).exists()

    def remove(self, parts: Iterable[str] | None = None) -> None:
        """Removes these parts as far as they are there, or every part."""
        every = self._store.folder.glob(f"{self.name}*.safetensors")
        for file in every if parts is None else map(self.file, parts):
            with suppress(OSError):
                file.unlink(missing_ok=True)

    @contextmanager
    def lock(self, work: str) -> Iterator[None]:
        """Locks the entry while this process makes it. Other processes that need it wait, and then find it.

        Args:
            work: what the process does, for the log line of waiting processes.

        Raises:
            NotWritableError: the store's folder cannot be made, or the lock's file not be opened.
        """
        made = not self._store.folder.exists()
        make_folder(self._store.folder)
        file = self._store.lock_file(self.name)
        lock = FileLock(file)
        try:
            try:
                lock.acquire(timeout=1)
            except Timeout:
                log.info("Another run is at %s: waiting for it (%s)", work, file)
                lock.acquire()
        except OSError as error:  # another user's file
            raise NotWritableError(
                f"run.outputs: {file} cannot be locked ({one_line(error)}); choose another folder"
            ) from error
        try:
            yield
        finally:
            with suppress(OSError):
                file.unlink()  # while it is held: a waiting process notices, and makes a new one
            lock.release()
            if made:
                with suppress(OSError):  # the folder is not empty
                    self._store.folder.rmdir()


def _name_of(file: Path) -> str:
    """The name of the file's entry: its own name without the part."""
    return "_".join(file.stem.split("_")[:2])


def _is_locked(file: Path) -> bool:
    """Whether a process holds this lock. A process that was killed holds none, but may have left the file."""
    if not file.exists():
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except OSError:  # it is held, or another user's
        return True
