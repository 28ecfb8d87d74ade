"""A contrast's findings: the sentences that a person reads first, made from the report's numbers.

Computes no statistic.
"""

from collections.abc import Mapping

import numpy as np

from neurexp.experiments.contrast.data import FEWEST, ContrastData
from neurexp.experiments.contrast.figures import MANY, describe_sizes
from neurexp.report.report import Table
from neurexp.report.words import name_of

FOLLOWING = 4  # neurons that are named after the strongest
SENTENCE = 100  # characters; a longer row is not a word
Metrics = Mapping[str, float]


def findings_of(
    data: ContrastData, layers: Table, neurons: Table, metrics: Metrics, leaders: Table | None = None
) -> list[str]:
    """The findings, a line each. The first line describes the rows, and is the same for a control.

    `leaders` is the table of `leading` for three categories or more.
    """
    return [
        _rows(data, metrics),
        _significant(data, layers, metrics),
        _replication(data, layers, metrics),
        _probe(data, layers, metrics),
        *_strongest(data, neurons, metrics),
        *(_leading(data, leaders) if leaders is not None else []),
        *_not_computed(data, metrics),
        *(_running_text(data, metrics) if data.reads_text else []),
    ]


def _rows(data: ContrastData, metrics: Metrics) -> str:
    reasons = {
        "words_empty": "empty lines",
        "words_duplicate": "duplicates",
        "words_shared": "words in several lists",
        "words_skipped": "lines that cannot be used",
        "words_unaligned": "words that share a token with the text around them",
    }
    left_out = [f"{reason} ({metrics[name]})" for name, reason in reasons.items() if metrics.get(name)]
    line = f"{describe_sizes(data)}; {metrics['words_one_token']} of {metrics['words']} rows are a single token."
    return f"{line} Left out: {', '.join(left_out)}." if left_out else line


def _significant(data: ContrastData, layers: Table, metrics: Metrics) -> str:
    several = len(data.layers) > 1
    where = f"{len(data.layers)} layers" if several else f"layer {data.layers[0]}"
    line = (
        f"{metrics['bonferroni_within_layers']} of {metrics['neurons_tested']} neurons in {where} "
        f"({metrics['share_bonferroni_within_layers']:.1%}) differ between the categories "
        f"({'Welch' if data.two else 'F'} test, p < 0.05 / neurons of the layer). With shuffled labels: "
        f"{metrics['share_bonferroni_shuffled_within_layers']:.2%}."
    )
    if several:
        line += f" Corrected over all layers: {metrics['bonferroni_over_all']}."
    conditions = {"one_token": "within words of one token"}
    conditions |= {name: condition.description for name, condition in data.conditions.items()}
    shares = [
        f"{description} {metrics[f'share_bonferroni_{name}_within_layers']:.1%} (n = {layers[f'rows_{name}'][0]})"
        for name, description in conditions.items()
        if f"share_bonferroni_{name}_within_layers" in metrics
    ]
    return f"{line} In other conditions: {', '.join(shares)}." if shares else line


def _replication(data: ContrastData, layers: Table, metrics: Metrics) -> str:
    if "replication_rate_all" not in metrics:
        return "No neuron was selected on one half of the words, so none could replicate on the other."
    layer = int(metrics["auroc_heldout_best_layer"])
    null = layers["auroc_heldout_shuffled_q95"][data.layers.index(layer)]
    return (
        f"{metrics['replication_rate_all']:.0%} of the neurons that are selected on one half of the words replicate on "
        f"the other half (by chance: {metrics['replication_rate_chance_all']:.0%}). The best neuron's AUROC on words "
        f"that did not select it is {metrics['auroc_heldout_best']:.2f} in layer {layer} "
        f"({_largest(data)}95 % quantile with shuffled labels: {null:.2f})."
        + (" Figures of one layer show this one." if len(data.layers) > 1 else "")
    )


def _probe(data: ContrastData, layers: Table, metrics: Metrics) -> str:
    layer = int(metrics["probe_layer_accuracy_best_layer"])
    null = layers["probe_layer_accuracy_shuffled_q95"][data.layers.index(layer)]
    return (
        f"A probe on all neurons of a layer classifies {metrics['probe_layer_accuracy_best']:.0%} of unseen words "
        f"correctly in layer {layer} ({_largest(data)}95 % quantile with shuffled labels: {null:.0%})."
    )


def _largest(data: ContrastData) -> str:
    return "the largest of these layers; " if len(data.layers) > 1 else ""


def _strongest(data: ContrastData, neurons: Table, metrics: Metrics) -> list[str]:
    """The neuron that prefers each of two categories most, or the neuron with the largest F, and those that follow."""
    lines = [
        _extreme(data, metrics, end, category) + _next(data, neurons, sign)
        for end, category, sign in (("top", 1, 1), ("bottom", 0, -1))
        if f"{end}_t" in metrics
    ]
    if "top_f" in metrics:
        lines.append(
            f"The neuron that differs most is {metrics['top_layer']}.{metrics['top_neuron']} (layer.neuron; F = "
            f"{metrics['top_f']:.1f}, η² = {metrics['top_eta2']:.2f}). Its mean is highest on "
            f"“{data.categories[int(metrics['top_category'])]}”.{_next(data, neurons, 1)}"
        )
    return lines


def _leading(data: ContrastData, leaders: Table) -> list[str]:
    """The neuron that prefers each category most, and whether it does in running text."""
    count = len(leaders["label"])
    if len(data.categories) > MANY:
        return [f"leading.parquet names the neuron that prefers each category most, for {count} categories."]
    lines = []
    for row in range(count):
        name = leaders["category"][row]
        line = (
            f"The neuron that prefers “{name}” most is {name_of(leaders, row)} (t = {leaders['t'][row]:+.1f} against "
            "the words of all other categories)."
        )
        low, auroc, high = (leaders[f"auroc_text{part}"][row] for part in ("_low", "", "_high"))
        if np.isfinite(auroc):
            line += (
                f" In running text it is higher on {name} than on the others in {auroc:.0%} of pairs (95 % interval "
                f"over words: {low:.0%} to {high:.0%}; the same words, {leaders['text_occurrences'][row]} occurrences)."
            )
        lines.append(line)
    return lines


def _extreme(data: ContrastData, metrics: Metrics, end: str, category: int) -> str:
    own, other = data.categories[category], data.categories[1 - category]
    effect = f"d = {metrics[f'{end}_d']:+.2f}" if f"{end}_d" in metrics else "the same on all rows of a category"
    line = (
        f"The neuron that prefers “{own}” most is {metrics[f'{end}_layer']}.{metrics[f'{end}_neuron']} "
        f"(layer.neuron; t = {metrics[f'{end}_t']:+.1f}, {effect})."
    )
    if data.text is None or f"{end}_auroc_text" not in metrics:
        return line
    low, auroc, high = (metrics[f"{end}_auroc_text{part}"] for part in ("_low", "", "_high"))
    if category == 0:  # AUROC is the chance that category 1 is higher
        low, auroc, high = 1 - high, 1 - auroc, 1 - low
    counts = np.bincount(data.text.found.category, minlength=2)
    return line + (
        f" In running text it is higher on {own} than on {other} in {auroc:.0%} of pairs (95 % interval over words: "
        f"{low:.0%} to {high:.0%}; the same words, {counts[category]} and {counts[1 - category]} occurrences)."
    )


def _next(data: ContrastData, neurons: Table, sign: int) -> str:
    """The neurons that follow the strongest one of a sign, of those that pass Bonferroni."""
    statistic, effect, symbol = ("t_welch", "cohens_d", "d") if data.two else ("f", "eta2", "η²")
    values = sign * np.nan_to_num(neurons[statistic])
    order = np.argsort(-values, kind="stable")[1 : 1 + FOLLOWING]
    named = [
        f"{name_of(neurons, row)} ({symbol} = {neurons[effect][row]:{'+' if data.two else ''}.2f})"
        for row in order
        if values[row] > 0 and neurons["significant_bonferroni"][row] and np.isfinite(neurons[effect][row])
    ]
    return f" Next: {', '.join(named)}." if named else ""


def _not_computed(data: ContrastData, metrics: Metrics) -> list[str]:
    missing = []
    if data.two and len(set(np.bincount(data.rows.category).tolist())) > 1:
        missing.append("the paired t (the categories differ in size)")
    if "share_bonferroni_one_token_within_layers" not in metrics:
        missing.append("the comparison within words of one token (too few)")
    return [f"Not computed: {' and '.join(missing)}."] if missing else []


def _running_text(data: ContrastData, metrics: Metrics) -> list[str]:
    """What was found in running text, and how far its occurrences can be trusted."""
    used, dropped, adjoining = (metrics.get(f"text_occurrences{end}", 0) for end in ("", "_dropped", "_adjoining"))
    lines = []
    if used == 0:
        lines.append("No listed word occurs in the text as a whole word, so there is nothing to generalise to.")
    elif "auroc_text_heldout_best" in metrics:
        largest = " (the largest of these layers)" if len(data.layers) > 1 else ""
        against = "" if data.two else " (the category on which it is highest against the rest)"
        lines.append(
            f"The neuron that is best on one half of the words, each on its own, has an AUROC{against} of "
            f"{metrics['auroc_text_heldout_best']:.2f} on the other half in running text, in layer "
            f"{metrics['auroc_text_heldout_best_layer']}{largest}."
        )
    elif data.text is not None and not data.enough_in_text.all():
        counts = np.bincount(data.text.found.category, minlength=len(data.categories))
        few = [f"{count} of {name}" for count, name in zip(counts, data.categories, strict=True) if count < FEWEST]
        each = ", ".join(few[:MANY]) + (", …" if len(few) > MANY else "")
        lines.append(f"Too few of the words occur in the text to compare them there: {each}; give more text.")
    if adjoining:
        lines.append(
            f"{adjoining} of the {used} occurrences in the text stand directly beside other letters, in a script "
            "without spaces. Some may be parts of longer words."
        )
    if dropped:
        lines.append(f"{dropped} other occurrences in the text share a token with other characters and were left out.")
    if sentences := sum(len(word) > SENTENCE for word in data.rows.words):
        lines.append(
            f"{sentences} rows are longer than {SENTENCE} characters. The text was searched for each as a whole."
        )
    return lines
