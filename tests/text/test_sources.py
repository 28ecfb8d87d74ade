"""Whole documents from pydoc, local files and folders, and what a bad file is answered."""

import bz2
import codecs
import gzip
import json
import logging
import lzma
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow as pa
import pytest
from pyarrow import parquet

from neurexp.config.schema import DatasetConfig, Source
from neurexp.errors import UserError
from neurexp.text import readers, skipped, sources, streams

POEM = "First line\n\n  second,\twith a tab\nlast — “quoted”\n"


def read(path: Path, **options: str | float) -> list[str]:
    return list(sources.documents(DatasetConfig(source=Source.files, path=str(path), **options)))


def refusal(path: Path, **options: str | float) -> str:
    """The message for a path that cannot serve: one line that begins with the option."""
    with pytest.raises(UserError) as refused:
        read(path, **options)
    message = str(refused.value)
    assert "\n" not in message
    return message


def write_jsonl(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_parquet(path: Path, **columns: list) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def test_pydoc_is_the_language_reference_of_this_python_in_order_of_name():
    documents = list(sources.documents(DatasetConfig(source=Source.pydoc)))
    assert documents == [topics[name] for name in sorted(topics)]
    assert sources.identity(DatasetConfig(source=Source.pydoc))["source"] == "pydoc"


def test_a_txt_file_is_one_document_with_its_newlines(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text(POEM, "utf-8")
    assert read(path) == [POEM]


def test_windows_newlines_are_kept_as_they_are(tmp_path):
    path = tmp_path / "dos.txt"
    path.write_bytes(b"one\r\ntwo\r\n")
    assert read(path) == ["one\r\ntwo\r\n"]


def test_a_jsonl_row_is_a_document_and_empty_ones_are_left_out(tmp_path):
    path = write_jsonl(
        tmp_path / "rows.jsonl", {"text": POEM}, {"text": ""}, {"text": None}, {"text": " \n"}, {"text": "b"}
    )
    assert read(path) == [POEM, "b"]


def test_a_parquet_row_is_a_document(tmp_path):
    assert read(write_parquet(tmp_path / "rows.parquet", text=[POEM, "b"], number=[1, 2])) == [POEM, "b"]


def test_another_column_can_be_the_text(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", {"title": "no", "body": "yes"})
    assert read(path, text_column="body") == ["yes"]


def test_a_folder_gives_every_known_file_in_order_of_path_whatever_its_kind(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", {"body": "a"})
    (tmp_path / "b.txt").write_text("b\n")
    write_jsonl(tmp_path / "c.jsonl", {"body": "c1"}, {"body": "c2"})
    write_parquet(tmp_path / "d.parquet", body=["d"])
    (tmp_path / "ignored.md").write_text("no")
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "e.txt").write_text("e")
    assert read(tmp_path, text_column="body") == ["a", "b\n", "c1", "c2", "d", "e"]


@pytest.mark.parametrize("name", ["notes [draft].txt", "a*.txt", "a::b.txt", "a b#c%20d.txt", "{x,y}.txt"])
def test_a_file_name_is_a_name_and_never_a_pattern(tmp_path, name):
    (tmp_path / name).write_text("right")
    (tmp_path / "another.txt").write_text("wrong")
    assert read(tmp_path / name) == ["right"]


def test_an_empty_file_among_others_is_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.jsonl").write_text("")
    (tmp_path / "d.txt").write_text("d")
    assert read(tmp_path) == ["a", "d"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_wrong_text_column_is_answered_with_the_columns(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    if ending == "jsonl":
        write_jsonl(path, {"content": "x", "id": 1})
    else:
        write_parquet(path, content=["x"], id=[1])
    message = refusal(path, text_column="contents")
    assert message.startswith("dataset.text_column=contents: ")
    assert "content, id" in message
    assert "did you mean content?" in message


def test_a_column_that_is_no_text_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", {"text": "x", "id": 1})
    assert refusal(path, text_column="id").startswith("dataset.text_column=id: ")


@pytest.mark.parametrize("content", [b"", b" \n\t\n"], ids=["empty", "blank"])
def test_a_file_without_text_is_refused(tmp_path, content):
    path = tmp_path / "nothing.txt"
    path.write_bytes(content)
    assert refusal(path) == (
        f"dataset.path={path}: there is no text in it; give another dataset.path (or, for a table, "
        "dataset.text_column=COLUMN)"
    )


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_table_without_rows_is_refused(tmp_path, ending):
    path = tmp_path / f"nothing.{ending}"
    if ending == "jsonl":
        path.write_text("")
    else:
        parquet.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert refusal(path).startswith(f"dataset.path={path}: ")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("latin.txt", "café au lait".encode("latin-1"), "not UTF-8 text"),
        ("wide.txt", "hello world".encode("utf-16")[:-1], "not UTF-16-LE text"),
        ("wide_and_unmarked.txt", "hello world".encode("utf-16-le"), "binary"),
        ("picture.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not UTF-8 text"),
        ("zeros.txt", b"abc\0def", "binary"),
        ("latin.jsonl", b'{"text": "caf\xe9"}\n', "not UTF-8 text"),
        ("broken.jsonl", b"no json\n", "row 1: not JSON"),
        ("broken.json", b'[{"text": "a"}', "cannot be read (not JSON: Expecting ',' delimiter"),
        ("broken.txt.gz", b"no gzip", "cannot be read (Not a gzipped file"),
        ("broken.jsonl.zst", b"no zstd", "cannot be read (ZSTD decompress failed"),
        ("broken.txt.xz", b"no xz", "cannot be read (Input format not supported"),
        ("cut.txt.gz", gzip.compress(b"a long text " * 999, mtime=0)[:-20], "cannot be read (Compressed file ended"),
        ("broken.parquet", b"PAR1, but no more than that", "cannot be read"),
        ("empty.parquet", b"", "cannot be read"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_the_reason(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(f"dataset.path={path}: ")
    assert reason in message


@pytest.mark.parametrize("name", ["page.html", "README", "archive.zip", "text.gz"])
def test_another_ending_is_refused_before_anything_is_read(tmp_path, name):
    (tmp_path / name).write_text("text")
    config = DatasetConfig(source=Source.files, path=str(tmp_path / name))
    with pytest.raises(
        UserError, match=r"give \.txt, \.jsonl, \.json, \.csv, \.tsv or \.parquet, all but the last also"
    ):
        sources.check_reachable(config)


def test_an_empty_folder_and_a_missing_path_are_refused(tmp_path):
    assert "the folder holds no text; give .txt" in refusal(tmp_path)
    assert "no such file or folder; give .txt" in refusal(tmp_path / "nowhere")
    (tmp_path / "a.PDF").write_text("text")
    (tmp_path / "README").write_text("text")
    (tmp_path / ".hidden.txt").write_text("text")
    assert "the folder holds no text (found: .pdf, README); give .txt" in refusal(tmp_path)


def test_the_identity_of_files_names_the_folder_and_how_much_it_holds(tmp_path):
    (tmp_path / "a.txt").write_text("four")
    (tmp_path / "b.txt").write_text("five!")
    identity = sources.identity(DatasetConfig(source=Source.files, path=str(tmp_path)))
    resolved = identity.pop("resolved")
    assert identity == {"source": "files", "path": str(tmp_path)}
    assert resolved.startswith("2 files, 9 bytes, state ")


# Marks, endings and compressions


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_says_the_encoding_and_is_no_text(tmp_path, encoding, ending):
    content = {
        ".txt": POEM,
        ".jsonl": json.dumps({"text": POEM}, ensure_ascii=False) + "\n",
        ".json": json.dumps([{"text": POEM}], ensure_ascii=False, indent=1),
        ".csv": f'text,number\r\n"{POEM}",1\r\n',
    }[ending]
    path = tmp_path / f"marked{ending}"
    path.write_bytes(("\ufeff" + content).encode(encoding))
    assert read(path) == [POEM]


def test_marks_of_joined_files_are_no_text_and_one_within_a_text_stays(tmp_path):
    path = tmp_path / "joined.jsonl"
    path.write_bytes(b"".join(codecs.BOM_UTF8 + line for line in (b'{"text": "a"}\n', b'{"text": "\xef\xbb\xbfb"}\n')))
    assert read(path) == ["a", "\ufeffb"]


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd, ".ZST": zstd}


@pytest.mark.parametrize("packed", PACKERS)
def test_every_kind_is_read_from_every_compression_in_any_case_of_the_ending(tmp_path, packed):
    row = json.dumps({"text": "b\n"})
    for name, content in {
        "a.Txt": "a",
        "b.JSONL": row,
        "c.ndjson": row,
        "d.Json": f"[{row}]",
        "e.csv": 'n,text\n1,"b\n"',
        "f.TSV": 'n\ttext\n1\t"b\n"',
    }.items():
        # Compressed in two parts, as `cat a.gz b.gz` makes
        half = len(content) // 2
        parts = (content[:half].encode(), content[half:].encode())
        (tmp_path / f"{name}{packed}").write_bytes(b"".join(map(PACKERS[packed], parts)))
    assert read(tmp_path) == ["a", "b\n", "b\n", "b\n", "b\n", "b\n"]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('[{"text": "a"}, {"text": "b", "n": 1}, "c"]', ["a", "b", "c"]),
        ('[\n{"text": "a"},\n{"text": "b"}\n]\n', ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ('\n{"text": "a"}', ["a"]),
        ('{\n  "text": "a",\n  "n": {\n}\n}', ["a"]),
        ('{"n":\n{"x": 1}\n, "text": "a"}', ["a"]),
        ('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ('"a"', ["a"]),
    ],
)
def test_a_json_file_is_an_array_or_one_object_or_lines(tmp_path, content, texts):
    path = tmp_path / "any.json"
    path.write_text(content)
    assert read(path) == texts


def test_a_json_file_of_lines_may_begin_with_a_bad_one(tmp_path):
    path = tmp_path / "any.json"
    path.write_text('{"text": \n{"text": "b"}\n')
    assert read(path, bad_rows=0.5) == ["b"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_is_read_as_spreadsheets_write_it(tmp_path, newline, delimiter):
    rows = [["id", "text"], ["1", '"a ""b"",' + newline + '; c"'], ["2", ""], ["3", "3.0"], ["4", "NA"]]
    path = tmp_path / "table.csv"
    path.write_bytes(newline.join(delimiter.join(row) for row in rows).encode())
    assert read(path) == [f'a "b",{newline}; c', "3.0", "NA"]


def test_rows_of_a_csv_that_do_not_fit_its_header_are_skipped(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('\nid,text\n1,a\n2,one, two\n\n3\n4,"b" c\n5,d\n')
    assert read(path, bad_rows=0.6) == ["a", "d"]
    assert list(numbers_of(path)) == [2, 3, 4]


def test_every_line_that_an_open_quotation_mark_swallows_counts_as_a_lost_row(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id,text\n1,a\n" + '2,"b\n' + "".join(f"{number},c\n" for number in range(3, 100)))
    assert refusal(path).startswith("dataset.bad_rows=0.02: 98 of 99 rows cannot be used (")
    assert "row 2: unexpected end of data; a quotation mark joins 98 lines" in refusal(path)
    path.write_text("id,text\n" + "".join(f"{number},c\n" for number in range(100)) + '100,"cut o')
    assert read(path) == ["c"] * 100  # the last row of a file that was cut off is one row


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (['1\t"Hello', "2\tworld", '3\tsaid "'], ['"Hello', "world", 'said "']),
        (['1\t"a" b', "2\tb"], ['"a" b', "b"]),
        (['1\t"a ""b"""', "2\tb"], ['a "b"', "b"]),
        (['1\t"a', 'line two"', "2\tb"], ["a\nline two", "b"]),
    ],
)
def test_a_quotation_mark_of_a_tsv_is_text_where_it_holds_no_field_together(tmp_path, lines, texts):
    path = tmp_path / "table.tsv"
    path.write_text("\n".join(["id\ttext", *lines]) + "\n")
    assert read(path, bad_rows=0) == texts


def test_a_wide_row_of_a_csv_is_whole(tmp_path):
    text = "x" * 200_000  # Python's own limit is 131,072
    (tmp_path / "table.csv").write_text(f"text\n{text}\n")
    assert read(tmp_path / "table.csv") == [text]


# Chat messages


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi,\nyou"}],
        [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi,\nyou"}],
        [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}, {"content": None}, {"content": "Hi,\nyou"}],
        {"role": ["user", "assistant"], "content": ["Hello", "Hi,\nyou"]},
    ],
)
def test_chat_messages_are_their_contents_in_order_and_the_log_says_so_once(tmp_path, messages, caplog):
    path = write_jsonl(tmp_path / "chat.jsonl", *({"messages": messages} for _ in range(3)))
    with caplog.at_level(logging.INFO):
        assert read(path, text_column="messages") == ["Hello\n\nHi,\nyou"] * 3
    assert [message for message in caplog.messages if "chat messages" in message] == [
        f"{path} holds chat messages: the contents of a row, joined by blank lines, are a text"
    ]
    assert "did you mean messages?" in refusal(path)


def test_chat_messages_in_parquet_and_none_at_all(tmp_path):
    rows = [[{"role": "user", "content": "Hello"}], [], None, [{"role": "user", "content": "again"}]]
    assert read(write_parquet(tmp_path / "chat.parquet", text=rows)) == ["Hello", "again"]


# What cannot be used


def numbers_of(path: Path, **options: float) -> dict[int, str]:
    """Row and reason of what is skipped."""
    reading = sources.Reading(DatasetConfig(source=Source.files, path=str(path), bad_rows=1.0, **options))
    list(sources.documents(reading._config, reading))
    return {one.item: one.reason for one in reading.skipped}


BAD = {
    "null": "not an object",
    "[1]": "not an object",
    "3": "not an object",
    "{": "not JSON",
    "": "",
    '{"text": null}': "",
    '{"text": ""}': "",
    '{"body": "b"}': "no column text; the columns are body; did you mean body?",
    '{"text": 3}': "a number in place of text",
    '{"text": true}': "true or false in place of text",
    '{"text": ["a", "b"]}': "a list in place of text",
    '{"text": {"a": 1}}': "an object in place of text",
    '{"text": [{"role": "user"}]}': "a list of objects without content",
    '{"text": [{"content": 3}]}': "a chat message whose content is not text",
    '{"text": "\\ud800"}': "half a character (\\ud800)",
    '{"text": "a\\u0000b"}': "binary, not text",
    '{"text": "caf\udce9"}': "not UTF-8 text (byte 0xe9)",
    "\0\0\0": "binary, not text",
    "\udcff": "not UTF-8 text (byte 0xff)",
    "[" * 100_000: "JSON nested too deeply",
    "1" * 5000: "not JSON: Exceeds the limit",
}


def test_every_kind_of_bad_row_is_skipped_and_named_and_an_empty_one_is_not(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = ['{"text": "good"}', *BAD, '{"text": "good"}', "no end"]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    found = numbers_of(path)
    expected = {number: reason for number, reason in enumerate(BAD.values(), start=2) if reason}
    assert found.keys() == {*expected, len(BAD) + 3}
    for number, reason in expected.items():
        assert found[number].startswith(reason), number
    assert read(path, bad_rows=1.0) == ["good", "good"]


def test_a_byte_that_is_no_utf_8_in_another_column_spoils_nothing(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a", "id": "\xe9"}\n')
    assert read(path) == ["a"]


def test_a_line_that_is_too_long_is_skipped_within_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "LONGEST_LINE", 1000)
    path = write_jsonl(tmp_path / "rows.jsonl", {"text": "a"}, {"text": "x" * 5_000_000}, {"text": "b"})
    assert read(path, bad_rows=0.5) == ["a", "b"]
    assert numbers_of(path) == {2: "a line of more than 1000 characters"}
    for constant, name in (("LARGEST_TEXT", "a.txt.gz"), ("LARGEST_JSON", "a.json.gz")):
        monkeypatch.setattr(readers, constant, 10**6)
        (tmp_path / name).write_bytes(gzip.compress(b" " * 20_000_000, mtime=0))
        assert "more than 0.0 GB, which is more than this machine can hold" in refusal(tmp_path / name)


def test_the_share_of_bad_rows_is_the_users_and_the_message_says_which_would_do(tmp_path):
    rows = [{"text": f"row {number}"} for number in range(98)]
    path = write_jsonl(tmp_path / "rows.jsonl", {"text": 1}, *rows, {"text": 2})
    assert len(read(path)) == 98
    assert len(read(path, bad_rows=1)) == 98
    path = write_jsonl(tmp_path / "rows.jsonl", {"text": 1}, *rows[1:], {"text": 2}, {"text": 3})
    assert refusal(path) == (
        f"dataset.bad_rows=0.02: 3 of 100 rows cannot be used ({path}, row 1: a number in place of text; {path}, row "
        f"99: a number in place of text; {path}, row 100: a number in place of text); correct them, or give "
        "dataset.bad_rows=0.03 to skip them"
    )
    assert len(read(path, bad_rows=0.03)) == 97


def test_no_bad_row_at_all_is_accepted_with_a_share_of_0(tmp_path):
    rows = [{"text": f"row {number}"} for number in range(98)]
    path = write_jsonl(tmp_path / "rows.jsonl", *rows[:49], {"text": 2}, *rows[49:])
    assert len(read(path)) == 98
    assert refusal(path, bad_rows=0).startswith("dataset.bad_rows=0: 1 of 50 rows cannot be used")  # at once
    assert refusal(path, bad_rows=0).endswith("correct them, or give a larger dataset.bad_rows to skip them")


def test_bad_files_are_counted_among_files_whatever_their_rows(tmp_path):
    for number in range(49):
        write_jsonl(tmp_path / f"{number}.jsonl", {"text": f"{number}"})
    (tmp_path / "a.parquet").write_bytes(b"PAR1, but no more than that")
    assert len(read(tmp_path)) == 49
    reading = sources.Reading(DatasetConfig(source=Source.files, path=str(tmp_path)))
    assert next(sources.documents(reading._config, reading))
    reading.check()  # one of 50 files, though only two were read
    (tmp_path / "b.txt").write_bytes(b"\xff")
    assert refusal(tmp_path).startswith(f"dataset.bad_rows=0.02: 2 of 51 files cannot be used ({tmp_path}/a.parquet: ")


def test_a_file_that_breaks_off_keeps_the_rows_before(tmp_path):
    lines = b"".join(b'{"text": "row %d"}\n' % number for number in range(20_000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines)[:-9])
    (tmp_path / "b.txt").write_text("b")
    texts = read(tmp_path, bad_rows=0.5)
    assert texts == [f"row {number}" for number in range(len(texts) - 1)] + ["b"]
    assert len(texts) > 10_000
    assert f"a.jsonl.gz: broke off after row {len(texts) - 1} (Compressed file ended" in refusal(tmp_path)


def test_an_empty_shard_has_no_rows(tmp_path):
    write_parquet(tmp_path / "0.parquet", text=["a"])
    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "1.parquet")
    with parquet.ParquetWriter(tmp_path / "2.parquet", pa.schema({"text": pa.string()})) as writer:
        writer.write_table(pa.table({"text": pa.array([], pa.string())}))
        writer.write_table(pa.table({"text": ["b"]}))
    (tmp_path / "3.csv").write_text("text\n")
    (tmp_path / "4.json").write_text("[]")
    (tmp_path / "5.jsonl.gz").write_bytes(gzip.compress(b"", mtime=0))
    (tmp_path / "6.jsonl.gz").write_bytes(b"")
    (tmp_path / "7.csv").write_text(" \n")
    assert read(tmp_path, bad_rows=0) == ["a", "b"]


def test_a_torn_row_group_costs_its_rows_only(tmp_path):
    path = tmp_path / "torn.parquet"
    texts = [f"{number} {number**9}" for number in range(300)]
    parquet.write_table(pa.table({"text": texts}), path, row_group_size=100, compression="zstd")
    column = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    assert read(path, bad_rows=0.5) == texts[:100] + texts[200:]
    found = numbers_of(path)
    assert list(found) == list(range(101, 201))
    assert found[101].startswith("its row group cannot be read (")


def test_a_parquet_text_that_is_no_utf_8_costs_its_row_only(tmp_path):
    values = pa.array([b"a", b"\xff", b"c"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"text": values}), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet", bad_rows=0.5) == ["a", "c"]
    assert numbers_of(tmp_path / "rows.parquet") == {2: "not UTF-8 text (invalid start byte at byte 0)"}


@pytest.mark.parametrize("name", ["metadata.json", "metadata.csv", "package.json", "ids.tsv.gz"])
def test_what_describes_the_texts_beside_it_is_named_and_not_counted(tmp_path, name):
    (tmp_path / "a.txt").write_text("a")
    content = b'{"title": "a"}' if ".json" in name else b"id,title\n1,a\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read(tmp_path, bad_rows=0) == ["a"]
    assert list(numbers_of(tmp_path)) == [0]
    assert refusal(tmp_path / name).startswith("dataset.text_column=text: ")
    # Beside tables of the same kind that have the column it is a table without text
    packed = ".gz" if name.endswith(".gz") else ""
    kind = Path(name.removesuffix(packed)).suffix
    content = b'{"text": "b"}' if ".json" in name else b"text\nb\n"
    (tmp_path / f"z{kind}{packed}").write_bytes(gzip.compress(content) if packed else content)
    assert f"1 of 3 files cannot be used ({tmp_path / name}: no column text" in refusal(tmp_path)


def test_a_hidden_file_that_is_named_is_read(tmp_path):
    (tmp_path / ".notes.txt").write_text("a")
    assert read(tmp_path / ".notes.txt") == ["a"]


def test_a_row_is_named_by_its_line_in_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"text": "a"}\n\n{"text": \n{"text" "b"}\n')
    assert numbers_of(path) == {
        4: "not JSON: Expecting value at character 9",
        5: "not JSON: Expecting ':' delimiter at character 9",
    }


def test_what_of_a_folder_cannot_be_listed_is_named(tmp_path):
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text(f"{number}")
    (tmp_path / "lost.txt").symlink_to("nowhere")
    assert len(read(tmp_path, bad_rows=0.1)) == 9
    assert f"1 of 10 files cannot be used ({tmp_path}/lost.txt: no file, and no link to one)" in refusal(tmp_path)


def test_garbage_without_end_is_not_read_to_the_end(tmp_path, monkeypatch):
    path = tmp_path / "garbage.jsonl"
    path.write_bytes(b'{"text": "a good row"}\n' + b"garbage\n" * 100_000)
    assert refusal(path).startswith("dataset.bad_rows=0.02: 1000 of 1001 rows cannot be used")
    path.write_bytes(b"garbage\n" * 100_000)
    assert refusal(path) == (
        f"dataset.path={path}: row 1: not JSON: Expecting value at character 1 (and 999 more that cannot be used); "
        "correct them, or give another dataset.path"
    )
    write_jsonl(path, *({"body": "a"} for _ in range(5000)))
    assert refusal(path).startswith(
        f"dataset.text_column=text: path={path}: row 1: no column text; the columns are body; did"
    )


def test_bad_rows_at_the_beginning_do_not_stop_what_may_yet_be_good(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"garbage\n" * 999 + b'{"text": "good"}\n' * 60_000)
    assert len(read(path)) == 60_000


def test_a_share_is_needed_that_would_have_let_the_reading_go_on():
    share = skipped.Share(0.9, "dataset.bad_rows", "rows")
    for number in range(2000):
        share.seen += 1
        if number < 1500:
            share.add_bad(skipped.Skipped("a", number, "bad"))
    assert share.needed == 1500 / 2000
    share.seen = 1_000_000
    assert share.needed == 0.5  # it was 1000 of 1000, and twice the share is accepted until the end


@pytest.mark.parametrize("bad_rows", [0.0, 0.02, 1.0])
def test_one_file_that_cannot_be_read_at_all_is_an_error_whatever_is_accepted(tmp_path, bad_rows):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    assert "not UTF-8 text" in refusal(tmp_path / "a.txt", bad_rows=bad_rows)
    (tmp_path / "b.jsonl").write_bytes(b"{\n")
    assert "not JSON" in refusal(tmp_path / "b.jsonl", bad_rows=bad_rows)


def test_a_text_without_words_says_what_could_not_be_used(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", {"text": None}, {"text": 3})
    assert refusal(path, bad_rows=0.5) == (
        f"dataset.path={path}: there is no text in it, and 1 cannot be used ({path}, row 2: a number in place of "
        "text); give another dataset.path (or, for a table, dataset.text_column=COLUMN)"
    )


def test_names_that_are_no_text_reach_no_message_and_no_table_unescaped(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b\udcff\x1b\n.txt").write_bytes(b"\xff")
    write_jsonl(tmp_path / "c.jsonl", {"\ud800\x1b": "x"})
    reading = sources.Reading(DatasetConfig(source=Source.files, path=str(tmp_path), bad_rows=1.0))
    assert list(sources.documents(reading._config, reading)) == ["a"]
    table = skipped.table(reading.skipped)
    assert table["where"].tolist() == [f"{tmp_path}/b\\udcff\\x1b\\n.txt", f"{tmp_path}/c.jsonl"]
    assert table["item"].tolist() == [0, 1]
    assert all(reason.isprintable() for reason in table["reason"])


FIRST_OF_EACH = """
import sys
from neurexp.config.schema import DatasetConfig, Source
from neurexp.text.sources import documents
for path in sys.argv[1:]:
    for text in documents(DatasetConfig(source=Source.files, path=path)):
        print(text)
        break
"""


def test_stopping_before_the_end_makes_no_noise(tmp_path):
    rows = [f"row {number}" for number in range(5000)]
    paths = [
        write_jsonl(tmp_path / "a.jsonl", *({"text": row} for row in rows)),
        write_jsonl(tmp_path / "b.jsonl", *({"text": row} for row in rows)),
        write_parquet(tmp_path / "c.parquet", text=rows),
    ]
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", FIRST_OF_EACH, *paths],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == "row 0\n" * 3


def test_a_folder_of_books_gives_each_of_them_whole(data):
    books = sorted((data / "books").glob("*.txt"))
    stream = sources.documents(DatasetConfig(source=Source.files, path=str(data / "books")))
    for book in books[:3]:
        assert next(stream) == book.read_text("utf-8")
    stream.close()


def test_a_pattern_is_the_files_that_match_and_can_be_read(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "c.png", "a/d.txt", "a/deep/e.txt", ".hidden.txt"):
        (tmp_path / name).write_text(name)

    assert read(tmp_path / "*.txt") == ["a.txt", "b.txt"]
    assert read(tmp_path / "**/*.txt") == ["a/d.txt", "a/deep/e.txt", "a.txt", "b.txt"]  # as in a folder
    assert read(tmp_path / "[ac].*") == ["a.txt"]
    with pytest.raises(UserError, match=r"no file that matches can be read; give \.txt"):
        read(tmp_path / "*.png")
    with pytest.raises(UserError, match="no such file or folder"):
        read(tmp_path / "*.nothing")
