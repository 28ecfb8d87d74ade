"""What a run says, and the run folder that it is written into. Knows no experiment and no MLflow."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.report.drawing import write_figures
    from neurexp.report.finished import FinishedRun, read_finished
    from neurexp.report.folder import write_folders, write_report
    from neurexp.report.report import Report, Table, with_control

__all__ = [
    "FinishedRun",
    "Report",
    "Table",
    "read_finished",
    "with_control",
    "write_figures",
    "write_folders",
    "write_report",
]

_HOMES = {
    "FinishedRun": "neurexp.report.finished",
    "Report": "neurexp.report.report",
    "Table": "neurexp.report.report",
    "read_finished": "neurexp.report.finished",
    "with_control": "neurexp.report.report",
    "write_figures": "neurexp.report.drawing",
    "write_folders": "neurexp.report.folder",
    "write_report": "neurexp.report.folder",
}
__getattr__ = lazy(__name__, _HOMES)
