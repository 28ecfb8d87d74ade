"""Work that is shared out over forks: all of it is done, whatever becomes of a fork, and errors rise."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from background import is_left
from first_moment import signalled_forks

from neurexp.console import forks
from neurexp.console.forks import shared_out
from neurexp.io.files import whole_file


def note(folder: Path, item: int) -> None:
    with (folder / str(item)).open("a") as file:
        file.write(f"{os.getpid()}\n")


def note_together(folder: Path, processes: int, item: int) -> None:
    """Notes an item, but not before so many processes have begun one."""
    begun = folder / "begun"
    begun.mkdir(exist_ok=True)
    (begun / str(os.getpid())).touch()
    while len(list(begun.iterdir())) < processes:
        time.sleep(0.005)
    note(folder, item)


def done(folder: Path) -> dict[int, int]:
    """Item → the process that did it last."""
    return {int(file.name): int(file.read_text().split()[-1]) for file in folder.iterdir() if file.is_file()}


@pytest.fixture
def started(monkeypatch) -> list[int]:
    """The forks' process ids."""
    found, fork = [], forks._fork
    monkeypatch.setattr(forks, "_fork", lambda *given: found.append(fork(*given)) or found[-1])
    return found


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_every_item_is_done_once_in_as_many_processes(tmp_path, processes):
    shared_out(partial(note_together, tmp_path, min(processes, 7)), range(7), processes)
    found = done(tmp_path)
    assert set(found) == set(range(7))
    assert len(set(found.values())) == min(processes, 7)
    assert os.getpid() in found.values()
    assert all(len((tmp_path / str(item)).read_text().split()) == 1 for item in range(7))


def test_whoever_has_finished_an_item_takes_the_next(tmp_path):
    def work(item: int) -> None:
        if item == 0:  # takes as long as all the others
            while len(done(tmp_path)) < 6:
                time.sleep(0.005)
        note(tmp_path, item)

    shared_out(work, range(7), 2)
    found = done(tmp_path)
    alone = found.pop(0)
    assert len(found) == 6
    assert alone not in found.values()


def test_no_item_needs_no_fork():
    shared_out(lambda item: pytest.fail("nothing to do"), [], 3)


@pytest.mark.parametrize("end", ["raises", "is killed", "hangs"])
def test_what_a_fork_did_not_do_is_done_here(tmp_path, monkeypatch, started, end):
    monkeypatch.setattr(forks, "PATIENCE", 0.2)
    parent = os.getpid()

    def work(item: int) -> None:
        begun = tmp_path / "begun"
        while os.getpid() == parent and not begun.exists():
            time.sleep(0.005)
        if os.getpid() != parent:
            begun.mkdir()
            if end == "raises":
                raise ValueError("in the fork only")
            if end == "hangs":
                time.sleep(60)
            os.kill(os.getpid(), signal.SIGKILL)
        note(tmp_path, item)

    began = time.monotonic()
    shared_out(work, range(5), 2)
    assert done(tmp_path) == dict.fromkeys(range(5), parent)
    assert time.monotonic() - began < 30
    assert started and not any(map(is_left, started))


def test_an_error_of_an_item_that_a_fork_has_rises_here():
    def work(item: int) -> None:
        if item == 1:
            raise ValueError("item 1")

    with pytest.raises(ValueError, match="item 1"):
        shared_out(work, range(4), 2)


def test_an_error_here_ends_the_forks(started):
    parent = os.getpid()

    def work(item: int) -> None:
        if os.getpid() == parent:
            raise KeyboardInterrupt
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        shared_out(work, range(4), 3)
    assert started and not any(map(is_left, started))


def test_works_from_a_thread_and_prints_nothing_twice(tmp_path, capfd):
    print("before", end="", flush=False)
    thread = threading.Thread(target=shared_out, args=(partial(note_together, tmp_path, 2), range(4), 2))
    thread.start()
    thread.join()
    print(flush=True)
    assert len(set(done(tmp_path).values())) == 2
    assert capfd.readouterr().out == "before\n"


def test_a_signal_in_a_forks_first_moment_runs_no_handler_of_its_maker_there(tmp_path):
    with signalled_forks():
        shared_out(partial(note_together, tmp_path, 2), range(2), 2)
    assert len(set(done(tmp_path).values())) == 2


def test_a_fork_that_is_ended_leaves_no_unfinished_file(tmp_path, started):
    parent, begun = os.getpid(), tmp_path / "begun"

    def work(item: int) -> None:
        if os.getpid() == parent:
            while not begun.exists():
                time.sleep(0.01)
            raise KeyboardInterrupt
        with whole_file(tmp_path / "figure") as path:
            path.write_text("half")
            begun.touch()
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        shared_out(work, range(2), 2)
    assert list(tmp_path.iterdir()) == [begun]
    assert started and not any(map(is_left, started))


def test_a_fork_that_hangs_ends_when_its_maker_is_killed():
    program = "import os, time\nfrom neurexp.console.forks import shared_out\n" + (
        "def work(item):\n os.write(1, f'{os.getpid()}\\n'.encode())\n time.sleep(60)\nshared_out(work, range(2), 2)"
    )
    maker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    (fork,) = {int(maker.stdout.readline()) for _ in range(2)} - {maker.pid}
    maker.kill()
    maker.wait()
    until = time.monotonic() + 20
    while is_left(fork) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_left(fork)
    maker.stdout.close()
