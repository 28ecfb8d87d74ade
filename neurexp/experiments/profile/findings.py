"""A profile's findings: the sentences that a person reads first, from the report's numbers.

Computes nothing.
"""

from neurexp.experiments.profile.analysis import Analysis
from neurexp.experiments.profile.data import ProfileData
from neurexp.experiments.profile.strongest import Strongest
from neurexp.report.words import name_of

NAMED = 3  # strongest neurons of each sign
NULLS = {True: "shuffled token types", False: "values shifted along the text"}  # of a type, of a token in its place


def findings_of(data: ProfileData, analysis: Analysis) -> list[str]:
    """A sentence or two on each thing that was found, and on what could not be."""
    covariate, split, metrics, layers = data.covariate, data.plan.split, analysis.metrics, analysis.layers
    name, noun, (low, _, high) = covariate.name, covariate.noun, covariate.groups
    below, equal, above = split.shares
    lines = [
        f"The {noun} runs from {metrics[f'{name}_min']} to {metrics[f'{name}_max']} {covariate.unit}, with a median of "
        f"{split.median:g}. {below:.1%} of the tokens are {low} than the median, {equal:.1%} are equal to it and "
        f"{above:.1%} are {high}; a split into two groups would put {below:.1%} or {below + equal:.1%} on the lower "
        f"side, not half. Tokens without a {noun} (special tokens, for example): {data.plan.special}.",
    ]
    if "r_median_all" not in metrics:
        return [*lines, f"No correlation is defined: all tokens have the same {noun}, or no neuron varies."]
    lines.append(
        f"Correlation with {noun}: median r {metrics['r_median_all']:+.3f}, median |r| "
        f"{metrics['r_abs_median']:.3f}; {metrics['share_significant_all']:.1%} of the neurons differ from the null of "
        f"{NULLS[covariate.by_type]} "
        f"(Benjamini-{'Hochberg' if data.options.correction == 'bh' else 'Yekutieli'} over all layers, q < 0.05). "
        f"With other draws of the null this share varies by ±{100 * metrics['share_significant_all_error']:.1f} points "
        "(standard error)."
    )
    if "r_detectable_median" in metrics:
        detectable = metrics["r_detectable_median"]
        lines[-1] += f" This text could have found |r − null mean| of {detectable:.2f} (80 % power, one neuron)."
    if "survival_overall" in metrics:
        lines.append(
            f"Given frequency, position and word beginning, {metrics['survival_overall']:.0%} of r is left "
            f"(median |r| {metrics['r_partial_abs_median']:.3f}); frequencies are {data.plan.reference}."
        )
    else:
        lines.append(f"Nothing of {name} is left once frequency, position and word beginning are known.")
    if "r_given_context_abs_median" in metrics:
        lines.append(
            f"Given the tokens before it as well, {metrics['share_significant_given_context_all']:.1%} of the neurons "
            f"differ from the null (median |r| {metrics['r_given_context_abs_median']:.3f})."
        )
        if data.options.control == "off":
            lines[-1] += " What a network with random weights shows too (experiment.control=random) is not learned."
        lines.append(_strongest(analysis.strongest, covariate.groups))
    if "replication_r_overall" in metrics:
        lines.append(
            f"The two halves of the text agree on r with a correlation of {metrics['replication_r_overall']:.2f} "
            "over neurons."
        )
    if data.options.skip_positions and "r_median_strongest" in metrics:
        at = data.layers.index(metrics["r_median_strongest_layer"])
        lines.append(
            f"The first {data.options.skip_positions} positions of a sequence are left out; with them the largest "
            f"median r of a layer, {layers['r_median'][at]:+.3f} in layer {data.layers[at]}, would be "
            f"{layers['r_median_with_skipped'][at]:+.3f}."
        )
    if len(data.plan.tokens.valid) == 1:
        lines.append("One sequence only: no interval for r and no replication.")
    return lines


def _strongest(strongest: Strongest, groups: tuple[str, str, str]) -> str:
    """The strongest neurons of each sign by name."""
    table, (low, _, high) = strongest.table, groups
    sides = []
    for side, group in ((1, high), (-1, low)):
        rows = strongest.of_sign(side)[:NAMED]
        named = ", ".join(
            f"{name_of(table, row)} ({table['r'][row]:+.2f}, {table['low'][row]:+.2f} to {table['high'][row]:+.2f})"
            for row in rows
        )
        if named:
            sides.append(f"more active on {group} tokens {named}")
    if not sides:
        return "Given all of this, no neuron differs from the null (q < 0.05 over all layers), so no neuron is named."
    return (
        f"The strongest neurons given all of this (layer.neuron; r with its 95 % interval): {'; '.join(sides)}. They "
        "are the largest of many, so their r is rather too large."
    )
