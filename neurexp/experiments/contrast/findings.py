"""A contrast's findings: the sentences that a person reads first, from the report's numbers.

Computes nothing.
"""

from typing import Any

import numpy as np

from neurexp.experiments.contrast.data import FEWEST, ContrastData
from neurexp.experiments.contrast.figures import sizes_told
from neurexp.report.report import Table

SENTENCE = 100  # characters; a longer row is no word


def findings_of(data: ContrastData, layers: Table, metrics: dict[str, Any]) -> list[str]:
    """A sentence or two on each thing that was found, and on what was left out."""
    sizes = np.bincount(data.rows.category)
    what = sizes_told(data)
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
    several = len(data.layers) > 1
    where = f"{len(data.layers)} layers" if several else f"layer {data.layers[0]}"
    lines.append(
        f"{metrics['bonferroni_within_layers']} of {metrics['neurons_tested']} neurons in {where} "
        f"({metrics['share_bonferroni_within_layers']:.1%}) tell them apart ({'Welch' if data.two else 'F'}, p < 0.05 "
        f"/ neurons of the layer); shuffled labels: {metrics['share_bonferroni_shuffled_within_layers']:.2%}."
    )
    if several:
        lines[-1] += f" Corrected for all layers: {metrics['bonferroni_over_all']}."
    beside = [("one_token", "within words of one token")]
    beside += [(name, condition.description) for name, condition in data.conditions.items()]
    shown = [
        f"{text} {metrics[f'share_bonferroni_{name}_within_layers']:.1%} (n = {layers[f'rows_{name}'][0]})"
        for name, text in beside
        if f"share_bonferroni_{name}_within_layers" in metrics
    ]
    if shown:
        lines[-1] += f" Side by side: {', '.join(shown)}."
    most = "the largest of these layers; " if several else ""
    if "replication_rate_all" in metrics:
        at = data.layers.index(metrics["auroc_heldout_best_layer"])
        lines.append(
            f"Of the neurons selected on one half of the words {metrics['replication_rate_all']:.0%} replicate on the "
            f"other (chance: {metrics['replication_rate_chance_all']:.0%}). The best neuron's AUROC on words that did "
            f"not choose it is "
            f"{metrics['auroc_heldout_best']:.2f} in layer {metrics['auroc_heldout_best_layer']} ({most}"
            f"shuffled labels: 95 % below {layers['auroc_heldout_shuffled_q95'][at]:.2f})."
        )
    else:
        lines.append("No neuron was selected on one half of the words, so none could replicate on the other.")
    at = data.layers.index(metrics["probe_layer_accuracy_best_layer"])
    lines.append(
        f"A probe on all neurons of a layer is right on {metrics['probe_layer_accuracy_best']:.0%} of unseen words in "
        f"layer {metrics['probe_layer_accuracy_best_layer']} ({most}shuffled labels: 95 % below "
        f"{layers['probe_layer_accuracy_shuffled_q95'][at]:.0%})."
    )
    for end, own in (("top", 1), ("bottom", 0)):
        if f"{end}_t" in metrics:
            lines.append(_about_extreme(data, metrics, end, own))
    if "top_f" in metrics:
        lines.append(
            f"The neuron that differs most is {metrics['top_neuron']} of layer {metrics['top_layer']} (F = "
            f"{metrics['top_f']:.1f}, η² = {metrics['top_eta2']:.2f}), highest on “"
            f"{data.categories[int(metrics['top_category'])]}”. Running text is looked at with two categories only."
        )
    missing = [
        text
        for text, absent in (
            ("the paired t (the categories differ in size)", data.two and len(set(sizes.tolist())) > 1),
            ("words of one token (too few)", "share_bonferroni_one_token_within_layers" not in metrics),
        )
        if absent
    ]
    if missing:
        lines.append(f"Left out: {' and '.join(missing)}.")
    return lines + _about_text(data, metrics) if data.reads_text else lines


def _about_text(data: ContrastData, metrics: dict[str, Any]) -> list[str]:
    """What was found in running text, and how far the occurrences can be trusted."""
    used, dropped, adjoining = (metrics.get(f"text_occurrences{end}", 0) for end in ("", "_dropped", "_adjoining"))
    lines = []
    if used == 0:
        lines.append("None of the words occurs in the text as a whole word: nothing to generalise to.")
    elif "auroc_text_heldout_best" in metrics:
        several = " (the largest of these layers)" if len(data.layers) > 1 else ""
        lines.append(
            f"Chosen on half of the words on their own, the best neuron's AUROC on the other half in running text is "
            f"{metrics['auroc_text_heldout_best']:.2f} in layer {metrics['auroc_text_heldout_best_layer']}{several}."
        )
    elif data.text is not None and (seen := np.bincount(data.text.found.category, minlength=2)).min() < FEWEST:
        counted = " and ".join(f"{count} of {name}" for count, name in zip(seen, data.categories, strict=True))
        lines.append(f"Too few of the words occur in the text to compare them there: {counted}; give more text.")
    if adjoining:
        lines.append(
            f"{adjoining} of the {used} occurrences in the text stand in a script without spaces, right beside other "
            "letters: some may be parts of longer words."
        )
    if dropped:
        lines.append(f"{dropped} more occurrences in the text share a token with other characters, and were left out.")
    sentences = sum(len(word) > SENTENCE for word in data.rows.words)
    if sentences:
        lines.append(
            f"{sentences} of the rows are longer than {SENTENCE} characters; the text was searched for each as a whole."
        )
    return lines


def _about_extreme(data: ContrastData, metrics: dict[str, Any], end: str, own: int) -> str:
    effect = f", d = {metrics[f'{end}_d']:+.2f}" if f"{end}_d" in metrics else ", the same on all rows of a category"
    text = (
        f"The neuron that prefers “{data.categories[own]}” most is {metrics[f'{end}_neuron']} of layer "
        f"{metrics[f'{end}_layer']} (t = {metrics[f'{end}_t']:+.1f}{effect}"
    )
    if data.text is None or f"{end}_auroc_text" not in metrics:
        return text + ")."
    low, score, high = (metrics[f"{end}_auroc_text{part}"] for part in ("_low", "", "_high"))
    if own == 0:  # in the neuron's own direction
        low, score, high = 1 - high, 1 - score, 1 - low
    seen = np.bincount(data.text.found.category, minlength=2)
    return text + (
        f"). In running text it is higher on {data.categories[own]} than on {data.categories[1 - own]} in {score:.0%} "
        f"of pairs (95 % interval over words {low:.0%} to {high:.0%}; the same words, {seen[own]} and "
        f"{seen[1 - own]} occurrences)."
    )
