"""Files that appear whole or not at all: every file that neurexp writes is written here. Knows no experiment.

Which files of a user's folder are data is decided here as well, for texts and for word lists alike.
"""

import errno
import json
import os
import time
import unicodedata
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from neurexp.errors import UserError, one_line


class NotWritableError(UserError, OSError):
    """A file could not be written, which the user can mend, and whoever can do without the file may catch."""


OLD = 24 * 3600  # seconds, after which a temporary file is that of a process which was killed

# Names, in small letters, that other programs give to what they keep beside a user's files
SIDECARS = {
    "__macosx", "desktop.ini", "thumbs.db", "ehthumbs.db", "icon\r", "$recycle.bin", "system volume information",
    "lost+found", "@eadir", "#recycle", "_delta_log", "_temporary",
}  # fmt: skip


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, a backup copy, or another program's and so no data."""
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in SIDECARS


def data_files(
    folder: Path,
    endings: Collection[str],
    recursive: bool = True,
    on_error: Callable[[OSError], object] | None = None,
) -> list[Path]:
    """The data files of a folder, in an order that depends on their names alone.

    Left out is what is hidden or belongs to another program (`is_hidden`). Links are followed, also those that lead
    out of the folder. A file that several links lead to comes once: under its own name if that lies in the folder, else
    under the first. A link to a folder that it lies in is a circle, and not entered.

    Args:
        folder: its own name may be hidden.
        endings: such as `.txt` or `.jsonl.gz`; capital and small letters are the same.
        recursive: whether folders within the folder are read too.
        on_error: told of every folder that cannot be listed and every link that leads nowhere, as `filename` of the
            error; what it is told of is left out.

    Returns:
        Paths that begin with `folder`.

    Raises:
        OSError: such a folder or link, where there is no `on_error`.
    """
    wanted = tuple(ending.lower() for ending in endings)
    files: dict[str, Path] = {}  # by where they really lie
    entered: set[str] = set()

    def report(error: OSError) -> None:
        if on_error is None:
            raise error
        on_error(error)

    def enter(start: Path) -> list[tuple[Any, Path]]:
        """Takes the files below a folder that are no links, and returns the links, with what they are sorted by."""
        links, waiting = [], [(start, os.path.realpath(start))]
        while waiting:
            at, real = waiting.pop()
            if real in entered:
                continue
            entered.add(real)
            try:
                with os.scandir(at) as entries:
                    found = [entry for entry in entries if not is_hidden(entry.name)]
            except OSError as error:
                report(error)
                continue
            for entry in found:
                path = at / entry.name
                if entry.is_symlink():
                    links.append(path)
                elif entry.is_dir(follow_symlinks=False):
                    if recursive:
                        waiting.append((path, os.path.join(real, entry.name)))  # noqa: PTH118 (fast)
                elif entry.name.lower().endswith(wanted):
                    take(path, os.path.join(real, entry.name))  # noqa: PTH118
        return sorted((order(link), link) for link in links)

    def take(path: Path, real: str) -> None:
        if os.path.isfile(path):  # noqa: PTH113 (False too where a folder on the way may not be read)
            files.setdefault(real, path)
        else:
            report(FileNotFoundError(errno.ENOENT, "no file, and no link to one", str(path)))

    def order(path: Path) -> tuple[list[str], list[str]]:
        parts = path.relative_to(folder).parts
        return [unicodedata.normalize("NFC", part) for part in parts], list(parts)  # macOS may keep names as NFD

    linked = enter(folder)  # sorted, and so a heap
    while linked:
        _, link = heappop(linked)
        real = os.path.realpath(link)
        if os.path.isdir(link):  # noqa: PTH112
            around = os.path.realpath(link.parent)
            if recursive and os.path.commonpath([real, around]) != real:
                for more in enter(link):
                    heappush(linked, more)
        elif link.name.lower().endswith(wanted):
            take(link, real)
    return sorted(files.values(), key=order)


def make_folder(folder: Path) -> None:
    """The folder, if it is not there. Raises NotWritableError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritableError(
            f"run.outputs: {folder} cannot be made ({one_line(error)}); choose another folder"
        ) from error


def remove_old(folder: Path) -> None:
    """Temporary files that processes left which were killed a day ago or more."""
    for left in folder.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > OLD:
                left.unlink()


def remove_own(folder: Path) -> None:
    """Temporary files of this process, in a folder and below it."""
    for left in folder.rglob(f".*.{os.getpid()}.tmp"):
        with suppress(OSError):
            left.unlink()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its place when the block ends well and is gone when not.

    Raises:
        NotWritableError: the file system takes no more: it is full, read-only, or not ours to write to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # or a machine that loses power keeps the name without the content
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # the latter is what safetensors makes of the former
        raise NotWritableError(
            f"run.outputs: {path} cannot be written ({one_line(error)}); make room there, or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_table(path: Path, table: dict[str, np.ndarray]) -> None:
    """A table as parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    with whole_file(path) as temporary:
        parquet.write_table(pa.table({name: pa.array(values) for name, values in table.items()}), temporary)


def read_table(path: Path) -> dict[str, np.ndarray]:
    """What `write_table` wrote."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    return {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}


def write_tensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Arrays as safetensors, with texts that the file carries beside them."""
    from safetensors.numpy import save_file

    with whole_file(path) as temporary:
        save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, temporary, metadata)


def write_json(path: Path, content: Any) -> None:
    """JSON for people: indented, text as it is; NaN is refused."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
