"""`neurexp.run(…)` in this very process: the run of the command line, and a process that is as it was before."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest
from conftest import environment
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer

import neurexp
from neurexp.errors import UserError
from neurexp.runs.rerun import arguments_of

SMALL = {"model": "mini", "dataset": "pydoc", "device": "cpu", "tracking": "off"}
SMALL |= {"dataset.tokens": 128, "dataset.sequence_length": 64}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Outputs lie there, no Hub is asked, and figures are drawn without being painted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **options: path.write_bytes(b"dot"))
    return tmp_path


def state() -> dict[str, object]:
    """What a process has one of."""
    root, ours = logging.getLogger(), logging.getLogger("neurexp")
    return {
        "hydra": GlobalHydra.instance().hydra,
        "version": VersionBase.instance().version_base,
        "configs": dict(ConfigStore.instance().repo),
        "resolvers": dict(BaseContainer._resolvers),
        "signals": [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)],
        "warnings": warnings.showwarning,
        "loggers": (root.level, list(root.handlers), ours.level, ours.propagate, list(ours.handlers)),
        "errors": (sys.stdout.errors, sys.stderr.errors),
        "environment": {name: os.environ.get(name) for name in ("HYDRA_FULL_ERROR", "MPLBACKEND", "NEUREXP_TRACEBACK")},
        "folder": os.getcwd(),  # noqa: PTH109
        "arguments": list(sys.argv),
    }


def test_a_call_runs_prints_once_and_leaves_the_process_as_it_was(capsys, tmp_path):
    import torch

    text = tmp_path / "my text, ‘names’.txt"
    text.write_text("The owl sat on a lower branch; das Käuzchen too. " * 30, "utf-8")
    heard = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(heard)
    torch.set_num_threads(1)
    before = state()
    options = SMALL | {"dataset": "text", "dataset.path": text, "experiment.layer": [1, 3], "experiment.site": "PROJ"}
    run = neurexp.run("token_length", overrides=["run.seed=3", "device.threads=2"], **options)
    logging.getLogger().removeHandler(heard)
    before["loggers"][1].remove(heard)
    assert state() == before
    assert torch.get_num_threads() == 1
    told = capsys.readouterr()
    assert all(told.out.count(line) == 1 for line in run.findings)
    assert "Run folder: outputs/token_length/" in told.out
    assert "•" not in told.err
    assert run.folder.parent == tmp_path / "outputs" / "token_length"
    assert run.title == "mini on my text, ‘names’.txt"
    assert set(run.neurons["layer"]) == {1, 3}
    command = run.summary["provenance"]["command_line"]
    assert command.startswith("python")
    assert "-m neurexp experiment=token_length model=mini" in command
    assert (run.folder / "neurexp.log").read_text("utf-8").count(run.findings[0]) == 1
    # The overrides are kept as those of a command are: the run can be repeated
    wanted = DictConfig(OmegaConf.load(run.folder / ".hydra" / "config.yaml"))
    assert "run.seed=3" in arguments_of(run.folder, wanted, run.summary["provenance"])


@pytest.mark.slow
def test_a_second_call_in_a_thread_and_in_a_running_loop(capsys, tmp_path):
    found = []

    async def cell() -> None:
        found.append(neurexp.run("token_length", **SMALL, **{"hydra.run.dir": tmp_path / "in a loop"}))
        await asyncio.to_thread(
            lambda: found.append(neurexp.run("token_length", **SMALL, **{"hydra.run.dir": tmp_path / "in a thread"}))
        )

    before = state()
    asyncio.run(cell())
    assert state() == before
    first, second = found
    assert first.neurons.equals(second.neurons)
    assert capsys.readouterr().out.count(first.findings[0]) == 2


def test_a_call_within_another_program_of_hydra(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "theirs.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path / "conf"), job_name="theirs", version_base="1.2"):
        before = state()
        with pytest.raises(UserError, match=r"^dataset.tokens=0: give a whole number of 1 or more$"):
            neurexp.run("token_length", **SMALL | {"dataset.tokens": 0})
        assert state() == before
        assert compose("theirs").a == 1


@pytest.mark.parametrize(
    ("options", "overrides", "message"),
    [
        (
            {"dataset.tokens": "many"},
            [],
            "dataset.tokens: Value 'many' of type 'str' could not be converted to Integer",
        ),
        ({"experiment": "token_lenght"}, [], "experiment=token_lenght: no such choice; did you mean token_length?"),
        ({"dataset.token": 3}, [], "dataset.token: no such option; did you mean dataset.tokens?"),
        ({"experiment.control": "no"}, [], "experiment.control=no: give off"),
        ({}, ["-m"], "overrides: -m: sweeps are for the command line"),
        ({}, "run.seed=3", "overrides='run.seed=3': give a list of texts"),
        ({}, ["run.seed"], "run.seed: cannot be read as OPTION=VALUE"),
        ({}, ["experiment.layer=1,2"], "Ambiguous value for argument 'experiment.layer=1,2'"),
        ({"run.outputs": ""}, [], "run.outputs is empty"),
        ({"config_dir": "none"}, [], "config_dir=none: no such folder"),
    ],
)
def test_a_mistake_is_the_line_of_the_command(options, overrides, message, capsys, tmp_path):
    before = state()
    given = {"experiment": "token_length"} | SMALL | options
    with pytest.raises(UserError, match="^") as caught:  # noqa: RUF043
        neurexp.run(overrides=overrides, **given)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    printed = capsys.readouterr()
    assert printed.out in ("", "Loading PyTorch and transformers for token_length\n")
    assert printed.err == ""
    assert state() == before
    assert not list(tmp_path.glob("outputs/*/*/summary.json"))


def test_a_finished_run_is_not_overwritten(tmp_path):
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "summary.json").write_text("{}")
    with pytest.raises(UserError, match=r"^hydra.run.dir=.*done: holds a finished run; choose another folder$"):
        neurexp.run("token_length", **SMALL, **{"hydra.run.dir": tmp_path / "done"})


def test_a_bug_is_raised_as_it_is_and_its_traceback_kept(monkeypatch, tmp_path):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of a plugin")

    monkeypatch.setattr("neurexp.runs.driver.run", broken)
    with pytest.raises(ZeroDivisionError, match="of a plugin"):
        neurexp.run("token_length", **SMALL, **{"hydra.run.dir": tmp_path / "broken"})
    assert "of a plugin" in (tmp_path / "broken" / "traceback.txt").read_text()


SCRIPT = """
import sys, neurexp
assert not {"torch", "hydra", "pandas"} & set(sys.modules)
run = neurexp.run("token_length", model="mini", dataset="pydoc", tracking=sys.argv[1], **{"dataset.tokens": 8000,
    "device.batch_size": 1, "hydra.run.dir": "run", "run.checkpoint_every": 0.01, "run.reuse": False,
    "run.resume": sys.argv[2] == "True"})
print("back", run.metrics["tokens"])
try:
    neurexp.run("token_length", model="mini", **{"dataset.tokens": 0})
except neurexp.UserError as error:
    assert str(error) == "dataset.tokens=0: give a whole number of 1 or more", error
"""


def script(tmp_path, *arguments: str, **options):
    (tmp_path / "script.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, "script.py", *arguments],
        cwd=tmp_path,
        env=environment(tmp_path / "hf"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_ctrl_c_in_a_script_is_a_keyboard_interrupt_and_the_run_can_go_on(tmp_path):
    process = script(tmp_path, "off", "False")
    while not list(tmp_path.glob("run/checkpoint_*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert "{'run.resume': True, 'hydra.run.dir': " in error
    assert not (tmp_path / "run" / "summary.json").exists()
    told, error = script(tmp_path, "off", "True").communicate(timeout=120)
    assert "Going on with the run of" in told
    assert told.rstrip().endswith("back 8000")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["provenance"]["resumed"]


@pytest.mark.slow
def test_a_script_logs_its_run_in_mlflow_and_opens_it_by_its_id(tmp_path):
    told, error = script(tmp_path, "mlflow", "False").communicate(timeout=120)
    assert error == ""
    assert told.rstrip().endswith("back 8000")
    run_id = json.loads((tmp_path / "run" / "summary.json").read_text())["mlflow_run_id"]
    opened = neurexp.open_run(run_id, outputs=tmp_path / "outputs")
    assert opened.metrics["tokens"] == 8000
    assert opened.neurons.equals(neurexp.open_run(tmp_path / "run").neurons)


def test_threads_wait_for_each_other(monkeypatch):
    inside, most = [], []

    def watched(*_: object) -> None:
        inside.append(threading.get_ident())
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        raise UserError("enough")

    monkeypatch.setattr("neurexp.runs.driver.run", watched)

    def call() -> None:
        with pytest.raises(UserError, match=r"^enough$"):
            neurexp.run("token_length", **SMALL)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
