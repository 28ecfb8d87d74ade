"""Processes hear within seconds who of the others has ended, and how."""

import os
import subprocess
import sys
import time

import pytest
from torch.distributed import HashStore, TCPStore

from neurexp.engine import watch
from neurexp.engine.watch import Watch, is_there


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    for name, seconds in {"BEAT": 0.02, "SILENCE": 0.5, "ELSEWHERE": 0.5, "STUCK": 2.0, "GRACE": 0.1}.items():
        monkeypatch.setattr(watch, name, seconds)
    monkeypatch.setattr(watch, "FIRST", 0.6)
    monkeypatch.setattr(watch, "SOON", 0.2)
    monkeypatch.setattr(watch, "is_there", lambda process: process in there)
    there.clear()


there: set[int] = set()  # processes that are taken to be there


@pytest.fixture
def three():
    store = HashStore()
    watches = [Watch(store, rank, 3) for rank in range(3)]
    while not all(set(one._heard) == set(one._others) for one in watches):
        time.sleep(0.01)
    yield watches
    for one in watches:
        one.leave(watch.DONE)


def lost_within(one: Watch, seconds: float) -> str:
    end = time.monotonic() + seconds
    while one.lost is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return one.lost


def kill(one: Watch) -> None:
    one._ended.set()
    one._thread.join()


def test_nobody_is_lost_while_all_are_at_work_or_done(three):
    three[2].leave(watch.DONE)
    time.sleep(1.0)
    assert [one.lost for one in three] == [None] * 3


def test_a_process_that_says_nothing_is_lost(three):
    kill(three[2])
    lost = lost_within(three[0], 5)
    assert lost.startswith("torchrun: process 2 of 3, on ")
    assert "has ended without a word: it was killed, or its machine failed" in lost
    assert three[1].lost is None  # hears process 0 only


def test_the_others_hear_that_process_0_is_lost(three):
    kill(three[0])
    assert lost_within(three[1], 5).startswith("torchrun: process 0 of 3, on ")


def test_a_mistake_is_told_in_its_own_words(three):
    three[1].leave(watch.FAILED, "dataset.tokens=0: give more")
    assert lost_within(three[0], 5).endswith(": dataset.tokens=0: give more")


def test_a_process_that_never_starts_is_lost():
    one = Watch(HashStore(), 0, 2)
    assert lost_within(one, 5) == "torchrun: process 1 of 2 has not started within 1 seconds"


def test_a_process_that_is_being_ended_soon_hears_of_another_that_was_killed(three, monkeypatch):
    monkeypatch.setattr(watch, "SILENCE", 60)
    kill(three[2])
    assert "process 2 of 3" in (three[0].why() or "")


def test_where_all_are_interrupted_nobody_is_lost(three):
    for one in three[1:]:
        one.leave(watch.INTERRUPTED)
    began = time.monotonic()
    assert three[0].why() is None
    assert time.monotonic() - began < 0.2


def test_a_process_of_this_machine_that_is_there_but_says_nothing_is_not_lost_soon(three):
    there.add(os.getpid())
    kill(three[2])
    time.sleep(1.0)
    assert three[0].lost is None
    assert "process 2 of 3" in lost_within(three[0], 5)


def test_a_process_of_another_machine_that_says_nothing_is_lost(three):
    there.add(os.getpid())
    kill(three[2])
    three[2]._here = "elsewhere", os.getpid()
    three[2]._exchange(-1)
    assert lost_within(three[0], 1.5).startswith("torchrun: process 2 of 3, on elsewhere, has ended without a word")


KEEPS_THE_LOCK = """
import ctypes, sys, time
from datetime import timedelta
from torch.distributed import TCPStore
from neurexp.engine import watch
watch.BEAT = 0.02
one = watch.Watch(TCPStore("localhost", int(sys.argv[1]), is_master=False, timeout=timedelta(seconds=60)), 1, 2)
time.sleep(0.2)
ctypes.PyDLL(None).usleep(1_500_000)  # a call that does not let go of the lock
one.leave(watch.DONE)
"""


def test_a_process_whose_native_code_keeps_the_lock_is_not_lost(monkeypatch):
    monkeypatch.setattr(watch, "is_there", is_there)
    monkeypatch.setattr(watch, "STUCK", 60)
    monkeypatch.setattr(watch, "FIRST", 60)
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    one = Watch(store, 0, 2)
    other = subprocess.Popen([sys.executable, "-c", KEEPS_THE_LOCK, str(store.port)])
    assert other.wait(60) == 0
    one.leave(watch.DONE)
    assert one.lost is None


def test_a_process_is_there_until_it_is_killed_also_before_anybody_looks():
    one = subprocess.Popen(["sleep", "60"])
    assert is_there(one.pid)
    one.kill()
    end = time.monotonic() + 10
    while is_there(one.pid):
        assert time.monotonic() < end
    one.wait()
    assert not is_there(one.pid)
