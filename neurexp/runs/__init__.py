"""One run from its config to its folder, resumed runs, sweeps and comparisons: the only room that sees all others."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
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
