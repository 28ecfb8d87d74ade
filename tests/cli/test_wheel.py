"""The built wheel, installed elsewhere and run from another folder, is the whole program."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import environment

from neurexp.pages.writing import SITE_FILES

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).resolve().parents[2]


def pip(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)], check=True
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
    pip("wheel", CHECKOUT, "--no-deps", "--wheel-dir", folder, *isolation)
    (wheel,) = folder.glob("neurexp-*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python with the wheel's neurexp before any other, in a folder that has nothing to do with the checkout."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    pip("install", wheel, "--no-deps", "--no-index", "--target", site)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=elsewhere,
            env=environment(elsewhere / "hf", PYTHONPATH=str(site)),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    where = run(
        "-c", "import neurexp.config.schema; print(neurexp.__file__, neurexp.config.schema.CONFIG_FOLDER)"
    ).stdout.split()
    assert where == [str(site / "neurexp" / "__init__.py"), str(site / "neurexp" / "conf")]
    return run


def test_the_wheel_holds_every_module_config_and_the_embedded_model(wheel):
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    modules = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "neurexp").rglob("*.py")}
    configs = {f"neurexp/{path.relative_to(CHECKOUT).as_posix()}" for path in (CHECKOUT / "conf").rglob("*.yaml")}
    mini = {f"neurexp/mini/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")}
    pages = {f"neurexp/pages/site/{name}" for name in SITE_FILES}
    assert held >= modules | configs | mini | pages
    strays = {name for name in held if not name.startswith("neurexp/") or "__pycache__" in name or "tests/" in name}
    assert not strays
    assert wheel.stat().st_size < 12_000_000


def test_help_and_config_answer_from_the_wheel(python):
    told = python("-m", "neurexp", "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert "model: gpt_neo_125m, gpt_neo_1_3b, hub, mini" in told.stdout
    config = python("-m", "neurexp", "--cfg", "job", "model=mini")
    assert (config.returncode, config.stderr) == (0, "")
    assert "  name: mini" in config.stdout.splitlines()


def test_a_script_runs_an_experiment_with_the_wheel_and_opens_it(python, tmp_path):
    script = """
import neurexp
run = neurexp.run("token_length", model="mini", dataset="pydoc", tracking="off", **{"dataset.tokens": 64})
again, = neurexp.runs("outputs")["folder"]
print(len(neurexp.open_run(again).neurons), run.folder)
"""
    (tmp_path / "script.py").write_text(script)
    process = python(str(tmp_path / "script.py"))
    assert (process.returncode, process.stderr) == (0, "")
    count, folder = process.stdout.splitlines()[-1].split(" ", 1)
    assert count == str(6 * 768)
    assert str(CHECKOUT) not in folder


def test_a_run_from_the_wheel_leaves_its_results_in_the_working_folder(python, tmp_path):
    arguments = (
        "model=mini",
        "dataset=pydoc",
        "dataset.tokens=64",
        "tracking=off",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    process = python("-m", "neurexp", *arguments)
    assert (process.returncode, process.stderr) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["metrics"]["tokens"] == 64
    assert summary["provenance"]["versions"]["neurexp"] is not None
    assert summary["provenance"]["git_commit"] is None
    assert str(CHECKOUT) not in (tmp_path / "run" / ".hydra" / "hydra.yaml").read_text()
