"""The finished runs of a folder of outputs, as a table. Reads their summaries only."""

import json
import re
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurexp.errors import UserError
from neurexp.report.folder import SUMMARY

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ("experiment", "model", "dataset", "date", "headline", "folder")
_DATE = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
DEPTHS = ("*", "*/*", "*/*/*")  # a run, EXPERIMENT/DATE, multirun/DATE/JOB


def runs(outputs: str | Path = "outputs") -> "DataFrame":
    """The finished runs in a folder of outputs, the latest first: a row for each, jobs of sweeps included.

    Returns:
        `experiment`, `model`, `dataset`, `date` (when it began; for a folder of another name, when it was written),
        `headline` (its first finding about neurons), and `folder`, which `open_run` takes.

    Raises:
        UserError: there is no such folder.
    """
    from pandas import DataFrame

    where = Path(outputs).expanduser()
    if not where.is_dir():
        raise UserError(f"outputs={outputs}: no such folder; give the folder that runs go to (run.outputs)")
    files = sorted(chain.from_iterable(where.glob(f"{depth}/{SUMMARY}") for depth in DEPTHS))
    rows = [row for file in files if (row := _row(file)) is not None]
    rows.sort(key=lambda row: row["date"], reverse=True)
    return DataFrame(rows, columns=list(COLUMNS))


def _row(file: Path) -> dict[str, Any] | None:
    """None for what is no run of an experiment: a sweep, a comparison, a damaged file."""
    try:
        summary = json.loads(file.read_text("utf-8"))
        if not isinstance(summary["setting"], str) or not isinstance(summary["metrics"], dict):
            return None
        findings = [str(one) for one in summary.get("findings") or ()]
        headline = next((one for one in findings if "neuron" in one), findings[0] if findings else "")
        return {
            "experiment": str(summary["experiment"]),
            "model": str(summary.get("model")),
            "dataset": str(summary.get("dataset")),
            "date": _date(file),
            "headline": headline,
            "folder": str(file.parent),
        }
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None


def _date(file: Path) -> datetime:
    named = next((found for part in reversed(file.parts) if (found := _DATE.match(part))), None)
    if named is not None:
        return datetime.strptime(named[0], "%Y-%m-%d_%H-%M-%S")
    return datetime.fromtimestamp(int(file.stat().st_mtime))
