"""Checkpoints of a pass: its reducers' states and its progress, saved at intervals so that it can be resumed.

The name of a checkpoint contains the hash of its content, which shows whether the file is damaged. The previous
checkpoint is kept until the new one is complete. Knows neither models nor text: the caller gives the key that
identifies the pass.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from neurexp.engine.reducers.base import Reducer, joined_states, take_over
from neurexp.errors import one_line

log = logging.getLogger(__name__)

KEPT = 2  # checkpoints of a pass: the second one serves if the newest is damaged
MIN_WAIT = 20  # a checkpoint waits at least this many times as long as the last one took to write


class OtherPassError(Exception):
    """A complete checkpoint belongs to another pass. `differing` names the parts of the key that differ."""

    def __init__(self, file: Path, differing: list[str]):
        super().__init__(f"{file} differs in {', '.join(differing)}")
        self.file, self.differing = file, differing


class Checkpoints:
    """The checkpoints of one pass, `checkpoint_NAME_BATCHES_HASH.safetensors` in the run folder."""

    def __init__(self, folder: Path, name: str, key: dict[str, Any], every: float):
        """`key` holds everything that the states depend on. `every` is the interval in seconds; 0 means never."""
        self._folder, self._prefix, self._every = folder, f"checkpoint_{name}_", every
        self._key = json.loads(json.dumps(key))  # as JSON reads it back
        self._last, self._cost = time.monotonic(), 0.0
        self.resumed_at = 0  # batches that are already done

    def load(self, reducers: Sequence[Reducer]) -> int:
        """Loads the newest complete checkpoint into the reducers. Returns how many batches it covers.

        Raises:
            OtherPassError: the checkpoint has another key.
        """
        for file in self._files():
            if _hash(file) != file.stem.rsplit("_", 1)[1]:
                log.warning("%s is damaged: set aside, and the one before it used", file.name)
                file.rename(file.with_suffix(".damaged"))
                continue
            with safe_open(file, "pt") as opened:
                key = json.loads(opened.metadata()["key"])
            differing = sorted(name for name in key | self._key if key.get(name) != self._key.get(name))
            if differing:
                raise OtherPassError(file, differing)
            take_over(load_file(file), reducers)
            self.resumed_at = int(file.stem.rsplit("_", 2)[1])
            break
        return self.resumed_at

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return self._every > 0 and time.monotonic() - self._last >= max(self._every, MIN_WAIT * self._cost)

    def save(self, reducers: Sequence[Reducer], batches: int) -> None:
        """Writes a checkpoint after `batches` batches. Logs a warning if that fails, and the pass continues."""
        began = time.monotonic()
        pending = self._folder / f".{self._prefix}{os.getpid()}.tmp"
        try:
            save_file(joined_states(reducers), pending, {"key": json.dumps(self._key, sort_keys=True)})
            with pending.open("rb") as file:
                os.fsync(file.fileno())
            pending.rename(self._folder / f"{self._prefix}{batches:09d}_{_hash(pending)}.safetensors")
            for file in self._files()[KEPT:]:
                file.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            log.warning("No checkpoint could be written (%s): the pass goes on without", one_line(error))
        finally:
            pending.unlink(missing_ok=True)
        self._last = time.monotonic()
        self._cost = self._last - began

    def _files(self) -> list[Path]:
        """The existing checkpoints, newest first."""
        return sorted(self._folder.glob(f"{self._prefix}*.safetensors"), reverse=True)


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:32]
