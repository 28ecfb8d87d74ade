"""Which files of a user's folder are data: none that is hidden, each once, in an order that names alone decide."""

import os
from pathlib import Path

import numpy as np
import pytest

from neurexp.io.files import (
    NotWritableError,
    data_files,
    is_hidden,
    read_table,
    remove_old,
    remove_own,
    whole_folder,
    write_table,
)


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def found(folder: Path, *endings: str, **options) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in data_files(folder, endings or (".txt",), **options)]


def test_endings_are_known_in_any_case_and_names_are_in_order(tmp_path):
    make(tmp_path, "b.TXT", "a.txt", "B/z.Txt", "a/b.txt", "Z.txt", "é.txt", "c.md", "d.txt.gz", "txt", "atxt")
    assert found(tmp_path) == ["B/z.Txt", "Z.txt", "a/b.txt", "a.txt", "b.TXT", "é.txt"]
    assert found(tmp_path, ".TXT.gz") == ["d.txt.gz"]
    assert found(tmp_path, recursive=False) == ["Z.txt", "a.txt", "b.TXT", "é.txt"]


def test_a_name_has_its_place_in_either_unicode_form(tmp_path):
    make(tmp_path, "e\u0301.txt", "f.txt", "z.txt")  # an é as macOS may keep it
    assert found(tmp_path) == ["f.txt", "z.txt", "e\u0301.txt"]


@pytest.mark.parametrize(
    "name",
    [
        ".ipynb_checkpoints/a-checkpoint.txt", "._a.txt", ".a.txt", "~$a.txt", "a.txt~", ".git/a.txt", "__MACOSX/a.txt",
        "Thumbs.db", "desktop.ini", ".DS_Store", "deep/.cache/x/a.txt", "_delta_log/0.txt", "lost+found/a.txt",
    ],
)  # fmt: skip
def test_hidden_files_and_those_of_other_programs_are_no_data(tmp_path, name):
    folder = tmp_path / ".hidden itself"
    make(folder, "a.txt", name)
    assert found(folder, ".txt", ".ini", ".db", "~") == ["a.txt"]
    assert any(is_hidden(part) for part in Path(name).parts)


def test_a_readme_is_text_where_its_ending_says_so(tmp_path):
    make(tmp_path, "README", "LICENSE.txt", "README.md")
    assert found(tmp_path) == ["LICENSE.txt"]


def test_links_are_followed_and_circles_are_not(tmp_path):
    make(tmp_path, "outside/deep/book.txt", "other.txt", "folder/own.txt", "sibling/no.txt")
    folder = tmp_path / "folder"
    (folder / "books").symlink_to(tmp_path / "outside")
    (folder / "file.txt").symlink_to("../other.txt")
    (folder / "up").symlink_to("..")
    (folder / "self").symlink_to(".")
    (tmp_path / "outside" / "deep" / "back").symlink_to(folder)
    (tmp_path / "outside" / "deep" / "parent").symlink_to("..")
    assert found(folder) == ["books/deep/book.txt", "file.txt", "own.txt"]
    assert found(folder, recursive=False) == ["file.txt", "own.txt"]
    (tmp_path / "link").symlink_to(folder)
    assert found(tmp_path / "link") == ["books/deep/book.txt", "file.txt", "own.txt"]


def test_one_file_comes_once_under_its_own_name_or_else_the_first(tmp_path):
    make(tmp_path, "folder/z/own.txt", "outside/book.txt")
    folder = tmp_path / "folder"
    (folder / "a").symlink_to("z")
    (folder / "b.txt").symlink_to("z/own.txt")
    (folder / "c.txt").symlink_to(tmp_path / "outside" / "book.txt")
    (folder / "d.txt").symlink_to("c.txt")
    (folder / "e").symlink_to(tmp_path / "outside")
    assert found(folder) == ["c.txt", "z/own.txt"]


def test_equal_files_are_two_and_so_are_two_names_of_one_file_that_are_no_links(tmp_path):
    make(tmp_path, "a.txt")
    (tmp_path / "b.txt").write_text("a.txt")
    (tmp_path / "c.txt").hardlink_to(tmp_path / "a.txt")
    assert found(tmp_path) == ["a.txt", "b.txt", "c.txt"]


def test_what_cannot_be_read_is_told_or_raised(tmp_path):
    make(tmp_path, "a.txt", "x/b.txt")
    (tmp_path / "lost.txt").symlink_to("nowhere")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "lost").symlink_to("nowhere")  # might be anything
    os.mkfifo(tmp_path / "pipe.txt")
    told: list[OSError] = []
    assert found(tmp_path, on_error=told.append) == ["a.txt", "x/b.txt"]
    assert sorted(Path(error.filename).name for error in told) == ["loop.txt", "lost.txt", "pipe.txt"]
    with pytest.raises(OSError, match="no file, and no link to one"):
        found(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        found(tmp_path / "nowhere")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with whole_folder(tmp_path / "pages") as inside:
        make(inside, "index.html", "data/0.js")
        assert not (tmp_path / "pages").exists()
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "pages") as inside:
        make(inside, "half.html")
        raise ZeroDivisionError
    names = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))]
    assert names == ["pages", "pages/data", "pages/data/0.js", "pages/index.html"]
    with whole_folder(tmp_path / "pages") as inside:
        make(inside, "new.html")
    assert [path.name for path in tmp_path.rglob("*")] == ["pages", "new.html"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritableError, match=r"file/pages cannot be written"), whole_folder(tmp_path / "file/pages"):
        pass


def test_unfinished_folders_of_dead_processes_and_of_this_one_are_removed(tmp_path):
    make(tmp_path, f"deep/.pages.{os.getpid()}.tmp/data/0.js", f".x.{os.getpid()}.tmp", ".pages.17.tmp/data/0.js")
    remove_own(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".pages.17.tmp", "deep"]
    assert not list((tmp_path / "deep").iterdir())
    remove_old(tmp_path)
    assert (tmp_path / ".pages.17.tmp").exists()
    os.utime(tmp_path / ".pages.17.tmp", (0, 0))
    remove_old(tmp_path)
    assert not (tmp_path / ".pages.17.tmp").exists()


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_a_table_comes_back_and_pandas_reads_the_same(tmp_path, rows):
    from pandas import read_parquet

    generator = np.random.default_rng(0)
    words = np.array([["wörter", "", "\N{GRINNING FACE}", "a\nb"][index % 4] for index in range(rows)], dtype=object)
    table = {
        "whole": np.arange(rows) - 4,
        "small": np.arange(rows, dtype=np.int16)[::-1],
        "real": np.where(np.arange(rows) % 3 == 1, np.nan, generator.normal(size=rows)),
        "single": generator.normal(size=rows).astype(np.float32),
        "truth": generator.random(rows) < 0.5,
        "fixed": words.astype("<U6"),
        "texts": words,
        "some": np.where(np.arange(rows) % 2 == 0, words, None),
    }
    write_table(tmp_path / "a.parquet", table)
    found, theirs = read_table(tmp_path / "a.parquet"), read_parquet(tmp_path / "a.parquet")
    assert list(found) == list(table) == list(theirs.columns)
    for name, values in table.items():
        assert found[name].dtype == (object if values.dtype.kind in "UO" else values.dtype)
        np.testing.assert_array_equal(found[name], values)
        told = [None if value != value and values.dtype == object else value for value in theirs[name]]
        np.testing.assert_array_equal(np.array(told, dtype=values.dtype), values)


def test_a_column_of_anything_else_is_refused(tmp_path):
    with pytest.raises(TypeError, match="no column of texts"):
        write_table(tmp_path / "a.parquet", {"things": np.array([object(), "a"])})
    assert not list(tmp_path.iterdir())
