"""A contrast's report: tables, headlines, sentences and figures from the analysis of its layers."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from neurexp.experiments.contrast_analysis import Analyst, LayerAnalysis
from neurexp.experiments.contrast_columns import columns_of
from neurexp.report import Report, Table
from neurexp.stats.association import LEVEL, q_values
from neurexp.stats.contrast import auroc_interval, p_of_largest

if TYPE_CHECKING:
    from neurexp.experiments.contrast import Contrast

OF_THE_WORDS = frozenset(
    ("words", "words_empty", "words_duplicate", "words_shared", "words_unaligned", "words_one_token",
     "text_occurrences", "neurons_tested")
)  # fmt: skip
SHOWN = 12  # neurons whose values are drawn word by word
BOOTSTRAPS = 2000  # for the interval of an AUROC in running text


def write(of: "Contrast") -> Report:
    """Analyses every layer of the contrast and says what was found."""
    chosen = tqdm(of.layers, unit=" layers", leave=False, disable=None if len(of.layers) > 1 else True)
    analyst = Analyst(of)
    analyses = [analyst.layer(layer) for layer in chosen]
    neurons = _neurons(of, analyses)
    layers = _layers(of, analyses, neurons)
    metrics = _metrics(of, layers, neurons)
    labels = of.rows.category
    tensors = {f"{of.options.site}_{layer}": of.activations["words"][layer] for layer in of.layers}
    sizes = np.bincount(labels, minlength=len(of.categories))
    if len(set(sizes)) == 1:  # the array of the documents: [categories, words, neurons]
        by_category = np.argsort(labels, kind="stable").reshape(len(sizes), -1)
        tensors |= {f"{name}_by_category": rows[by_category] for name, rows in tensors.items()}
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
    drawn = _Figures(of, analyses, layers, neurons, metrics, report.over_layers)
    report.figures, report.pages = drawn.all(), drawn.pages()
    return report


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
        table["d_abs_median"] = np.array([_median(np.abs(row)) for row in by_layer("cohens_d")])
        best = np.nanargmax(np.abs(np.nan_to_num(by_layer("auroc"), nan=0.5) - 0.5), axis=1)
        table["auroc_best"] = by_layer("auroc")[np.arange(rows), best]
    return table


def _metrics(of: "Contrast", layers: Table, neurons: Table) -> dict[str, float]:
    metrics: dict[str, float] = {
        "words": len(of.rows.words),
        "words_unaligned": of.rows.dropped,
        "words_one_token": int((of.rows.lengths == 1).sum()),
        **of.counts(),
        "text_occurrences": len(of.found.words) if "text" in of.activations else 0,
        "neurons_tested": len(neurons["mean"]),
        "bonferroni_within_layers": int(neurons["significant_bonferroni"].sum()),
        "bonferroni_over_all": int(neurons["significant_bonferroni_all"].sum()),
        "share_bonferroni_within_layers": float(neurons["significant_bonferroni"].mean()),
        "share_bonferroni_shuffled_within_layers": float(layers["share_bonferroni_shuffled"].mean()),
        "share_significant_over_all": float((neurons[f"q_{of.test}_all"] < LEVEL).mean()),
        "replication_rate_all": _ratio(layers["replication_replicated"], layers["replication_selected"]),
        "replication_rate_chance_all": _ratio(layers["replication_by_chance"], layers["replication_selected"]),
    }
    for name in ("auroc_heldout", "auroc_text_heldout", "probe_layer_accuracy"):
        if name in layers and np.isfinite(layers[name]).any():
            best = int(np.nanargmax(layers[name]))
            metrics |= {f"{name}_best": float(layers[name][best]), f"{name}_best_layer": of.layers[best]}
    for name in (*of.conditions, "one_token"):
        metrics[f"share_bonferroni_{name}_within_layers"] = _mean(layers[f"share_bonferroni_{name}"])
        if of.two:
            metrics[f"d_r_{name}_mean"] = _mean(layers[f"d_r_{name}"])
    if of.two and np.isfinite(neurons["t_welch"]).any():
        for end, index in zip(("top", "bottom"), _extremes(neurons), strict=True):
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
            metrics["auroc_text_r_mean"] = _mean(layers["auroc_text_r"])
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


def _extremes(neurons: Table) -> tuple[int, int]:
    """Rows of the highest and of the lowest t."""
    return int(np.nanargmax(neurons["t_welch"])), int(np.nanargmin(neurons["t_welch"]))


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
    what = ", ".join(f"{size} {name}" for size, name in zip(sizes, of.categories, strict=True))
    left_out = [
        f"{metrics[name]} {text}"
        for name, text in (
            ("words_empty", "empty lines"),
            ("words_duplicate", "duplicates"),
            ("words_shared", "words in several lists"),
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
    if of.reads_text and metrics["text_occurrences"] == 0:
        lines.append("None of the words occurs in the text as a whole word: nothing to generalise to.")
    elif "auroc_text_heldout_best" in metrics:
        lines.append(
            f"Chosen on half of the words on their own, the best neuron's AUROC on the other half in running text is "
            f"{metrics['auroc_text_heldout_best']:.2f} in layer {metrics['auroc_text_heldout_best_layer']}"
            f"{' (the largest of these layers)' if several else ''}."
        )
    return lines


def _about_extreme(of: "Contrast", metrics: dict[str, Any], end: str, own: int) -> str:
    text = (
        f"The neuron that prefers “{of.categories[own]}” most is {metrics[f'{end}_neuron']} of layer "
        f"{metrics[f'{end}_layer']} (t = {metrics[f'{end}_t']:+.1f}, d = {metrics[f'{end}_d']:+.2f}"
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


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
    """Of all layers together; NaN where there is nothing to divide by."""
    return float(part.sum() / whole.sum()) if whole.sum() > 0 else float("nan")


class _Figures:
    """The contrast's figures, each drawn when it is called for."""

    def __init__(self, of: "Contrast", analyses, layers: Table, neurons: Table, metrics, over_layers):
        self.of, self.analyses, self.layers, self.neurons = of, analyses, layers, neurons
        self.metrics, self.over = metrics, over_layers
        sizes = np.bincount(of.rows.category)
        names = ", ".join(f"{size} {name}" for size, name in zip(sizes, of.categories, strict=True))
        self.measured = f"{of.setting.model}, {of.options.site}; {names}"
        self.statistic, self.symbol, self.effect = ("t_welch", "t", "cohens_d") if of.two else ("f", "F", "eta2")
        # The layer that figures of one layer show
        self.at = int(np.argmax(layers["share_bonferroni"] + 1e-9 * np.nan_to_num(layers["auroc_heldout"])))

    def all(self) -> dict[str, Callable[[], Any]]:
        figures: dict[str, Callable[[], Any]] = {"words_by_neurons": self.words_by_neurons}
        if np.isfinite(self.neurons[self.statistic]).any():
            figures |= {
                "volcano": self.volcano,
                f"{self.symbol.lower()}_against_null": self.against_null,
                "top_neurons": self.top_neurons,
            }
            if "text" in self.of.activations:
                figures["text_heat_map"] = self.heat_map
        if len(self.of.layers) > 1:
            figures["over_layers"] = self.over_layers
        return figures

    def pages(self) -> dict[str, Callable[[], str]]:
        return {"text_heat_map": self.heat_page} if "text_heat_map" in self.all() else {}

    @property
    def _layer(self) -> int:
        return self.of.layers[self.at]

    def _of_layer(self, name: str) -> np.ndarray:
        return self.neurons[name].reshape(len(self.of.layers), -1)[self.at]

    def words_by_neurons(self):
        from neurexp.figures.contrasts import words_by_neurons

        offset, negative = self.layers["mean_offset"][self.at], self.layers["share_mean_negative"][self.at]
        return words_by_neurons(
            self.of.activations["words"][self._layer],
            self.of.rows.category,
            self.of.categories,
            self._of_layer("band"),
            f"{negative:.0%} of the neurons of layer {self._layer} sit below zero (mean {offset:+.2f}); "
            f"{self.layers['bands'][self.at]:g} are far out for all words",
            f"{self.measured}; layer {self._layer}; marks below: means beyond 3.5 robust SD of the others",
            "activation (model's own units)",
        )

    def volcano(self):
        from neurexp.figures.contrasts import volcano

        found = int(self._of_layer("significant_bonferroni").sum())
        effect, p, q = (self._of_layer(name) for name in (self.effect, f"p_{self.of.test}", f"q_{self.of.test}"))
        threshold = float(p[q < LEVEL].max()) if (q < LEVEL).any() else None
        xlabel = "η²: share of the neuron's variance that lies between the categories"
        if self.of.two:
            xlabel = f"Cohen's d (right: {self.of.categories[1]} higher, left: {self.of.categories[0]})"
        return volcano(
            effect, p, LEVEL / len(p), threshold, self._of_layer("neuron"),
            f"{found} of {len(p)} neurons of layer {self._layer} pass Bonferroni; shuffled labels: "
            f"{self.layers['share_bonferroni_shuffled'][self.at] * len(p):.1f} neurons",
            f"{self.measured}; {'Welch t' if self.of.two else 'F'}-test, {int((q < LEVEL).sum())} neurons with "
            "q < 0.05 (Benjamini-Hochberg)",
            xlabel,
            signed=self.of.two,
        )  # fmt: skip

    def against_null(self):
        from neurexp.figures.contrasts import against_null

        null = self.analyses[self.at].null
        values = self._of_layer(self.statistic)
        limit = float(np.quantile(null.largest, 1 - LEVEL))
        beyond = int((self._of_layer("p_maxt") < LEVEL).sum())
        name = "Welch's t" if self.of.two else "F"
        direction = f" (positive: {self.of.categories[1]} higher)" if self.of.two else ""
        return against_null(
            values[np.isfinite(values)], null.counts, null.edges, limit,
            f"{beyond} neurons of layer {self._layer} lie beyond the largest of all neurons in 95 % of the shuffles",
            f"{self.measured}; null: shuffled labels, all neurons (its histogram: the first 2,000 shuffles); dashed: "
            "95 % quantile "
            f"of the largest {'|t|' if self.of.two else 'F'} of any neuron in {len(null.largest):,} shuffles",
            f"{name}{direction}",
        )  # fmt: skip

    def top_neurons(self):
        from neurexp.figures.contrasts import values_by_word

        values = np.nan_to_num(self.neurons[self.statistic])
        order = np.argsort(values)
        half = min(SHOWN // 2, len(values) // 2)
        chosen = [*order[::-1][:half], *order[:half][::-1]] if self.of.two else list(order[::-1][: 2 * half])
        labels, rows = [], []
        sign = "d = {:+.2f}" if self.of.two else "η² = {:.2f}"
        for index in chosen:
            layer, neuron = int(self.neurons["layer"][index]), int(self.neurons["neuron"][index])
            effect = sign.format(self.neurons[self.effect][index])
            labels.append(f"{self.of.options.site}_{layer}, neuron {neuron}\n{effect}")
            rows.append(self.of.activations["words"][layer][:, neuron])
        above = f"above: neurons that prefer {self.of.categories[-1]}, below: {self.of.categories[0]}; "
        effects = np.abs(self.neurons[self.effect][chosen])
        return values_by_word(
            rows, labels, self.of.rows.category, self.of.categories,
            f"The neurons with the largest {'|t|' if self.of.two else 'F'}, word by word: "
            f"{'|d|' if self.of.two else 'η²'} from {np.nanmin(effects):.2f} to {np.nanmax(effects):.2f}",
            f"{self.measured}; a dot a word, bar: mean; {above if self.of.two else ''}chosen and shown on the same "
            "words",
            "activation (own scale)",
        )  # fmt: skip

    def over_layers(self):
        from neurexp.figures.contrasts import over_layers

        best = int(np.nanargmax(self.layers["auroc_heldout"]))
        share = self.layers["share_bonferroni"]
        most = int(np.argmax(share))
        return over_layers(
            self.of.layers,
            {label: (self.layers[name], self.layers.get(null)) for name, (label, null) in self.over.items()},
            f"Layer {self.of.layers[most]} has most neurons that pass Bonferroni ({share[most]:.1%}); on unseen words "
            f"the best neuron is in layer {self.of.layers[best]} (AUROC {self.layers['auroc_heldout'][best]:.2f})",
            f"{self.measured}; dashed: the same with shuffled labels (share: mean; AUROC: 95 % quantile over shuffles)",
        )

    def _heat(self):
        top, bottom = _extremes(self.neurons)
        rows = []
        for index, category in ((top, 1), (bottom, 0)):
            layer, neuron = int(self.neurons["layer"][index]), int(self.neurons["neuron"][index])
            found = self.of.excerpt_of(layer, neuron)
            assert found is not None
            tokens, values, listed = found
            name = f"{self.of.options.site}_{layer}, neuron {neuron}"
            score = self.neurons["auroc_text"][index]
            right = score if category == 1 else 1 - score  # the chance in the neuron's own direction
            told = f"higher on them in {right:.0%} of pairs" if np.isfinite(score) else "too few listed words"
            rows.append((f"{name}: prefers {self.of.categories[category]} ({told})", tokens, values, listed))
        return rows

    def _about_heat(self) -> str:
        return (
            f"{self.of.setting}; {len(self.of.found.words)} occurrences of listed words in the text, at most "
            f"{self.of.options.occurrences} of each; colour: the neuron's activation"
        )

    def _heat_title(self) -> str:
        scores = [self.metrics[name] for name in ("top_auroc_text", "bottom_auroc_text") if name in self.metrics]
        if len(scores) < 2:
            return "The two neurons that differ most, over running text"
        # bottom: category 0 should be higher, so the chance in its direction is 1 − AUROC
        return (
            f"In running text the neuron for {self.of.categories[1]} is right on {scores[0]:.0%} of pairs of listed "
            f"words, the one for {self.of.categories[0]} on {1 - scores[1]:.0%}"
        )

    def heat_map(self):
        from neurexp.figures.heat import heat_map

        return heat_map(self._heat(), self.of.categories, self._heat_title(), self._about_heat())

    def heat_page(self) -> str:
        from neurexp.figures.heat import heat_page

        return heat_page(self._heat(), self.of.categories, self._heat_title(), self._about_heat())
