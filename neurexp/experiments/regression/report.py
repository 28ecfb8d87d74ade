"""A regression's report: its tables and metrics, and which neurons differ in every comparison that decides.

Its sentences are in `findings`, the texts of its figures in `figures`.
"""

import numpy as np

from neurexp.experiments.regression.analysis import analyse
from neurexp.experiments.regression.columns import columns_of
from neurexp.experiments.regression.data import RegressionData
from neurexp.experiments.regression.figures import Figures
from neurexp.experiments.regression.findings import findings_of, strongest
from neurexp.experiments.regression.positions import positions_of
from neurexp.report.report import Report, Table
from neurexp.stats import summary
from neurexp.stats.association import LEVEL
from neurexp.stats.nulls import auroc_interval

BOOTSTRAPS = 2000  # draws for the interval of the strongest neuron's AUROC


def write(data: RegressionData) -> Report:
    """Analyses every layer, and reports what was found."""
    analysed, plan = analyse(data), data.plan
    neurons, layers = analysed.neurons, analysed.layers
    main, naive = plan.verdict.decisive[0], plan.verdict.naive
    _judge(data, neurons)
    significant, survives, survives_types = (
        neurons[name].reshape(len(plan.layers), -1) for name in (f"significant_{naive}", "survives", "survives_types")
    )
    left = significant & survives & _as_naive(data, neurons).reshape(significant.shape)
    layers |= {
        "share_left": np.array([summary.ratio(*one) for one in zip(left, significant, strict=True)]),
        "share_survives": survives.mean(1),
        "share_survives_types": survives_types.mean(1),
    }
    positions, medians = positions_of(data, neurons)
    metrics = _metrics(data, neurons, layers) | medians
    report = Report(
        findings=findings_of(data, neurons, layers, metrics),
        metrics=metrics,
        layers=layers,
        neurons=neurons,
        columns=columns_of(plan),
        statistic="beta_least",
        of_the_text=frozenset((*plan.counts, "neurons_tested", *(f"number_rows_{name}" for name in plan.comparisons))),
        shares={"survivors": f"are {plan.verdict.what}"},
        tables={"rows": _rows(data), **({"positions": positions} if positions else {})},
        over_layers={
            f"share_significant_{naive}": (
                f"share significant {plan.comparisons[naive].name}", f"share_significant_shuffled_types_{naive}",
            ),
            f"share_significant_{main}": (
                f"share significant {plan.comparisons[main].name}", f"share_significant_shuffled_types_{main}",
            ),
            "share_survives": (f"share of {plan.verdict.what}", ""),
        },
    )  # fmt: skip
    figures = Figures(data, neurons, layers, metrics, report)
    report.figures, report.pages = figures.all(), figures.pages()
    return report


def _as_naive(data: RegressionData, neurons: Table) -> np.ndarray:
    """Whether the naive comparison has the sign of those that decide, `[neurons]` bool."""
    return np.sign(neurons[f"beta_{data.plan.verdict.naive}"]) == np.sign(neurons["beta_least"])


def _judge(data: RegressionData, neurons: Table) -> None:
    """Adds the columns that say what the comparisons find together."""
    decisive = data.plan.verdict.decisive
    betas = np.stack([neurons[f"beta_{name}"] for name in decisive])
    same = (np.sign(betas) == np.sign(betas[0])).all(0)
    neurons["beta_least"] = np.where(same, np.sign(betas[0]) * np.abs(betas).min(0), 0.0)
    neurons["in_all"] = same & np.logical_and.reduce([neurons[f"significant_{name}"] for name in decisive])
    over_types = np.logical_and.reduce([neurons[f"p_types_max_{name}"] < LEVEL for name in decisive])
    neurons["survives_types"] = neurons["in_all"] & over_types
    neurons["survives"] = neurons["survives_types" if data.plan.verdict.over_types else "in_all"]


def _metrics(data: RegressionData, neurons: Table, layers: Table) -> dict[str, float]:
    plan = data.plan
    naive, main = plan.verdict.naive, plan.verdict.decisive[0]
    metrics: dict[str, float] = {name: value for name, (value, _) in plan.counts.items()}
    metrics["neurons_tested"] = len(neurons["layer"])
    for name, one in plan.comparisons.items():
        significant = neurons[f"significant_{name}"]
        metrics |= {
            f"number_rows_{name}": len(one.labels),
            f"found_{name}": float(significant.mean()),
            f"found_shuffled_rows_{name}": float(layers[f"share_significant_shuffled_rows_{name}"].mean()),
            f"found_shuffled_types_{name}": float(layers[f"share_significant_shuffled_types_{name}"].mean()),
            f"found_types_{name}": float(layers[f"share_types_{name}"].mean()),
            f"number_separated_{name}": int(layers[f"separated_{name}"].sum()),
            f"number_wald_misses_{name}": int(layers[f"wald_misses_{name}"].sum()),
            f"number_near_separation_{name}": int(layers[f"near_separation_{name}"].sum()),
            f"number_unconverged_{name}": int(layers[f"unconverged_{name}"].sum()),
            f"accuracy_median_{name}": summary.median(neurons[f"accuracy_heldout_{name}"]),
        }
    first, second = neurons[f"significant_{naive}"], neurons[f"significant_{main}"]
    betas = [np.where(np.isfinite(neurons[f"beta_{name}"]), neurons[f"beta_{name}"], np.nan) for name in (naive, main)]
    survives, held = neurons["survives"], first & _as_naive(data, neurons)
    metrics |= {
        "both_rules": int((first & second).sum()),
        "naive_only": int((first & ~second).sum()),
        "main_only": int((second & ~first).sum()),
        "opposite_signs": int((first & second & (betas[0] * betas[1] < 0)).sum()),
        "naive_in_all": summary.ratio(held & neurons["in_all"], first),
        "naive_survive": summary.ratio(held & survives, first),
        "main_survive": summary.ratio(survives, second),
        "r_beta_rules": summary.correlation(*betas),
        "survivors": float(survives.mean()),
        "number_survivors": int(survives.sum()),
        "number_survivors_types": int(neurons["survives_types"].sum()),
        "number_survivors_positive": int((survives & (neurons["beta_least"] > 0)).sum()),
    }
    for name in plan.verdict.others(plan.comparisons):
        holds = (neurons[f"p_lr_{name}"] < LEVEL) & (np.sign(neurons[f"beta_{name}"]) == np.sign(neurons["beta_least"]))
        metrics[f"survivors_hold_{name}"] = summary.ratio(survives & holds, survives)
    for end, side in (("top", 1), ("bottom", -1)):
        for index in strongest(neurons, side)[:1]:
            metrics |= {
                f"{end}_layer": int(neurons["layer"][index]),
                f"{end}_neuron": int(neurons["neuron"][index]),
                **{f"{end}_auroc{part}": value for part, value in _auroc(data, neurons, index).items()},
            }
            if np.isfinite(neurons["beta_least"][index]):
                metrics[f"{end}_beta"] = float(neurons["beta_least"][index])
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _auroc(data: RegressionData, neurons: Table, index: int) -> dict[str, float]:
    """A neuron's AUROC on the held-out text of the main comparison, and its bootstrap interval over types."""
    name = data.plan.verdict.decisive[0]
    comparison = data.plan.comparisons[name]
    unseen = ~comparison.training_text(data.options.heldout)
    value = float(neurons[f"auroc_heldout_{name}"][index])
    if not np.isfinite(value):
        return {}
    x = data.rows(name, int(neurons["layer"][index]))[unseen, int(neurons["neuron"][index])].astype(np.float64)
    sign = np.sign(neurons[f"beta_{name}"][index])
    _, groups = np.unique(comparison.groups[unseen], return_inverse=True)
    labels = comparison.labels[unseen]
    low, high = auroc_interval(sign * x, labels, groups.reshape(-1), BOOTSTRAPS, data.plan.inputs.seed)
    return {"": value, "_low": low, "_high": high}


def _rows(data: RegressionData) -> Table:
    """The rows of every comparison."""
    ones = data.plan.comparisons
    parts = {
        "comparison": [np.repeat(name, len(one.labels)) for name, one in ones.items()],
        "word": [np.array(one.rows.words, dtype=str) for one in ones.values()],
        "label": [one.labels for one in ones.values()],
        "sequence": [one.rows.sequence for one in ones.values()],
        "start": [one.rows.start for one in ones.values()],
        "unit": [one.rows.sequence.astype(str) if one.units is None else one.units for one in ones.values()],
        "tokens": [one.rows.lengths for one in ones.values()],
        "heldout": [~one.training_text(data.options.heldout) for one in ones.values()],
    }
    return {name: np.concatenate(values) for name, values in parts.items()}
