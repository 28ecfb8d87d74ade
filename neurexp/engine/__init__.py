"""The engine: token batches through a model, reduced inside hooks. Knows no token length, no noun, no experiment."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.engine.notebook import capture
    from neurexp.engine.passes import run_pass
    from neurexp.engine.plan import EditedPass, GradientPass, Pass, run

__all__ = ["EditedPass", "GradientPass", "Pass", "capture", "run", "run_pass"]

_HOMES = {
    "EditedPass": "neurexp.engine.plan",
    "GradientPass": "neurexp.engine.plan",
    "Pass": "neurexp.engine.plan",
    "capture": "neurexp.engine.notebook",
    "run": "neurexp.engine.plan",
    "run_pass": "neurexp.engine.passes",
}
__getattr__ = lazy(__name__, _HOMES)
