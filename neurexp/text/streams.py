"""Local files as bytes, text or numbered lines: decompression, byte order marks, lines of any length.

Knows nothing of rows, columns or options.
"""

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
LONGEST_LINE = 2**28  # characters
_BYTE_ORDER_MARKS = {  # UTF-32's come first, because UTF-16's are the first two bytes of one of them
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextmanager
def open_bytes(file: Path) -> Iterator[tuple[IO[bytes], str]]:
    """The decompressed bytes of a file, and its encoding: UTF-8 unless a byte order mark names another."""
    with _decompressed(file) as stream:
        start = stream.read(4)
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")
    with _decompressed(file) as stream:
        yield stream, encoding


@contextmanager
def open_text(file: Path, newline: str = "\n") -> Iterator[IO[str]]:
    """The decompressed text of a file; `newline` as in `open`."""
    with (
        open_bytes(file) as (stream, encoding),
        io.TextIOWrapper(stream, encoding, decoding_errors(encoding), newline) as text,  # type: ignore[type-var]
    ):
        yield text


def decoding_errors(encoding: str) -> str:
    """The `errors` argument for decoding: a byte that is not UTF-8 becomes a lone surrogate and spoils its row only."""
    return "surrogateescape" if encoding.startswith("utf-8") else "strict"


def read_whole(stream: IO[bytes], most: int) -> bytearray:
    """All bytes of a stream. Raises ValueError if there are more than `most`."""
    content = bytearray()
    while chunk := stream.read(2**24):
        content += chunk
        if len(content) > most:
            raise ValueError(f"more than {most / 1e9:.1f} GB, which is more than this machine can hold at once")
    return content


def numbered_lines(stream: IO[str]) -> Iterator[tuple[int, str | None]]:
    """(number from 1, line) for every line; None in place of a line that is longer than `LONGEST_LINE`."""
    number = 0
    while line := stream.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith("\n"):
            while (rest := stream.readline(2**20)) and not rest.endswith("\n"):
                pass
            yield number, None
        else:
            yield number, line


def _decompressed(file: Path) -> IO[bytes]:
    ending = file.suffix.lower()
    if ending == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file.open("rb")), "zstd"))  # type: ignore[arg-type]
    opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(ending, open)
    return opener(file, "rb")  # type: ignore[operator]
