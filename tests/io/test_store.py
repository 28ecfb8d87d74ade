"""Stored rows: found by all that they depend on, whole or not at all, captured once however many ask at once."""

import logging
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from neurexp.io.store import Entry, Store

KEY = {"weights": "abc", "site": "MLP", "pooling": "mean", "batch_size": 4, "nested": {"a": 1, "b": [1, 2]}}


def rows(layer: int, shape: tuple[int, int] = (5, 7)) -> np.ndarray:
    return np.random.default_rng(layer).normal(size=shape).astype(np.float32)


def entry_in(folder: Path, key=KEY, kind: str = "passes") -> Entry:
    return Store(folder).entry(kind, key)


def filled(folder: Path, *layers: int, key=KEY) -> Entry:
    entry = entry_in(folder, key)
    for layer in layers:
        entry.save({"rows": rows(layer)}, str(layer))
    return entry


def stored(entry: Entry, layer: int) -> bytes | None:
    found = entry.load(str(layer))
    return None if found is None else found["rows"].tobytes()


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_what_was_saved_is_loaded_bit_for_bit(tmp_path):
    filled(tmp_path / "cache", 0, 3, 11)
    for layer in (3, 0):
        found = entry_in(tmp_path / "cache").load(str(layer))["rows"]
        assert found.dtype == np.float32
        assert found.tobytes() == rows(layer).tobytes()


def test_every_type_of_number_is_kept(tmp_path):
    arrays = {
        name: np.arange(6, dtype=name).reshape(2, 3) for name in ("int32", "int64", "uint8", "float32", "float64")
    }
    arrays["bool"] = np.array([True, False])
    entry_in(tmp_path).save(arrays)
    found = entry_in(tmp_path).load()
    assert set(found) == set(arrays)
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values)


def test_a_part_is_there_or_not(tmp_path):
    entry = filled(tmp_path, 0, 1)
    assert entry.load() is None
    assert entry.load("2") is None
    assert stored(entry, 1) == rows(1).tobytes()
    entry.save({"rows": rows(2)}, "2")
    assert stored(entry_in(tmp_path), 2) == rows(2).tobytes()


def test_an_empty_store_has_nothing_and_asking_makes_no_folder(tmp_path):
    assert entry_in(tmp_path / "cache").load() is None
    assert not list(tmp_path.iterdir())


def test_not_finite_values_and_columns_in_another_order_are_kept(tmp_path):
    values = np.array([[np.nan, np.inf], [-0.0, 1e-40]], dtype=np.float32).T
    entry = entry_in(tmp_path)
    entry.save({"rows": values})
    assert entry.load()["rows"].tobytes() == np.ascontiguousarray(values).tobytes()


def test_the_order_of_the_key_does_not_matter(tmp_path):
    filled(tmp_path, 0)
    turned = {name: KEY[name] for name in reversed(KEY)} | {"nested": {"b": [1, 2], "a": 1}}
    assert stored(entry_in(tmp_path, turned), 0) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "abd"},
        {"site": "mlp"},
        {"pooling": "max"},
        {"batch_size": 5},
        {"batch_size": "4"},
        {"batch_size": None},
        {"nested": {"a": 2, "b": [1, 2]}},
        {"nested": {"a": 1, "b": [2, 1]}},
        {"more": 1},
    ],
    ids=str,
)
def test_any_other_value_is_another_entry(tmp_path, change):
    entry, other = filled(tmp_path, 0), entry_in(tmp_path, KEY | change)
    assert stored(other, 0) is None
    other.save({"rows": rows(9)}, "0")
    assert stored(entry, 0) == rows(0).tobytes()
    assert stored(other, 0) == rows(9).tobytes()


def test_another_kind_is_another_entry(tmp_path):
    filled(tmp_path, 0)
    assert stored(entry_in(tmp_path, kind="tokens"), 0) is None


def test_a_key_without_one_of_its_names_is_another_entry(tmp_path):
    filled(tmp_path, 0)
    for name in KEY:
        assert stored(entry_in(tmp_path, {other: KEY[other] for other in KEY if other != name}), 0) is None


@pytest.mark.parametrize("damage", ["empty", "cut in the header", "cut in the values", "no safetensors"])
def test_a_torn_file_is_removed_and_made_anew(tmp_path, damage):
    entry = filled(tmp_path, 0, 1)
    torn = next(file for file in files(tmp_path) if file.stem.endswith("_1"))
    whole = torn.read_bytes()
    cut = {"empty": 0, "cut in the header": 20, "cut in the values": len(whole) - 4}
    torn.write_bytes(b"no safetensors at all" if damage == "no safetensors" else whole[: cut[damage]])
    assert entry.load("1") is None
    assert not torn.exists()
    assert stored(entry, 0) == rows(0).tobytes()
    entry.save({"rows": rows(1)}, "1")
    assert stored(entry, 1) == rows(1).tobytes()


def test_a_save_that_fails_is_logged_and_leaves_the_old_file(tmp_path, monkeypatch, caplog):
    entry = filled(tmp_path, 0)
    before = files(tmp_path)

    def fail(tensors, path, metadata=None):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with caplog.at_level(logging.WARNING):
        entry.save({"rows": rows(5)}, "0")
    assert "The passes could not be kept for later runs" in caplog.text
    assert stored(entry, 0) == rows(0).tobytes()
    assert files(tmp_path) == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_least_recently_used_make_room_but_nothing_of_the_newest(tmp_path):
    size = len(files_of_one(tmp_path / "one"))
    store = Store(tmp_path / "cache", max_bytes=3 * size)
    for age, name in ((300, "a"), (200, "b"), (100, "c")):
        store.entry("tokens", {"name": name}).save({"rows": rows(0)})
        (newest,) = set(files(tmp_path / "cache")) - {file for file in files(tmp_path / "cache") if old(file)}
        os.utime(newest, (time.time() - age, time.time() - age))
    store.entry("tokens", {"name": "a"}).load()  # used just now
    large = store.entry("passes", {"name": "d"})
    large.save({"rows": rows(0)}, "0")
    assert store.entry("tokens", {"name": "b"}).load() is None
    assert store.entry("tokens", {"name": "a"}).load() is not None
    time.sleep(0.05)  # a file's own time is taken from a coarser clock than the time of a use
    for part in ("1", "2", "3"):
        large.save({"rows": rows(0)}, part)
    assert all(large.load(part) is not None for part in ("0", "1", "2", "3"))
    assert len(files(tmp_path / "cache")) == 4


def test_an_entry_that_another_process_is_making_stays(tmp_path):
    store = Store(tmp_path, max_bytes=1)
    first, second, third = (store.entry("passes", {"name": name}) for name in "abc")
    with first.lock("the same pass"):
        first.save({"rows": rows(0)}, "0")
        second.save({"rows": rows(1)})
        assert first.load("0") is not None
    third.save({"rows": rows(2)})
    assert first.load("0") is None
    assert second.load() is None
    assert third.load() is not None


def test_an_entry_that_a_killed_process_was_making_is_removed(tmp_path):
    """Its lock file is still there, but nobody holds the lock."""
    store = Store(tmp_path, max_bytes=1)
    first, second = (store.entry("passes", {"name": name}) for name in "ab")
    with first.lock("the same pass"):
        first.save({"rows": rows(0)})
        (lock,) = tmp_path.glob(".*.lock")
    lock.touch()
    second.save({"rows": rows(1)})
    assert first.load() is None
    assert second.load() is not None


def test_a_file_that_another_process_removes_meanwhile_is_no_failure(tmp_path, monkeypatch, caplog):
    store = Store(tmp_path, max_bytes=1)
    store.entry("tokens", {"name": "a"}).save({"rows": rows(0)})
    gone = files(tmp_path)[0]
    glob = Path.glob

    def remove_first(folder, pattern):
        found = list(glob(folder, pattern))
        gone.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "glob", remove_first)
    newest = store.entry("tokens", {"name": "b"})
    newest.save({"rows": rows(1)})
    assert newest.load() is not None
    assert not caplog.text


def old(file: Path) -> bool:
    return time.time() - file.stat().st_mtime > 50


def files_of_one(folder: Path) -> bytes:
    filled(folder, 0)
    return files(folder)[0].read_bytes()


def test_the_lock_is_released_however_its_block_ends(tmp_path):
    entry = entry_in(tmp_path / "cache")
    with pytest.raises(RuntimeError), entry.lock("it"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())  # and no folder that it made for nothing
    with entry.lock("it"):
        entry.save({"rows": rows(0)})
    assert entry.load() is not None


def capture(folder: Path, who: int, is_killed: bool) -> None:
    """Waits until it may go, then takes the rows that are stored, or captures and stores them; tells what it has."""
    store = Store(folder / "cache").entry("passes", {"what": "the same"})
    (folder / f"ready{who}").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    found = store.load()
    if found is None:
        with store.lock("the same pass"):
            found = store.load()
            if found is None:
                with (folder / "captured").open("a") as file:
                    file.write(str(who))
                time.sleep(0.5)
                if is_killed:
                    os._exit(9)
                found = {"rows": np.full((2000, 500), float(who), dtype=np.float32)}
                store.save(found)
    told = f"{found['rows'].shape} {found['rows'].min()} {found['rows'].max()}"
    (folder / f"told{who}").write_text(told)


def captures(folder: Path, count: int, is_killed: bool = False) -> list[int]:
    """Processes that capture, all of them ready: forks, which are there at once."""
    started = []
    for who in range(count):
        started.append(os.fork())
        if started[-1] == 0:
            code = 1
            try:
                capture(folder, who, is_killed)
                code = 0
            finally:
                os._exit(code)
    limit = time.monotonic() + 60
    while len(list(folder.glob("ready*"))) < count and time.monotonic() < limit:
        time.sleep(0.01)
    return started


def codes_of(processes: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def test_of_processes_that_start_at_once_one_captures_and_the_others_read_it(tmp_path):
    started = captures(tmp_path, 3)
    (tmp_path / "go").touch()
    assert codes_of(started) == [0, 0, 0]
    captured = (tmp_path / "captured").read_text()
    assert len(captured) == 1
    assert {file.name: file.read_text() for file in tmp_path.glob("told*")} == {
        f"told{who}": f"(2000, 500) {captured}.0 {captured}.0" for who in range(3)
    }


def test_a_process_that_dies_while_it_captures_holds_nobody_up(tmp_path):
    first = captures(tmp_path, 1, is_killed=True)
    (tmp_path / "go").touch()
    assert codes_of(first) == [9]
    assert not (tmp_path / "told0").exists()
    second = captures(tmp_path, 1)
    assert codes_of(second) == [0]
    assert (tmp_path / "told0").read_text() == "(2000, 500) 0.0 0.0"
    assert (tmp_path / "captured").read_text() == "00"


def test_who_gives_up_waiting_takes_no_lock_away(tmp_path, monkeypatch):
    """Or a third process would begin the same pass beside the first."""
    first, second = (entry_in(tmp_path, {"a": 1}) for _ in range(2))
    with first.lock("the same pass"):
        (lock,) = tmp_path.glob(".*.lock")
        with monkeypatch.context() as patched:
            patched.setattr(FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt), second.lock("the same pass"):
                raise AssertionError("two at once")
        assert lock.exists()
    assert not list(tmp_path.iterdir())


def test_who_waits_says_so(tmp_path, caplog):
    first, second = (entry_in(tmp_path, {"a": 1}) for _ in range(2))

    def wait():
        with second.lock("the same pass"):
            pass

    thread = threading.Thread(target=wait)
    with caplog.at_level(logging.INFO), first.lock("the same pass"):
        thread.start()
        while "Another run is at the same pass: waiting for it" not in caplog.text:
            time.sleep(0.01)
    thread.join(20)
    assert not thread.is_alive()
