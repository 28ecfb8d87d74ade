"""One run from its config to its folder, resumed runs, sweeps and comparisons: the only room that sees all others.

The package is callable: `neurexp.runs("outputs")` lists the finished runs of a folder (`listing`).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from neurexp.lazy import lazy, make_callable

if TYPE_CHECKING:
    from pandas import DataFrame

    from neurexp.runs.compare import read_run
    from neurexp.runs.driver import run
    from neurexp.runs.measure import Measurement

__all__ = ["Measurement", "read_run", "run"]

_HOMES = {
    "Measurement": "neurexp.runs.measure",
    "read_run": "neurexp.runs.compare",
    "run": "neurexp.runs.driver",
}
__getattr__ = lazy(__name__, _HOMES)


def _runs(outputs: str | Path = "outputs") -> "DataFrame":
    """The finished runs in a folder of outputs, the latest first. See `listing.runs`."""
    from neurexp.runs.listing import runs

    return runs(outputs)


make_callable(__name__, _runs)
