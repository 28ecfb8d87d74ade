"""Runs of one question side by side: headlines, and the layers' quartiles and densities over relative depth.

Reads finished runs only; knows no experiment.
"""

from collections.abc import Sequence

import numpy as np

from neurexp.report.finished import FinishedRun
from neurexp.report.folder import definitions_in
from neurexp.report.report import CONTROL_RULE, Report
from neurexp.report.words import in_words


def report_of(
    runs: Sequence[FinishedRun], names: Sequence[str], labels: Sequence[str], common: str, column: str
) -> Report:
    """Headlines and layer medians of the runs, side by side.

    Args:
        runs: of one experiment, each of one site.
        names: of the runs.
        labels: of the runs, for figures.
        common: what the labels leave out, because all runs have it in common.
        column: of their tables of neurons, by which they are compared.
    """
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
            meaning = (
                definitions[index].get(key)
                or definitions[index].get(of_site)
                or definitions[index].get(CONTROL_RULE, "")
            )
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
    findings = [f"{key}: " + " | ".join(f"{run.summary['metrics'][key]:.4g}" for run in runs) for key in changed]
    overall = [float(np.nanmedian(np.abs(run.neurons[column]))) for run in runs]
    told = [f"{value:.3f} ({label})" for value, label in zip(overall, labels, strict=True)]
    if len(runs) > 2:
        told = [f"from {told[int(np.nanargmin(overall))]} to {told[int(np.nanargmax(overall))]}"]
    finding = f"Median |{column}| over neurons: " + ", ".join(told)
    meanings = {one.get(column) or column for one in definitions}
    axis, meaning = column, "which the runs define differently: see their columns.md"
    if len(meanings) == 1:
        meaning = meanings.pop()
        axis = in_words(column, meaning)
    detail = f"{common}; {column}: {meaning}" if common else f"{column}: {meaning}"
    deep = len({run.summary["model_layers"] for run in runs}) > 1
    headings = [
        f"{label}, {run.summary['model_layers']} layers" if deep else label
        for label, run in zip(labels, runs, strict=True)
    ]
    panels = [(name, list(run.layers["layer"]), run.by_layer(column)) for name, run in zip(headings, runs, strict=True)]

    def by_layer():
        from neurexp.figures.profiles import density_by_layer

        return density_by_layer(panels, finding, detail, axis)

    def as_map():
        from neurexp.figures.profiles import density_map

        return density_map(panels, finding, detail, axis, depths=[run.depth for run in runs])

    def overlaid():
        from neurexp.figures.profiles import densities_at_depths

        drawn = [(label, run.depth, run.by_layer(column)) for label, run in zip(labels, runs, strict=True)]
        return densities_at_depths(drawn, finding, f"the layer nearest to each depth; {detail}", axis)

    def over_depth():
        from neurexp.figures.profiles import over_depth

        drawn = {label: (run.depth, rows) for label, run, rows in zip(labels, runs, quartiles, strict=True)}
        return over_depth(drawn, finding, f"median and middle half over neurons; {detail}", axis)

    figures = {"densities": by_layer, "overlaid": overlaid}
    if min(len(run.depth) for run in runs) > 1:  # a single layer makes no map
        figures |= {"maps": as_map, "over_depth": over_depth}
    return Report(findings, metrics, layers, {}, columns, column, figures=figures, step_column=None)
