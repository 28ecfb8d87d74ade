"""Checkpoints of a pass: its reducers' states and its progress, saved at intervals so that it can be resumed.

The name of a checkpoint contains the hash of its content, which shows whether the file is damaged. The previous
checkpoint is kept until the new one is complete. Each says how the sequences were shared out among processes, and
which of them it covers, so that another number of processes can go on. Knows neither models nor text: the caller gives
the key that identifies the pass.
"""

import copy
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from neurexp.engine.division import Division, from_pairs, joined, to_pairs
from neurexp.engine.reducers.base import Reducer, joined_states, take_over
from neurexp.errors import one_line

log = logging.getLogger(__name__)

KEPT = 2  # checkpoints of a pass: the second one serves if the newest is damaged
_END = re.compile(r"\d{9}_[0-9a-f]+\.safetensors")  # of a name, after the pass and its process
MIN_WAIT = 100  # a checkpoint waits at least this many times as long as the last one took to write


class OtherPassError(Exception):
    """A complete checkpoint belongs to another pass. `there` and `here` are the parts of the keys that differ."""

    def __init__(self, file: Path, there: dict[str, Any], here: dict[str, Any]):
        self.differing = sorted(name for name in there | here if there.get(name) != here.get(name))
        super().__init__(f"{file} differs in {', '.join(self.differing)}")
        self.file, self.there, self.here = file, there, here


class Checkpoints:
    """The checkpoints of one process of a pass, `checkpoint_NAME_BATCHES_HASH.safetensors` in the run folder."""

    def __init__(
        self,
        folder: Path,
        name: str,
        key: dict[str, Any],
        every: float,
        division: Division | None = None,
        process: int = 0,
    ):
        """`key` holds everything that the states depend on. `every` is the interval in seconds; 0 means never.

        `division` says which sequences this process runs; without one, only it runs the pass.
        """
        suffix = "" if division is None else division.suffix(process)
        self._folder, self._prefix, self._every = folder, f"checkpoint_{name}{suffix}_", every
        self._key, self._division = _as_json(key), division
        self._last, self._cost = time.monotonic(), 0.0
        self._is_whole = True  # whether another number of processes can go on from the last one written
        self.resumed_at = 0  # batches that are already done
        self.seconds = 0.0  # spent on writing

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
            _check_key(file, json.loads(_metadata(file)["key"]), self._key)
            take_over(load_file(file), reducers)
            self.resumed_at = int(file.stem.rsplit("_", 2)[1])
            break
        return self.resumed_at

    def due(self, at_whole: bool = False) -> bool:
        """Whether it is time for the next checkpoint; sooner `at_whole` sequences, if the last covers none such."""
        wait = 0.0 if at_whole and not self._is_whole else self._every
        return self._every > 0 and time.monotonic() - self._last >= max(wait, MIN_WAIT * self._cost)

    def save(self, reducers: Sequence[Reducer], batches: int, covered: Iterable[range] | None = None) -> None:
        """Writes a checkpoint after `batches` batches. Logs a warning if that fails, and the pass continues.

        `covered` are the sequences that the states cover; without them, no other number of processes can go on from it:
        for those the newest one that has them is kept beside the newest ones.
        """
        facts = {"key": json.dumps(self._key, sort_keys=True)}
        if self._division is not None:
            facts["division"] = self._division.as_json()
        if covered is not None:
            facts["covered"] = json.dumps(to_pairs(joined(covered)))
        began = time.monotonic()
        pending = self._folder / f".{self._prefix}{os.getpid()}.tmp"
        try:
            save_file(joined_states(one.state() for one in reducers), pending, facts)
            with pending.open("rb") as file:
                os.fsync(file.fileno())
            pending.rename(self._folder / f"{self._prefix}{batches:09d}_{_hash(pending)}.safetensors")
            files = self._files()
            whole = [file for file in files if _covers(file)]
            for file in set(files) - {*files[:KEPT], *whole[:1]}:
                file.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            log.warning("No checkpoint could be written (%s): the pass goes on without", one_line(error))
        finally:
            pending.unlink(missing_ok=True)
        self._is_whole = covered is not None
        self._last = time.monotonic()
        self._cost = self._last - began
        self.seconds += self._cost

    def add_finished(self, reducers: Sequence[Reducer]) -> None:
        """Adds the states of the division's finished checkpoints, which other processes wrote, to the reducers.

        Raises:
            FileNotFoundError: one is there no more.
        """
        for name in self._finished:
            for state, reducer in zip(self._states_in(name, len(reducers)), reducers, strict=True):
                other = copy.copy(reducer)
                other.load(state)
                reducer.merge(other)

    def calibrate(self, reducers: Sequence[Reducer]) -> None:
        """Gives the reducers the calibration of the division's finished checkpoints, if there are any.

        Calibrated anew, on another machine or by other threads, their last bits could differ: no two could be merged.
        """
        for name in self._finished[:1]:
            for state, reducer in zip(self._states_in(name, len(reducers)), reducers, strict=True):
                if not reducer.is_calibrated:
                    reducer.load_calibration(state)

    @property
    def _finished(self) -> tuple[str, ...]:
        return () if self._division is None else self._division.finished

    def _states_in(self, name: str, reducers: int) -> list[dict[str, torch.Tensor]]:
        """The states of so many reducers in a checkpoint. It may have one more, a check that belongs to nobody."""
        states: list[dict[str, torch.Tensor]] = [{} for _ in range(reducers)]
        for tensor, value in load_file(self._folder / name).items():
            index, _, own = tensor.partition(".")
            if int(index) < reducers:
                states[int(index)][own] = value
        return states

    def _files(self) -> list[Path]:
        """The existing checkpoints, newest first."""
        found = self._folder.glob(f"{self._prefix}*.safetensors")
        return sorted((file for file in found if _END.fullmatch(file.name[len(self._prefix) :])), reverse=True)


def divide(folder: Path, name: str, key: dict[str, Any], sequences: int, processes: int) -> Division:
    """How so many processes share out a pass: as its latest checkpoints say, anew if they are of another number.

    Called once, before any of the processes writes.

    Raises:
        OtherPassError: the checkpoints belong to another pass.
    """
    found = sorted(_divided(folder, name), key=lambda one: (one[1].number, one[0].name), reverse=True)
    if not found:
        return Division.of(sequences, processes)
    latest = found[0][1]
    if len(latest.shares) == processes:
        return latest
    kept: dict[str, tuple[str, tuple[range, ...]]] = {}  # of each process the newest one that is whole
    for file, division, facts in found:
        process = file.name.rsplit("_", 2)[0]
        usable = division.number == latest.number and process not in kept and "covered" in facts
        if usable and _hash(file) == file.stem.rsplit("_", 1)[1]:
            _check_key(file, *(_without_arithmetic(one) for one in (json.loads(facts["key"]), _as_json(key))))
            kept[process] = file.name, from_pairs(json.loads(facts["covered"]))
    anew = latest.anew(processes, kept.values())
    left = sum(len(one) for share in anew.shares for one in share)
    log.info(
        "Resuming by another number of processes: %d of %d sequences are done, and their sums taken over; the other %d "
        "are run, also where they were half done",
        sequences - left,
        sequences,
        left,
    )
    return anew


def _covers(file: Path) -> bool:
    """Whether a checkpoint says which sequences it covers."""
    try:
        return "covered" in _metadata(file)
    except (OSError, SafetensorError):  # damaged
        return False


def _divided(folder: Path, name: str) -> Iterator[tuple[Path, Division, dict[str, str]]]:
    """The checkpoints of a pass that say how it was divided, and what they say."""
    pattern = re.compile(rf"checkpoint_{re.escape(name)}(-\d+of\d+(-\d+)?)?_{_END.pattern}")
    for file in folder.glob(f"checkpoint_{name}*.safetensors"):
        try:
            facts = _metadata(file)
        except (OSError, SafetensorError):  # damaged
            continue
        if pattern.fullmatch(file.name) and "division" in facts:
            yield file, Division.from_json(facts["division"]), facts


def _metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def _without_arithmetic(key: dict[str, Any]) -> dict[str, Any]:
    """What another number of processes must have in common: torchrun sets threads, and other parts round otherwise."""
    return {name: value for name, value in key.items() if name != "arithmetic"}


def _check_key(file: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    if there != here:
        raise OtherPassError(file, there, here)


def _as_json(key: dict[str, Any]) -> dict[str, Any]:
    """The key as JSON reads it back."""
    return json.loads(json.dumps(key))


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:32]
