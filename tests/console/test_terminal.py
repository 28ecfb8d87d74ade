"""Terminals of any encoding, closed, full or gone: no traceback takes a finding's place; warnings of libraries."""

import io
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from conftest import environment

from neurexp.console import terminal

FINDING = "  • t = −1.5 for “New York”: η² ≥ 0.2 … नमस्ते é"
SMALL = ("experiment=token_length", "model=mini", "dataset=pydoc", "dataset.tokens=64", "tracking=off")
SPEAK = f"""
import contextlib, logging, sys
from neurexp.console import terminal
terminal.prepare()
logging.basicConfig(stream=sys.stdout, level="INFO", format="%(message)s")
with terminal.warnings_in_the_log():
    logging.info({FINDING!a})
    with contextlib.suppress(OSError):
        print({FINDING!a}, file=sys.stderr)
reason = terminal.flush()
sys.exit(reason and str(reason))
"""


def speak(redirect: str = "", **changes: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirect}', sys.executable, SPEAK],
        env=environment(Path("/nowhere"), **changes),
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("changes", "encoding", "expected"),
    [
        ({"PYTHONIOENCODING": "utf-8"}, "utf-8", FINDING),
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1", None),
        (
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            "ascii",
            '  * t = -1.5 for "New York": eta2 >= 0.2 ... \\u0928\\u092e\\u0938\\u094d\\u0924\\u0947 \\xe9',
        ),
    ],
)
def test_what_a_terminal_cannot_show_is_replaced(changes, encoding, expected):
    process = speak(**changes)
    shown = process.stdout.decode(encoding).splitlines()
    if expected is None:  # Latin-1 has ² and é
        expected = '  * t = -1.5 for "New York": eta² >= 0.2 ... \\u0928\\u092e\\u0938\\u094d\\u0924\\u0947 é'
    assert shown == [expected]
    assert process.stderr.decode(encoding).splitlines() == [expected]


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&- <&-", "2>/dev/full", "| true", "TERM=dumb"])
def test_an_output_that_is_closed_full_or_gone_ends_nothing(redirect):
    process = speak("" if redirect == "TERM=dumb" else redirect, TERM="dumb")
    assert process.returncode == 0
    assert b"Traceback" not in process.stderr
    assert b"Logging error" not in process.stderr


def test_lines_that_were_lost_are_told():
    process = speak(">/dev/full")
    assert process.returncode == 1
    assert process.stderr.decode().splitlines() == [FINDING, "[Errno 28] No space left on device"]


def test_closed_streams_are_no_file_of_the_runs(tmp_path):
    """Where descriptor 1 is closed, the next file that is opened would be what is printed to."""
    code = SPEAK.partition("reason")[0] + f"open({str(tmp_path / 'result')!r}, 'w').write('whole')"
    command = ["bash", "-c", '"$0" -c "$1" >&- 2>&-', sys.executable, code]
    assert subprocess.run(command, env=environment(tmp_path), timeout=60, check=False).returncode == 0
    assert (tmp_path / "result").read_text() == "whole"


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The root logger as Hydra sets it up: the terminal and the run's log, both from WARNING on."""
    root, screen = logging.getLogger(), io.StringIO()
    file = logging.FileHandler(tmp_path / "neurexp.log", encoding="latin-1")
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler(screen), file])
    monkeypatch.setattr(root, "level", logging.WARNING)
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield lambda: (screen.getvalue(), (tmp_path / "neurexp.log").read_text("utf-8"))
    file.close()


def test_warnings_of_libraries_go_into_the_runs_log_and_ours_to_the_terminal(log, capsys):
    with terminal.warnings_in_the_log():
        warnings.warn("divide by zero ²→", RuntimeWarning, stacklevel=1)
        logging.getLogger("urllib3.connectionpool").warning("deprecated")
        logging.getLogger("matplotlib.text").warning("no such font")
        logging.getLogger("matplotlib").error("broken")
        logging.getLogger("neurexp.run").warning("ours")
        logging.getLogger("a_users.plugin").warning("a plugin's")
    assert capsys.readouterr() == ("", "")
    screen, file = log()
    assert screen.splitlines() == ["broken", "ours", "a plugin's"]
    assert "RuntimeWarning: divide by zero ²→" in file
    assert "deprecated" in file
    assert "no such font" in file


def test_a_user_who_asks_for_warnings_sees_them(log, monkeypatch):
    show = warnings.showwarning
    monkeypatch.setattr(sys, "warnoptions", ["always"])  # -W or PYTHONWARNINGS
    logging.getLogger().setLevel(logging.DEBUG)  # hydra.verbose=true
    with terminal.warnings_in_the_log():
        assert warnings.showwarning is show
        logging.getLogger("urllib3.connectionpool").warning("deprecated")
    assert "deprecated" in log()[0]


def test_after_the_run_warnings_are_shown_as_before(log):
    show = warnings.showwarning
    with terminal.warnings_in_the_log():
        assert warnings.showwarning is not show
    assert warnings.showwarning is show


@pytest.mark.slow
def test_a_whole_run_on_a_latin_1_terminal_tells_its_findings(cli, tmp_path):
    latin = {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C", "PYTHONUTF8": "0"}
    process = cli(*SMALL, "experiment.layer=0", encoding="latin-1", **latin)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.count("\n  * ") >= 2
    assert "±" in process.stdout  # it has that one
    (log,) = tmp_path.glob("outputs/token_length/*/neurexp.log")
    assert "  • " in log.read_text("utf-8")
