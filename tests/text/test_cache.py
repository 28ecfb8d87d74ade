"""Tokens are made once per key: the cache gives back what was made, and nothing that is damaged, stale or partial."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from tokenizers.normalizers import Replace

from neurexp.config import DatasetConfig, Source
from neurexp.experiments.base import Setting
from neurexp.experiments.token_length import Options, TokenLength
from neurexp.models.load import load_model
from neurexp.text import sources, tokens
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


def test_what_is_cached_is_what_was_made_and_is_made_once(tmp_path):
    make = Maker()
    for _ in range(3):
        assert_same(cached(tmp_path / "new" / "folder", {"a": 1}, make), make.tokens)
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


def test_a_file_that_could_not_be_written_leaves_nothing(tmp_path, monkeypatch):
    def half(arrays, path, metadata=None):
        path.write_bytes(b"half of a")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.numpy, "save_file", half)
        with pytest.raises(OSError, match="no space left"):
            cached(tmp_path, {}, Maker())
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
    experiment = TokenLength(Options("token_length", ""), Setting("mini", "text"))
    return experiment.inputs(mini, DatasetConfig(**chosen), cache)


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
    assert tokens.load_file(file)["input_ids"].shape == (3, 5)
