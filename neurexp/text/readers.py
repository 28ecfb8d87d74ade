"""From one local file to its rows: a text, a table or a list, compressed or not. What cannot be read is a row as well.

Knows nothing of options, folders or tokens. A reader never raises for what a file holds: it yields `BadRow`.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from neurexp.errors import one_line
from neurexp.text.rows import BINARY, BadRow, Row, no_column, text_of

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

LONGEST = 2**28  # characters of a line: a row of JSON Lines or CSV
_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
LARGEST_TEXT = _MEMORY // 4  # bytes of a .txt file, which is one document
LARGEST_JSON = _MEMORY // 16  # bytes of a .json file that is no JSON Lines: its objects take several times that
SAMPLE = 100  # lines of a .tsv
PARQUET_BATCH = 256  # rows

_MARKS = {  # of four bytes before those of two that they begin with
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# An unreadable file, as the libraries that read it say so; pyarrow's own errors are of the first two kinds
_FAILURES = (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, csv.Error, RecursionError, MemoryError)


Rows = Iterator[Row | BadRow]


@lru_cache(maxsize=16)  # it is asked for every row
def kind_of(name: str) -> str | None:
    """The ending that says what a file holds, without that of its compression: `.jsonl` of `a.JSONL.gz`."""
    name = name.lower()
    ending = next((one for one in ENDINGS if name.endswith(one)), None)
    return None if ending is None else f".{ending.split('.')[1]}"


def read(file: Path, column: str) -> Rows:
    """Yields the rows of a file whose name ends in one of `ENDINGS`, and `BadRow` in the place of each that is none."""
    number = 0
    try:
        if file.stat().st_size == 0 and kind_of(file.name) != ".parquet":  # an empty parquet file is a torn one
            return
        for row in _READERS[str(kind_of(file.name))](file, column):
            yield row
            number = row.number
    except UnicodeDecodeError as error:
        yield BadRow(0, _no_text(error))
    except _FAILURES as error:
        after = f"broke off after row {number}" if number else "cannot be read"
        yield BadRow(0, f"{after} ({_short(error)})")


# Each kind of file


def _text(file: Path, column: str) -> Rows:
    """The whole file as one row: a document as it is, but for a byte order mark."""
    with _opened(file) as (stream, encoding):
        content = _whole(stream, LARGEST_TEXT)
    text = content.decode(encoding)
    yield BadRow(0, BINARY) if "\0" in text else Row(1, text)


def _json_lines(file: Path, column: str) -> Rows:
    with _opened_text(file) as stream:
        for number, line in _lines(stream):
            if line is None:
                yield BadRow(number, f"a line of more than {LONGEST} characters")
            elif line and not line.isspace():
                yield _parsed(number, line, column)


def _json(file: Path, column: str) -> Rows:
    """One array of rows, or one row, or JSON Lines after all."""
    with _opened_text(file) as stream:
        lines = (line for _, line in _lines(stream) if line is None or not line.isspace())
        first = list(islice(lines, 2))
    objects = [line is not None and _is_object(line) for line in first]
    if objects[:1] == [True] and len(first) == 2:
        yield from _json_lines(file, column)
        return
    with _opened(file) as (stream, encoding):
        content = _whole(stream, LARGEST_JSON).decode(encoding, _errors(encoding))
    if not content or content.isspace():
        return
    try:
        found = _loaded(content)
    except ValueError:
        if objects[1:] == [True]:  # only the first line is none
            yield from _json_lines(file, column)
            return
        raise
    values = found if isinstance(found, list) else [found]
    tables = [value for value in values if isinstance(value, dict)]
    if tables and len(tables) == len(values) and not any(column in value for value in tables):
        yield BadRow(0, no_column(column, tables[0]), no_column=True)
        return
    for number, value in enumerate(values, start=1):
        yield _taken(number, value, column)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _parsed(number: int, line: str, column: str) -> Row | BadRow:
    try:
        return _taken(number, _loaded(line.lstrip("\ufeff").rstrip()), column)  # a mark: files that were joined
    except ValueError as error:
        return BadRow(number, _short(error))


def _loaded(content: str) -> Any:
    """The value of a JSON text. Raises ValueError, whose message is a reason."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except ValueError as error:
        try:
            text_of(content)
        except ValueError as reason:
            raise reason from error
        if isinstance(error, json.JSONDecodeError):  # of a file of lines, its own "line 1" would mislead
            place = f"line {error.lineno}, character" if "\n" in content else "character"
            raise ValueError(f"no JSON: {error.msg} at {place} {error.colno}") from error
        raise ValueError(f"no JSON: {error}") from error


def _taken(number: int, value: Any, column: str) -> Row | BadRow:
    """A row of JSON: an object with the text column, or the text itself."""
    if isinstance(value, dict):
        if column not in value:
            return BadRow(number, no_column(column, value), no_column=True)
        return Row(number, value[column])
    if isinstance(value, str):
        return Row(number, value)
    return BadRow(number, f'no object, as {{"{column}": …}} would be')


def _csv(file: Path, column: str) -> Rows:
    """Rows are counted without the header. In a .csv a semicolon or a tab may stand for the comma."""
    csv.field_size_limit(LONGEST)
    with _opened_text(file, newline="") as stream:
        lines: Iterator[str] = _csv_lines(stream)
        first = next((line for line in lines if not line.isspace()), "")
        delimiters = ["\t"] if kind_of(file.name) == ".tsv" else [",", ";", "\t"]
        headers = {one: next(csv.reader([first], delimiter=one), []) for one in delimiters}
        delimiter = next((one for one in delimiters if column in headers[one]), delimiters[0])
        header = headers[delimiter]
        if not header:
            return
        if column not in header:
            yield BadRow(0, no_column(column, header), no_column=True)
            return
        sample = list(islice(lines, SAMPLE)) if kind_of(file.name) == ".tsv" else []
        quoting = csv.QUOTE_NONE if _marks_are_text(sample, len(header)) else csv.QUOTE_MINIMAL
        rows = csv.reader(chain(sample, lines), delimiter=delimiter, strict=True, quoting=quoting)
        place, number = header.index(column), 0
        while True:
            begun = rows.line_num
            try:
                fields = next(rows, None)
            except csv.Error as error:
                swallowed = rows.line_num - begun
                joined = f"; a quotation mark joins {swallowed} lines" if swallowed > 1 else ""
                for _ in range(max(1, swallowed)):  # as many rows may be lost
                    number += 1
                    yield BadRow(number, one_line(error) + joined)
                continue
            if fields is None:
                return
            if not fields:  # an empty line
                continue
            number += 1
            if len(fields) == len(header):
                yield Row(number, fields[place])
            else:
                yield BadRow(number, f"{len(fields)} fields where the header has {len(header)}")


def _marks_are_text(lines: list[str], width: int) -> bool:
    """Whether a quotation mark in these lines of a .tsv is part of the text, and does not hold a field together.

    It is part of the text where every line has all fields as it is, and would not if marks held fields together: one
    at the beginning of a text would join it with the rows that follow.
    """
    lines = [line for line in lines if not line.isspace()]
    if width == 1 or any(line.count("\t") != width - 1 for line in lines):
        return False
    try:
        return [len(row) for row in csv.reader(lines, delimiter="\t", strict=True)] != [width] * len(lines)
    except csv.Error:
        return True


def _csv_lines(stream: IO[str]) -> Iterator[str]:
    for number, line in _lines(stream):
        if line is None:
            raise ValueError(f"line {number} has more than {LONGEST} characters")
        yield line


def _parquet(file: Path, column: str) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    with file.open("rb") as stream:
        try:
            yield from _parquet_rows(parquet.ParquetFile(stream), column)
        except pa.ArrowException as error:
            raise ValueError(one_line(error)) from error


def _parquet_rows(table: "ParquetFile", column: str) -> Rows:
    import pyarrow as pa

    names = table.schema_arrow.names
    if column not in names:
        yield BadRow(0, no_column(column, names), no_column=True)
        return
    number = 0
    for group in range(table.num_row_groups):
        stop = number + table.metadata.row_group(group).num_rows
        try:
            for batch in table.iter_batches(PARQUET_BATCH, [group], [column]):
                for value in batch.column(0):
                    number += 1
                    try:
                        yield Row(number, value.as_py())
                    except UnicodeDecodeError as error:
                        yield BadRow(number, _no_text(error))
        except (OSError, pa.ArrowException) as error:  # other row groups may be whole
            reason = f"its row group cannot be read ({_short(error)})"
            for row in range(number + 1, stop + 1):
                yield BadRow(row, reason)
        number = stop


_READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".txt": _text,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
ENDINGS = (*_READERS, *(kind + packed for kind in _READERS if kind != ".parquet" for packed in COMPRESSIONS))


# Bytes and lines


@contextmanager
def _opened(file: Path) -> Iterator[tuple[IO[bytes], str]]:
    """The bytes of a file, decompressed, and the encoding that its byte order mark names, or UTF-8."""
    with _decompressed(file) as stream:
        start = stream.read(4)
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
    with _decompressed(file) as stream:
        yield stream, encoding


def _decompressed(file: Path) -> IO[bytes]:
    ending = file.suffix.lower()
    if ending == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file.open("rb")), "zstd"))  # type: ignore[arg-type]
    opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(ending, open)
    return opener(file, "rb")  # type: ignore[operator]


def _whole(stream: IO[bytes], most: int) -> bytearray:
    content = bytearray()
    while chunk := stream.read(2**24):
        content += chunk
        if len(content) > most:
            raise ValueError(f"more than {most / 1e9:.1f} GB, which is more than this machine can hold at once")
    return content


def _errors(encoding: str) -> str:
    """A byte that is no UTF-8 becomes half a character, so that it spoils its own row only."""
    return "surrogateescape" if encoding.startswith("utf-8") else "strict"


@contextmanager
def _opened_text(file: Path, newline: str = "\n") -> Iterator[IO[str]]:
    with (
        _opened(file) as (stream, encoding),
        io.TextIOWrapper(stream, encoding, _errors(encoding), newline) as text,  # type: ignore[type-var]
    ):
        yield text


def _lines(stream: IO[str]) -> Iterator[tuple[int, str | None]]:
    """The lines with their numbers; None in the place of one that is longer than LONGEST."""
    number = 0
    while line := stream.readline(LONGEST):
        number += 1
        if len(line) == LONGEST and not line.endswith("\n"):
            while (more := stream.readline(2**20)) and not more.endswith("\n"):
                pass
            yield number, None
        else:
            yield number, line


def _no_text(error: UnicodeDecodeError) -> str:
    return f"not {error.encoding.upper()} text ({error.reason} at byte {error.start})"


def _short(error: BaseException) -> str:
    text = one_line(error)
    return text if len(text) <= 200 else text[:200] + "…"
