"""`neurexp.compare([RUN, RUN])` and `python -m neurexp.compare RUN RUN` compare finished runs.

This module is callable (`lazy.make_callable`). Imports nothing heavy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neurexp.lazy import make_callable

if TYPE_CHECKING:
    from neurexp.runs.comparison import Comparison
    from neurexp.runs.opened_run import Run


def compare(
    runs: "Sequence[Run | str | Path]",
    uri: str | None = None,
    outputs: str | Path = "outputs",
    lead: float = 1.0,
    by: Sequence[str] = (),
) -> "Comparison":
    """Compares finished runs: findings, tables and figures. See `runs.comparison.compare`."""
    from neurexp.runs.comparison import compare as compared

    return compared(runs, uri, outputs, lead, by)


make_callable(__name__, compare)


if __name__ == "__main__":
    from neurexp.runs.compare import main

    main()
