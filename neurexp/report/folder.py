"""The run folder: what its files are called, and how a report is written into it.

Every file appears whole or not at all, `summary.json` last: a folder without it is no result. Knows no experiment and
no MLflow. Imports nothing heavy.
"""

import json
from pathlib import Path
from typing import Any

from neurexp.errors import UserError, one_line
from neurexp.io.files import whole_file, whole_folder, write_json, write_table, write_tensors
from neurexp.report.report import Report

SUMMARY = "summary.json"
LAYERS, NEURONS = "layers.parquet", "neurons.parquet"
COLUMNS, COLUMNS_TO_READ = "columns.json", "columns.md"  # the data dictionary, for programs and for people
TOKENS, SKIPPED = "tokens.safetensors", "skipped.parquet"
FIGURES = "figures"
LOG, TRACEBACK = "neurexp.log", "traceback.txt"
HYDRA = ".hydra"
CONFIG = f"{HYDRA}/config.yaml"
# Files of a run that is not complete
CHECKPOINT = "checkpoint"  # the prefix of all such files
NOTE, LOCK, CHECKPOINTS = f"{CHECKPOINT}.json", f"{CHECKPOINT}.lock", f"{CHECKPOINT}_*"


def write_report(folder: Path, report: Report) -> None:
    """Writes the tables, the tensors and the data dictionary into `folder`."""
    report.check()
    for name, table in {"layers": report.layers, "neurons": report.neurons, **report.tables}.items():
        if table:
            write_table(folder / f"{name}.parquet", table)
    for name, tensors in report.tensors.items():
        write_tensors(folder / f"{name}.safetensors", tensors, report.notes.get(name))
    present = report.names()
    definitions = {name: text for name, text in report.columns.items() if name in present}
    write_json(folder / COLUMNS, definitions)
    with whole_file(folder / COLUMNS_TO_READ) as path:
        escaped = {name: text.replace("|", "\\|") for name, text in definitions.items()}
        rows = "".join(f"| `{name}` | {definition} |\n" for name, definition in escaped.items())
        path.write_text(f"# Columns, metrics and tensors\n\n| name | definition |\n| --- | --- |\n{rows}", "utf-8")


def write_folders(folder: Path, report: Report) -> None:
    """Writes every further folder of the report into `folder`, whole or not at all."""
    for name, write in report.folders.items():
        with whole_folder(folder / name) as path:
            write(path, folder)


def definitions_in(folder: Path) -> dict[str, str]:
    """The data dictionary of a run folder: name → definition. Older folders have it as a table only."""
    if (folder / COLUMNS).exists():
        return json.loads((folder / COLUMNS).read_text("utf-8"))
    file = folder / COLUMNS_TO_READ
    lines = file.read_text("utf-8", "replace").splitlines() if file.exists() else []
    rows = (line.removeprefix("| ").removesuffix(" |").split(" | ", 1) for line in lines if line.startswith("| `"))
    return {row[0].strip("`"): row[1].replace("\\|", "|") for row in rows if len(row) == 2}


def summary_of(folder: Path) -> dict[str, Any]:
    """The content of `summary.json` of a run folder. Raises UserError if there is none, or if it is a sweep's."""
    try:
        summary = json.loads((folder / SUMMARY).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no summary.json there, so no finished run ({one_line(error)})") from error
    if not isinstance(summary, dict) or "provenance" not in summary:
        raise UserError(f"{folder}: is no run of an experiment; give one of its runs")
    return summary


def forget(folder: Path) -> None:
    """Marks a run folder as complete."""
    (folder / NOTE).unlink(missing_ok=True)
    (folder / LOCK).unlink(missing_ok=True)
