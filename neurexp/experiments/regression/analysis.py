"""The analysis of a regression: every neuron of every layer, in every comparison. The arithmetic is in `stats`.

Knows no sentence and no figure. Time is linear in rows, neurons, layers, shuffles and permutations; one layer's rows
are in memory at a time.
"""

from dataclasses import dataclass

import numpy as np

from neurexp.console.progress import Progress
from neurexp.experiments.regression.data import Comparison, RegressionData
from neurexp.report.report import Table, by_layer, by_neuron
from neurexp.stats import summary
from neurexp.stats.association import LEVEL, q_values
from neurexp.stats.chunks import ProgressCallback
from neurexp.stats.group_shuffles import group_permutation, shuffle_groups, student
from neurexp.stats.hypothesis_tests import TestResult, paired_t, welch
from neurexp.stats.logistic import OVERLAP, held_out, likelihood_ratio_p, log10_p, logistic


@dataclass(frozen=True)
class Analysis:
    """A row of `neurons` for each layer and neuron, and a row of `layers` for each layer."""

    neurons: Table
    layers: Table


def analyse(data: RegressionData) -> Analysis:
    """Every statistic of every neuron. Columns end in the comparison's name."""
    comparisons, layers = data.plan.comparisons, data.plan.layers
    steps = 4 + 2 * data.options.shuffles
    tables: list[Table] = []
    rows: list[dict[str, float]] = []
    with Progress("Analysis", len(layers) * len(comparisons) * steps, f"{len(layers)} layers") as progress:
        for layer in layers:
            neurons: Table = {}
            row: dict[str, float] = {}
            for name, comparison in comparisons.items():
                tick = progress.part(steps)
                found, summed = _compare(data, comparison, data.rows(name, layer), tick)
                neurons |= {f"{column}_{name}": values for column, values in found.items()}
                row |= {f"{column}_{name}": value for column, value in summed.items()}
            tables.append(neurons)
            rows.append(row)
    return Analysis(by_neuron(layers, tables), by_layer(layers, rows))


def _compare(
    data: RegressionData, comparison: Comparison, x: np.ndarray, tick: ProgressCallback
) -> tuple[Table, dict[str, float]]:
    """The columns of one layer's neurons in one comparison, and their summaries."""
    options, labels, groups, seed = data.options, comparison.labels, comparison.groups, data.plan.inputs.seed
    share = 1 / (4 + 2 * options.shuffles)
    fit, t, unequal = logistic(x, labels), student(x, labels), welch(x, labels == 0, labels == 1)
    tick(share)
    text = held_out(x, labels, comparison.training_text(options.heldout))
    tick(share)
    types = held_out(x, labels, comparison.training_types(options.heldout, seed))
    tick(share)
    null = group_permutation(
        x, labels, groups, options.permutations, seed, lambda part: tick(share * part), comparison.blocks
    )
    level = LEVEL / x.shape[1]
    significant = fit.p < level
    neurons: Table = {
        "beta": fit.slope, "beta_low": fit.low, "beta_high": fit.high, "intercept": fit.intercept,
        "chi2": fit.chi2, "p_lr": fit.p, "q_lr": q_values(fit.p), "significant": significant,
        "wald": fit.wald, "p_wald": fit.p_wald, "separation": fit.separation,
        "accuracy": fit.accuracy, "accuracy_heldout": text.accuracy, "auroc_heldout": text.auroc,
        "accuracy_types": types.accuracy, "auroc_types": types.auroc,
        "t": t.statistic, "p_t": t.p, "t_welch": unequal.statistic, "p_welch": unequal.p,
        "p_types": null.p, "p_types_max": null.p_max,
    }  # fmt: skip
    if comparison.units is not None:
        paired = _over_units(x, labels, comparison.unit_numbers)
        neurons |= {"t_units": paired.statistic, "p_units": paired.p}
    random = np.random.default_rng(seed)
    shuffled = {
        "rows": [random.permutation(labels) for _ in range(options.shuffles)],
        "types": [shuffle_groups(labels, groups, random, comparison.blocks) for _ in range(options.shuffles)],
    }
    by_chance = {}
    for kind, labellings in shuffled.items():
        by_chance[kind] = float((likelihood_ratio_p(x, np.stack(labellings)) < level).mean())
        tick(share * options.shuffles)
    finite = fit.separation == OVERLAP
    with np.errstate(divide="ignore"):
        log_t = -np.log10(t.p)
    return neurons, {
        "rows": len(labels),
        "share_significant": float(significant.mean()),
        "share_significant_shuffled_rows": by_chance["rows"],
        "share_significant_shuffled_types": by_chance["types"],
        "share_types": float((null.p_max < LEVEL).mean()),
        "share_positive": float((significant & (fit.slope > 0)).mean()),
        "separated": int((~finite).sum()),
        "wald_misses": int((significant & (fit.p_wald >= level)).sum()),
        "near_separation": int((significant & (fit.wald**2 < fit.chi2 / 2)).sum()),
        "unconverged": int((~fit.converged).sum()),
        "accuracy_positive": summary.mean(fit.accuracy[significant & (fit.slope > 0)]),
        "accuracy_significant": summary.mean(text.accuracy[significant]),
        "auroc_significant": summary.mean(text.auroc[significant]),
        "auroc_types_significant": summary.mean(types.auroc[significant]),
        "r_beta_t": summary.correlation(np.where(finite, fit.slope, np.nan), t.statistic),
        "r_log_p": summary.correlation(-log10_p(fit.chi2), log_t),
    }


def _over_units(x: np.ndarray, labels: np.ndarray, units: np.ndarray) -> TestResult:
    """The paired t-test of each unit's mean over its rows of category 1 and over those of category 0.

    A unit without rows of one category is left out.
    """
    count = int(units.max()) + 1
    place = units + count * labels
    sizes = np.bincount(place, minlength=2 * count)
    members = np.zeros((2 * count, len(x)), dtype=np.float64)
    members[place, np.arange(len(x))] = 1 / sizes[place]
    both = np.flatnonzero(sizes.reshape(2, count).all(0))
    if len(both) < 2:
        missing = np.full(x.shape[1], np.nan)
        return TestResult(missing, missing)
    return paired_t(members @ x, both, both + count)
