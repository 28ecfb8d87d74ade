"""Processes hear within seconds who of the others has ended, and how."""

import time

import pytest
from torch.distributed import HashStore

from neurexp.engine import watch
from neurexp.engine.watch import Watch


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    for name, seconds in {"BEAT": 0.02, "SILENCE": 0.5, "FIRST": 0.6, "GRACE": 0.1, "SOON": 0.2}.items():
        monkeypatch.setattr(watch, name, seconds)


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
