"""Lanes: side by side, in the order of the numbers, and one that fails or is interrupted takes the others along."""

import os
import signal
import threading
import time
from contextlib import nullcontext
from itertools import product

import numpy as np
import pytest
import torch
from tiny import CONFIGS, build

from neurexp.engine.checkpoint import Checkpoints
from neurexp.engine.lanes import LANES, Lanes, lanes_on
from neurexp.engine.passes import run_pass
from neurexp.engine.reducers.base import NotFiniteError, Reducer
from neurexp.engine.reducers.gram import Gram
from neurexp.engine.reducers.histogram import Histogram
from neurexp.engine.reducers.keep import Keep
from neurexp.engine.reducers.not_finite import NotFinite
from neurexp.engine.reducers.rows import Rows
from neurexp.models.families import FAMILIES
from neurexp.models.fast import fast_forward
from neurexp.models.sites import find_sites

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def four_threads():
    """Two for each lane, on whatever machine; and a number that differs from what other tests leave."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    found = [torch.get_num_threads()]
    new = threading.Thread(target=lambda: found.append(torch.get_num_threads()))  # has PyTorch's number, not this one's
    new.start()
    new.join()
    torch.set_num_threads(before)
    assert found == [4, 4], "the threads that were shared out are not given back"


def no_lane_is_left():
    """A thread that has done all its work may take a moment to be gone."""
    end = time.monotonic() + 5
    while any(thread.name == "lane" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.001)


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
    no_lane_is_left()


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


@pytest.mark.parametrize("at", ["in a turn", "in the last one"])
def test_an_interrupt_ends_every_lane_before_it_is_raised(at):
    lanes, signalled, working = Lanes(2, steps=1), threading.Event(), set()

    def work(number: int) -> None:
        working.add(number)
        if number == (2 if at == "in a turn" else 3):
            os.kill(os.getpid(), signal.SIGINT)
            signalled.set()
            time.sleep(0.1)
        if at == "in the last one":
            assert number < 3 or signalled.wait(30)
        try:
            with lanes.turn(number, 0):
                time.sleep(0.01)
        finally:
            working.discard(number)

    with pytest.raises(KeyboardInterrupt):
        lanes.run(work, 1000 if at == "in a turn" else 4)
    assert not working
    assert lanes.begun < 10
    no_lane_is_left()


def test_an_interrupt_outdoes_a_failure():
    """The batch that is at fault is not looked for when somebody wants an end."""
    lanes, both = Lanes(2, steps=1), threading.Barrier(2, timeout=30)

    def work(number: int) -> None:
        both.wait()
        if number == 0:
            raise ArithmeticError("number 0")
        while lanes._failure is None:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

    with pytest.raises(KeyboardInterrupt):
        lanes.run(work, 2)


def test_a_step_that_comes_twice_is_refused():
    lanes = Lanes(2, steps=2)

    def work(number: int) -> None:
        for step in (0, 0):
            with lanes.turn(number, step):
                pass

    with pytest.raises(RuntimeError, match="step 0 of 0 came twice"):
        lanes.run(work, 1)


# -- a pass in lanes ------------------------------------------------------------------------------------------------


class Order(Reducer):
    """Which sequence each site sees, in the order in which it does, and in which threads."""

    concurrent = True

    def __init__(self, sites: int):
        self.begun, self.seen, self.threads = [], [[] for _ in range(sites)], set()

    def begin(self, batch):
        self.begun.append(batch.first)

    def update(self, site, activations, batch):
        self.seen[site].append(batch.first)
        self.threads.add(threading.current_thread())


def gram_covariates(ids, positions, sequences):
    design = torch.stack([torch.ones(len(ids)), ids.float(), positions.float()], dim=1)
    return {"design": design, "group": ids % 3}


def passed(network, ids, valid, lanes: int):
    """The states of every kind of reducer after a pass."""
    sites = find_sites(network, "MLP", list(range(network.config.num_hidden_layers)))
    start = torch.arange(len(ids)) % 3
    rows = Rows(torch.arange(len(ids)), start, start + 2)
    gram, histogram = Gram(3, len(sites), slice(0, 1), slice(0, 1)), Histogram(3, len(sites), 16)
    keep, order = Keep(len(sites), *ids.shape, 2**30), Order(len(sites))
    run_pass(network, sites, ids, valid, [gram, histogram, rows, keep, order], gram_covariates, 2, lanes=lanes)
    firsts = [0, *range(1, len(ids), 2)]
    assert len(order.threads) == lanes
    assert order.begun == firsts
    assert order.seen == [firsts] * len(sites)
    states = [reducer.state() for reducer in (gram, histogram, rows)] + [{str(k): v for k, v in keep.kept.items()}]
    return [(name, tensor) for state in states for name, tensor in state.items()]


AMONG_THE_FAST = {("gpt_neo, fast", True), ("llama", False)}


@pytest.mark.parametrize(
    ("family", "padded"),
    [
        pytest.param(*case, marks=() if case in AMONG_THE_FAST else pytest.mark.slow)
        for case in product([*(name for name in CONFIGS if not FAMILIES[name].experts), "gpt_neo, fast"], [False, True])
    ],
)
def test_a_pass_in_two_lanes_leaves_the_bits_of_one(family, padded):
    network, dice = build(family.removesuffix(", fast")), np.random.default_rng(3)
    ids = torch.from_numpy(dice.integers(0, network.config.vocab_size, (23, 12)))
    valid = None
    if padded:
        valid = torch.arange(12) < torch.from_numpy(dice.integers(3, 13, 23))[:, None]
    with fast_forward(network) if family.endswith("fast") else nullcontext():
        two = [passed(network, ids, valid, lanes=2) for _ in range(3)]
        torch.set_num_threads(2)  # as many as a lane had
        try:
            one = passed(network, ids, valid, lanes=1)
        finally:
            torch.set_num_threads(4)
    for lanes in two:
        assert [name for name, _ in lanes] == [name for name, _ in one]
        for (name, here), (_, there) in zip(lanes, one, strict=True):
            assert torch.equal(here.nan_to_num(7.5), there.nan_to_num(7.5)), name


def small(sequences: int):
    network = build("gpt_neo")
    ids = torch.arange(4 * sequences).view(sequences, 4) % network.config.vocab_size
    return network, find_sites(network, "MLP", [0, 1]), ids


def test_a_reducer_that_is_not_concurrent_gets_one_batch_at_a_time():
    network, sites, ids = small(9)
    order = Order(2)
    order.concurrent = False
    run_pass(network, sites, ids, None, [order, NotFinite(2)], batch_size=2, lanes=2)
    assert order.threads == {threading.main_thread()}


class Fails(Reducer):
    """Fails with one batch, once the next has been begun with."""

    concurrent = True

    def __init__(self, bad: int):
        self._bad, self._next_begun = bad, threading.Event()

    def begin(self, batch):
        if batch.first > self._bad:
            self._next_begun.set()

    def update(self, site, activations, batch):
        if batch.first == self._bad:
            assert self._next_begun.wait(30)
            raise NotFiniteError(site)


def test_what_is_not_finite_is_looked_for_in_all_batches_that_were_begun_with():
    network, sites, ids = small(16)
    with pytest.raises(NotFiniteError) as caught:
        run_pass(network, sites, ids, None, [Fails(3)], batch_size=1, lanes=2)
    assert caught.value.sequences == slice(1, 5)  # batch 0 was checked, and 4 was under way beside 3


def test_what_another_process_is_to_reduce_is_not_looked_into():
    """Sequence 0 calibrates; 1 to 7 are another process's."""
    network, sites, ids = small(16)
    histogram, part = Histogram(1, 2, 16), slice(8, 16)
    covariates = lambda ids, positions, sequences: {"group": torch.zeros_like(ids)}  # noqa: E731
    with pytest.raises(NotFiniteError) as caught:
        run_pass(network, sites, ids, None, [histogram, Fails(9)], covariates, batch_size=1, part=part, lanes=2)
    assert caught.value.sequences == slice(8, 11)
    with torch.no_grad():
        network.transformer.wte.weight.fill_(torch.nan)
    with pytest.raises(NotFiniteError) as caught:
        run_pass(network, sites, ids, None, [Histogram(1, 2, 16)], covariates, batch_size=1, part=part, lanes=2)
    assert caught.value.sequences == slice(0, 1)


def test_nor_when_nothing_has_been_checked_yet():
    """The first batch, which only calibrates, is still at its second site when the next one fails at its first."""
    network, sites, ids = small(16)
    failed = threading.Event()

    class Calibrating(Reducer):
        concurrent = True
        is_calibrated = False

        def calibrate(self, site, activations):
            assert site == 0 or failed.wait(30)

        def update(self, site, activations, batch):
            failed.set()
            raise NotFiniteError(site)

    with pytest.raises(NotFiniteError) as caught:
        run_pass(network, sites, ids, None, [Calibrating()], batch_size=1, part=slice(8, 16), lanes=2)
    assert caught.value.sequences == slice(8, 9)


class SomeTimes(Checkpoints):
    """Says the third time that it is asked that one is due: batches are under way then in both lanes."""

    asked = 0

    def due(self):
        self.asked += 1
        return self.asked >= 3

    def save(self, reducers, batches, covered=None):
        super().save(reducers, batches)
        self.asked = 0


def test_a_pass_in_lanes_that_goes_on_leaves_the_bits_of_one_that_was_not_cut_short(tmp_path):
    network, sites, ids = small(40)

    def gram(bad=None, folder=None):
        reducers = [Gram(3, 2, slice(0, 1), slice(0, 1))] + ([] if bad is None else [Order(2)])
        checkpoints = None if folder is None else SomeTimes(folder, "text", {}, 1)
        if bad is not None:

            def stop(site, activations, batch):
                if batch.first == bad:
                    raise InterruptedError

            reducers[1].update, reducers[1].state, reducers[1].load = stop, dict, lambda state: None
        run_pass(network, sites, ids, None, reducers, gram_covariates, 1, checkpoints=checkpoints, lanes=2)
        return reducers[0].state()

    whole = gram()
    for bad in (7, 19, 33):
        with pytest.raises(InterruptedError):
            gram(bad, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    at = max(int(file.stem.rsplit("_", 2)[1]) for file in tmp_path.iterdir())
    assert 19 < at <= 33
    found = gram(folder=tmp_path)
    assert all(torch.equal(found[name], whole[name]) for name in whole)
