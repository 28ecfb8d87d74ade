"""A signal is heard within a second in the middle of native code, and the work stops at its next step of Python."""

import contextvars
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import environment
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from mlflow import MlflowClient
from omegaconf import OmegaConf

from neurexp import cli
from neurexp.console import interrupts
from neurexp.console.interrupts import hearing_signals, work_is_left

napping = ctypes.CDLL(None)  # its functions run without Python's lock, and hear nothing


def nap(seconds: float) -> None:
    """Sleeps in C; a signal that another thread gets does not end it."""
    napping.usleep(ctypes.c_uint(int(seconds * 1e6)))


@pytest.fixture(autouse=True)
def handlers():
    """SIGTERM ends a run as Ctrl-C does. A shell that starts pytest in the background has it ignore Ctrl-C."""
    before = [signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)


def send_after(seconds: float, number: int = signal.SIGINT) -> threading.Timer:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.start()
    return timer


def wait_until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_result_is_the_functions_own_and_so_is_the_exception():
    assert hearing_signals(lambda a, *, b: (a, b), 1, b=2) == (1, 2)
    with pytest.raises(ZeroDivisionError) as error:
        hearing_signals(lambda: 1 / 0)
    assert error.traceback[-1].name == "<lambda>"
    with pytest.raises(SystemExit, match="3"):
        hearing_signals(exit, 3)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_native_code_is_left_within_a_second_and_the_work_goes_no_further(number):
    began, further = threading.Event(), []

    def work():
        began.set()
        nap(1.5)
        further.append("the next step")

    send_after(0.1, number)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        hearing_signals(work)
    assert time.monotonic() - start < 1.0
    assert began.is_set()
    assert work_is_left()
    wait_until(lambda: not work_is_left())
    assert not further


def test_eigenvectors_are_left_within_a_second():
    matrix = np.random.default_rng(0).normal(size=(2400, 2400))  # seconds of work on any machine
    matrix += matrix.T
    send_after(0.1)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        hearing_signals(np.linalg.eigh, matrix)
    assert work_is_left()
    assert time.monotonic() - start < 1.1
    wait_until(lambda: not work_is_left(), 60)


def test_work_that_can_put_its_things_in_order_has_done_so_before_the_interrupt_is_told():
    tidied = []

    def work():
        try:
            while True:
                time.sleep(0.01)
        finally:
            tidied.append(True)

    send_after(0.1)
    with pytest.raises(KeyboardInterrupt):
        hearing_signals(work)
    assert tidied
    assert not work_is_left()


def test_an_interrupt_as_the_work_ends_or_begins_hurts_nobody(capfd):
    """Signals at a hundred moments: each call gives its result or is interrupted, no thread dies aloud."""
    interrupted, before = 0, signal.signal(signal.SIGALRM, signal.default_int_handler)
    for moment in np.linspace(1e-6, 0.004, 100):
        try:
            signal.setitimer(signal.ITIMER_REAL, moment)
            assert hearing_signals(lambda: sum(range(50_000))) == 1_249_975_000
            time.sleep(0.01)  # or it comes here
        except KeyboardInterrupt:
            interrupted += 1
    signal.signal(signal.SIGALRM, before)
    assert interrupted == 100
    wait_until(lambda: not work_is_left())
    assert capfd.readouterr().err == ""


def test_elsewhere_than_in_the_main_thread_the_function_is_just_called():
    found = []
    thread = threading.Thread(target=lambda: found.append(hearing_signals(threading.current_thread)))
    thread.start()
    thread.join()
    assert found == [thread]
    assert hearing_signals(hearing_signals, threading.current_thread).name == "work"


def test_the_work_sees_the_callers_context_and_pytorchs_threads():
    variable = contextvars.ContextVar("variable", default="not this")
    variable.set("the caller's")
    assert hearing_signals(variable.get) == "the caller's"
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        hearing_signals(lambda: np.ones(1) / 0)
    before = torch.get_num_threads()
    try:
        for threads in (3, 2, before):
            torch.set_num_threads(threads)
            assert hearing_signals(torch.get_num_threads) == threads
            hearing_signals(torch.set_num_threads, 1)
            torch.set_num_threads(threads)
    finally:
        torch.set_num_threads(before)


def test_a_second_signal_ends_at_once_unless_both_come_of_one_wish(monkeypatch, capfd):
    codes = []
    monkeypatch.setattr(cli, "_heard", {})
    monkeypatch.setattr(os, "_exit", codes.append)
    with pytest.raises(KeyboardInterrupt):
        cli._interrupt(signal.SIGINT, None)
    cli._interrupt(signal.SIGINT, None)  # a terminal and a launcher have both passed it on
    cli._interrupt(signal.SIGTERM, None)  # what torchrun sends then
    assert codes == []
    cli._heard[signal.SIGINT] -= 1  # seconds
    with suppress(KeyboardInterrupt):
        cli._interrupt(signal.SIGINT, None)
    assert codes == [130]
    assert capfd.readouterr().err == "error: interrupted twice, so nothing was put in order\n"


def test_an_interrupt_that_a_library_makes_a_failure_of_its_own_is_one_still(monkeypatch, tmp_path):
    """transformers tells of modules that it "could not import" when it is interrupted as it imports them."""

    def run(*_):
        with suppress(KeyboardInterrupt):
            cli._interrupt(signal.SIGINT, None)
        raise ModuleNotFoundError("Could not import module 'PreTrainedModel'")

    monkeypatch.setattr(cli, "_heard", {})
    monkeypatch.setattr("neurexp.runs.driver.run", run)
    job = {
        "runtime": {"output_dir": str(tmp_path), "cwd": str(Path.cwd())},
        "mode": RunMode.RUN,
        "overrides": {"task": []},
    }
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create(job))
    with pytest.raises(KeyboardInterrupt):
        cli._job.__wrapped__(OmegaConf.create())  # without Hydra, which would set up the log anew


PLUGIN = """
import ctypes
from neurexp.experiments import token_length

class Stuck(token_length.TokenLength):
    def analyse(self, plan, results):
        print("stuck", flush=True)
        ctypes.CDLL(None).usleep(ctypes.c_uint(60_000_000))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_run_in_native_code_is_left_within_a_second_and_in_order(tmp_path, number):
    (tmp_path / "stuck.py").write_text(PLUGIN)
    options = ("model=mini", "dataset=pydoc", "dataset.tokens=64", "experiment.plugin=stuck.Stuck", "hydra.run.dir=run")
    process = subprocess.Popen(
        [sys.executable, "-m", "neurexp", *options],
        cwd=tmp_path,
        env=environment(tmp_path / "hf", PYTHONPATH=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert process.stdout is not None
    assert any(line == "stuck\n" for line in process.stdout)
    start = time.monotonic()
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - start < 2  # one, and what a busy machine adds
    assert process.returncode == 130
    assert told == "error: interrupted\n"
    (run,) = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}").search_runs(["1"])
    assert run.info.status == "KILLED"
    assert not list(tmp_path.rglob("*.tmp"))


def test_commands_that_the_work_starts_hear_signals():
    def blocked() -> str:
        told = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
        return next(line for line in told.splitlines() if line.startswith("SigBlk"))

    assert hearing_signals(blocked) == blocked()
