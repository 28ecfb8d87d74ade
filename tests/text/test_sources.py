"""Whole documents from pydoc, local files and folders, and what a bad file is answered."""

import json
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow as pa
import pytest
from pyarrow import parquet

from neurexp.config import DatasetConfig, Source
from neurexp.errors import UserError
from neurexp.text import sources

POEM = "First line\n\n  second,\twith a tab\nlast — “quoted”\n"


def read(path: Path, **options: str) -> list[str]:
    return list(sources.documents(DatasetConfig(source=Source.files, path=str(path), **options)))


def refusal(path: Path, **options: str) -> str:
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
    assert refusal(path) == f"dataset.path={path}: there is no text in it"


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
        ("wide.txt", "hello world".encode("utf-16"), "not UTF-8 text"),
        ("picture.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not UTF-8 text"),
        ("zeros.txt", b"abc\0def", "binary"),
        ("latin.jsonl", b'{"text": "caf\xe9"}\n', "not UTF-8 text"),
        ("broken.jsonl", b"no json\n", "cannot be read"),
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


@pytest.mark.parametrize("name", ["table.csv", "README"])
def test_another_ending_is_refused_before_anything_is_read(tmp_path, name):
    (tmp_path / name).write_text("text")
    config = DatasetConfig(source=Source.files, path=str(tmp_path / name))
    with pytest.raises(UserError, match=r"give a \.txt, \.jsonl, \.parquet file"):
        sources.check_reachable(config)


def test_an_empty_folder_and_a_missing_path_are_refused(tmp_path):
    assert "holds no .txt, .jsonl, .parquet file" in refusal(tmp_path)
    assert "no such file or folder" in refusal(tmp_path / "nowhere")


def test_the_identity_of_files_names_the_folder_and_how_much_it_holds(tmp_path):
    (tmp_path / "a.txt").write_text("four")
    (tmp_path / "b.txt").write_text("five!")
    identity = sources.identity(DatasetConfig(source=Source.files, path=str(tmp_path)))
    resolved = identity.pop("resolved")
    assert identity == {"source": "files", "path": str(tmp_path)}
    assert resolved.startswith("2 files, 9 bytes, state ")


FIRST_OF_EACH = """
import sys
from neurexp.config import DatasetConfig, Source
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
