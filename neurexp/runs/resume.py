"""Runs that were cut short: which one goes on, and what its folder holds until it is whole.

From its start a run folder holds `checkpoint.json`, which says of which options it is, and `checkpoint.lock`, which the
process at work in it holds; both are gone when all is done, and the checkpoints of its passes when the results are
whole. Knows nothing of what a checkpoint contains. Imports nothing heavy: it is asked before a run starts.
"""

import json
import logging
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, open_dict, read_write

from neurexp.config.schema import flat, folder_of, quoted
from neurexp.engine import processes
from neurexp.errors import UserError, one_line, printable, without_secrets
from neurexp.io.files import whole_file, write_json
from neurexp.report.folder import CHECKPOINTS, LOCK, NOTE, SUMMARY, TRACEBACK

log = logging.getLogger(__name__)

# Options that change no result
FREE = ("run.resume", "run.checkpoint_every", "run.outputs", "run.reuse")  # and where it is tracked
SHOWN = 3  # differences that are named
PATIENCE = 2  # seconds for a folder that another process only looks at


def options_of(config: DictConfig) -> dict[str, str]:
    """Every option that a result depends on."""
    options = {
        name: value for name, value in flat(config).items() if name not in FREE and not name.startswith("tracking.")
    }
    return options | {"--nproc-per-node": str(processes.count())}  # the sum of parts is another in its last bits


def differences(there: dict[str, str], here: dict[str, str]) -> str:
    """In words how the options of two runs differ, or nothing where they do not."""
    names = [name for name in dict.fromkeys([*here, *there]) if there.get(name) != here.get(name)]
    told = [f"{name}={there.get(name, 'null')} there, {here.get(name, 'null')} here" for name in names[:SHOWN]]
    more = len(names) - SHOWN
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def choose_folder(config: DictConfig) -> None:
    """Checks the run folder before Hydra writes into it, and puts in its place the one that `run.resume=true` means.

    Raises:
        UserError: the folder holds a finished run, or one that must not be gone on with.
    """
    if processes.rank() > 0:  # its folder is no run folder
        return
    folder, resume = folder_of(config, "hydra.run.dir"), bool(config.run.get("resume"))
    here = options_of(config)
    if resume and not any(text.startswith("hydra.run.dir=") for text in config.hydra.overrides.hydra):
        found, reason = _latest(folder.parent, here)
        if found is None:
            print(printable(f"run.resume=true: {reason}; a fresh run starts"))
            return
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.run.dir = str(found)
        return
    note = read_note(folder)
    if note is None:
        if (folder / SUMMARY).exists():
            raise UserError(f"hydra.run.dir={folder}: holds a finished run; choose another folder")
        if resume:
            print(printable(f"run.resume=true: {folder} holds no unfinished run; a fresh run starts"))
    elif is_held(folder):
        raise UserError(f"hydra.run.dir={folder}: another process is at work in it")
    elif not resume and (any(folder.glob(CHECKPOINTS)) or (folder / SUMMARY).exists()):
        raise UserError(f"hydra.run.dir={folder}: holds an unfinished run; run.resume=true goes on with it")
    elif resume:
        _check_same(folder, note, here)


def how(folder: Path, option: str = "hydra.run.dir") -> str:
    """What a person adds to the same command to go on with a run, or with a sweep."""
    return printable(f"run.resume=true {shlex.quote(f'{option}={quoted(str(folder))}')}")


def is_unfinished(folder: Path) -> bool:
    """Whether there is something left to do in a run folder."""
    return (folder / NOTE).exists()


def redact(folder: Path) -> None:
    """Takes the passwords of addresses out of what Hydra wrote down: it goes to MLflow, where others read it."""
    for file in folder.glob("*.yaml"):
        text = file.read_text("utf-8")
        if text != without_secrets(text):
            with whole_file(file) as temporary:
                temporary.write_text(without_secrets(text), "utf-8")


@dataclass
class Progress:
    """A run folder at work in: `note` is what `checkpoint.json` says."""

    folder: Path
    note: dict[str, Any]
    resumed: bool  # another process began it

    def remember(self, **facts: Any) -> None:
        """Writes down what a process that goes on must know."""
        self.note |= facts
        write_json(self.folder / NOTE, self.note)

    def results_are_whole(self) -> None:
        """The results are written: the checkpoints go."""
        for file in self.folder.glob(CHECKPOINTS):
            file.unlink(missing_ok=True)


@contextmanager
def at_work(folder: Path, config: DictConfig) -> Iterator[Progress]:
    """Holds the run folder for this process.

    Raises:
        UserError: another process holds it, or it is to go on but was begun with other options.
    """
    lock = FileLock(folder / LOCK, timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"hydra.run.dir={folder}: another process is at work in it") from None
    try:
        here, note = options_of(config), read_note(folder) if config.run.resume else None
        progress = Progress(folder, note or {"options": here, "started": time.time()}, note is not None)
        if note is None:
            progress.remember()
        else:
            _check_same(folder, note, here)
            for left in [*folder.glob(".*.tmp"), *folder.glob("figures/.*.tmp"), *folder.glob(TRACEBACK)]:
                left.unlink()  # of a process that was killed, or failed
            log.info(
                "Going on with the run of %s in %s", time.strftime("%F %T", time.localtime(note["started"])), folder
            )
        yield progress
    finally:
        lock.release()


def _latest(runs: Path, here: dict[str, str]) -> tuple[Path | None, str]:
    """The unfinished run with these options that was begun last, of those that nobody is at work in; or why none is."""
    notes = []
    for file in runs.glob(f"*/{NOTE}"):
        with suppress(UserError, OSError):  # a folder that cannot be read is not the one
            notes.append((file.parent, read_note(file.parent)))
    begun = sorted([(note["started"], folder, note) for folder, note in notes if note is not None], reverse=True)
    begun = [(folder, note) for _, folder, note in begun if not is_held(folder)]
    for folder, note in begun:
        if not differences(note["options"], here):
            return folder, ""
    if not begun:
        return None, f"no unfinished run in {runs}"
    folder, note = begun[0]
    return None, f"no unfinished run with these options (the latest, {folder}: {differences(note['options'], here)})"


def is_held(folder: Path) -> bool:
    """Whether a process is at work in a run folder."""
    try:
        with FileLock(folder / LOCK, blocking=False):
            return False
    except Timeout:
        return True


def read_note(folder: Path) -> dict[str, Any] | None:
    """What `checkpoint.json` of a run folder says, or None where there is none."""
    try:
        note = json.loads((folder / NOTE).read_text("utf-8"))
        if not (isinstance(note, dict) and {"options", "started"} <= note.keys()):
            raise ValueError("it is of another kind")
        return note
    except OSError:  # not there; or no folder at all, which is told when it is made
        return None
    except ValueError as error:
        raise UserError(f"hydra.run.dir={folder}: its {NOTE} cannot be read ({one_line(error)})") from error


def _check_same(folder: Path, note: dict[str, Any], here: dict[str, str]) -> None:
    if different := differences(note["options"], here):
        raise UserError(
            f"run.resume=true: the run in {folder} has other options ({different}); give the same, or leave it out"
        )
