"""The analysis of context: the tables of neurons and layers, and the metrics, from the rows that the passes kept.

The arithmetic is in `stats`, the meaning of each column in `columns`. Knows no sentence and no figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neurexp.console import progress
from neurexp.experiments.context.data import NAMED, PARTS, ContextData, ContextPlan, halves_of
from neurexp.report.report import Table, by_layer, by_neuron
from neurexp.stats import summary
from neurexp.stats.association import LEVEL, q_values
from neurexp.stats.components import variance_components
from neurexp.stats.pairs import paired, pooled


@dataclass(frozen=True)
class Analysis:
    """The tables and metrics."""

    neurons: Table
    layers: Table
    metrics: dict[str, float]  # NaN where one is not defined
    ends: dict[str, np.ndarray]  # "least" and "most" → rows of `neurons`, up to NAMED, the farthest first


def analyse(data: ContextData) -> Analysis:
    """Every statistic of every layer. Tables have float64 columns: `[layers · neurons]` by layer, and `[layers]`."""
    plan = data.plan
    tables: list[Table] = []
    lines: list[dict[str, float]] = []
    for site in progress.over(range(len(plan.layers)), "Analysis"):
        table, line = _components(plan, data.rows("text", site))
        for name, one in plan.comparisons.items():
            x, y = data.pair(one, site)
            columns, numbers = _compared(name, x, y, data.options.permutations, plan.inputs.seed)
            table, line = table | columns, line | numbers
        tables.append(table)
        lines.append(line)
    neurons, layers = by_neuron(plan.layers, tables), by_layer(plan.layers, lines)
    ends = _ends(neurons)
    return Analysis(neurons, layers, _metrics(plan, neurons, layers, ends), ends)


def _components(plan: ContextPlan, text: np.ndarray) -> tuple[Table, dict[str, float]]:
    """The variance components of one layer, from the rows `[rows, neurons]` of the pass `text`."""
    x, first = text[plan.chosen["repeated"]], text[plan.chosen["first"]]
    types, bins, table = plan.types, plan.bins, Table()
    mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    table |= {"mean": mean, "std": std}
    for part, share in zip(PARTS, variance_components(x, types, bins).shares, strict=True):
        table[f"share_{part}"] = share
    for name, mine in zip(("first", "second"), halves_of(types), strict=True):
        table[f"share_context_{name}_half"] = variance_components(x[mine], types[mine], bins[mine]).shares[2]
    line = {f"share_{part}_mean": summary.mean(table[f"share_{part}"]) for part in PARTS}
    for part in PARTS:
        line |= _quartiles(f"share_{part}", table[f"share_{part}"])
    line["share_context_replication"] = summary.correlation(
        table["share_context_first_half"], table["share_context_second_half"]
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (first.mean(0, dtype=np.float64) - mean) / std
    line["first_distance"] = float(np.sqrt(summary.mean(z**2)))
    return table, line


def _compared(
    name: str, x: np.ndarray, y: np.ndarray, draws: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """One comparison in one layer: the neurons' columns, and the layer's numbers."""
    pairs, whole = paired(x, y, draws, seed), pooled(x, y)
    q = q_values(pairs.p)
    columns = {
        f"r_{name}": pairs.r, f"r_{name}_low": pairs.low, f"r_{name}_high": pairs.high, f"slope_{name}": pairs.slope,
        f"p_{name}": pairs.p, f"q_{name}": q,
    }  # fmt: skip
    return columns, _quartiles(f"r_{name}", pairs.r) | {
        f"slope_{name}_median": summary.median(pairs.slope),
        f"share_significant_{name}": float((q < LEVEL).mean()),
        f"pooled_r_{name}": whole.raw,
        f"pooled_r_{name}_centred": whole.centred,
        f"pooled_r_{name}_shuffled": whole.shuffled,
        f"distance_{name}": float(np.sqrt(summary.mean(pairs.distance**2))),
    }


def _quartiles(name: str, values: np.ndarray) -> dict[str, float]:
    return {
        f"{name}_{end}": summary.quantile(values, share)
        for end, share in (("median", 0.5), ("q25", 0.25), ("q75", 0.75))
    }


def _metrics(plan: ContextPlan, neurons: Table, layers: Table, ends: Mapping[str, np.ndarray]) -> dict[str, float]:
    metrics: dict[str, float] = {
        "words_used": sum(not why for why in plan.words.values()),
        "tokens_compared": plan.chosen["tokens"].stop,
        "types_repeated": int(plan.types.max()) + 1,
        "tokens_repeated": len(plan.types),
        "neurons_compared": len(neurons["mean"]),
    }
    metrics |= {f"share_{part}_overall": summary.median(neurons[f"share_{part}"]) for part in PARTS}
    metrics["share_context_replication_overall"] = summary.correlation(
        neurons["share_context_first_half"], neurons["share_context_second_half"]
    )
    for name in plan.comparisons:
        metrics |= {
            f"r_{name}_overall": summary.median(neurons[f"r_{name}"]),
            f"share_significant_{name}_overall": float((neurons[f"q_{name}"] < LEVEL).mean()),
        }
        for kind in ("", "_centred", "_shuffled"):
            metrics[f"pooled_r_{name}{kind}_overall"] = summary.mean(layers[f"pooled_r_{name}{kind}"])
    for name, found in ends.items():
        if len(found):
            metrics |= {f"{name}_context_{one}": float(neurons[one][found[0]]) for one in ("layer", "neuron")}
            metrics[f"{name}_context_share"] = float(neurons["share_context_second_half"][found[0]])
    return metrics


def _ends(neurons: Table) -> dict[str, np.ndarray]:
    """The neurons with the least and with the most context, by one half of the types."""
    share = neurons["share_context_first_half"]
    usable = np.flatnonzero(np.isfinite(share) & np.isfinite(neurons["share_context_second_half"]))
    order = usable[np.argsort(share[usable], kind="stable")]
    return {"least": order[:NAMED], "most": order[::-1][:NAMED]}
