"""Files that appear whole or not at all: every file that neurexp writes is written here. Knows no experiment."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from neurexp.errors import UserError, one_line


class NotWritableError(UserError, OSError):
    """A file could not be written, which the user can mend, and whoever can do without the file may catch."""


OLD = 24 * 3600  # seconds, after which a temporary file is that of a process which was killed


def make_folder(folder: Path) -> None:
    """The folder, if it is not there. Raises NotWritableError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritableError(f"run.outputs: {folder} cannot be made ({one_line(error)})") from error


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
