"""A sweep over seeds: the mean and the range of every number over the jobs that differ in nothing else.

Knows no experiment and reads no file.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from neurexp.report.report import SITE, Table
from neurexp.runs.sweep_job import Job

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = "run.seed"
BY_LAYER, OF_JOBS = "seeds", "seeds_metrics"  # the tables
_NUMBERS = {
    "jobs": "number of jobs, each with a seed of its own",
    "mean": "mean over these jobs",
    "sd": "standard deviation over these jobs (ddof 1); missing for one job",
    "smallest": "the smallest of these jobs",
    "largest": "the largest of these jobs",
}
NULL_DASHED = "dashed: the null, if there is one (an average, or the 95 % quantile where it is of a best neuron)"


def tables(layers: Table, jobs: Sequence[Job], options: Table) -> dict[str, Table]:
    """Mean and range over seeds of each column, by layer, and of each metric.

    Args:
        layers: the sweep's table, with the jobs' options as columns.
        jobs: with their summaries.
        options: the jobs' options, `[jobs]`; SEED among them.
    """
    return {BY_LAYER: by_layer(layers, list(options)), OF_JOBS: of_jobs(jobs, options)}


def found(
    made: Mapping[str, Table], over: Mapping[str, tuple[str, str]], setting: str
) -> tuple[list[str], dict[str, float], dict[str, Callable[[], "Figure"]]]:
    """Findings, metrics and a figure of jobs that differ in nothing but the seed and the layers.

    Args:
        made: of `tables`.
        over: the columns that summarise a run → label, and the column of the null or "".
        setting: for the figure's foot.
    """
    findings, metrics, series, ranges = [], {}, {}, {}
    count = int(made[BY_LAYER]["jobs"].max())
    layers: list[int] = []
    for name, (label, null) in over.items():
        layers, (mean, low, high) = _spread(made[BY_LAYER], name)
        if not np.isfinite(mean).any():
            continue
        best = int(np.nanargmax(np.abs(mean)))
        metrics |= {f"{name}_most": float(mean[best]), f"{name}_most_layer": layers[best]}
        metrics |= {f"{name}_most_smallest": float(low[best]), f"{name}_most_largest": float(high[best])}
        where = f"in layer {layers[best]}: " if len(layers) == 1 else f"is largest in layer {layers[best]}: "
        told = f"Over {count} seeds, the {label} {where}{_range(mean, low, high, best)}"
        for metric in (f"{name}_all", f"{name}_overall"):
            rows = made[OF_JOBS]["metric"] == metric
            if rows.sum() == 1:
                overall, least, most = (made[OF_JOBS][end][rows] for end in ("mean", "smallest", "largest"))
                told += f"; {metric}: {_range(overall, least, most, 0)}"
        findings.append(told)
        has_null = null and (made[BY_LAYER]["column"] == null).any()
        series[label] = mean, _spread(made[BY_LAYER], null)[1][0] if has_null else None
        ranges[label] = low, high

    def over_seeds():
        from neurexp.figures.contrasts import over_layers

        detail = (
            f"{setting}; points: the mean over {count} seeds, bars: from the smallest to the largest; {NULL_DASHED}"
        )
        return over_layers(layers, series, findings[0], detail, ranges)

    return findings, metrics, {"over_seeds": over_seeds} if findings else {}


def _range(mean: np.ndarray, low: np.ndarray, high: np.ndarray, place: int) -> str:
    if low[place] == high[place]:
        return f"{mean[place]:.3g} with each"
    return f"{mean[place]:.3g} on average ({low[place]:.3g} to {high[place]:.3g})"


def by_layer(layers: Table, options: Sequence[str]) -> Table:
    """Each column of numbers over seeds: a row for each column, layer (and site) and values of the other options.

    Args:
        layers: the sweep's table, with the jobs' options.
        options: columns of `layers` with options; SEED among them.
    """
    keys = [name for name in options if name != SEED] + [name for name in (SITE, "layer") if name in layers]
    numbers = [name for name, values in layers.items() if values.dtype.kind == "f" and name not in (*options, SEED)]
    groups = _groups([layers[name] for name in keys])
    return _long({name: layers[name] for name in keys}, groups, "column", {name: layers[name] for name in numbers})


def of_jobs(jobs: Sequence[Job], options: Table) -> Table:
    """Each metric over seeds: a row for each metric and values of the other options.

    Args:
        jobs: with their summaries.
        options: the jobs' options, `[jobs]`; SEED among them.
    """
    keys = {name: values for name, values in options.items() if name != SEED}
    shared = [name for name in jobs[0].run["metrics"] if all(name in job.run["metrics"] for job in jobs)]
    metrics = {name: np.array([job.run["metrics"][name] for job in jobs], dtype=float) for name in shared}
    return _long(keys, _groups(list(keys.values()) or [np.zeros(len(jobs))]), "metric", metrics)


def definitions(options: Sequence[str], over: Iterable[str]) -> dict[str, str]:
    """What the columns of both tables mean, named `TABLE.COLUMN`, and the metrics of the columns `over`."""
    places = {name: f"the option {name} of the jobs" for name in options if name != SEED}
    layer = {SITE: "the site of the jobs", "layer": "block index, from 0", "column": "a column of layers.parquet"}
    texts = {f"{BY_LAYER}.{name}": text for name, text in (places | layer | _NUMBERS).items()}
    of_metrics = places | {"metric": "a metric of the jobs (summary.json)"} | _NUMBERS
    texts |= {f"{OF_JOBS}.{name}": text for name, text in of_metrics.items()}
    for name in over:
        texts |= {
            f"{name}_most": f"{name}, mean over seeds, in the layer where the mean is of largest magnitude",
            f"{name}_most_layer": "that layer",
            f"{name}_most_smallest": f"the smallest {name} of any seed in that layer",
            f"{name}_most_largest": f"the largest {name} of any seed in that layer",
        }
    return texts


def _spread(table: Table, column: str) -> tuple[list[int], list[np.ndarray]]:
    """The rows of one column: the layers, and mean, smallest and largest, `[layers]` each."""
    rows = table["column"] == column
    return table["layer"][rows].tolist(), [table[name][rows] for name in ("mean", "smallest", "largest")]


def _groups(keys: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The places with equal keys, in the order of the keys."""
    codes = np.stack([np.unique(values, return_inverse=True)[1].ravel() for values in keys])
    places = np.unique(codes, axis=1, return_inverse=True)[1].ravel()
    return [np.flatnonzero(places == number) for number in range(places.max() + 1)]


def _long(
    keys: Mapping[str, np.ndarray], groups: Sequence[np.ndarray], name: str, numbers: Mapping[str, np.ndarray]
) -> Table:
    first = [group[0] for group in groups]
    table = {key: np.tile(values[first], len(numbers)) for key, values in keys.items()}
    table[name] = np.repeat(list(numbers), len(groups))
    found = [values[group] for values in numbers.values() for group in groups]
    table["jobs"] = np.array([len(values) for values in found])
    table["mean"] = np.array([values.mean() for values in found])
    table["sd"] = np.array([values.std(ddof=1) if len(values) > 1 else np.nan for values in found])
    table["smallest"] = np.array([values.min() for values in found])
    table["largest"] = np.array([values.max() for values in found])
    return table
