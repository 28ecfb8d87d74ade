"""Any folder of text: every row is a document, or empty, or skipped and named, and any damage is a text or one line.

The examples are the same on every run.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from neurexp.config.schema import DatasetConfig, Source
from neurexp.errors import UserError
from neurexp.text import sources
from neurexp.text.readers import ENDINGS
from neurexp.text.skipped import table


def fuzzed(examples: int):
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
BAD = object()


def as_txt(rows: list) -> bytes:
    return b"\xff" if BAD in rows else "".join(row or "" for row in rows).encode()


def as_jsonl(rows: list) -> bytes:
    return b"".join(b"{\n" if row is BAD else json.dumps({"n": 1, "text": row}).encode() + b"\n" for row in rows)


def as_json(rows: list) -> bytes:
    return json.dumps([7 if row is BAD else {"text": row} for row in rows], indent=1).encode()


def as_csv(rows: list, delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(["n", "text"])
    writer.writerows([1] if row is BAD else [1, row] for row in rows)
    return file.getvalue().encode()


def as_parquet(rows: list) -> bytes:
    sink = io.BytesIO()
    values = pa.array([b"\xff" if row is BAD else row and row.encode() for row in rows], pa.binary())
    parquet.write_table(pa.table({"n": [1] * len(rows), "text": values.view(pa.string())}), sink, row_group_size=2)
    return sink.getvalue()


WRITERS = {
    ".txt": as_txt,
    ".jsonl": as_jsonl,
    ".json": as_json,
    ".csv": as_csv,
    ".tsv": lambda rows: as_csv(rows, "\t"),
    ".parquet": as_parquet,
}

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0\t")
texts = st.text(characters, min_size=1, max_size=8) | st.sampled_from(['plain, "text"\r\n;', "\ta"])
rows = st.lists(texts | st.none() | st.just("") | st.just(BAD), max_size=5)
folders = st.sampled_from(["", "a", "b/c", "B", ".hidden", "a/__MACOSX"])
names = st.sampled_from(["x", "X", "é", "part-0", "~$x", "._x", "a b#*[1]", "\udcff", "x.txt", "-"])


@contextmanager
def new_folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name).resolve()


def read(path: Path, bad_rows: float) -> tuple[list[str], list]:
    reading = sources.Reading(DatasetConfig(source=Source.files, path=str(path), bad_rows=bad_rows))
    documents = list(sources.documents(reading._config, reading))
    assert len(table(reading.skipped)["where"]) == len(reading.skipped)
    return documents, reading.skipped


@fuzzed(150)
@given(
    st.lists(
        st.tuples(folders, names, st.sampled_from([*WRITERS]), st.booleans(), st.sampled_from([*PACKERS]), rows),
        max_size=4,
    ),
    st.lists(st.sampled_from(["a", "b", ".", "..", "b/c", "nowhere"]), max_size=2),
)
def test_every_row_is_a_document_or_empty_or_skipped_and_named(files, links):
    with new_folder() as root:
        top = root / "top"
        top.mkdir()
        expected: dict[Path, tuple[list, str]] = {}
        for folder, name, kind, capital, packed, content in files:
            packed = "" if kind == ".parquet" else packed
            ending = kind.upper() if capital else kind
            path = top / folder / f"{name}{ending}{packed}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PACKERS[packed](WRITERS[kind](content)))
            if not any(part.startswith((".", "~$")) or part == "__MACOSX" for part in path.relative_to(top).parts):
                expected[path] = (content, kind)
        for number, target in enumerate(links):  # every target lies in the folder already, so they add nothing
            (top / f"link{number}").symlink_to(target)

        documents, skipped = [], []
        for path in sorted(expected, key=lambda path: path.relative_to(top).parts):
            content, kind = expected[path]
            if kind == ".txt":
                if BAD in content:
                    skipped.append(0)
                    continue
                content = ["".join(row or "" for row in content)]
            # What is a byte order mark at the beginning of a .txt is no text
            for number, row in enumerate(content, start=1):
                if row is BAD:
                    skipped.append(number)
                    continue
                text = (row or "").removeprefix("\ufeff") if kind == ".txt" else row or ""
                if text and not text.isspace():
                    documents.append(text)
        if documents:
            found, left_out = read(top, bad_rows=1.0)
            assert found == documents
            assert [one.item for one in left_out] == skipped
            if skipped:
                with pytest.raises(UserError, match=r"^dataset\.bad_rows=0: "):
                    read(top, bad_rows=0.0)
            else:
                assert read(top, bad_rows=0.0) == (documents, [])
        else:
            with pytest.raises(UserError, match=r"^dataset\.") as refused:
                read(top, bad_rows=1.0)
            assert str(refused.value).isprintable()


SOUND = {
    ending: PACKERS[packed](WRITERS[kind](["one", None, "two"]))
    for kind in WRITERS
    for packed in PACKERS
    for ending in [kind + packed]
    if ending in ENDINGS
}


@fuzzed(250)
@given(
    st.lists(
        st.tuples(st.sampled_from([*SOUND]), st.integers(0, 10**6), st.binary(max_size=3), st.booleans()), min_size=1
    )
)
def test_damage_anywhere_is_a_text_or_one_line(damages):
    """Bytes overwritten, put in, or everything after them lost."""
    with new_folder() as top:
        for number, (ending, place, content, cut) in enumerate(damages[:3]):
            sound = SOUND[ending]
            place %= len(sound) + 1
            rest = b"" if cut else sound[place + len(content) * (number % 2) :]
            (top / f"{number}{ending}").write_bytes(sound[:place] + content + rest)
        for bad_rows in (0.0, 0.5, 1.0):
            try:
                documents, skipped = read(top, bad_rows)
            except UserError as refused:
                assert str(refused).isprintable()
                assert str(refused).startswith("dataset.")
            else:
                assert documents
                assert all(text.encode() and "\0" not in text for text in documents)
                assert bad_rows or not [one for one in skipped if not one.reason.startswith("no column")]


@fuzzed(150)
@given(st.sampled_from(ENDINGS), st.binary(max_size=60))
def test_any_bytes_with_any_ending_are_a_text_or_one_line(ending, content):
    with new_folder() as top:
        (top / f"any{ending}").write_bytes(content)
        try:
            assert read(top, 1.0)[0]
        except UserError as refused:
            assert str(refused).isprintable()
            assert str(refused).startswith("dataset.")
