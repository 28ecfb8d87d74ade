"""Files: every file that neurexp writes is written here, complete or not at all. Knows no experiment.

This module also decides which files of a user's folder are data, for texts and for word lists.
"""

import errno
import json
import os
import shutil
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
    """A file could not be written. A caller that can do without the file may catch it."""


OLD = 24 * 3600  # seconds: an older temporary file belongs to a process that was killed

# Lower-case names of files and folders that other programs put beside a user's files
SIDECARS = {
    "__macosx", "desktop.ini", "thumbs.db", "ehthumbs.db", "icon\r", "$recycle.bin", "system volume information",
    "lost+found", "@eadir", "#recycle", "_delta_log", "_temporary",
}  # fmt: skip


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, a backup copy, or another program's: then it is no data."""
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in SIDECARS


def data_files(
    folder: Path,
    endings: Collection[str],
    recursive: bool = True,
    on_error: Callable[[OSError], object] | None = None,
) -> list[Path]:
    """The data files of a folder, in an order that depends on their names alone.

    Hidden files and those of other programs are left out (`is_hidden`). Links are followed, also out of the folder. A
    file with several links is listed once: under its own name if that is in the folder, else under the first link. A
    link to a folder that contains it is a circle, and is not entered.

    Args:
        folder: its own name may be hidden.
        endings: such as `.txt` or `.jsonl.gz`, in any case.
        recursive: whether folders within the folder are read too.
        on_error: called with an OSError, whose `filename` says where, for every folder that cannot be listed and every
            broken link. These are left out.

    Returns:
        Paths that begin with `folder`.

    Raises:
        OSError: such a folder or link, if `on_error` is not given.
    """
    wanted = tuple(ending.lower() for ending in endings)
    files: dict[str, Path] = {}  # by their real paths
    entered: set[str] = set()

    def report(error: OSError) -> None:
        if on_error is None:
            raise error
        on_error(error)

    def enter(start: Path) -> list[tuple[Any, Path]]:
        """Takes the files below a folder that are no links. Returns the links with their sort keys."""
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
    """Makes the folder unless it exists. Raises NotWritableError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritableError(
            f"run.outputs: {folder} cannot be made ({one_line(error)}); choose another folder"
        ) from error


def remove(path: Path) -> None:
    """Removes a file, or a folder with everything in it; does nothing if it does not exist. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_old(folder: Path) -> None:
    """Removes temporary files of processes that were killed at least a day ago."""
    for left in folder.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > OLD:
                remove(left)


def remove_own(folder: Path) -> None:
    """Removes temporary files and folders of this process, in a folder and below it."""
    for left in list(folder.rglob(f".*.{os.getpid()}.tmp")):
        with suppress(OSError):
            remove(left)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path that replaces `path` if the block succeeds, and is removed if it fails.

    Raises:
        NotWritableError: the file system is full or read-only, or permission is missing.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # otherwise a power cut may leave the name without the content
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors turns an OSError into its own
        raise NotWritableError(
            f"run.outputs: {path} cannot be written ({one_line(error)}); make room there, or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder that replaces `path` if the block succeeds, and is removed if it fails.

    A folder that is replaced is moved aside first and removed last.

    Raises:
        NotWritableError: the file system is full or read-only, or permission is missing.
    """
    temporary, former = (path.with_name(f".{path.name}{kind}.{os.getpid()}.tmp") for kind in ("", ".former"))
    try:
        remove(temporary)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())  # as in `whole_file`
        if path.exists():
            path.replace(former)
        try:
            temporary.replace(path)
        except OSError:
            if former.exists():
                former.replace(path)
            raise
    except NotWritableError:
        raise
    except OSError as error:
        raise NotWritableError(
            f"run.outputs: {path} cannot be written ({one_line(error)}); make room there, or choose another folder"
        ) from error
    finally:
        for left in (temporary, former):
            with suppress(OSError):
                remove(left)


def write_table(path: Path, table: dict[str, np.ndarray]) -> None:
    """Writes a table as parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    with whole_file(path) as temporary:
        parquet.write_table(pa.table({name: _column(values) for name, values in table.items()}), temporary)


def _column(values: np.ndarray) -> Any:
    """The values as pyarrow's array, from their bytes: `pyarrow.array` would import pandas to look at them.

    Raises:
        TypeError: they are neither numbers nor truth values nor texts; a text may be None.
    """
    import pyarrow as pa

    if values.dtype.kind in "iuf":
        data = pa.py_buffer(np.ascontiguousarray(values))
        return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, data])
    if values.dtype.kind == "b":
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])
    texts = values.tolist()
    if not all(isinstance(text, str | None) for text in texts):
        raise TypeError(f"a column of {values.dtype} is no column of texts")
    encoded = [b"" if text is None else text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    known = _bits(np.array([text is not None for text in texts], dtype=bool)) if None in texts else None
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)), known)


def _bits(values: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.py_buffer(np.packbits(values, bitorder="little"))


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Reads a table of `write_table`."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:  # `parquet.read_table` would import pandas
        table = file.read()
    return {name: _values(column) for name, column in zip(table.column_names, table.columns, strict=True)}


def _values(column: Any) -> np.ndarray:
    """The values of pyarrow's column. Its `to_numpy` imports pandas, so numbers go without it."""
    from pyarrow import types

    is_number = types.is_integer(column.type) or types.is_floating(column.type)
    return column.to_numpy() if column.null_count or not is_number else np.from_dlpack(column.combine_chunks())


def write_tensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Writes arrays as safetensors, with metadata texts."""
    from safetensors.numpy import save_file

    with whole_file(path) as temporary:
        save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, temporary, metadata)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON for people: indented and not escaped. Raises ValueError for NaN."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
