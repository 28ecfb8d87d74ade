"""A contrast's report: its tables and metrics, from the analysis of its layers.

Computes only what needs all layers. Its sentences are in `findings`, and the texts of its figures in `figures`.
"""

import json

import numpy as np

from neurexp.console.progress import Progress
from neurexp.experiments.contrast.analysis import Analyst, LayerAnalysis
from neurexp.experiments.contrast.columns import activations_column, columns_of
from neurexp.experiments.contrast.data import ContrastData
from neurexp.experiments.contrast.figures import Figures, extremes
from neurexp.experiments.contrast.findings import findings_of
from neurexp.experiments.contrast.leading import leading, text_interval
from neurexp.report.report import Report, Table, by_layer
from neurexp.stats import summary
from neurexp.stats.association import LEVEL, q_values
from neurexp.stats.nulls import p_of_largest

OF_THE_WORDS = frozenset(
    ("words", "words_empty", "words_duplicate", "words_shared", "words_skipped", "words_unaligned",
     "words_one_token", "text_occurrences", "text_occurrences_dropped", "text_occurrences_adjoining", "neurons_tested")
)  # fmt: skip


def write(data: ContrastData) -> Report:
    """Analyses every layer of the contrast, and reports what was found."""
    analyst = Analyst(data)
    analyses = _analyses(data, analyst)
    neurons = _neurons(data, analyses)
    layers = _layers(data, analyses, neurons)
    metrics = _metrics(data, layers, neurons)
    tensors = _tensors(data)
    conditions = {name: condition.description for name, condition in data.conditions.items()}
    columns = columns_of(data.categories, conditions)
    columns |= {f"activations.{name}": activations_column(name) for name in tensors}
    notes = {"words": json.dumps(data.rows.words, ensure_ascii=False), "categories": json.dumps(data.categories)}
    leaders = None if data.two else leading(data, neurons)
    report = Report(
        findings=findings_of(data, layers, neurons, metrics, leaders),
        metrics=metrics,
        layers=layers,
        neurons=neurons,
        columns=columns,
        statistic="cohens_d" if data.two else "eta2",
        of_the_text=OF_THE_WORDS,
        shares={"share_bonferroni_within_layers": "differ between the categories (p < 0.05 / neurons of the layer)"},
        tensors={"activations": tensors},
        notes={"activations": notes},
        tables={"words": _words(analyst), "agreement": _agreement(neurons, data)}
        | ({} if leaders is None else {"leading": leaders}),
        over_layers={
            "share_bonferroni": ("share of neurons that pass Bonferroni", "share_bonferroni_shuffled"),
            "auroc_heldout": ("AUROC of the best neuron on unseen words", "auroc_heldout_shuffled_q95"),
        },
    )
    figures = Figures(data, analyses, layers, neurons, metrics, report.over_layers, leaders)
    report.figures, report.pages = figures.all(), figures.pages()
    return report


def _tensors(data: ContrastData) -> dict[str, np.ndarray]:
    """The activations of each layer, and the labels.

    Where all categories have the same size, each layer's activations stand there as `[categories, words, neurons]` too.
    """
    labels, activations = data.labels, data.activations["words"]
    tensors = {f"{data.site}_{layer}": activations[layer] for layer in data.layers}
    sizes = np.bincount(labels, minlength=len(data.categories))
    if len(set(sizes)) == 1:
        order = np.argsort(labels, kind="stable")
        sorted_already = bool((np.diff(order) > 0).all())  # then a view is enough, and no copy is made
        tensors |= {
            f"{name}_by_category": (rows if sorted_already else rows[order]).reshape(len(sizes), -1, rows.shape[1])
            for name, rows in tensors.items()
        }
    return tensors | {"labels": labels}


def _analyses(data: ContrastData, analyst: Analyst) -> list[LayerAnalysis]:
    steps = analyst.steps()
    rows, neurons = data.activations["words"][data.layers[0]].shape
    detail = (
        f"{len(data.layers)} {'layers' if len(data.layers) > 1 else 'layer'} of {rows:,} rows × {neurons:,} neurons"
    )
    with Progress("Analysis", len(data.layers) * sum(steps.values()), detail) as progress:
        ticks = {name: progress.part(size) for name, size in steps.items()}
        return [analyst.layer(layer, ticks) for layer in data.layers]


def _neurons(data: ContrastData, analyses: list[LayerAnalysis]) -> Table:
    count = len(analyses[0].neurons["mean"])
    table: Table = {
        "layer": np.repeat(data.layers, count),
        "neuron": np.tile(np.arange(count), len(data.layers)),
    }
    for name in analyses[0].neurons:
        table[name] = np.concatenate([one.neurons[name] for one in analyses])
        if name == "significant_bonferroni":
            table[f"{name}_all"] = table[f"p_{data.test}"] < LEVEL / (count * len(data.layers))
        if name == "p_maxt":  # the same shuffles were used in every layer
            table["p_maxt_all"] = _p_over_layers(data, analyses)
        if name == f"q_{data.test}":
            table[f"{name}_all"] = q_values(table[f"p_{data.test}"])
    return table


def _p_over_layers(data: ContrastData, analyses: list[LayerAnalysis]) -> np.ndarray:
    observed = np.concatenate([one.null.observed for one in analyses])
    largest = np.stack([one.null.largest for one in analyses]).max(0)
    return p_of_largest(observed, largest, analyses[0].null.exact)


def _layers(data: ContrastData, analyses: list[LayerAnalysis], neurons: Table) -> Table:
    rows = len(data.layers)
    table = by_layer(data.layers, [one.row for one in analyses])

    def of_layers(name: str) -> np.ndarray:
        return neurons[name].reshape(rows, -1)

    bonferroni = of_layers("significant_bonferroni")
    table["share_significant"] = (of_layers(f"q_{data.test}") < LEVEL).mean(1)
    table["share_bonferroni"] = bonferroni.mean(1)
    table["share_maxt"] = (of_layers("p_maxt") < LEVEL).mean(1)
    if data.two:
        paired = of_layers("p_paired")
        share = (paired < LEVEL / paired.shape[1]).mean(1)
        table["share_paired_bonferroni"] = np.where(np.isnan(paired).all(1), np.nan, share)
        positive = of_layers("t_welch") > 0
        table["share_bonferroni_positive"] = (bonferroni & positive).mean(1)
        table["share_bonferroni_negative"] = (bonferroni & ~positive).mean(1)
        table["d_abs_median"] = np.array([summary.median(np.abs(row)) for row in of_layers("cohens_d")])
        auroc = of_layers("auroc")
        best = np.abs(np.nan_to_num(auroc, nan=0.5) - 0.5).argmax(1)
        table["auroc_best"] = auroc[np.arange(rows), best]
    return table


def _metrics(data: ContrastData, layers: Table, neurons: Table) -> dict[str, float]:
    metrics: dict[str, float] = {
        "words": len(data.rows.words),
        "words_unaligned": data.rows.dropped,
        "words_one_token": int((data.rows.lengths == 1).sum()),
        **data.counts,
        "neurons_tested": len(neurons["mean"]),
        "bonferroni_within_layers": int(neurons["significant_bonferroni"].sum()),
        "bonferroni_over_all": int(neurons["significant_bonferroni_all"].sum()),
        "share_bonferroni_within_layers": float(neurons["significant_bonferroni"].mean()),
        "share_bonferroni_shuffled_within_layers": float(layers["share_bonferroni_shuffled"].mean()),
        "share_significant_over_all": float((neurons[f"q_{data.test}_all"] < LEVEL).mean()),
        "replication_rate_all": summary.ratio(layers["replication_replicated"], layers["replication_selected"]),
        "replication_rate_chance_all": summary.ratio(layers["replication_by_chance"], layers["replication_selected"]),
    }
    for name in ("auroc_heldout", "auroc_text_heldout", "probe_layer_accuracy"):
        if name in layers and np.isfinite(layers[name]).any():
            best = int(np.nanargmax(layers[name]))
            metrics |= {f"{name}_best": float(layers[name][best]), f"{name}_best_layer": data.layers[best]}
    for name in (*data.conditions, "one_token"):
        metrics[f"share_bonferroni_{name}_within_layers"] = summary.mean(layers[f"share_bonferroni_{name}"])
        if data.two:
            metrics[f"d_r_{name}_mean"] = summary.mean(layers[f"d_r_{name}"])
    if data.two and np.isfinite(neurons["t_welch"]).any():
        for end, index in zip(("top", "bottom"), extremes(neurons), strict=True):
            metrics |= {
                f"{end}_t": float(neurons["t_welch"][index]),
                f"{end}_layer": int(neurons["layer"][index]),
                f"{end}_neuron": int(neurons["neuron"][index]),
                f"{end}_d": float(neurons["cohens_d"][index]),
                f"{end}_replicated": float(neurons["replicated"][index]),
            }
            if "auroc_text" in neurons and np.isfinite(neurons["auroc_text"][index]):
                metrics |= _text_score(data, neurons, index, end)
        if "auroc_text_r" in layers:
            metrics["auroc_text_r_mean"] = summary.mean(layers["auroc_text_r"])
    if not data.two and np.isfinite(neurons["f"]).any():
        index = int(np.nanargmax(neurons["f"]))
        metrics |= {
            "top_f": float(neurons["f"][index]),
            "top_layer": int(neurons["layer"][index]),
            "top_neuron": int(neurons["neuron"][index]),
            "top_eta2": float(neurons["eta2"][index]),
            "top_category": int(np.argmax([neurons[f"mean_{one}"][index] for one in range(len(data.categories))])),
        }
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _text_score(data: ContrastData, neurons: Table, index: int, end: str) -> dict[str, float]:
    """One neuron's AUROC in running text, and its interval over words."""
    low, high = text_interval(data, int(neurons["layer"][index]), int(neurons["neuron"][index]), 1)
    return {
        f"{end}_auroc_text": float(neurons["auroc_text"][index]),
        f"{end}_auroc_text_low": low,
        f"{end}_auroc_text_high": high,
    }


def _words(analyst: Analyst) -> Table:
    rows = analyst.data.rows
    pair = np.full(len(rows.words), -1)
    if analyst.two:
        for members in analyst.pairs:
            pair[members] = np.arange(len(members))
    return {
        "word": np.array(rows.words),
        "category": np.array([analyst.data.categories[label] for label in rows.category]),
        "label": rows.category,
        "tokens": rows.lengths,
        "pair": pair,
    }


def _agreement(neurons: Table, data: ContrastData) -> Table:
    """How often two tests agree, for every pair of tests."""
    count = len(neurons["mean"]) // len(data.layers)
    significant = {
        f"{data.test}_bonferroni": neurons["significant_bonferroni"],
        "max_t": neurons["p_maxt"] < LEVEL,
        f"{data.test}_bh": neurons[f"q_{data.test}"] < LEVEL,
        "replicated": neurons["replicated"] > 0.5,
    }
    if data.two and np.isfinite(neurons["p_paired"]).any():
        significant = {"paired_bonferroni": neurons["p_paired"] < LEVEL / count, **significant}
    names = list(significant)
    both = [(a, b) for index, a in enumerate(names) for b in names[index + 1 :]]
    return {
        "first": np.array([a for a, _ in both]),
        "second": np.array([b for _, b in both]),
        "both": np.array([int((significant[a] & significant[b]).sum()) for a, b in both]),
        "only_first": np.array([int((significant[a] & ~significant[b]).sum()) for a, b in both]),
        "only_second": np.array([int((~significant[a] & significant[b]).sum()) for a, b in both]),
        "neither": np.array([int((~significant[a] & ~significant[b]).sum()) for a, b in both]),
    }
