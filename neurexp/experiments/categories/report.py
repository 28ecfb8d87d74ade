"""The report of categories: that of the contrast over words, with what the sentences add."""

from dataclasses import replace

import numpy as np

from neurexp.experiments.categories.analysis import Analyst, LayerAnalysis, against_splits
from neurexp.experiments.categories.columns import columns_of
from neurexp.experiments.categories.data import CategoryData
from neurexp.experiments.categories.figures import Figures
from neurexp.experiments.categories.findings import findings_of
from neurexp.report.report import Report, Table, by_layer, by_neuron
from neurexp.stats import summary
from neurexp.stats.association import LEVEL

OF_THE_SENTENCES = frozenset(
    ("sentences", "sentences_set_2", "sentences_duplicate", "sentences_skipped", "rows_leak_all", "words_leak_all")
)
DISPLACEMENTS = tuple(f"displacement_{place}{end}" for place in ("first", "last") for end in ("", "_relative"))


def with_sentences(report: Report, data: CategoryData) -> Report:
    """The report of the contrast over words, with columns, metrics, findings and figures of the sentences added."""
    analyst = Analyst(data)
    analyses = [analyst.layer(layer) for layer in data.contrast.layers]
    neurons = report.neurons | by_neuron(data.contrast.layers, [one.neurons for one in analyses])
    layers = report.layers | by_layer(data.contrast.layers, [one.row for one in analyses])
    metrics = report.metrics | _metrics(data, layers, analyses)
    drawn = Figures(data, layers, neurons, metrics)
    return replace(
        report,
        neurons=neurons,
        layers=layers,
        metrics=metrics,
        columns=report.columns | columns_of(data.contrast.categories),
        findings=[report.findings[0], *findings_of(data, layers, metrics), *report.findings[1:]],
        tables=report.tables | {"sentences": _sentences(data)},
        figures=drawn.all() | report.figures,
        of_the_text=report.of_the_text | OF_THE_SENTENCES,
        over_layers=report.over_layers
        | {"share_sentences": ("share of neurons that pass Bonferroni over sentences", "share_sentences_shuffled")},
    )


def _metrics(data: CategoryData, layers: Table, analyses: list[LayerAnalysis]) -> dict[str, float]:
    """Means over the layers, all of which have as many neurons; and the layers where something is largest."""
    metrics: dict[str, float] = {
        "sentences" if name == "words" else f"sentences_{name}": len(one.rows.tokens.input_ids)
        for name, one in data.sets.items()
    }
    for name in analyses[0].by_split:
        values = np.stack([one.by_split[name] for one in analyses])
        metrics |= against_splits(f"{name}_all", np.array([summary.mean(split) for split in values.T]))
        if f"{name}_independent" in layers:
            metrics[f"{name}_all_independent"] = summary.mean(layers[f"{name}_independent"])
    chosen = layers["layer"]
    for name in ("share_sentences", "members", "leak_share", *DISPLACEMENTS):
        if name in layers and np.isfinite(layers[name]).any():
            best = int(np.nanargmax(layers[name]))
            metrics |= {f"{name}_largest": float(layers[name][best]), f"{name}_largest_layer": int(chosen[best])}
    if "leak_share" in layers:
        metrics |= {
            "leak_share_all": summary.mean(layers["leak_share"]),
            "leak_layers": int((layers["leak_share_p"] < LEVEL).sum()),
            "rows_leak_all": int(layers["rows_leak"][0]),
            "words_leak_all": int(layers["words_leak"][0]),
        }
    if "displacement_last" in layers:
        more = layers["displacement_last_relative"] > layers["displacement_first_relative"]
        metrics["displacement_last_more"] = int(more.sum())
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _sentences(data: CategoryData) -> Table:
    """The rows of both sets, as they were used."""
    sets, categories = data.sets, np.array(data.contrast.categories)
    return {
        "set": np.repeat([1, 2][: len(sets)], [len(one.groups) for one in sets.values()]),
        "word": np.array([word for one in sets.values() for word in one.rows.words]),
        "category": categories[np.concatenate([one.rows.category for one in sets.values()])],
        **{
            name: np.concatenate([getattr(one.rows, field) for one in sets.values()])
            for name, field in {"sequence": "sequence", "position": "start", "tokens": "lengths"}.items()
        },
        "alone": np.concatenate([one.alone for one in sets.values()]),
        "earlier": np.concatenate([one.earlier for one in sets.values()]),
    }
