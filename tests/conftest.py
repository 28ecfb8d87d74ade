"""Fixtures that several tests share: the command line, one finished run of it, the extra data."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from commands import Commands, Running
from hub import kept_port
from threadpoolctl import threadpool_limits

from neurexp.cli import SELDOM

Cli = Callable[..., subprocess.CompletedProcess[str]]
NO_HUB = "http://127.0.0.1:9"  # refuses at once

gc.set_threshold(*SELDOM)  # as the command line does, and before the tests import anything


def environment(home: Path, **changes: str) -> dict[str, str]:
    """This process's environment without what steers Hugging Face, Hydra or MLflow; no Hub can be reached."""
    steering = ("HF_", "HUGGING", "TRANSFORMERS_", "HYDRA_", "MLFLOW_", "NEUREXP_TRACEBACK", "COMP_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    return kept | {"HF_HOME": str(home), "HF_ENDPOINT": NO_HUB} | changes


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """`cli("model=mini", …, HF_ENDPOINT=…)` runs `python -m neurexp` in `tmp_path`: its outputs lie there too."""

    def run(
        *arguments: str, timeout: int = 240, encoding: str = "utf-8", **changes: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "neurexp", *arguments],
            cwd=tmp_path,
            env=environment(tmp_path / "hf", **changes),
            capture_output=True,
            encoding=encoding,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def hub_port() -> Iterator[int]:
    """Where `commands` look for the Hub: refuses at once, but while a test has a `Hub` there."""
    with kept_port() as port:
        yield port


@pytest.fixture(scope="session")
def _hub_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


@pytest.fixture
def hub_home(_hub_home: Path) -> Iterator[Path]:
    """HF_HOME of `commands`, emptied after the test: others rely on nothing being kept of a Hub."""
    yield _hub_home
    shutil.rmtree(_hub_home)
    _hub_home.mkdir()


@pytest.fixture(scope="session")
def commands(_hub_home: Path, hub_port: int) -> Iterator[Commands]:
    """Starts commands fast, without a Hub but where a test has one at `hub_port` (`commands.py`).

    Starting the process takes as long as some twenty commands, so all tests share this one.
    """
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{hub_port}"}
    silence = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"}  # seconds that a client waits for an answer
    # mlflow reads its logging level when it is imported, which is here before neurexp can set it
    commands = Commands(environment(_hub_home, MLFLOW_LOGGING_LEVEL="CRITICAL", **hub, **silence))
    yield commands
    commands.close()


@pytest.fixture
def quick_cli(commands: Commands, tmp_path: Path) -> Cli:
    """As `cli`, but forked from a process that is warm: for the many commands whose start is not what is tested.

    Figures are painted only with `draws=True`.
    """
    return lambda *arguments, **options: commands.run(arguments, tmp_path, **options)


@pytest.fixture
def quick_start(commands: Commands, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """`quick_start("model=mini", …)` starts a command as `quick_cli` does, and returns while it runs.

    It is killed at the test's end, if it runs still.
    """
    started: list[Running] = []

    def start(*arguments: str, **options) -> Running:
        started.append(commands.start(arguments, tmp_path, **options))
        return started[-1]

    yield start
    for running in started:
        running.kill()


@dataclass(frozen=True)
class Finished:
    """A run that has ended well: what it printed, its run folder and the folder of all outputs."""

    process: subprocess.CompletedProcess[str]
    folder: Path
    outputs: Path


# Two full batches would hide a mistake at their seams: five sequences, the last one padded, in batches of two
FINISHED_ARGUMENTS = (
    "experiment=token_length",
    "model=mini",
    "dataset=pydoc",
    "device=cpu",
    "dataset.tokens=1200",
    "dataset.sequence_length=256",
    "device.batch_size=2",
)


@pytest.fixture(scope="session")
def finished(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One small run of the embedded model over the embedded text, tracked in MLflow; look, do not touch."""
    where = tmp_path_factory.mktemp("finished")
    process = commands.run(FINISHED_ARGUMENTS, where, draws=True)
    assert process.returncode == 0, process.stderr
    (folder,) = (where / "outputs" / "token_length").iterdir()
    return Finished(process, folder, where / "outputs")


def run_in(folder: Path, *command: str | Path, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    """A command in `folder`, with no Hub to be reached."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder / "hf", HF_ENDPOINT=NO_HUB),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def sampled(cases: Sequence, every: int) -> list:
    """One of every so many cases stays in the fast tier; the others go to the slow one."""
    given = [one if hasattr(one, "marks") else pytest.param(*one) for one in cases]
    return [
        one if index % every == 0 else pytest.param(*one.values, id=one.id, marks=[*one.marks, pytest.mark.slow])
        for index, one in enumerate(given)
    ]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of extra data that the tests can do without."""
    where = os.environ.get("NEUREXP_DATA")
    if not where:
        pytest.skip("NEUREXP_DATA is not set")
    return Path(where)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What the tests in this process would spend their time on, each time anew.

    A collection of garbage walks through all that the libraries keep, for half a second, and some tests and the
    benchmark collect dozens of times: what there is before the first test is left out of it. A new store of MLflow's
    need not wait for its migrations (`stores.py`).
    """
    gc.collect()
    gc.freeze()
    if "mlflow" in sys.modules:
        import stores

        stores.copy_tables()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # Hypothesis, where no test has imported it, is imported now, and asks who refers to what


def pytest_configure(config: pytest.Config) -> None:
    """Keeps this process from the Hub and from the user's cache of it, and all to one thread.

    This comes before torch is imported. On a busy machine two threads wait for each other most of the time, and where
    a test wants several, those that wait sleep: they would keep a processor busy that the others need.
    """
    home = TemporaryDirectory(prefix="neurexp-hf-")
    config.add_cleanup(home.cleanup)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    os.environ.update(HF_HOME=home.name, HF_ENDPOINT=NO_HUB, OMP_WAIT_POLICY="passive", **threads)
    threadpool_limits(1)  # of numpy's BLAS: pytest-randomly has imported it already
