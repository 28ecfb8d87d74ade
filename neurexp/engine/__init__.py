"""The engine: token batches through a model, reduced inside hooks. Knows no token length, no noun, no experiment."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.engine.passes import capture, run_pass
    from neurexp.engine.plan import GradientPass, Pass, run

__all__ = ["GradientPass", "Pass", "capture", "run", "run_pass"]

_HOMES = {
    "GradientPass": "neurexp.engine.plan",
    "Pass": "neurexp.engine.plan",
    "capture": "neurexp.engine.passes",
    "run": "neurexp.engine.plan",
    "run_pass": "neurexp.engine.passes",
}
__getattr__ = lazy(__name__, _HOMES)
