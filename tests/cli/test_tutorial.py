"""The tutorial runs from top to bottom in a real kernel, and what is stored in it is what it gives; interrupts there.

`python tests/cli/test_tutorial.py` runs it in a new folder and stores its outputs in docs/tutorial.ipynb.
"""

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra dev brings it")
pytest.importorskip("ipykernel", reason="the extra dev brings it")
from jupyter_client.manager import KernelManager  # noqa: E402
from nbclient import NotebookClient  # noqa: E402

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of the kernel's libraries


def executed(folder: Path) -> Any:
    """The tutorial, run anew in `folder`."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=400, kernel_name="python3", coalesce_streams=True, resources=where).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":  # a bar that has gone leaves blanks
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr" or one["text"].strip()]
    return notebook


def shown(cell: Any) -> list[tuple[str, ...]]:
    """What a cell's outputs are."""
    kinds = [(one.output_type, one.get("name", ""), *sorted(one.get("data", ()))) for one in cell.get("outputs", ())]
    return [kind for kind in kinds if kind[:2] != ("stream", "stderr")]


def told(cell: Any) -> list[str]:
    """The findings in a cell's printed text, without their numbers: another processor may round them otherwise."""
    text = "".join(one["text"] for one in cell.get("outputs", ()) if one.get("name") == "stdout")
    return [re.sub(r"[\d.,]+", "N", line) for line in text.splitlines() if line.startswith("  • ")]


def test_the_tutorial_gives_what_is_stored_in_it(tmp_path):
    stored, new = nbformat.read(NOTEBOOK, as_version=4), executed(tmp_path)
    assert [shown(cell) for cell in new.cells] == [shown(cell) for cell in stored.cells]
    assert [told(cell) for cell in new.cells] == [told(cell) for cell in stored.cells], "store its outputs anew"
    assert sum(len(told(cell)) for cell in stored.cells) > 5
    assert all(cell.outputs for cell in stored.cells if cell.cell_type == "code" and "import" not in cell.source)
    errors = [one for cell in new.cells for one in cell.get("outputs", ()) if one.get("name") == "stderr"]
    assert errors == []
    assert NOTEBOOK.stat().st_size < 800_000


@pytest.fixture
def kernel(tmp_path) -> Iterator[Any]:
    """A client of a real kernel in `tmp_path`, with its manager as `.manager`."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    client.manager = manager
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def outputs(client: Any, code: str, timeout: float = 120, until: str = "") -> list[dict[str, Any]]:
    """What a cell puts out. It is interrupted as soon as it has put out the text `until`."""
    found: list[dict[str, Any]] = []

    def heard(message: dict[str, Any]) -> None:
        if message["msg_type"] in ("stream", "error", "execute_result"):
            found.append(message["content"])
        if until and until in str(message["content"].get("text", "")):
            client.manager.interrupt_kernel()

    client.execute_interactive(code, timeout=timeout, output_hook=heard)
    return found


CALL = """neurexp.run("token_length", model="mini", dataset="pydoc", tracking="off",
    **{"dataset.tokens": %s, "run.reuse": False, "run.checkpoint_every": 0.1})"""


def test_a_kernel_shows_progress_stops_at_once_and_goes_on_with_the_next_cell(kernel):
    assert outputs(kernel, "import neurexp, signal; before = signal.getsignal(signal.SIGINT)") == []
    start = time.monotonic()
    stopped = outputs(kernel, CALL % 100_000, until="Text: 100000 tokens")
    assert time.monotonic() - start < 60
    assert stopped[-1]["ename"] == "KeyboardInterrupt"
    done = outputs(kernel, f"run = {CALL % 8192}\nassert signal.getsignal(signal.SIGINT) is before")
    streams = {name: "".join(one["text"] for one in done if one.get("name") == name) for name in ("stdout", "stderr")}
    assert streams["stdout"].count("Correlation with token length") == 1
    assert "%|" in streams["stderr"]  # a bar
    assert [one for one in done if "ename" in one] == []


def test_a_kernel_shows_a_mistake_as_one_line_and_a_figure_inline(kernel):
    (mistake,) = outputs(kernel, "import neurexp\nneurexp.run('token_length', model='mini', **{'dataset.tokens': 0})")
    assert mistake["traceback"] == ["UserError: dataset.tokens=0: give a whole number of 1 or more"]
    assert outputs(kernel, "import matplotlib; print(matplotlib.get_backend())")[0]["text"].strip().endswith("inline")


def store() -> None:
    """Stores the outputs of a new run in the notebook."""
    with TemporaryDirectory(prefix="tutorial-") as folder:
        nbformat.write(executed(Path(folder)), NOTEBOOK)


if __name__ == "__main__":
    sys.exit(store())
