"""The environment's own variables: each does what a user expects, or one line says why not."""

import json
import logging
import os
import subprocess
import sys
import warnings

import pytest
from conftest import environment as environment_of
from omegaconf import OmegaConf

from neurexp.config import schema as config
from neurexp.console import environment, terminal
from neurexp.errors import UserError
from neurexp.runs import compare, rerun
from neurexp.tracking import tracker as tracking

SMALL = ("model=mini", "dataset=pydoc", "dataset.tokens=64", "experiment.layer=0", "tracking=off")


@pytest.mark.parametrize("value", ["1", "", " 4 ", "4,2", "16"])
def test_numbers_of_threads_are_taken(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    environment.check()


@pytest.mark.parametrize("value", ["abc", "0", "-1", "2.5", "4,", "4;2"])
@pytest.mark.parametrize("name", environment.THREADS)
def test_what_is_no_number_of_threads_is_told(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{name}={value}: give a whole number"):
        environment.check()


def test_a_run_tells_it_before_the_libraries_are_imported(quick_cli):
    process = quick_cli(*SMALL, OMP_NUM_THREADS="abc")
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: OMP_NUM_THREADS=abc: give a whole number of 1 or more, or unset it")


def test_matplotlib_needs_no_window_and_its_warnings_stay_off_the_terminal(tmp_path):
    """A backend that this machine has not ends nothing; a folder that cannot be written is not worth a line."""
    code = (
        "from neurexp.console import terminal\nterminal.prepare()\n"
        "with terminal.without_a_log():\n    import neurexp.figures.style\n"
        "import matplotlib; print(matplotlib.get_backend())"
    )
    nowhere = os.devnull + "/folder"
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=environment_of(tmp_path, MPLBACKEND="nonsense", MPLCONFIGDIR=nowhere, HOME=nowhere),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (process.stdout, process.stderr, process.returncode) == ("agg\n", "", 0)


def _warn(*_: object) -> None:
    warnings.warn("divide by zero", RuntimeWarning, stacklevel=1)
    logging.getLogger("matplotlib").warning("a temporary folder")
    logging.getLogger("neurexp.tracking").warning("ours")


@pytest.mark.parametrize(
    ("module", "work", "arguments"),
    [
        (compare, "_run", ["A", "B"]),
        (tracking, "log_later", ["A"]),
        (rerun, "repeat", ["."]),
    ],
)
def test_the_other_commands_show_no_librarys_warning(module, work, arguments, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, work, _warn)
    monkeypatch.setattr(sys, "argv", ["neurexp", *arguments])
    monkeypatch.setattr(sys, "warnoptions", [])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    monkeypatch.setattr(tracking.log, "level", tracking.log.level)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        try:
            module.main()
        except SystemExit as end:
            assert not end.code
    assert capsys.readouterr().err == "ours\n"


def test_a_warning_ends_what_a_user_wants_ended(monkeypatch):
    """PYTHONWARNINGS=error is taken at its word."""
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    with warnings.catch_warnings(), pytest.raises(RuntimeWarning, match="divide"), terminal.warnings_in_the_log():
        warnings.simplefilter("error")
        warnings.warn("divide by zero", RuntimeWarning, stacklevel=1)


@pytest.mark.parametrize("dotted", ["Class", "..Class", ".Class", "no.such.Class", "neurexp.run.Class", "neurexp."])
def test_a_plugin_that_is_nowhere_is_told(dotted):
    with pytest.raises(UserError, match="no such class"):
        config.typed_options(OmegaConf.create({"plugin": dotted}))


def test_a_librarys_refusal_is_not_taken_for_a_missing_class(monkeypatch, tmp_path):
    """As of tqdm, where TQDM_MININTERVAL is no number: the experiment is there, and the library says what is wrong."""
    (tmp_path / "a_plugin_of_mine.py").write_text("float('abc')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="could not convert string to float: 'abc'"):
        config.typed_options(OmegaConf.create({"plugin": "a_plugin_of_mine.Mine"}))


@pytest.mark.slow
def test_the_environment_is_respected_and_no_secret_of_it_is_kept(cli, tmp_path):
    token = "hf_" + "Secret" * 6
    nowhere = os.devnull + "/folder"
    process = cli(
        *SMALL,
        **dict.fromkeys(("HOME", "MPLCONFIGDIR", "TMPDIR"), nowhere),
        **dict.fromkeys(("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "FORCE_COLOR", "PYTHONOPTIMIZE"), "1"),
        HF_TOKEN=token,
        CUDA_VISIBLE_DEVICES="",
        COLUMNS="10",
        MPLBACKEND="QtAgg",
        MLFLOW_TRACKING_URI="",
        MLFLOW_EXPERIMENT_NAME="",
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "\x1b" not in process.stdout
    (summary,) = tmp_path.glob("outputs/token_length/*/summary.json")
    facts = json.loads(summary.read_text("utf-8"))["provenance"]
    assert (facts["threads"], facts["environment"]["OMP_NUM_THREADS"]) == (1, "1")
    kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(token.encode() in content for content in [process.stdout.encode(), *kept])
