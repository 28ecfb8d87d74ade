"""A text that is tokenised in parts, by several processes, has the tokens of one that is read from end to end."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from filelock import FileLock
from pyarrow import parquet
from transformers import AutoTokenizer

from neurexp.config.schema import DatasetConfig, Source
from neurexp.errors import UserError
from neurexp.models.locations import MINI
from neurexp.text import parts, sources
from neurexp.text.running_text import read_text


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MINI)


@pytest.fixture
def folder(tmp_path):
    """Two tables of several row groups, some documents of which are empty, and a text between them."""
    where = tmp_path / "texts"
    where.mkdir()
    words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "runs", "away"]
    texts = [" ".join(words[: 1 + (7 * number) % 11]) for number in range(120)]
    texts[5] = texts[63] = ""
    texts[0] = " "
    for name, rows in (("a", texts[:50]), ("c", texts[60:])):
        parquet.write_table(pa.table({"text": rows}), where / f"{name}.parquet", row_group_size=7)
    (where / "b.txt").write_text(" ".join(words * 3))
    return where


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART", 1)
    monkeypatch.setattr(parts, "GLANCE", 0.01)


def config_of(folder, tokens, **options):
    return replace(DatasetConfig(source=Source.files, path=str(folder), tokens=tokens, sequence_length=16), **options)


def assert_same(found, expected):
    assert np.array_equal(found.input_ids, expected.input_ids)
    assert np.array_equal(found.valid, expected.valid)
    assert np.array_equal(found.starts, expected.starts)
    assert (found.documents, found.skipped, found.bad_share) == (
        expected.documents, expected.skipped, expected.bad_share
    )  # fmt: skip
    assert found.count == expected.count


@pytest.mark.parametrize("bos", [False, True])
def test_any_number_of_tokens_is_as_by_one_process(folder, tokenizer, tmp_path, monkeypatch, bos):
    """Also where a document ends, or what joins two of them, is the last one."""
    for tokens in [*range(1, 60), 200, 500]:
        config = config_of(folder, tokens)
        expected = read_text(config, tokenizer, bos, tmp_path / f"one{tokens}")
        with monkeypatch.context() as patch:
            patch.setattr(parts, "in_sequences", counted := Counted(parts.in_sequences))
            found = read_text(config, tokenizer, bos, tmp_path / f"two{tokens}", processes=2)
        assert counted.calls == (tokens > bos)
        assert found.count == tokens
        assert_same(found, expected)


class Counted:
    def __init__(self, function):
        self._function, self.calls = function, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self._function(*arguments)


def test_several_at_once_tokenise_each_part_once_and_leave_only_the_whole(folder, tokenizer, tmp_path, monkeypatch):
    made = []
    tokenised = parts._tokenised

    def noted(source, part, *others):
        made.append(part)
        return tokenised(source, part, *others)

    monkeypatch.setattr(parts, "_tokenised", noted)
    config = config_of(folder, 500)
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(read_text, config, tokenizer, True, tmp_path / "cache", 3) for _ in range(3)]
        found = [job.result() for job in jobs]
    expected = read_text(config, tokenizer, True, tmp_path / "one")
    for one in found:
        assert_same(one, expected)
    assert len(made) == len(set(made))
    assert [file.name.split("_")[0] for file in (tmp_path / "cache").iterdir()] == ["tokens"]


@pytest.mark.parametrize("later", [1, 1000])  # bytes of a part; 1000: of another version, which divides otherwise
def test_what_was_tokenised_before_an_interruption_is_not_again(folder, tokenizer, tmp_path, monkeypatch, later):
    tokenised, made = parts._tokenised, []

    def cut(source, part, *others):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(part)
        return tokenised(source, part, *others)

    config = config_of(folder, 500)
    monkeypatch.setattr(parts, "LONG", 1)  # also by one process
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(parts, "_tokenised", cut)
        read_text(config, tokenizer, False, tmp_path / "cache")
    again = []
    monkeypatch.setattr(parts, "PART", later)
    monkeypatch.setattr(
        parts, "_tokenised", lambda source, part, *others: (again.append(part), tokenised(source, part, *others))[1]
    )
    found = read_text(config, tokenizer, False, tmp_path / "cache")
    assert again
    assert later != 1 or not set(again) & set(made)
    monkeypatch.setattr(parts, "LONG", 1000)
    assert_same(found, read_text(config, tokenizer, False, tmp_path / "one"))


def test_a_process_reads_only_its_own_row_groups(folder, tokenizer, tmp_path):
    from neurexp.text.pieces import Pieces

    source = Pieces(config_of(folder, 500))
    every = list(source)
    assert [(piece.file.name, piece.groups) for piece in every][7:10] == [
        ("a.parquet", range(7, 8)), ("b.txt", None), ("c.parquet", range(1))
    ]  # fmt: skip
    texts = list(source.documents_of([every[1]], sources.Reading(config_of(folder, 500))))
    assert texts == parquet.ParquetFile(folder / "a.parquet").read_row_group(1)["text"].to_pylist()


def test_a_text_with_bad_rows_and_one_that_is_too_short_are_as_by_one_process(folder, tokenizer, tmp_path):
    (folder / "b.jsonl").write_text('{"text": "one"}\n{"text": 5}\n{"text": "two"}\n')
    config = config_of(folder, 500, bad_rows=0.5)
    found = read_text(config, tokenizer, False, tmp_path / "two", processes=2)
    assert len(found.skipped) == 1
    assert_same(found, read_text(config, tokenizer, False, tmp_path / "one"))
    said = []
    for processes in (1, 2):
        with pytest.raises(UserError) as refused:
            read_text(config_of(folder, 100_000), tokenizer, False, tmp_path / f"{processes}", processes)
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert "the text has only" in said[0]


def test_a_table_that_cannot_be_read_is_as_by_one_process_also_while_another_is_at_the_part_before_it(
    tokenizer, tmp_path, monkeypatch
):
    where = tmp_path / "texts"
    where.mkdir()
    for name in ("a.txt", "c.txt"):
        (where / name).write_text("the quick brown fox " * 30)
    (where / "b.parquet").write_bytes(b"no table")
    config = config_of(where, 300, bad_rows=1.0)
    expected = read_text(config, tokenizer, False, tmp_path / "one")
    locked, held = parts._locked, [True]

    @contextmanager
    def locked_at_first(store, entry, number):
        if number == 0 and held and held.pop():
            yield False
            return
        with locked(store, entry, number) as is_mine:
            yield is_mine

    monkeypatch.setattr(parts, "_locked", locked_at_first)
    found = read_text(config, tokenizer, False, tmp_path / "two", processes=2)
    assert not held
    assert len(found.skipped) == 1
    assert_same(found, expected)


def ended_soon(folder, tokenizer, cache):
    """The tokens by one of two processes, within seconds."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(read_text, config_of(folder, 300), tokenizer, False, cache, 2).result(timeout=30)


def stored_part(folder, tokenizer, tmp_path, monkeypatch):
    """The store after an interruption that came with its first part, and the part."""

    class Ended(BaseException):
        """Of a process."""

    tokenised = iter([parts._tokenised])

    def one_only(*arguments):
        if (first := next(tokenised, None)) is None:
            raise Ended
        return first(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Ended):
        patch.setattr(parts, "_tokenised", one_only)
        read_text(config_of(folder, 300), tokenizer, False, tmp_path / "cache", 2)
    (file,) = (tmp_path / "cache").glob("parts_*_part_0.safetensors")
    return file


def test_a_stored_part_that_may_not_be_read_is_not_waited_for(folder, tokenizer, tmp_path, monkeypatch, caplog):
    file = stored_part(folder, tokenizer, tmp_path, monkeypatch)
    file.unlink()
    file.mkdir()  # it is there, and cannot be read
    found = ended_soon(folder, tokenizer, tmp_path / "cache")
    assert f"A stored part of the text cannot be read ({file})" in caplog.text
    assert_same(found, read_text(config_of(folder, 300), tokenizer, False, tmp_path / "one"))


def test_a_part_that_another_process_never_ends_is_made_here(folder, tokenizer, tmp_path, monkeypatch):
    file = stored_part(folder, tokenizer, tmp_path, monkeypatch)
    monkeypatch.setattr(parts, "PATIENCE", 0.3)
    with FileLock(file.parent / f".{file.stem.removesuffix('0')}1.lock", thread_local=False):
        found = ended_soon(folder, tokenizer, tmp_path / "cache")
    assert_same(found, read_text(config_of(folder, 300), tokenizer, False, tmp_path / "one"))


def test_a_lock_of_another_user_keeps_nobody_from_the_parts(folder, tokenizer, tmp_path, monkeypatch):
    def forbidden(self, *_, **__):
        if "_part_" in str(self.lock_file):
            raise PermissionError(13, "Permission denied", self.lock_file)
        return acquire(self, *_, **__)

    acquire = FileLock.acquire
    monkeypatch.setattr(FileLock, "acquire", forbidden)
    found = ended_soon(folder, tokenizer, tmp_path / "cache")
    assert_same(found, read_text(config_of(folder, 300), tokenizer, False, tmp_path / "one"))


def test_a_text_whose_lock_may_not_be_opened_is_one_line(folder, tokenizer, tmp_path, monkeypatch):
    def forbidden(self, *_, **__):
        raise PermissionError(13, "Permission denied", self.lock_file)

    monkeypatch.setattr(FileLock, "acquire", forbidden)
    with pytest.raises(UserError, match=r"run.outputs: .*lock cannot be locked \(.*Permission denied.*choose another"):
        read_text(config_of(folder, 300), tokenizer, False, tmp_path / "cache")
