"""The rows of one local file: a text, a table or a list, compressed or not.

A reader does not raise an error for the content of a file: it yields a `BadRow` for each row that cannot be read. Knows
nothing of options, folders or tokens.
"""

import csv
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from neurexp.errors import one_line
from neurexp.text import streams
from neurexp.text.rows import BINARY, BadRow, Row, no_column, text_of

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
LARGEST_TEXT = _MEMORY // 4  # bytes of a .txt file, which is one document
LARGEST_JSON = _MEMORY // 16  # bytes of a .json file that is one JSON value: its objects take several times as many
TSV_SAMPLE = 100  # lines of a .tsv that show whether quotation marks are text
PARQUET_BATCH = 256  # rows that are read at a time

# What the libraries raise for an unreadable file; pyarrow's own errors are of the first two kinds
_FAILURES = (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, csv.Error, RecursionError, MemoryError)

Rows = Iterator[Row | BadRow]


@lru_cache(maxsize=16)  # called for every row
def kind_of(name: str) -> str | None:
    """The ending of a file's name in lower case without that of its compression: `.jsonl` for `a.JSONL.gz`.

    None if it is not one of `ENDINGS`.
    """
    name = name.lower()
    ending = next((known for known in ENDINGS if name.endswith(known)), None)
    return None if ending is None else f".{ending.split('.')[1]}"


def read(file: Path, column: str, groups: range | None = None) -> Rows:
    """Yields the rows of a file whose name ends in one of `ENDINGS`, and a `BadRow` for each that cannot be read.

    Args:
        file: the file.
        column: the text column of a table, or the text key of an object.
        groups: of a .parquet, the row groups to read, if not all.
    """
    number = 0
    try:
        if file.stat().st_size == 0 and kind_of(file.name) != ".parquet":  # an empty .parquet is damaged
            return
        rows = _READERS[str(kind_of(file.name))](file, column) if groups is None else _parquet(file, column, groups)
        for row in rows:
            yield row
            number = row.number
    except UnicodeDecodeError as error:
        yield BadRow(0, _not_text(error))
    except _FAILURES as error:
        problem = f"broke off after row {number}" if number else "cannot be read"
        yield BadRow(0, f"{problem} ({_shortened(error)})")


def _text(file: Path, column: str) -> Rows:
    """The whole file as one row."""
    with streams.open_bytes(file) as (stream, encoding):
        content = streams.read_whole(stream, LARGEST_TEXT)
    text = content.decode(encoding)
    yield BadRow(0, BINARY) if "\0" in text else Row(1, text)


def _json_lines(file: Path, column: str) -> Rows:
    with streams.open_text(file) as stream:
        for number, line in streams.numbered_lines(stream):
            if line is None:
                yield BadRow(number, f"a line of more than {streams.LONGEST_LINE} characters")
            elif line and not line.isspace():
                yield _row_of_line(number, line, column)


def _json(file: Path, column: str) -> Rows:
    """An array of rows, a single row, or JSON Lines under the wrong ending."""
    with streams.open_text(file) as stream:
        lines = (line for _, line in streams.numbered_lines(stream) if line is None or not line.isspace())
        first_lines = list(islice(lines, 2))
    are_objects = [line is not None and _is_object(line) for line in first_lines]
    if are_objects[:1] == [True] and len(first_lines) == 2:
        yield from _json_lines(file, column)
        return
    with streams.open_bytes(file) as (stream, encoding):
        content = streams.read_whole(stream, LARGEST_JSON).decode(encoding, streams.decoding_errors(encoding))
    if not content or content.isspace():
        return
    try:
        parsed = _parse(content)
    except ValueError:
        if are_objects[1:] == [True]:  # JSON Lines whose first line is bad
            yield from _json_lines(file, column)
            return
        raise
    values = parsed if isinstance(parsed, list) else [parsed]
    objects = [value for value in values if isinstance(value, dict)]
    if objects and len(objects) == len(values) and not any(column in value for value in objects):
        yield BadRow(0, no_column(column, objects[0]), no_column=True)
        return
    for number, value in enumerate(values, start=1):
        yield _row_of_value(number, value, column)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _row_of_line(number: int, line: str, column: str) -> Row | BadRow:
    """The row in a line of JSON Lines. Files that were joined may have a byte order mark before any line."""
    try:
        return _row_of_value(number, _parse(line.lstrip("\ufeff").rstrip()), column)
    except ValueError as error:
        return BadRow(number, _shortened(error))


def _parse(content: str) -> Any:
    """The value of a JSON text. Raises ValueError, whose message is the reason of a `BadRow`."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except ValueError as error:
        try:
            text_of(content)
        except ValueError as reason:
            raise reason from error
        if isinstance(error, json.JSONDecodeError):  # its own message says "line 1" for any line of JSON Lines
            place = f"line {error.lineno}, character" if "\n" in content else "character"
            raise ValueError(f"not JSON: {error.msg} at {place} {error.colno}") from error
        raise ValueError(f"not JSON: {error}") from error


def _row_of_value(number: int, value: Any, column: str) -> Row | BadRow:
    """The row in a JSON value: an object with the text column, or the text itself."""
    if isinstance(value, dict):
        if column not in value:
            return BadRow(number, no_column(column, value), no_column=True)
        return Row(number, value[column])
    if isinstance(value, str):
        return Row(number, value)
    return BadRow(number, f'not an object like {{"{column}": …}}')


def _csv(file: Path, column: str) -> Rows:
    """Rows are counted without the header. The delimiter of a .csv may be a comma, a semicolon or a tab."""
    csv.field_size_limit(streams.LONGEST_LINE)
    with streams.open_text(file, newline="") as stream:
        lines: Iterator[str] = _csv_lines(stream)
        first = next((line for line in lines if not line.isspace()), "")
        delimiters = ["\t"] if kind_of(file.name) == ".tsv" else [",", ";", "\t"]
        headers = {delimiter: next(csv.reader([first], delimiter=delimiter), []) for delimiter in delimiters}
        delimiter = next((delimiter for delimiter in delimiters if column in headers[delimiter]), delimiters[0])
        header = headers[delimiter]
        if not header:
            return
        if column not in header:
            yield BadRow(0, no_column(column, header), no_column=True)
            return
        sample = list(islice(lines, TSV_SAMPLE)) if kind_of(file.name) == ".tsv" else []
        quoting = csv.QUOTE_NONE if _quotes_are_text(sample, len(header)) else csv.QUOTE_MINIMAL
        rows = csv.reader(chain(sample, lines), delimiter=delimiter, strict=True, quoting=quoting)
        index, number = header.index(column), 0
        while True:
            lines_before = rows.line_num
            try:
                fields = next(rows, None)
            except csv.Error as error:
                lines_read = rows.line_num - lines_before
                joined = f"; a quotation mark joins {lines_read} lines" if lines_read > 1 else ""
                for _ in range(max(1, lines_read)):  # each line may have been a row
                    number += 1
                    yield BadRow(number, one_line(error) + joined)
                continue
            if fields is None:
                return
            if not fields:  # an empty line
                continue
            number += 1
            if len(fields) == len(header):
                yield Row(number, fields[index])
            else:
                yield BadRow(number, f"{len(fields)} fields where the header has {len(header)}")


def _quotes_are_text(lines: list[str], width: int) -> bool:
    """Whether quotation marks in these lines of a .tsv are part of the text and do not enclose a field.

    They are part of the text if every line has `width` fields when they are read so, but not when they enclose fields:
    a quotation mark at the beginning of a text would then join it with the rows that follow.
    """
    lines = [line for line in lines if not line.isspace()]
    if width == 1 or any(line.count("\t") != width - 1 for line in lines):
        return False
    try:
        return [len(row) for row in csv.reader(lines, delimiter="\t", strict=True)] != [width] * len(lines)
    except csv.Error:
        return True


def _csv_lines(stream: IO[str]) -> Iterator[str]:
    for number, line in streams.numbered_lines(stream):
        if line is None:
            raise ValueError(f"line {number} has more than {streams.LONGEST_LINE} characters")
        yield line


def row_groups(file: Path) -> list[int]:
    """The bytes of each row group of a .parquet, as its footer gives them. Raises OSError or ValueError."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with file.open("rb") as stream:
            metadata = parquet.ParquetFile(stream).metadata
            return [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    except pa.ArrowException as error:
        raise ValueError(one_line(error)) from error


def _parquet(file: Path, column: str, groups: range | None = None) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    with file.open("rb") as stream:
        try:
            yield from _parquet_rows(parquet.ParquetFile(stream), column, groups)
        except pa.ArrowException as error:
            raise ValueError(one_line(error)) from error


def _parquet_rows(table: "ParquetFile", column: str, groups: range | None) -> Rows:
    import pyarrow as pa

    names = table.schema_arrow.names
    if column not in names:
        yield BadRow(0, no_column(column, names), no_column=True)
        return
    number = 0
    for group in range(table.num_row_groups):
        stop = number + table.metadata.row_group(group).num_rows
        if groups is not None and group not in groups:
            number = stop
            continue
        try:
            for batch in table.iter_batches(PARQUET_BATCH, [group], [column]):
                for value in batch.column(0):
                    number += 1
                    try:
                        yield Row(number, value.as_py())
                    except UnicodeDecodeError as error:
                        yield BadRow(number, _not_text(error))
        except (OSError, pa.ArrowException) as error:  # other row groups may be readable
            reason = f"its row group cannot be read ({_shortened(error)})"
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
_COMPRESSED = [kind + ending for kind in _READERS if kind != ".parquet" for ending in streams.COMPRESSIONS]
ENDINGS = (*_READERS, *_COMPRESSED)


def _not_text(error: UnicodeDecodeError) -> str:
    return f"not {error.encoding.upper()} text ({error.reason} at byte {error.start})"


def _shortened(error: BaseException) -> str:
    text = one_line(error)
    return text if len(text) <= 200 else text[:200] + "…"
