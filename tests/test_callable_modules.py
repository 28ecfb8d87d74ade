"""`neurexp.run`, `neurexp.compare` and `neurexp.runs` are modules and can be called, whatever was imported first."""

import inspect
import subprocess
import sys

import pytest

import neurexp

NAMES = ("run", "compare", "runs")


@pytest.mark.parametrize(
    "script",
    [
        "import neurexp; first = neurexp.{0}; import neurexp.{0}; assert first is neurexp.{0}",
        "import neurexp.{0}; import neurexp",
        "from neurexp import {0}; import neurexp; assert {0} is neurexp.{0}",
        "import neurexp.runs.run_name, neurexp.runs, neurexp",
    ],
)
def test_in_every_order_of_imports_and_without_heavy_ones(script):
    checks = "".join(
        f"assert callable(neurexp.{name}) and neurexp.{name}.__name__ == 'neurexp.{name}'\n" for name in NAMES
    )
    light = "import sys; heavy = {'torch', 'pandas', 'mlflow', 'transformers', 'matplotlib'} & set(sys.modules)\n"
    code = "\n".join(script.format(name) for name in NAMES) + f"\n{checks}{light}assert not heavy, heavy"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_help_knows_the_arguments(name):
    module = getattr(neurexp, name)
    names = list(inspect.signature(module).parameters)
    assert names[0] == {"run": "experiment", "compare": "runs", "runs": "outputs"}[name]
    assert f"neurexp.{name}(" in (module.__doc__ or "")


def test_the_modules_are_still_what_python_dash_m_runs():
    for name in ("run", "compare"):
        command = [sys.executable, "-m", f"neurexp.{name}", "--help"]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (process.returncode, process.stderr) == (0, "")
        assert len(process.stdout) > 100
