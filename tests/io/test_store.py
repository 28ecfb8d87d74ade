"""Stored rows: found by all that they depend on, whole or not at all, captured once however many ask at once."""

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from neurexp.io.store import RowStore, StateStore

KEY = {"weights": "abc", "site": "MLP", "pooling": "mean", "batch_size": 4, "nested": {"a": 1, "b": [1, 2]}}


def rows(layer: int, shape: tuple[int, int] = (5, 7)) -> np.ndarray:
    return np.random.default_rng(layer).normal(size=shape).astype(np.float32)


def filled(folder: Path, *layers: int, key=KEY) -> RowStore:
    store = RowStore(folder, key)
    for layer in layers:
        store.save(layer, rows(layer))
    return store


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_what_was_saved_is_loaded_bit_for_bit(tmp_path):
    filled(tmp_path / "cache", 0, 3, 11)
    found = RowStore(tmp_path / "cache", KEY).load([3, 0])
    assert list(found) == [3, 0]
    for layer, values in found.items():
        assert values.dtype == np.float32
        assert values.tobytes() == rows(layer).tobytes()


def test_nothing_is_loaded_unless_all_layers_are_there(tmp_path):
    store = filled(tmp_path, 0, 1)
    assert store.load([0, 2]) is None
    assert store.load([2]) is None
    assert set(store.load([0, 1])) == {0, 1}
    store.save(2, rows(2))
    assert set(store.load([0, 2])) == {0, 2}


def test_an_empty_store_has_nothing_and_asking_makes_no_folder(tmp_path):
    assert RowStore(tmp_path / "cache", KEY).load([0]) is None
    assert not list(tmp_path.iterdir())


def test_not_finite_values_and_columns_in_another_order_are_kept(tmp_path):
    values = np.array([[np.nan, np.inf], [-0.0, 1e-40]], dtype=np.float32).T
    store = RowStore(tmp_path, KEY)
    store.save(0, values)
    assert store.load([0])[0].tobytes() == np.ascontiguousarray(values).tobytes()


def test_the_order_of_the_key_does_not_matter(tmp_path):
    filled(tmp_path, 0)
    turned = {name: KEY[name] for name in reversed(KEY)} | {"nested": {"b": [1, 2], "a": 1}}
    assert RowStore(tmp_path, turned).load([0]) is not None


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
def test_any_other_value_is_another_capture(tmp_path, change):
    store = filled(tmp_path, 0)
    other = RowStore(tmp_path, KEY | change)
    assert other.load([0]) is None
    other.save(0, rows(9))
    assert store.load([0])[0].tobytes() == rows(0).tobytes()
    assert other.load([0])[0].tobytes() == rows(9).tobytes()


def test_a_key_without_one_of_its_names_is_another_capture(tmp_path):
    filled(tmp_path, 0)
    for name in KEY:
        assert RowStore(tmp_path, {other: KEY[other] for other in KEY if other != name}).load([0]) is None


@pytest.mark.parametrize("damage", ["empty", "cut in the header", "cut in the values", "no safetensors", "other names"])
def test_a_torn_file_is_set_aside_and_captured_anew(tmp_path, damage):
    store = filled(tmp_path, 0, 1)
    torn = next(file for file in files(tmp_path) if file.stem == "1")
    whole = torn.read_bytes()
    if damage == "other names":
        from safetensors.numpy import save_file

        save_file({"columns": rows(1)}, torn)
    else:
        cut = {"empty": 0, "cut in the header": 20, "cut in the values": len(whole) - 4}
        torn.write_bytes(b"no safetensors at all" if damage == "no safetensors" else whole[: cut[damage]])
    assert store.load([0, 1]) is None
    assert not torn.exists()
    assert store.load([0])[0].tobytes() == rows(0).tobytes()
    store.save(1, rows(1))
    assert store.load([0, 1])[1].tobytes() == rows(1).tobytes()


def test_a_save_that_fails_is_told_and_leaves_the_old_file(tmp_path, monkeypatch, caplog):
    store = filled(tmp_path, 0)

    def fail(tensors, path, metadata=None):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with caplog.at_level(logging.WARNING):
        store.save(0, rows(5))
    assert "The rows could not be kept for later runs" in caplog.text
    assert store.load([0])[0].tobytes() == rows(0).tobytes()
    assert [file.name for file in files(tmp_path)] == ["0.safetensors"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_lock_is_released_however_its_block_ends(tmp_path):
    store = RowStore(tmp_path / "cache", KEY)
    with pytest.raises(RuntimeError), store.lock():
        raise RuntimeError
    with store.lock():
        store.save(0, rows(0))
    assert store.load([0]) is not None


CAPTURE = """
import sys, time
from pathlib import Path
import numpy as np
from neurexp.io.store import RowStore, StateStore
folder, who = Path(sys.argv[1]), sys.argv[2]
store = RowStore(folder / "cache", {"what": "the same"})
(folder / f"ready{who}").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
found = store.load([0])
if found is None:
    with store.lock():
        found = store.load([0])
        if found is None:
            with (folder / "captured").open("a") as file:
                file.write(who)
            time.sleep(0.5)
            if "killed" in sys.argv:
                import os
                os._exit(9)
            rows = np.full((2000, 500), float(who), dtype=np.float32)
            store.save(0, rows)
            found = {0: rows}
print(found[0].shape, found[0].min(), found[0].max())
"""


def captures(tmp_path: Path, count: int, *more: str) -> list[subprocess.Popen]:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CAPTURE, str(tmp_path), str(who), *more],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for who in range(count)
    ]
    limit = time.monotonic() + 60
    while len(list(tmp_path.glob("ready*"))) < count and time.monotonic() < limit:
        time.sleep(0.01)
    return started


def test_of_processes_that_start_at_once_one_captures_and_the_others_read_it(tmp_path):
    started = captures(tmp_path, 3)
    (tmp_path / "go").touch()
    told = [process.communicate(timeout=60)[0] for process in started]
    captured = (tmp_path / "captured").read_text()
    assert len(captured) == 1
    assert told == [f"(2000, 500) {captured}.0 {captured}.0\n"] * 3
    assert [process.returncode for process in started] == [0, 0, 0]


def test_a_process_that_dies_while_it_captures_holds_nobody_up(tmp_path):
    (first,) = captures(tmp_path, 1, "killed")
    (tmp_path / "go").touch()
    first.communicate(timeout=60)
    assert first.returncode == 9
    (second,) = captures(tmp_path, 1)
    assert second.communicate(timeout=60)[0] == "(2000, 500) 0.0 0.0\n"
    assert (tmp_path / "captured").read_text() == "00"


def test_who_gives_up_waiting_takes_no_lock_away(tmp_path, monkeypatch):
    """Or a third process would begin the same pass beside the first."""
    first, second = (StateStore(tmp_path, {"a": 1}) for _ in range(2))
    with first.lock():
        (lock,) = tmp_path.glob(".*.lock")
        with monkeypatch.context() as patched:
            patched.setattr(FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt), second.lock():
                raise AssertionError("two at once")
        assert lock.exists()
    assert not list(tmp_path.iterdir())


def test_who_waits_says_so(tmp_path, caplog):
    first, second = (StateStore(tmp_path, {"a": 1}) for _ in range(2))

    def wait():
        with second.lock():
            pass

    thread = threading.Thread(target=wait)
    with caplog.at_level(logging.INFO), first.lock():
        thread.start()
        while "Another run is at the same pass: waiting for it" not in caplog.text:
            time.sleep(0.01)
    thread.join(20)
    assert not thread.is_alive()
