"""Resuming interrupted runs: which run goes on, and the files of its folder until it is complete.

While a run is not complete, its folder has `checkpoint.json` with the run's options, and `checkpoint.lock`, which the
working process holds. Both are removed at the end, and the checkpoints of passes when the results are written. Knows
nothing of the content of a checkpoint. Imports nothing heavy.
"""

import json
import logging
import shlex
import socket
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
from neurexp.io.files import remove, whole_file, write_json
from neurexp.report.folder import CHECKPOINTS, LOCK, NOTE, SUMMARY, TRACEBACK

log = logging.getLogger(__name__)

# Options that do not change a result
FREE = ("run.resume", "run.checkpoint_every", "run.outputs", "run.reuse")  # and those of tracking
PROCESSES = "--nproc-per-node"  # stands among the options for the number of all processes
SHOWN = 3  # differences in a message
SEEN_AFTER = 60  # seconds within which a shared file system shows another machine's new files
PATIENCE = 2  # seconds to wait for a lock that another process only tests


def options_of(config: DictConfig) -> dict[str, str]:
    """Every option that a result depends on."""
    options = {
        name: value for name, value in flat(config).items() if name not in FREE and not name.startswith("tracking.")
    }
    return options | {PROCESSES: str(processes.count())}  # sums over parts differ in the last bits


def differences(there: dict[str, str], here: dict[str, str]) -> str:
    """How the options of two runs differ, in words; an empty text if they do not.

    Another number of processes may go on with a run.
    """
    names = [name for name in dict.fromkeys([*here, *there]) if there.get(name) != here.get(name) and name != PROCESSES]
    told = [f"{name}={there.get(name, 'null')} there, {here.get(name, 'null')} here" for name in names[:SHOWN]]
    more = len(names) - SHOWN
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def choose_folder(config: DictConfig) -> None:
    """Checks the run folder before Hydra writes into it. With `run.resume=true`, replaces it by the run to resume.

    Raises:
        UserError: the folder holds a finished run, or one that cannot be resumed.
    """
    if processes.rank() > 0:  # its folder is temporary
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
    """The overrides that resume a run or a sweep, to be added to the same command."""
    return printable(f"run.resume=true {shlex.quote(f'{option}={quoted(str(folder))}')}")


def is_unfinished(folder: Path) -> bool:
    """Whether a run folder is not complete."""
    return (folder / NOTE).exists()


def redact(folder: Path) -> None:
    """Removes the passwords of addresses from Hydra's files, which go to MLflow, where others can read them."""
    for file in folder.glob("*.yaml"):
        text = file.read_text("utf-8")
        if text != without_secrets(text):
            with whole_file(file) as temporary:
                temporary.write_text(without_secrets(text), "utf-8")


@dataclass
class Progress:
    """The run folder that this process works in. `note` is the content of `checkpoint.json`."""

    folder: Path
    note: dict[str, Any]
    resumed: bool  # another process began it

    def remember(self, **facts: Any) -> None:
        """Writes facts into the note, for a process that resumes the run."""
        self.note |= facts
        write_json(self.folder / NOTE, self.note)

    def results_are_whole(self) -> None:
        """Removes the checkpoints: the results are written."""
        for file in self.folder.glob(CHECKPOINTS):
            file.unlink(missing_ok=True)


def check_shared(folder: Path, started: float) -> None:
    """Checks, in another process of `torchrun` than the first, that it finds the run folder of process 0.

    Raises:
        UserError: it does not, or finds another folder of this name.
    """
    end = time.monotonic() + SEEN_AFTER
    while True:
        note = read_note(folder)
        if note is not None and note["started"] == started:
            return
        if time.monotonic() > end:
            raise UserError(
                f"hydra.run.dir={folder}: the machine {socket.gethostname()} does not find this folder as process 0 "
                "made it; give a folder that all machines share"
            )
        time.sleep(0.2)


@contextmanager
def at_work(folder: Path, config: DictConfig) -> Iterator[Progress]:
    """Locks the run folder for this process.

    Raises:
        UserError: another process holds it, or the resumed run has other options.
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
                remove(left)  # left by a process that was killed or failed
            log.info(
                "Going on with the run of %s in %s", time.strftime("%F %T", time.localtime(note["started"])), folder
            )
        yield progress
    finally:
        lock.release()


def _latest(runs: Path, here: dict[str, str]) -> tuple[Path | None, str]:
    """The latest unfinished run with these options that no process works in, or why there is none."""
    notes = []
    for file in runs.glob(f"*/{NOTE}"):
        with suppress(UserError, OSError):  # skip folders that cannot be read
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
    """Whether a process works in a run folder."""
    try:
        with FileLock(folder / LOCK, blocking=False):
            return False
    except Timeout:
        return True


def read_note(folder: Path) -> dict[str, Any] | None:
    """The content of `checkpoint.json` of a run folder, or None if there is none."""
    try:
        note = json.loads((folder / NOTE).read_text("utf-8"))
        if not (isinstance(note, dict) and {"options", "started"} <= note.keys()):
            raise ValueError("it is of another kind")
        return note
    except OSError:  # it does not exist
        return None
    except ValueError as error:
        raise UserError(f"hydra.run.dir={folder}: its {NOTE} cannot be read ({one_line(error)})") from error


def _check_same(folder: Path, note: dict[str, Any], here: dict[str, str]) -> None:
    if different := differences(note["options"], here):
        raise UserError(
            f"run.resume=true: the run in {folder} has other options ({different}); give the same, or leave it out"
        )
