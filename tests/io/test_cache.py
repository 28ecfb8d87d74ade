"""Tokens are made once per key: the cache gives back what was made, and nothing that is damaged, stale or partial."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from pyarrow import parquet
from tokenizers.normalizers import Replace

from neurexp.config.schema import DatasetConfig, Source
from neurexp.errors import UserError
from neurexp.models.load import load_model
from neurexp.text import sources
from neurexp.text.running_text import read_text
from neurexp.text.skipped import Skipped
from neurexp.text.tokens import Tokens, cached, pack

TEXT = "A text that is long enough for a handful of tokens, and then for some more of them. "


@pytest.fixture(scope="module")
def mini():
    return load_model("mini", device="cpu")


class Maker:
    """Makes tokens and counts how often."""

    def __init__(self, seed=0):
        self.calls, rng = 0, np.random.default_rng(seed)
        valid = np.arange(24).reshape(3, 8) < 20
        self.tokens = Tokens(rng.integers(0, 99, (3, 8), dtype=np.int32), valid, 2)

    def __call__(self):
        self.calls += 1
        return self.tokens


def assert_same(found: Tokens, expected: Tokens):
    assert np.array_equal(found.input_ids, expected.input_ids)
    assert np.array_equal(found.valid, expected.valid)
    assert (found.input_ids.dtype, found.valid.dtype) == (np.int32, bool)
    assert (found.documents, found.count, found.hash) == (expected.documents, expected.count, expected.hash)
    assert (found.skipped, found.bad_share) == (expected.skipped, expected.bad_share)


def test_what_is_cached_is_what_was_made_and_is_made_once(tmp_path):
    make = Maker()
    for _ in range(3):
        assert_same(cached(tmp_path / "new" / "folder", {"a": 1}, make), make.tokens)
    assert make.calls == 1


def test_what_was_skipped_is_kept_with_the_tokens(tmp_path):
    make = Maker()
    skipped = (Skipped("a\\udcff é.jsonl", 3, 'no JSON: "字"'), Skipped("b.txt", 0, "binary"))
    make.tokens = replace(make.tokens, skipped=skipped, bad_share=1 / 3)
    for _ in range(2):
        assert_same(cached(tmp_path, {}, make), make.tokens)
    assert make.calls == 1


def test_kept_tokens_serve_only_who_accepts_as_many_bad_rows(tmp_path):
    make = Maker()
    make.tokens = replace(make.tokens, bad_share=0.25)
    cached(tmp_path, {}, make, 1.0)
    cached(tmp_path, {}, make, 0.25)
    assert make.calls == 1

    def refuse():
        raise UserError("too many")

    with pytest.raises(UserError, match="too many"):
        cached(tmp_path, {}, refuse, 0.24)
    assert_same(cached(tmp_path, {}, make, 0.25), make.tokens)
    assert make.calls == 1


def test_every_key_has_its_own_tokens(tmp_path):
    makers = {number: Maker(seed=number) for number in range(4)}
    for _ in range(2):
        for number, make in makers.items():
            assert_same(cached(tmp_path, {"number": number, "nested": {"x": None}}, make), make.tokens)
    assert [make.calls for make in makers.values()] == [1] * 4
    assert len(list(tmp_path.iterdir())) == 4


def test_the_order_of_a_key_does_not_matter(tmp_path):
    make = Maker()
    cached(tmp_path, {"a": 1, "b": 2}, make)
    cached(tmp_path, {"b": 2, "a": 1}, make)
    assert make.calls == 1


def truncated(file):
    file.write_bytes(file.read_bytes()[:-7])


def emptied(file):
    file.write_bytes(b"")


def overwritten(file):
    file.write_bytes(b"this is no safetensors file, though it is long enough to be one" * 4)


def of_another_program(file):
    safetensors.numpy.save_file({"something": np.zeros(3)}, file)


def without_its_mask(file):
    arrays = safetensors.numpy.load_file(file)
    del arrays["valid"]
    safetensors.numpy.save_file(arrays, file)


@pytest.mark.parametrize("damage", [truncated, emptied, overwritten, of_another_program, without_its_mask])
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    make = Maker()
    cached(tmp_path, {}, make)
    (file,) = tmp_path.iterdir()
    damage(file)
    for _ in range(2):
        assert_same(cached(tmp_path, {}, make), make.tokens)
    assert make.calls == 2
    assert [file] == list(tmp_path.iterdir())


def test_tokens_that_could_not_be_made_leave_nothing(tmp_path):
    def fail():
        raise RuntimeError("the text ends")

    with pytest.raises(RuntimeError, match="the text ends"):
        cached(tmp_path, {}, fail)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_could_not_be_written_leaves_nothing_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    def half(arrays, path, metadata=None):
        path.write_bytes(b"half of a")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.numpy, "save_file", half)
        assert_same(cached(tmp_path, {}, Maker()), Maker().tokens)
    assert "The tokens could not be kept for later runs" in caplog.text
    assert "no space left" in caplog.text
    assert list(tmp_path.iterdir()) == []
    make = Maker()
    assert_same(cached(tmp_path, {}, make), make.tokens)
    assert make.calls == 1


# Through an experiment


@pytest.fixture
def packed(monkeypatch):
    """How often a text was tokenised."""
    calls = []
    monkeypatch.setattr(sources, "documents", lambda *args, of=sources.documents: calls.append(1) or of(*args))
    return calls


def inputs(mini, folder, cache, **changes):
    chosen = {"source": Source.files, "path": str(folder), "tokens": 12, "sequence_length": 5} | changes
    return read_text(DatasetConfig(**chosen), mini.tokenizer, mini.begins_with_bos, cache)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "b.txt").write_text(TEXT * 3, "utf-8")
    return folder


def test_cached_tokens_equal_fresh_ones(mini, folder, tmp_path, packed):
    fresh = pack([TEXT * 3], mini.tokenizer, 12, 5)
    for _ in range(2):
        assert_same(inputs(mini, folder, tmp_path / "cache"), fresh)
    assert len(packed) == 1


def test_real_text_is_the_same_from_the_cache(mini, tmp_path, packed):
    made, again = (inputs(mini, None, tmp_path, source=Source.pydoc, path=None, tokens=2000) for _ in range(2))
    assert_same(again, made)
    assert len(packed) == 1


def edit(folder):
    (folder / "b.txt").write_text("Now another one. " + TEXT * 3, "utf-8")


def rewrite_in_the_same_length(folder):
    (folder / "b.txt").write_text(TEXT.replace("text", "book") * 3, "utf-8")


def add(folder):
    (folder / "a.txt").write_text("A document that comes first.", "utf-8")


@pytest.mark.parametrize("change", [edit, rewrite_in_the_same_length, add])
def test_a_changed_text_is_read_anew(mini, folder, tmp_path, packed, change):
    before = inputs(mini, folder, tmp_path / "cache")
    change(folder)
    after = inputs(mini, folder, tmp_path / "cache")
    assert after.hash != before.hash
    texts = [file.read_text("utf-8") for file in sorted(folder.iterdir())]
    assert_same(after, pack(texts, mini.tokenizer, 12, 5))
    assert len(packed) == 2


@pytest.mark.parametrize("changes", [{"tokens": 11}, {"sequence_length": 6}])
def test_another_cut_is_another_key(mini, folder, tmp_path, packed, changes):
    before = inputs(mini, folder, tmp_path / "cache")
    after = inputs(mini, folder, tmp_path / "cache", **changes)
    assert after.hash != before.hash
    assert len(packed) == 2


def test_another_column_is_another_key(mini, tmp_path, packed):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": TEXT, "other": TEXT.upper()}) + "\n", "utf-8")
    one, other = (inputs(mini, file, tmp_path / "cache", text_column=name) for name in ("text", "other"))
    assert one.hash != other.hash
    assert len(packed) == 2


def test_another_tokenizer_is_another_key(mini, folder, tmp_path, packed):
    tokenizer = load_model("mini", device="cpu").tokenizer
    tokenizer.backend_tokenizer.normalizer = Replace("handful", "few")
    before = inputs(mini, folder, tmp_path / "cache")
    after = inputs(replace(mini, tokenizer=tokenizer), folder, tmp_path / "cache")
    assert after.hash != before.hash
    assert len(packed) == 2


def test_the_cache_holds_whole_files_only(mini, folder, tmp_path):
    inputs(mini, folder, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name.startswith("tokens_")
    assert file.suffix == ".safetensors"
    assert safetensors.numpy.load_file(file)["input_ids"].shape == (3, 5)


def test_what_was_skipped_is_the_same_from_the_cache_and_another_share_is_checked_anew(mini, tmp_path, packed):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in (TEXT, 3, TEXT, None)), "utf-8")
    made, again = (inputs(mini, file, tmp_path / "cache", tokens=25, bad_rows=0.5) for _ in range(2))
    assert made.skipped == (Skipped(str(file), 2, "a number in place of text"),)
    assert made.bad_share == 1 / 3  # the last row was not needed
    assert_same(again, made)
    assert len(packed) == 1
    for folder in (tmp_path / "another", tmp_path / "cache"):
        with pytest.raises(UserError, match=r"^dataset\.bad_rows=0\.3: 1 of 3 rows cannot be used"):
            inputs(mini, file, folder, tokens=25, bad_rows=0.3)
    assert inputs(mini, file, tmp_path / "cache", tokens=25, bad_rows=1).hash == made.hash
    with pytest.raises(UserError, match=rf"documents, 1 skipped: {file}, row 2: a number in place of text\)"):
        inputs(mini, file, tmp_path / "cache", tokens=250, bad_rows=0.5)


def test_a_run_over_a_folder_as_it_comes_says_and_writes_what_it_skipped_twice(quick_cli, tmp_path):
    folder = tmp_path / "corpus"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    (folder / ".ipynb_checkpoints" / "a-checkpoint.txt").write_text("never " * 500)
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.encode() * 3)
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in [TEXT, "a\0b", *[TEXT] * 9])
    )
    (folder / "metadata.csv").write_text("id,title\n1,a\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "book.TXT").write_text(TEXT * 9)
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    expected = {
        "where": [f"{folder}/metadata.csv", f"{folder}/rows.jsonl"],
        "item": [0, 2],
        "reason": ["no column text; the columns are id, title", "binary, not text: it has a NUL character"],
    }
    hashes, told = set(), []
    again = ["experiment.control=off,random", "hydra.sweep.dir=again", "--multirun"]
    for options, runs in ((["hydra.run.dir=first"], ["first"]), (again, ["again/0", "again/1"])):
        process = quick_cli(
            *("experiment=token_length", "model=mini", "tracking=off", "dataset=text", f"dataset.path={folder}"),
            *("dataset.tokens=400", "dataset.sequence_length=64", "dataset.bad_rows=0.1"),
            *("experiment.layer=0", "experiment.permutations=100", *options),
        )
        assert (process.returncode, process.stderr) == (0, "")
        for run in runs:
            assert parquet.read_table(tmp_path / run / "skipped.parquet").to_pydict() == expected
            provenance = json.loads((tmp_path / run / "summary.json").read_text())["provenance"]
            assert provenance["skipped"] == 2
            hashes.add(provenance["token_hash"])
        told += re.findall(r"Skipped 2, .*", process.stdout)
    assert len(hashes) == 1
    line, *others = told
    assert others == [line] * 2  # once in each run, also where a control reads the text again
    assert f"{folder}/rows.jsonl, row 2: binary, not text" in line
