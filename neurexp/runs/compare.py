"""Compares finished runs: `python -m neurexp.compare RUN RUN …`, each a run folder or an MLflow run id.

Models of different depth are compared at relative depth. Reads run folders only, and knows no experiment: a run's
`summary.json` names the statistic that summarises it. The comparison has a run folder and an MLflow run of its own.
"""

import argparse
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import numpy as np

from neurexp.config.schema import Backend, TrackingConfig
from neurexp.console import terminal
from neurexp.errors import UserError, one_line, printable
from neurexp.io import files
from neurexp.report.finished import FinishedRun, read_finished
from neurexp.report.folder import SUMMARY, definitions_in, write_figures, write_report
from neurexp.report.report import Report
from neurexp.runs.names import circumstances, names_of
from neurexp.tracking import tracker as tracking


def read_run(given: str, uri: str | None, outputs: Path = Path("outputs"), tables: bool = True) -> FinishedRun:
    """Reads a run folder, or the artifacts of an MLflow run in the store `uri`, which are the same files.

    If `uri` is not given, the store is that of MLFLOW_TRACKING_URI, else the one in `outputs`. With `tables=False`, a
    run without neurons is read too.

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
        folder = tracking.download(given, uri, outputs.resolve())
    return read_finished(folder, given, str(folder) if is_folder else f"MLflow run {given}", tables)


def compare(runs: list[FinishedRun]) -> Report:
    """Headlines and layer medians of the runs, side by side.

    Raises:
        UserError: fewer than two runs, or runs of different experiments.
    """
    experiments = {run.summary["experiment"] for run in runs}
    runs = [part for run in runs for part in run.by_site()]
    if len(runs) < 2:
        raise UserError("compare: give two runs or more")
    if len(experiments) > 1:
        told = ", ".join(f"{run.place}: {run.summary['experiment']}" for run in runs)
        raise UserError(f"compare: the runs are of different experiments ({told}); give runs of one")
    column = runs[0].summary["statistic"]
    for run in runs:
        if column not in run.neurons:
            raise UserError(
                f"compare: {run.place} has no {column}, which sums {runs[0].place} up: they ask different questions; "
                "give runs of the same question"
            )
    summaries = [run.summary for run in runs]
    names = names_of(summaries)
    quartiles = [
        np.array([np.nanquantile(row, (0.25, 0.5, 0.75)) if np.isfinite(row).any() else [np.nan] * 3 for row in rows])
        for rows in (run.by_layer(column) for run in runs)
    ]
    shared = [key for key in runs[0].summary["metrics"] if all(key in run.summary["metrics"] for run in runs)]
    metrics, columns = {}, {}
    definitions = [definitions_in(run.folder) for run in runs]
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        for key in shared:
            metrics[f"{key}_{index}"] = run.summary["metrics"][key]
            of_site = f"{(run.summary.get('options') or {}).get('experiment.site')}/{key}"  # in a run of several sites
            meaning = definitions[index].get(key) or definitions[index].get(of_site, "")
            columns[f"{key}_{index}"] = f"{key} of run {index} ({name}): {meaning}"
    layers = {
        "run": np.concatenate([np.full(len(run.depth), index) for index, run in enumerate(runs)]),
        "name": np.repeat(names, [len(run.depth) for run in runs]),
        "layer": np.concatenate([run.layers["layer"] for run in runs]),
        "depth": np.concatenate([run.depth for run in runs]),
        "q25": np.concatenate([rows[:, 0] for rows in quartiles]),
        "median": np.concatenate([rows[:, 1] for rows in quartiles]),
        "q75": np.concatenate([rows[:, 2] for rows in quartiles]),
    }
    columns |= {
        "run": "index of the run, in the order given",
        "name": "what the run is called: its model and dataset, and the options in which the runs differ",
        "layer": "block index, from 0",
        "depth": "layer / last layer of the model",
        "q25": f"25 % quantile of {column} over the layer's neurons",
        "median": f"median of {column} over the layer's neurons",
        "q75": f"75 % quantile of {column} over the layer's neurons",
    }
    changed = [key for key in shared if len({run.summary["metrics"][key] for run in runs}) > 1]
    findings = [f"Run {index}: {name}, {run.place}" for index, (run, name) in enumerate(zip(runs, names, strict=True))]
    findings += [
        f"Run {index} sums itself up by {run.summary['statistic']}; all are compared by {column}"
        for index, run in enumerate(runs)
        if run.summary["statistic"] != column
    ]
    if different := circumstances(summaries):
        findings.append("Circumstances that differ: " + "; ".join(different))
    findings += [f"{key}: " + " | ".join(f"{run.summary['metrics'][key]:.4g}" for run in runs) for key in changed]
    panels = [(name, list(run.layers["layer"]), run.by_layer(column)) for name, run in zip(names, runs, strict=True)]
    overall = [float(np.nanmedian(np.abs(run.neurons[column]))) for run in runs]
    finding = f"Median |{column}| over neurons: " + ", ".join(
        f"{value:.3f} ({name})" for value, name in zip(overall, names, strict=True)
    )
    meanings = {one.get(column) or column for one in definitions}
    detail = (
        meanings.pop() if len(meanings) == 1 else f"{column}, which the runs define differently: see their columns.md"
    )

    def by_layer():
        from neurexp.figures.profiles import density_by_layer

        return density_by_layer(panels, finding, detail, column)

    def as_map():
        from neurexp.figures.profiles import density_map

        return density_map(panels, finding, detail, column, depths=[run.depth for run in runs])

    def overlaid():
        from neurexp.figures.profiles import densities_at_depths

        drawn = [(name, run.depth, run.by_layer(column)) for name, run in zip(names, runs, strict=True)]
        return densities_at_depths(drawn, finding, f"the layer nearest to each relative depth; {detail}", column)

    def over_depth():
        from neurexp.figures.profiles import over_depth

        drawn = {name: (run.depth, rows) for name, run, rows in zip(names, runs, quartiles, strict=True)}
        return over_depth(drawn, finding, f"median and middle half over neurons; {detail}", column)

    figures = {"densities": by_layer, "overlaid": overlaid}
    if min(len(run.depth) for run in runs) > 1:  # a single layer makes no map
        figures |= {"maps": as_map, "over_depth": over_depth}
    return Report(findings, metrics, layers, {}, columns, column, figures=figures, step_column=None)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    terminal.prepare()
    parser = argparse.ArgumentParser(
        prog="python -m neurexp.compare", description="Compare finished runs: headlines, densities and maps by layer."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder or an MLflow run id")
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
    runs = [part for given in options.runs for part in read_run(given, options.uri, outputs).by_site()]
    report = compare(runs)
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
            "of": runs[0].summary["experiment"],
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
        tracker.log(report.metrics, report.layers, report.step_column, {"compared": name})
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
