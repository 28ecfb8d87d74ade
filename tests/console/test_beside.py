"""A process beside this one: it answers calls in order, tells errors, ignores signals, and ends with its maker."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from background import is_left
from first_moment import signalled_forks

from neurexp.console import beside as module
from neurexp.console.beside import Beside
from neurexp.errors import UserError


@pytest.fixture
def beside():
    made = Beside(lambda: 1 / 0, "adds numbers")  # an error there is dropped
    yield made
    made.end()


def mistake(text: str) -> None:
    raise UserError(text)


def test_calls_run_in_another_process_in_their_order(beside):
    assert beside.call(os.getpid) == beside._process != os.getpid()
    beside.call(os.putenv, "NEUREXP_TEST_BESIDE", "there")
    assert beside.call(subprocess.getoutput, "echo $NEUREXP_TEST_BESIDE") == "there"
    assert "NEUREXP_TEST_BESIDE" not in os.environ


def test_a_mistake_rises_as_it_is_and_another_error_with_its_traceback(beside):
    with pytest.raises(UserError, match="give another"):
        beside.call(mistake, "give another")
    with pytest.raises(RuntimeError, match="invalid literal") as error:
        beside.call(int, "x")
    assert "Traceback" in "".join(error.value.__notes__)
    assert beside.call(int, "3") == 3


@contextmanager
def interrupted_after(seconds):
    """Raises a KeyboardInterrupt within the block, as Ctrl-C does; expects that it rises from there at once."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < seconds + 5


def test_the_answer_to_an_interrupted_call_is_not_taken_for_the_next(beside):
    with interrupted_after(0.3):
        beside.call(time.sleep, 1)
    assert beside.call(int, "2") == 2


@pytest.mark.parametrize("answer", [len, bytes])
def test_an_interrupt_in_the_middle_of_a_large_message_leaves_the_next_call_whole(beside, answer):
    assert beside.call(int, "1") == 1
    if answer is len:
        os.kill(beside._process, signal.SIGSTOP)  # the pipe is full, and half the message is in it
        with interrupted_after(0.3):
            beside.call(len, b"x" * 20_000_000)
        os.kill(beside._process, signal.SIGCONT)
    else:
        with interrupted_after(0.05):
            beside.call(bytes, 500_000_000)
    assert beside.call(int, "2") == 2


def test_a_call_that_hangs_is_interrupted_and_the_process_ended(beside):
    with interrupted_after(0.3):
        beside.call(time.sleep, 600)
    beside.end()
    assert not is_left(beside._process)
    with pytest.raises(UserError, match="has ended"):
        beside.call(int, "3")


def test_signals_are_for_its_maker(beside):
    for one in (signal.SIGINT, signal.SIGTERM):
        os.kill(beside._process, one)
    assert beside.call(int, "3") == 3


def test_a_signal_in_its_first_moment_runs_no_handler_of_its_maker_there():
    with signalled_forks():
        made = Beside(lambda: None, "adds numbers")
    assert made.call(int, "3") == 3
    made.end()


def test_a_call_after_it_was_killed_is_one_line(beside):
    os.kill(beside._process, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(UserError, match="the process that adds numbers has ended"):
            beside.call(int, "3")


def test_it_is_gone_when_it_is_ended(beside):
    beside.end()
    assert not is_left(beside._process)


def test_it_ends_when_its_maker_is_killed(tmp_path):
    program = "import os, time\nfrom neurexp.console.beside import Beside\n" + (
        "print(Beside(lambda: None, 'waits')._process, flush=True)\ntime.sleep(60)"
    )
    maker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    process = int(maker.stdout.readline())
    assert is_left(process)
    maker.kill()
    maker.communicate()
    until = time.monotonic() + 20
    while is_left(process) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_left(process)


def test_one_processor_has_no_use_for_it(monkeypatch):
    monkeypatch.setattr(module, "processors", lambda: 1)
    assert not Beside.is_of_use()
