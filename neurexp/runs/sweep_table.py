"""The table of a sweep: the rows of its jobs' `layers.parquet`, with the job and the options of each row.

Reads run folders only; knows no experiment.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from neurexp.io.files import read_table
from neurexp.report.folder import definitions_in
from neurexp.report.report import SITE, Report, Table
from neurexp.runs import sweep_seeds as seeds
from neurexp.runs.sweep_job import Job
from neurexp.runs.sweep_seeds import NULL_DASHED

SHOWN = 5  # columns that are named
LAYER_OPTIONS = {"experiment.layer", "model.default_layer"}


def report_of(jobs: list[Job], folder: Path, swept: list[str], failed: list[Job]) -> Report:
    """The jobs' rows in the order of layers and jobs, and headline values by layer if only the layers differ,
    their means and ranges if seeds do.

    The columns are those of all jobs, `job`, and each option that was swept or that differs between jobs.

    Args:
        jobs: finished jobs, with their summaries.
        folder: of the sweep.
        swept: the options that the sweep is over.
        failed: the other jobs.
    """
    folders = [folder / job.folder for job in jobs]
    if not all((one / "layers.parquet").exists() for one in folders):  # an experiment without layers
        return Report([], {}, {}, {}, {}, "", step_column=None)
    tables = [read_table(one / "layers.parquet") for one in folders]
    if any(SITE in table for table in tables):
        for job, table in zip(jobs, tables, strict=True):
            table.setdefault(SITE, np.full(len(table["layer"]), str(job.run["options"].get("experiment.site", ""))))
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    rows = [len(table["layer"]) for table in tables]
    layers = {name: np.concatenate([table[name] for table in tables]) for name in shared}
    index = np.repeat(np.arange(len(jobs)), rows)  # of the job that each row is of
    numbers = np.array([job.number for job in jobs])[index]
    order = np.lexsort((numbers, layers["layer"]))
    of_jobs = _options(jobs, swept, shared)
    options = {name: values[index][order] for name, values in of_jobs.items()}
    index = index[order]
    place = {"layer": layers["layer"][order], "job": numbers[order]} | options
    layers = place | {name: layers[name][order] for name in shared}
    columns = _definitions(jobs, folders)
    columns |= {
        "job": "number of the sweep's job that the row is of, from 0: its folder, unless it was named otherwise"
    }
    columns |= {name: f"the option {name} of the row's job; null where it has no value" for name in options}
    distinct = {name for name, values in options.items() if len(set(values.tolist())) > 1}
    over_layers_only = distinct <= LAYER_OPTIONS and len(set(layers["layer"].tolist())) == len(layers["layer"])
    metrics, findings, series, further, figures = {}, [], {}, {}, {}
    over = {
        name: about for name, about in _over_layers(jobs).items() if name in layers and np.isfinite(layers[name]).any()
    }
    if seeds.SEED in distinct:
        further = seeds.tables(layers, jobs, of_jobs)
        columns |= seeds.definitions(list(of_jobs), over)
    seeds_only = bool(further) and distinct - {seeds.SEED} <= LAYER_OPTIONS and SITE not in layers
    missing = "".join(f"; job {job.number}{_parenthesis(job, swept)} failed" for job in failed)
    setting = f"{jobs[0].run['experiment']}, {jobs[0].run['setting']}"
    if seeds_only:
        findings, metrics, figures = seeds.found(further, over, setting + missing)
        over = {}  # the largest of all jobs would be the luck of one seed
    for name, (label, null) in over.items():
        best = int(np.nanargmax(np.abs(layers[name])))
        layer, job = layers["layer"][best], jobs[index[best]]
        metrics |= {f"{name}_most": float(layers[name][best]), f"{name}_most_layer": int(layer)}
        columns |= {
            f"{name}_most": f"the {name} of largest magnitude of all jobs",
            f"{name}_most_layer": "its layer",
            f"{name}_most_job": "its job",
        }
        whose = ""
        if not over_layers_only:
            metrics[f"{name}_most_job"] = job.number
            whose = f" of job {job.number}{_parenthesis(job, swept)}"
        findings.append(f"The {label} is largest in layer {layer}{whose}: {layers[name][best]:.3g}")
        series[label] = (layers[name], layers.get(null))

    headline = "; ".join(findings)

    def over_layers():
        from neurexp.figures.contrasts import over_layers

        detail = f"{setting}; one job a layer{missing}; {NULL_DASHED}"
        return over_layers(layers["layer"].tolist(), series, headline, detail)

    if over_layers_only and findings:
        figures["over_layers"] = over_layers
    if left_out := sorted({name for table in tables for name in table if name not in shared}):
        told = ", ".join(left_out[:SHOWN]) + (f" and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else "")
        findings.append(f"Columns that only some jobs have are in their own tables alone: {told}")
    step = "layer" if over_layers_only else None
    return Report(findings, metrics, layers, {}, columns, "", tables=further, figures=figures, step_column=step)


def _options(jobs: list[Job], swept: list[str], taken: Sequence[str]) -> Table:
    """The value of each option that was swept or that differs, `[jobs]`; numbers if all values are."""
    named = dict.fromkeys([*swept, *sorted({name for job in jobs for name in job.options})])
    table = {}
    for name in named:
        values = [job.value(name) for job in jobs]
        if name in swept or len(set(values)) > 1:
            table[f"{name}=" if name in (*taken, "job") else name] = _typed(values)
    return table


def _typed(values: list[str]) -> np.ndarray:
    numbers = np.array([_number(value) for value in values])
    return np.array(values) if numbers.dtype.kind not in "if" else numbers


def _number(text: str) -> float | None:
    """The number that the text writes plainly: `7` is one, `007` and `1_000` may be names or commits."""
    for kind in (int, float):
        with suppress(ValueError):
            if str(kind(text)) == text:
                return kind(text)
    return None


def _definitions(jobs: list[Job], folders: list[Path]) -> dict[str, str]:
    """The data dictionary. A column that the jobs define differently has the definition of each."""
    definitions = [definitions_in(folder) for folder in folders]
    merged = {}
    for name in dict.fromkeys(name for one in definitions for name in one):
        jobs_of: dict[str, list[str]] = {}
        for job, one in zip(jobs, definitions, strict=True):
            if name in one:
                jobs_of.setdefault(one[name], []).append(str(job.number))
        texts = [f"job {', '.join(numbers)}: {text}" for text, numbers in jobs_of.items()]
        merged[name] = "; ".join(texts) if len(texts) > 1 else next(iter(jobs_of))
    return merged


def _over_layers(jobs: list[Job]) -> dict[str, tuple[str, str]]:
    """The columns that summarise a run, with label and null, if all jobs define them alike."""
    first = jobs[0].run.get("over_layers", {})
    return {name: about for name, about in first.items() if all(
        job.run.get("over_layers", {}).get(name) == about for job in jobs
    )}  # fmt: skip


def _parenthesis(job: Job, swept: list[str]) -> str:
    told = ", ".join(f"{name}={job.value(name)}" for name in swept)
    return f" ({told})" if told else ""
