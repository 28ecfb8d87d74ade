"""A contrast's report: tables, headlines and sentences from the analysis of its layers.

Computes nothing of its own but over layers; what a figure shows is said in `contrast_figures`.
"""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from neurexp.console.progress import Progress
from neurexp.experiments.contrast.analysis import FEWEST, Analyst, LayerAnalysis
from neurexp.experiments.contrast.columns import columns_of
from neurexp.experiments.contrast.figures import Figures, extremes, sizes_told
from neurexp.report.report import Report, Table
from neurexp.stats import summary
from neurexp.stats.association import LEVEL, q_values
from neurexp.stats.nulls import auroc_interval, p_of_largest

if TYPE_CHECKING:
    from neurexp.experiments.contrast.base import Contrast

OF_THE_WORDS = frozenset(
    ("words", "words_empty", "words_duplicate", "words_shared", "words_skipped", "words_unaligned",
     "words_one_token", "text_occurrences", "text_occurrences_dropped", "text_occurrences_adjoining", "neurons_tested")
)  # fmt: skip
SENTENCE = 100  # characters; a longer row is no word
BOOTSTRAPS = 2000  # for the interval of an AUROC in running text


def write(of: "Contrast") -> Report:
    """Analyses every layer of the contrast and says what was found."""
    analyst = Analyst(of)
    analyses = _analyses(of, analyst)
    neurons = _neurons(of, analyses)
    layers = _layers(of, analyses, neurons)
    metrics = _metrics(of, layers, neurons)
    labels = of.rows.category
    tensors = {f"{of.options.site}_{layer}": of.activations["words"][layer] for layer in of.layers}
    sizes = np.bincount(labels, minlength=len(of.categories))
    if len(set(sizes)) == 1:  # the array of the documents: [categories, words, neurons]
        order = np.argsort(labels, kind="stable")
        as_they_are = bool((np.diff(order) > 0).all())  # then it is a view
        tensors |= {
            f"{name}_by_category": (rows if as_they_are else rows[order]).reshape(len(sizes), -1, rows.shape[1])
            for name, rows in tensors.items()
        }
    tensors["labels"] = labels
    definitions = columns_of(of.categories, {name: one.described for name, one in of.conditions.items()})
    for name in tensors:
        definitions[f"activations.{name}"] = (
            "index of each word's category"
            if name == "labels"
            else "activations `[categories, words, neurons]`, words in the order of words.parquet"
            if name.endswith("_by_category")
            else "activations `[words, neurons]`, a row per word of words.parquet"
        )
    notes = {"words": json.dumps(of.rows.words, ensure_ascii=False), "categories": json.dumps(of.categories)}
    null = "auroc_heldout_shuffled_q95"
    report = Report(
        findings=_findings(of, layers, metrics),
        metrics=metrics,
        layers=layers,
        neurons=neurons,
        columns=definitions,
        statistic="cohens_d" if of.two else "eta2",
        of_the_text=OF_THE_WORDS,
        tensors={"activations": tensors},
        notes={"activations": notes},
        tables={"words": _words(analyst), "agreement": _agreement(neurons, of)},
        over_layers={
            "share_bonferroni": ("share of neurons that pass Bonferroni", "share_bonferroni_shuffled"),
            "auroc_heldout": ("AUROC of the best neuron on unseen words", null),
        },
    )
    drawn = Figures(of, analyses, layers, neurons, metrics, report.over_layers)
    report.figures, report.pages = drawn.all(), drawn.pages()
    return report


def _analyses(of: "Contrast", analyst: Analyst) -> list[LayerAnalysis]:
    steps = analyst.steps()
    rows, neurons = of.activations["words"][of.layers[0]].shape
    detail = f"{len(of.layers)} {'layers' if len(of.layers) > 1 else 'layer'} of {rows:,} rows × {neurons:,} neurons"
    with Progress("Analysis", len(of.layers) * sum(steps.values()), detail) as progress:
        ticks = {name: progress.part(size) for name, size in steps.items()}
        return [analyst.layer(layer, ticks) for layer in of.layers]


def _neurons(of: "Contrast", analyses: list[LayerAnalysis]) -> Table:
    count = len(analyses[0].neurons["mean"])
    table: Table = {
        "layer": np.repeat(of.layers, count),
        "neuron": np.tile(np.arange(count), len(of.layers)),
    }
    for name in analyses[0].neurons:
        table[name] = np.concatenate([one.neurons[name] for one in analyses])
        if name == "significant_bonferroni":
            table[f"{name}_all"] = table[f"p_{of.test}"] < LEVEL / (count * len(of.layers))
        if name == "p_maxt":  # over all layers: the same shuffles were used in each
            table["p_maxt_all"] = _p_over_layers(of, analyses)
        if name == f"q_{of.test}":
            table[f"{name}_all"] = q_values(table[f"p_{of.test}"])
    return table


def _p_over_layers(of: "Contrast", analyses: list[LayerAnalysis]) -> np.ndarray:
    observed = np.concatenate([one.null.observed for one in analyses])
    largest = np.stack([one.null.largest for one in analyses]).max(0)
    return p_of_largest(observed, largest, analyses[0].null.exact)


def _layers(of: "Contrast", analyses: list[LayerAnalysis], neurons: Table) -> Table:
    rows = len(of.layers)
    table: Table = {"layer": np.array(of.layers)}
    for name in analyses[0].row:
        table[name] = np.array([one.row[name] for one in analyses])

    def by_layer(name: str) -> np.ndarray:
        return neurons[name].reshape(rows, -1)

    bonferroni = by_layer("significant_bonferroni")
    table["share_significant"] = (by_layer(f"q_{of.test}") < LEVEL).mean(1)
    table["share_bonferroni"] = bonferroni.mean(1)
    table["share_maxt"] = (by_layer("p_maxt") < LEVEL).mean(1)
    if of.two:
        paired = by_layer("p_paired")
        share = (paired < LEVEL / paired.shape[1]).mean(1)
        table["share_paired_bonferroni"] = np.where(np.isnan(paired).all(1), np.nan, share)
        positive = by_layer("t_welch") > 0
        table["share_bonferroni_positive"] = (bonferroni & positive).mean(1)
        table["share_bonferroni_negative"] = (bonferroni & ~positive).mean(1)
        table["d_abs_median"] = np.array([summary.median(np.abs(row)) for row in by_layer("cohens_d")])
        best = np.nanargmax(np.abs(np.nan_to_num(by_layer("auroc"), nan=0.5) - 0.5), axis=1)
        table["auroc_best"] = by_layer("auroc")[np.arange(rows), best]
    return table


def _metrics(of: "Contrast", layers: Table, neurons: Table) -> dict[str, float]:
    metrics: dict[str, float] = {
        "words": len(of.rows.words),
        "words_unaligned": of.rows.dropped,
        "words_one_token": int((of.rows.lengths == 1).sum()),
        **of.counts(),
        **of.text_counts,
        "neurons_tested": len(neurons["mean"]),
        "bonferroni_within_layers": int(neurons["significant_bonferroni"].sum()),
        "bonferroni_over_all": int(neurons["significant_bonferroni_all"].sum()),
        "share_bonferroni_within_layers": float(neurons["significant_bonferroni"].mean()),
        "share_bonferroni_shuffled_within_layers": float(layers["share_bonferroni_shuffled"].mean()),
        "share_significant_over_all": float((neurons[f"q_{of.test}_all"] < LEVEL).mean()),
        "replication_rate_all": summary.ratio(layers["replication_replicated"], layers["replication_selected"]),
        "replication_rate_chance_all": summary.ratio(layers["replication_by_chance"], layers["replication_selected"]),
    }
    for name in ("auroc_heldout", "auroc_text_heldout", "probe_layer_accuracy"):
        if name in layers and np.isfinite(layers[name]).any():
            best = int(np.nanargmax(layers[name]))
            metrics |= {f"{name}_best": float(layers[name][best]), f"{name}_best_layer": of.layers[best]}
    for name in (*of.conditions, "one_token"):
        metrics[f"share_bonferroni_{name}_within_layers"] = summary.mean(layers[f"share_bonferroni_{name}"])
        if of.two:
            metrics[f"d_r_{name}_mean"] = summary.mean(layers[f"d_r_{name}"])
    if of.two and np.isfinite(neurons["t_welch"]).any():
        for end, index in zip(("top", "bottom"), extremes(neurons), strict=True):
            metrics |= {
                f"{end}_t": float(neurons["t_welch"][index]),
                f"{end}_layer": int(neurons["layer"][index]),
                f"{end}_neuron": int(neurons["neuron"][index]),
                f"{end}_d": float(neurons["cohens_d"][index]),
                f"{end}_replicated": float(neurons["replicated"][index]),
            }
            if "auroc_text" in neurons and np.isfinite(neurons["auroc_text"][index]):
                metrics |= _text_score(of, neurons, index, end)
        if "auroc_text_r" in layers:
            metrics["auroc_text_r_mean"] = summary.mean(layers["auroc_text_r"])
    if not of.two and np.isfinite(neurons["f"]).any():
        index = int(np.nanargmax(neurons["f"]))
        metrics |= {
            "top_f": float(neurons["f"][index]),
            "top_layer": int(neurons["layer"][index]),
            "top_neuron": int(neurons["neuron"][index]),
            "top_eta2": float(neurons["eta2"][index]),
            "top_category": int(np.argmax([neurons[f"mean_{one}"][index] for one in range(len(of.categories))])),
        }
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _text_score(of: "Contrast", neurons: Table, index: int, end: str) -> dict[str, float]:
    """One neuron's AUROC in running text, and its interval over words."""
    rows = of.text_rows(int(neurons["layer"][index]))
    assert rows is not None
    _, units = np.unique(of.found.words, return_inverse=True)
    values = rows[0][:, int(neurons["neuron"][index])].astype(np.float64)
    low, high = auroc_interval(values, of.found.category, units, BOOTSTRAPS, of.setting.seed)
    return {
        f"{end}_auroc_text": float(neurons["auroc_text"][index]),
        f"{end}_auroc_text_low": low,
        f"{end}_auroc_text_high": high,
    }


def _words(analyst: Analyst) -> Table:
    rows = analyst.of.rows
    pair = np.full(len(rows.words), -1)
    if analyst.two:
        for members in analyst.pairs:
            pair[members] = np.arange(len(members))
    return {
        "word": np.array(rows.words),
        "category": np.array([analyst.of.categories[label] for label in rows.category]),
        "label": rows.category,
        "tokens": rows.lengths,
        "pair": pair,
    }


def _agreement(neurons: Table, of: "Contrast") -> Table:
    """How often two tests agree, for every pair of them."""
    count = len(neurons["mean"]) // len(of.layers)
    called = {
        f"{of.test}_bonferroni": neurons["significant_bonferroni"],
        "max_t": neurons["p_maxt"] < LEVEL,
        f"{of.test}_bh": neurons[f"q_{of.test}"] < LEVEL,
        "replicated": neurons["replicated"] > 0.5,
    }
    if of.two and np.isfinite(neurons["p_paired"]).any():
        called = {"paired_bonferroni": neurons["p_paired"] < LEVEL / count, **called}
    names = list(called)
    both = [(a, b) for index, a in enumerate(names) for b in names[index + 1 :]]
    return {
        "first": np.array([a for a, _ in both]),
        "second": np.array([b for _, b in both]),
        "both": np.array([int((called[a] & called[b]).sum()) for a, b in both]),
        "only_first": np.array([int((called[a] & ~called[b]).sum()) for a, b in both]),
        "only_second": np.array([int((~called[a] & called[b]).sum()) for a, b in both]),
        "neither": np.array([int((~called[a] & ~called[b]).sum()) for a, b in both]),
    }


def _findings(of: "Contrast", layers: Table, metrics: dict[str, Any]) -> list[str]:
    sizes = np.bincount(of.rows.category)
    what = sizes_told(of)
    left_out = [
        f"{metrics[name]} {text}"
        for name, text in (
            ("words_empty", "empty lines"),
            ("words_duplicate", "duplicates"),
            ("words_shared", "words in several lists"),
            ("words_skipped", "lines that cannot be used"),
            ("words_unaligned", "words that share a token with what stands around them"),
        )
        if metrics.get(name)
    ]
    lines = [f"{what}; {metrics['words_one_token']} of {metrics['words']} rows are a single token."]
    if left_out:
        lines[0] += f" Left out: {', '.join(left_out)}."
    several = len(of.layers) > 1
    where = f"{len(of.layers)} layers" if several else f"layer {of.layers[0]}"
    lines.append(
        f"{metrics['bonferroni_within_layers']} of {metrics['neurons_tested']} neurons in {where} "
        f"({metrics['share_bonferroni_within_layers']:.1%}) tell them apart ({'Welch' if of.two else 'F'}, p < 0.05 / "
        f"neurons of the layer); shuffled labels: {metrics['share_bonferroni_shuffled_within_layers']:.2%}."
    )
    if several:
        lines[-1] += f" Corrected for all layers: {metrics['bonferroni_over_all']}."
    beside = [("one_token", "within words of one token")]
    beside += [(name, condition.described) for name, condition in of.conditions.items()]
    shown = [
        f"{text} {metrics[f'share_bonferroni_{name}_within_layers']:.1%} (n = {layers[f'rows_{name}'][0]})"
        for name, text in beside
        if f"share_bonferroni_{name}_within_layers" in metrics
    ]
    if shown:
        lines[-1] += f" Side by side: {', '.join(shown)}."
    most = "the largest of these layers; " if several else ""
    if "replication_rate_all" in metrics:
        at = of.layers.index(metrics["auroc_heldout_best_layer"])
        lines.append(
            f"Of the neurons selected on one half of the words {metrics['replication_rate_all']:.0%} replicate on the "
            f"other (chance: {metrics['replication_rate_chance_all']:.0%}). The best neuron's AUROC on words that did "
            f"not choose it is "
            f"{metrics['auroc_heldout_best']:.2f} in layer {metrics['auroc_heldout_best_layer']} ({most}"
            f"shuffled labels: 95 % below {layers['auroc_heldout_shuffled_q95'][at]:.2f})."
        )
    else:
        lines.append("No neuron was selected on one half of the words, so none could replicate on the other.")
    at = of.layers.index(metrics["probe_layer_accuracy_best_layer"])
    lines.append(
        f"A probe on all neurons of a layer is right on {metrics['probe_layer_accuracy_best']:.0%} of unseen words in "
        f"layer {metrics['probe_layer_accuracy_best_layer']} ({most}shuffled labels: 95 % below "
        f"{layers['probe_layer_accuracy_shuffled_q95'][at]:.0%})."
    )
    for end, own in (("top", 1), ("bottom", 0)):
        if f"{end}_t" in metrics:
            lines.append(_about_extreme(of, metrics, end, own))
    if "top_f" in metrics:
        lines.append(
            f"The neuron that differs most is {metrics['top_neuron']} of layer {metrics['top_layer']} (F = "
            f"{metrics['top_f']:.1f}, η² = {metrics['top_eta2']:.2f}), highest on “"
            f"{of.categories[int(metrics['top_category'])]}”. Running text is looked at with two categories only."
        )
    missing = [
        text
        for text, absent in (
            ("the paired t (the categories differ in size)", of.two and len(set(sizes.tolist())) > 1),
            ("words of one token (too few)", "share_bonferroni_one_token_within_layers" not in metrics),
        )
        if absent
    ]
    if missing:
        lines.append(f"Left out: {' and '.join(missing)}.")
    return lines + _about_text(of, metrics) if of.reads_text else lines


def _about_text(of: "Contrast", metrics: dict[str, Any]) -> list[str]:
    """What was found in running text, and how far the occurrences can be trusted."""
    used, dropped, adjoining = (metrics[name] for name in of.text_counts)
    lines = []
    if used == 0:
        lines.append("None of the words occurs in the text as a whole word: nothing to generalise to.")
    elif "auroc_text_heldout_best" in metrics:
        several = " (the largest of these layers)" if len(of.layers) > 1 else ""
        lines.append(
            f"Chosen on half of the words on their own, the best neuron's AUROC on the other half in running text is "
            f"{metrics['auroc_text_heldout_best']:.2f} in layer {metrics['auroc_text_heldout_best_layer']}{several}."
        )
    elif (seen := np.bincount(of.found.category, minlength=2)).min() < FEWEST:
        counted = " and ".join(f"{count} of {name}" for count, name in zip(seen, of.categories, strict=True))
        lines.append(f"Too few of the words occur in the text to compare them there: {counted}; give more text.")
    if adjoining:
        lines.append(
            f"{adjoining} of the {used} occurrences in the text stand in a script without spaces, right beside other "
            "letters: some may be parts of longer words."
        )
    if dropped:
        lines.append(f"{dropped} more occurrences in the text share a token with other characters, and were left out.")
    sentences = sum(len(word) > SENTENCE for word in of.rows.words)
    if sentences:
        lines.append(
            f"{sentences} of the rows are longer than {SENTENCE} characters; the text was searched for each as a whole."
        )
    return lines


def _about_extreme(of: "Contrast", metrics: dict[str, Any], end: str, own: int) -> str:
    effect = f", d = {metrics[f'{end}_d']:+.2f}" if f"{end}_d" in metrics else ", the same on all rows of a category"
    text = (
        f"The neuron that prefers “{of.categories[own]}” most is {metrics[f'{end}_neuron']} of layer "
        f"{metrics[f'{end}_layer']} (t = {metrics[f'{end}_t']:+.1f}{effect}"
    )
    if f"{end}_auroc_text" not in metrics:
        return text + ")."
    low, score, high = (metrics[f"{end}_auroc_text{part}"] for part in ("_low", "", "_high"))
    if own == 0:  # in the neuron's own direction
        low, score, high = 1 - high, 1 - score, 1 - low
    seen = np.bincount(of.found.category, minlength=2)
    return text + (
        f"). In running text it is higher on {of.categories[own]} than on {of.categories[1 - own]} in {score:.0%} of "
        f"pairs (95 % interval over words {low:.0%} to {high:.0%}; the same words, {seen[own]} and "
        f"{seen[1 - own]} occurrences)."
    )
