"""From a run folder to MLflow. Knows no experiment."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.tracking.tracker import Tracker, log_later, start

__all__ = ["Tracker", "log_later", "start"]

_HOMES = {
    "Tracker": "neurexp.tracking.tracker",
    "log_later": "neurexp.tracking.tracker",
    "start": "neurexp.tracking.tracker",
}
__getattr__ = lazy(__name__, _HOMES)
