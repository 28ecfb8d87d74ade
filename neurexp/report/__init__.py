"""What a run says, and the run folder that it is written into. Knows no experiment and no MLflow."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.report.folder import write_figures, write_report
    from neurexp.report.report import Report, Table, with_control

__all__ = ["Report", "Table", "with_control", "write_figures", "write_report"]

_HOMES = {
    "Report": "neurexp.report.report",
    "Table": "neurexp.report.report",
    "with_control": "neurexp.report.report",
    "write_figures": "neurexp.report.folder",
    "write_report": "neurexp.report.folder",
}
__getattr__ = lazy(__name__, _HOMES)
