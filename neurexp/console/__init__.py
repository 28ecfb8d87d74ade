"""The person at the terminal: progress, warnings, signals and environment variables. Knows no experiment."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.console.interrupts import hearing_signals
    from neurexp.console.progress import Progress, over

__all__ = ["Progress", "hearing_signals", "over"]

_HOMES = {
    "Progress": "neurexp.console.progress",
    "hearing_signals": "neurexp.console.interrupts",
    "over": "neurexp.console.progress",
}
__getattr__ = lazy(__name__, _HOMES)
