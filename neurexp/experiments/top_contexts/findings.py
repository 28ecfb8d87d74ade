"""The findings of top contexts: the sentences that a person reads first, from the report's numbers.

Computes nothing.
"""

import numpy as np

from neurexp.experiments.top_contexts.analysis import Analysis
from neurexp.experiments.top_contexts.data import ENDS, LEAST_IN_HALF, TopContextsData
from neurexp.experiments.top_contexts.design import PROJECTIONS, PROPERTIES, SIMPLE
from neurexp.experiments.top_contexts.labels import LABELS, NONE, WORDS
from neurexp.report.report import Table
from neurexp.report.words import name_of, number_of
from neurexp.stats.concentration import MOST_ITEMS

NAMED = 0.005  # a label of a smaller share is not named


def shares_of(metrics: dict[str, float]) -> dict[str, str]:
    """The metrics that are compared with a control's → what that share of the neurons does, as a verb."""
    if "share_explained" not in metrics:
        return {}
    named = [label for label in LABELS if label != NONE and metrics[f"share_{label}"] >= 2 * NAMED]
    named.sort(key=lambda label: -metrics[f"share_{label}"])
    shares = {"share_explained": "are explained by one of these properties of a token (5 % of the variance or more)"}
    return shares | {f"share_{label}": f"are explained by {WORDS[label]}" for label in named[:5]}


def findings_of(data: TopContextsData, analysis: Analysis) -> list[str]:
    """A sentence or two on each thing that was found."""
    metrics, neurons = analysis.metrics, analysis.neurons
    if data.cross_validated:
        lines = [_labels(len(neurons["neuron"]), metrics), *_explained(metrics)]
    else:
        first, second = (number_of(int(count), "token") for count in data.plan.design.counts.sum(1))
        lines = [
            f"The halves of the sample have {first} and {second} that count: too few to cross-validate what explains "
            f"a neuron ({LEAST_IN_HALF} each at least), so no neuron has a label. Give more of the text."
        ]
    if data.tokens < 2 * data.options.k:
        lines.append(
            f"Only {number_of(data.tokens, 'token')} of the text count, fewer than twice {data.options.k}: the highest "
            "and the lowest activations of a neuron share tokens."
        )
    lines += [_concentration(data, end, metrics) for end in ENDS]
    if strongest := _strongest(neurons):
        lines.append(f"The strongest neurons (layer.neuron): {'; '.join(strongest)}.")
    if data.cross_validated:
        lines.append(
            f"Explained variance is cross-validated between two halves of {data.plan.design.sample:,} of the "
            f"{data.tokens:,} tokens; frequencies are {data.plan.reference}."
        )
        if np.isfinite(analysis.noise):
            lines[-1] += (
                f" For which token it is, {PROJECTIONS} random projections estimate it with a standard error of about "
                f"{analysis.noise:.3f}."
            )
    return lines


def _explained(metrics: dict[str, float]) -> list[str]:
    by_size = sorted(PROPERTIES, key=lambda name: -metrics[f"share_explained_by_{name}"])
    told = [
        f"{WORDS[name]} {metrics[f'share_explained_by_{name}']:.1%}"
        for name in by_size
        if metrics[f"share_explained_by_{name}"] >= NAMED
    ]
    if not told:
        return []
    return [
        "Neurons of which each property by itself explains 5 % of the variance or more (q < 0.05; one neuron may count "
        f"several times): {', '.join(told)}."
    ]


def _labels(neurons: int, metrics: dict[str, float]) -> str:
    shares = {label: metrics[f"share_{label}"] for label in LABELS if label != NONE}
    named = sorted((label for label in shares if shares[label] >= NAMED), key=lambda label: -shares[label])
    line = (
        f"For {1 - metrics[f'share_{NONE}']:.1%} of the {number_of(neurons, 'neuron')}, a property of the token is "
        f"shown to explain 5 % of the variance or more (q < 0.05); for {metrics[f'share_{NONE}']:.1%} none is."
    )
    if constant := int(metrics["neurons_constant"]):
        line += f" Among the latter {'is' if constant == 1 else 'are'} {number_of(constant, 'neuron')} with one "
        line += "activation at all tokens."
    if named:
        told = ", ".join(f"{WORDS[label]} for {shares[label]:.1%}" for label in named)
        line += f" The simplest property that tells enough is {told}."
    return line


def _concentration(data: TopContextsData, end: str, metrics: dict[str, float]) -> str:
    which = "highest" if end == "top" else "lowest"
    without = int(metrics[f"{end}_without_contexts"])
    cut = ""
    if without:
        cut = (
            f" For {number_of(without, 'neuron')}, the {which} activation is shared by more tokens than are kept, or "
            "by all: their contexts there are the first of the text, and are left out of these numbers."
        )
    if f"{end}_share_mean" not in metrics:
        return f"No neuron has a token with a {which} activation of its own.{cut}"
    return (
        f"The commonest token takes {metrics[f'{end}_share_mean']:.0%} of a neuron's {min(data.kept, MOST_ITEMS)} "
        f"{which} activations, against {metrics[f'{end}_share_null_mean']:.0%} for random tokens of like frequency "
        f"(means over neurons); {metrics[f'share_concentrated_{end}']:.1%} of the neurons are more concentrated than "
        f"chance (q < 0.05).{cut}"
    )


def _strongest(neurons: Table) -> list[str]:
    """The neuron of each label of which it explains most."""
    told = []
    for label in LABELS:
        own = np.flatnonzero(neurons["property"] == label)
        if label == NONE or len(own) == 0:
            continue
        at = own[neurons["ev_property"][own].argmax()]
        r = f"r {neurons[f'r_{label}'][at]:+.2f}, " if label in SIMPLE else ""
        share = neurons["ev_property"][at]  # an estimate: more than all of it is possible
        much = f"{share:.0%}" if share < 1 else "all"
        told.append(
            f"{name_of(neurons, at)} by {WORDS[label]} ({r}{much} of its variance; top token "
            f"{neurons['top_token'][at]!r})"
        )
    return told
