"""A regression's findings: the sentences that a person reads first, made from the report's numbers.

Computes nothing but two medians over layers.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from neurexp.experiments.regression.data import RegressionData
from neurexp.report.report import Table
from neurexp.report.words import name_of, number_of, percent
from neurexp.stats import summary

NAMED = 5  # strongest neurons of each sign
Metrics = Mapping[str, float]


def strongest(neurons: Table, side: int) -> np.ndarray:
    """The surviving neurons of one sign (1 or −1), the largest |beta_least| first."""
    chosen = np.flatnonzero(neurons["survives"] & (np.sign(neurons["beta_least"]) == side))
    return chosen[np.argsort(-np.abs(neurons["beta_least"][chosen]), kind="stable")]


def findings_of(data: RegressionData, neurons: Table, layers: Table, metrics: Metrics) -> list[str]:
    """The findings, a line each. The first lines describe the text, and are the same for a control."""
    return [
        " ".join(data.plan.about),
        *_left(data, layers, metrics),
        *_significant(data, metrics),
        _survivors(data, metrics),
        _rules(data, metrics),
        *_strongest(data, neurons, metrics),
        _wald(data, layers, metrics),
    ]


def where(data: RegressionData) -> str:
    """The layers in a few words."""
    layers = data.plan.layers
    return f"{len(layers)} layers" if len(layers) > 1 else f"layer {min(layers)}"


def _left(data: RegressionData, layers: Table, metrics: Metrics) -> list[str]:
    """How much of the naive comparison's share is left, by layer."""
    verdict, naive, what = data.plan.verdict, data.plan.verdict.naive, data.plan.verdict.what
    if "naive_survive" not in metrics:
        return []
    share, left, accuracy = (
        layers[name] for name in (f"share_significant_{naive}", "share_left", f"accuracy_positive_{naive}")
    )
    survive = percent(metrics["naive_survive"], 1)
    kept = f"{survive} of these are {what} in the same direction{_by_layer(left, layers)}"
    if verdict.over_types:
        both = " and in ".join(verdict.decisive)
        kept = (
            f"{percent(metrics['naive_in_all'], 1)} of these are so in the same direction in {both} too, and "
            f"{survive} are {what}, by the test over {data.plan.tested_over} as well{_by_layer(left, layers)}"
        )
    line = (
        f"What is left: {data.plan.comparisons[naive].name} {percent(metrics[f'found_{naive}'], 1)} of the neurons are "
        f"significant{_by_layer(share, layers)}; {kept}."
    )
    if np.isfinite(accuracy).any():
        line += f" Mean accuracy of the significant neurons with β > 0, on the same rows: {_range(accuracy, layers)}."
    return [line]


def _by_layer(values: np.ndarray, layers: Table) -> str:
    """`_range` in brackets; empty where all layers have the same value."""
    return f" ({_range(values, layers)})" if len(np.unique(values[np.isfinite(values)])) > 1 else ""


def _range(values: np.ndarray, layers: Table) -> str:
    """The values over layers: “from 9% in layer 3 to 20% in layer 7”; if all are equal their value."""
    defined = np.flatnonzero(np.isfinite(values))
    low, high = defined[np.argmin(values[defined])], defined[np.argmax(values[defined])]
    least, most = percent(float(values[low])), percent(float(values[high]))
    if values[low] == values[high]:
        return least
    return f"from {least} in layer {layers['layer'][low]} to {most} in layer {layers['layer'][high]}"


def _significant(data: RegressionData, metrics: Metrics) -> list[str]:
    lines = []
    for name, one in data.plan.comparisons.items():
        zeros, ones = one.sizes
        lines.append(
            f"{one.name[0].upper()}{one.name[1:]} ({ones} {one.one}, {zeros} {one.zero}) "
            f"{percent(metrics[f'found_{name}'], 1)} of the {metrics['neurons_tested']} neurons in {where(data)} are "
            f"significant (likelihood ratio, p < 0.05 / neurons of the layer). With labels shuffled among rows: "
            f"{metrics[f'found_shuffled_rows_{name}']:.2%}; over {one.shuffled_over}: "
            f"{metrics[f'found_shuffled_types_{name}']:.2%}. A test that shuffles over {one.shuffled_over}, corrected "
            f"for the layer, finds {percent(metrics[f'found_types_{name}'], 1)}."
        )
    return lines


def _survivors(data: RegressionData, metrics: Metrics) -> str:
    verdict, ones = data.plan.verdict, data.plan.comparisons
    first, last = ones[verdict.decisive[0]], ones[verdict.decisive[-1]]
    count = metrics["number_survivors"]
    by_types = f", by the test over {data.plan.tested_over} as well" if verdict.over_types else ""
    if not count:
        return (
            f"No neuron is significant in the same direction {first.name} and {last.name}{by_types}: there are no "
            f"{verdict.what}."
        )
    held = "".join(
        f" {percent(metrics[f'survivors_hold_{name}'])} have the same direction {ones[name].name}, with p < 0.05."
        for name in verdict.others(ones)
    )
    also = f" {metrics['number_survivors_types']} also pass the test over {data.plan.tested_over} in both."
    types = "" if verdict.over_types else also
    share = percent(metrics["survivors"], 1)
    return (
        f"{verdict.what[0].upper()}{verdict.what[1:]}: {count:,} ({share} of all), significant in "
        f"the same direction {first.name} and {last.name}{by_types}, so {verdict.confound} do not explain them. That "
        f"is {percent(metrics['main_survive'])} of those that are significant {first.name}. "
        f"{metrics['number_survivors_positive']} are higher on {first.one}."
        f"{types}{held}"
    )


def _rules(data: RegressionData, metrics: Metrics) -> str:
    verdict, ones = data.plan.verdict, data.plan.comparisons
    naive, main = ones[verdict.naive].name, ones[verdict.decisive[0]].name
    r = f" Their β correlate over neurons with r = {metrics['r_beta_rules']:.2f}." if "r_beta_rules" in metrics else ""
    return (
        f"The two rules: {number_of(int(metrics['both_rules']), 'neuron')} "
        f"{'is' if metrics['both_rules'] == 1 else 'are'} significant {naive} and {main}, {metrics['naive_only']} "
        f"only {naive}, {metrics['main_only']} only {main}; {metrics['opposite_signs']} of the first have opposite "
        f"signs.{r}"
    )


def _strongest(data: RegressionData, neurons: Table, metrics: Metrics) -> list[str]:
    verdict, lines = data.plan.verdict, []
    main = data.plan.comparisons[verdict.decisive[0]]
    for side, end, which in ((1, "top", main.one), (-1, "bottom", main.zero)):
        order = strongest(neurons, side)
        if not len(order):
            continue
        named = ", ".join(_described(verdict.decisive, neurons, index) for index in order[:NAMED])
        line = f"The strongest {verdict.what} that are higher on {which} (layer.neuron; β per SD): {named}."
        if f"{end}_auroc" in metrics:
            low, value, high = (metrics[f"{end}_auroc{part}"] for part in ("_low", "", "_high"))
            index = order[0]
            types = neurons[f"auroc_types_{verdict.decisive[0]}"][index]
            line += (
                f" In the held-out text {name_of(neurons, index)} has an AUROC of {value:.2f} {main.name} (95 % "
                f"interval over {main.shuffled_over}: {low:.2f} to {high:.2f}"
            )
            line += f"; on unseen {main.shuffled_over} {types:.2f})." if np.isfinite(types) else ")."
        lines.append(line)
    return lines


def _described(names: Sequence[str], neurons: Table, index: int) -> str:
    return f"{name_of(neurons, index)} ({' and '.join(_beta(neurons[f'beta_{name}'][index]) for name in names)})"


def _beta(value: float) -> str:
    return f"{value:+.2f}" if np.isfinite(value) else f"{'+' if value > 0 else '−'}∞"


def _wald(data: RegressionData, layers: Table, metrics: Metrics) -> str:
    names = list(data.plan.comparisons)
    separated = sum(metrics[f"number_separated_{name}"] for name in names)
    missed = sum(metrics[f"number_wald_misses_{name}"] for name in names)
    near = sum(metrics[f"number_near_separation_{name}"] for name in names)
    main = data.plan.verdict.decisive[0]
    r, r_p = (summary.median(layers[f"{name}_{main}"]) for name in ("r_beta_t", "r_log_p"))
    line = (
        f"Regression and t-test: over the neurons of a layer, β and Student's t correlate with r = {r:.3f}, and their "
        f"−log10 p with r = {r_p:.3f} (median over layers)."
    )
    each = f"{separated} of all fits separate the categories" if separated else "No neuron separates the categories"
    wald = (
        f"in {near} significant fits Wald's χ² is less than half of the likelihood ratio's, as near separation"
        if near
        else "no significant fit is near separation"
    )
    return f"{line} {each}; {wald}; Wald's test misses {missed} of the significant fits."
