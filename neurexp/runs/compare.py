"""Compares finished runs: `python -m neurexp.compare RUN RUN …`, each a run folder or an MLflow run id.

Runs of one model, whatever their experiments, are asked which neurons lead in several of them, against chance. Runs of
one experiment are laid side by side by layers, models of different depth at relative depth. Reads run folders only,
and knows no experiment: a run's `summary.json` names the statistic that summarises it. The comparison has a run folder
and an MLflow run of its own.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from neurexp.config.schema import Backend, TrackingConfig
from neurexp.console import terminal
from neurexp.errors import UserError, one_line, printable
from neurexp.io import files
from neurexp.report.drawing import write_figures
from neurexp.report.finished import FinishedRun, read_finished
from neurexp.report.folder import SUMMARY, write_report
from neurexp.report.report import Report
from neurexp.runs import agreement, by_layers
from neurexp.runs.agreement_groups import groups_of
from neurexp.runs.names import circumstances, common_to, labels_of, names_of
from neurexp.tracking import tracker as tracking


def read_run(
    given: str, uri: str | None, outputs: Path = Path("outputs"), tables: bool = True, option: str = "--uri"
) -> FinishedRun:
    """Reads a run folder, or the artifacts of an MLflow run in the store `uri`, which are the same files.

    If `uri` is not given, the store is that of MLFLOW_TRACKING_URI, else the one in `outputs`. With `tables=False`, a
    run without neurons is read too. Messages call the option of the store `option`.

    Raises:
        UserError: neither a finished run's folder nor a run id.
    """
    try:
        folder = Path(given).expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long, or an unknown user's home
        raise UserError(
            f"{given}: cannot be a run folder ({one_line(error)}); give a run folder or an MLflow run id"
        ) from error
    if not is_folder:
        folder = tracking.download(given, uri, outputs.resolve(), option=option)
    return read_finished(folder, given, str(folder) if is_folder else f"MLflow run {given}", tables)


def compare(runs: list[FinishedRun], lead: float = 1.0, by: Sequence[str] = ()) -> Report:
    """The neurons that lead in several runs, against chance, and runs of one experiment by layers, side by side.

    Neurons are compared among runs of the same model and site, whatever their experiments.

    Args:
        runs: finished runs.
        lead: per cent of a layer's neurons, the largest by |statistic|, that lead in a run.
        by: the statistic: a column for all runs, or one for each; a run's own, which its summary names, if not given.

    Raises:
        UserError: fewer than two runs, a column that a run does not have, or runs that nothing can be compared of.
    """
    if not 0 < lead < 100:
        raise UserError(f"--lead {lead:g}: give per cent of a layer's neurons, above 0 and below 100")
    if len(by) > 1 and len(by) != len(runs):
        raise UserError(f"--by {','.join(by)}: give one column, or one for each of the {len(runs)} runs")
    places = [str(Path(run.place).resolve()) for run in runs]  # an id in MLflow stays distinct, too
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:  # every neuron would agree with itself
            raise UserError(f"compare: {run.place} is given {places.count(place)} times; give each run once")
    wanted = list(by) * (len(runs) if len(by) == 1 else 1) or [run.summary["statistic"] for run in runs]
    parts = [(part, column) for run, column in zip(runs, wanted, strict=True) for part in run.by_site()]
    if len(parts) < 2:
        raise UserError("compare: give two runs or more")
    runs, columns = [part for part, _ in parts], [column for _, column in parts]
    for run, column in parts:
        if by and (column not in run.neurons or run.neurons[column].dtype.kind not in "biuf"):
            numbers = ", ".join(name for name, values in run.neurons.items() if values.dtype.kind == "f")
            raise UserError(f"--by {column}: {run.place} has no such column of numbers; it has {numbers}")
    summaries = [run.summary for run in runs]
    names, labels = names_of(summaries), labels_of(summaries)
    groups = groups_of(runs, columns, lead)
    told = [f"Run {index}: {name}, {run.place}" for index, (run, name) in enumerate(zip(runs, names, strict=True))]
    told += [
        f"Run {index} sums itself up by {run.summary['statistic']}; it is compared by {column}"
        for index, (run, column) in enumerate(parts)
        if run.summary["statistic"] != column
    ]
    if different := circumstances(summaries):
        told.append("Circumstances that differ: " + "; ".join(different))
    reports = []
    experiments = {run.experiment for run in runs}
    lacking = [run for run in runs if columns[0] not in run.neurons]
    if len(experiments) == 1 and not lacking and len(set(by)) < 2:
        reports.append(by_layers.report_of(runs, names, labels, common_to(summaries), columns[0]))
    if groups:
        reports.append(agreement.report_of(groups, names, labels, lead))
    if not reports:
        raise UserError(_why_not(runs, experiments, lacking, columns[0]))
    report = reports[0]
    for other in reports[1:]:
        report = replace(
            report,
            **{
                name: getattr(report, name) | getattr(other, name)
                for name in ("metrics", "columns", "tables", "figures")
            },
            findings=other.findings + report.findings,
        )
    return replace(report, findings=told + report.findings)


def _why_not(runs: list[FinishedRun], experiments: set[str], lacking: list[FinishedRun], column: str) -> str:
    if len(experiments) > 1:
        told = ", ".join(f"{run.place}: {run.experiment}, {run.summary['setting']}" for run in runs)
        return (
            "compare: the runs are of different experiments, and no two of them are of one model (the same weights in "
            f"the same number format) and one site with neurons in common ({told}); give runs of one model and site"
        )
    return (
        f"compare: {lacking[0].place} has no {column}, which sums {runs[0].place} up: they ask different questions; "
        "give runs of the same question"
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    terminal.prepare()
    parser = argparse.ArgumentParser(
        prog="python -m neurexp.compare", description="Compare finished runs: neurons that lead in several, and layers."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder or an MLflow run id")
    parser.add_argument(
        "--lead", type=float, default=1, metavar="PERCENT", help="of a layer's neurons lead (default: 1)"
    )
    parser.add_argument(
        "--by", metavar="COLUMN", help="of neurons.parquet, or COLUMN,COLUMN,… for each run (default: each run's own)"
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="where it goes (default: outputs)")
    parser.add_argument("--uri", help="MLflow store (default: MLFLOW_TRACKING_URI, or the one under --outputs)")
    parser.add_argument("--no-mlflow", action="store_true", help="leave the folder only")
    options = parser.parse_args(arguments)
    try:
        with terminal.without_a_log():
            _run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _run(options: argparse.Namespace) -> None:
    outputs = options.outputs.expanduser().resolve()
    given = [read_run(run, options.uri, outputs) for run in options.runs]
    report = compare(given, options.lead, options.by.split(",") if options.by else ())
    runs = [part for run in given for part in run.by_site()]
    folder = outputs / "compare" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--outputs {options.outputs}: {folder} cannot be made ({error})") from error
    started = time.perf_counter()
    backend = Backend.off if options.no_mlflow else Backend.mlflow
    parameters = {f"run_{index}": run.place for index, run in enumerate(runs)}
    names = names_of([run.summary for run in runs])
    name = " against ".join(names)
    tracker = tracking.start(TrackingConfig(backend, options.uri), outputs, "compare", name, parameters)
    try:
        write_report(folder, report)
        write_figures(folder, report)
        summary = {
            "experiment": "compare",
            "of": ", ".join(dict.fromkeys(run.experiment for run in runs)),
            "runs": [
                {"name": name, "setting": run.summary["setting"], "folder": run.place}
                for name, run in zip(names, runs, strict=True)
            ],
            "metrics": report.metrics,
            "mlflow_run_id": tracker.run_id,
            "mlflow_store": tracker.store,
            "timings": {"total": round(time.perf_counter() - started, 3)},
        }
        files.write_json(folder / SUMMARY, summary)
        note = "\n".join(f"- {line}" for line in report.findings)  # MLflow shows it first
        tracker.log(report.metrics, report.layers, report.step_column, {"compared": name, "mlflow.note.content": note})
        tracker.log_folder(folder)
        tracker.finish("FINISHED")
    except BaseException as error:
        with suppress(Exception):  # the user must see the first error
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", type(error).__name__)
        raise
    print("\n".join(map(printable, report.findings)))
    print(f"\nFolder:  {printable(str(folder))}")
    if tracker.run_id:
        print(f"MLflow:  run {tracker.run_id}; open with: {tracker.where}")
