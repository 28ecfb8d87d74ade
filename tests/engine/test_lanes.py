"""Lanes: side by side, in the order of the numbers, and one that fails or is interrupted takes the others along."""

import signal
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from tiny import CONFIGS, build

from neurexp.engine import passes
from neurexp.engine.lanes import LANES, Lanes, lanes_on
from neurexp.engine.passes import run_pass
from neurexp.engine.reducers import Gram, Histogram, Keep, Reducer, Rows
from neurexp.models.fast import fast_forward
from neurexp.models.sites import find_sites

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def four_threads():
    """Two for each lane, on whatever machine; and a number that differs from what other tests leave."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4, "the threads that were shared out are not given back"
    torch.set_num_threads(before)


def test_lanes_share_the_threads_evenly_or_there_is_one():
    found = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        found.append(lanes_on(CPU))
    assert found == [1, LANES, 1, LANES]
    assert lanes_on(torch.device("cuda")) == 1


def test_every_number_is_worked_off_once_by_lanes_that_are_at_work_at_once():
    together, done, threads = threading.Barrier(2, timeout=30), [], set()

    def work(number: int) -> None:
        together.wait()  # never comes back unless the two are in here at once
        threads.add(torch.get_num_threads())
        done.append(number)

    lanes = Lanes(2, steps=1)
    lanes.run(work, 8)
    assert sorted(done) == list(range(8))
    assert (lanes.begun, threads) == (8, {2})


def test_the_steps_come_in_the_order_of_the_numbers_however_long_each_takes():
    lanes, seen = Lanes(3, steps=4, first=5), {step: [] for step in range(4)}

    def work(number: int) -> None:
        for step in range(4):
            time.sleep(0.002 * ((number * 7 + step * 3) % 5))
            with lanes.turn(number, step):
                seen[step].append(number)

    lanes.run(work, 17)
    assert seen == {step: list(range(5, 17)) for step in range(4)}


def test_a_step_of_one_is_not_in_the_way_of_another_step_of_the_next():
    """Number 1 is let into step 0 while 0 is still in step 1: without that the lanes would take turns, no more."""
    lanes, entered = Lanes(2, steps=2), threading.Event()

    def work(number: int) -> None:
        with lanes.turn(number, 0):
            if number == 1:
                entered.set()
        with lanes.turn(number, 1):
            assert entered.wait(30)

    lanes.run(work, 2)


def test_a_pause_ends_all_that_was_begun_and_the_rest_comes_later():
    lanes, done = Lanes(2, steps=1), []
    while lanes.begun < 7:
        before = lanes.begun
        lanes.run(done.append, 7, pause=lambda: True)
        assert lanes.begun == before + 1  # even if it is always time for one
        assert sorted(done) == list(range(lanes.begun))


@pytest.mark.parametrize("bad", [0, 1, 4])
def test_what_fails_in_any_lane_is_raised_here_and_ends_the_others(bad):
    lanes, finished = Lanes(2, steps=1), []

    def work(number: int) -> None:
        if number == bad:
            time.sleep(0.05)  # the other waits in its turn by then
            raise ArithmeticError(f"number {bad}")
        with lanes.turn(number, 0):
            finished.append(number)

    with pytest.raises(ArithmeticError, match=f"number {bad}"):
        lanes.run(work, 50)
    assert finished == list(range(bad))
    assert not [thread for thread in threading.enumerate() if thread.name == "lane"]


def test_what_fails_in_its_turn_lets_nobody_else_have_it():
    lanes, finished = Lanes(2, steps=1), []

    def work(number: int) -> None:
        with lanes.turn(number, 0):
            if number == 3:
                raise ArithmeticError("number 3")
            finished.append(number)

    with pytest.raises(ArithmeticError, match="number 3"):
        lanes.run(work, 50)
    assert finished == [0, 1, 2]


def test_an_interrupt_ends_every_lane():
    lanes = Lanes(2, steps=1)

    def work(number: int) -> None:
        if number == 2:
            signal.raise_signal(signal.SIGINT)
        with lanes.turn(number, 0):
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        lanes.run(work, 1000)
    assert lanes.begun < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "lane"]


# -- a pass in lanes ------------------------------------------------------------------------------------------------


class Order(Reducer):
    """Which sequence each site sees, in the order in which it does."""

    def __init__(self, sites: int):
        self.begun, self.seen = [], [[] for _ in range(sites)]

    def begin(self, batch):
        self.begun.append(batch.first)

    def update(self, site, activations, batch):
        self.seen[site].append(batch.first)


def gram_covariates(ids, positions, sequences):
    design = torch.stack([torch.ones(len(ids)), ids.float(), positions.float()], dim=1)
    return {"design": design, "group": ids % 3}


def passed(network, ids, valid, batch_size: int):
    """The states of every kind of reducer after a pass."""
    sites = find_sites(network, "MLP", list(range(network.config.num_hidden_layers)))
    start = torch.arange(len(ids)) % 3
    rows = Rows(torch.arange(len(ids)), start, start + 2)
    gram, histogram = Gram(3, len(sites), slice(0, 1), slice(0, 1)), Histogram(3, len(sites), 16)
    keep, order = Keep(len(sites), *ids.shape, 2**30), Order(len(sites))
    run_pass(network, sites, ids, valid, [gram, histogram, rows, keep, order], gram_covariates, batch_size)
    firsts = [0, *range(1, len(ids), batch_size)]
    assert order.begun == firsts
    assert order.seen == [firsts] * len(sites)
    states = [reducer.state() for reducer in (gram, histogram, rows)] + [{str(k): v for k, v in keep.kept.items()}]
    return [(name, tensor) for state in states for name, tensor in state.items()]


@pytest.mark.parametrize("family", [*CONFIGS, "gpt_neo, fast"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_pass_in_two_lanes_leaves_the_bits_of_one(family, padded, monkeypatch):
    network, dice = build(family.removesuffix(", fast")), np.random.default_rng(3)
    ids = torch.from_numpy(dice.integers(0, network.config.vocab_size, (23, 12)))
    valid = None
    if padded:
        valid = torch.arange(12) < torch.from_numpy(dice.integers(3, 13, 23))[:, None]
    with fast_forward(network) if family.endswith("fast") else nullcontext():
        two = [passed(network, ids, valid, batch_size=2) for _ in range(3)]
        monkeypatch.setattr(passes, "lanes_on", lambda device: 1)
        torch.set_num_threads(2)  # as many as a lane had
        one = passed(network, ids, valid, batch_size=2)
        torch.set_num_threads(4)
    for lanes in two:
        assert [name for name, _ in lanes] == [name for name, _ in one]
        for (name, here), (_, there) in zip(lanes, one, strict=True):
            assert torch.equal(here.nan_to_num(7.5), there.nan_to_num(7.5)), name


def test_a_nan_in_the_other_lane_is_told(monkeypatch):
    """A batch that only the second lane can have: the first is held up in its own."""
    network = build("gpt_neo")
    sites = find_sites(network, "MLP", [0, 1])
    ids = torch.arange(64).view(16, 4) % network.config.vocab_size
    held = threading.Event()

    class Slow(Reducer):
        def update(self, site, activations, batch):
            if threading.current_thread() is threading.main_thread():
                held.wait(0.2)
            else:
                held.set()
                raise passes.NotFiniteError(site)

    with pytest.raises(passes.NotFiniteError) as caught:
        run_pass(network, sites, ids, None, [Slow()], batch_size=1)
    assert caught.value.sequences.start == 0
    assert 1 < caught.value.sequences.stop <= 4
