"""The findings of context: the sentences that a person reads first, from the plan and the report's numbers.

Computes nothing but a few medians. Knows no pass and no figure.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from neurexp.experiments.context.analysis import Analysis
from neurexp.experiments.context.data import NAMED, PARTS, Comparison, ContextData, Options
from neurexp.experiments.options.others import FEWEST_ITEMS as FEWEST
from neurexp.report.report import Table
from neurexp.report.words import name_of
from neurexp.stats import summary


def about(
    options: Options, counted: int, words: Mapping[str, str], chosen: Mapping[str, slice], ids: np.ndarray, where: str
) -> str:
    """What is compared: the nouns and the tokens of the text. The first finding, known before the passes run.

    Args:
        options: of the run.
        counted: how many tokens of the text may be chosen.
        words: noun → why it is left out, or "".
        chosen: the slices of `ContextPlan.chosen`.
        ids: `[repeated]` ids of the occurrences of repeated types.
        where: the sentence on how a sequence of the model begins, without its full stop.
    """
    used, left_out = [word for word, why in words.items() if not why], [word for word, why in words.items() if why]
    named = ", ".join(left_out[:NAMED]) + (", …" if len(left_out) > NAMED else "")
    nouns = f"{len(used)} of {len(words)} nouns are single tokens with and without their leading space"
    if left_out:
        nouns += f" ({len(left_out)} are left out: {named}; words.parquet)"
    if len(used) < FEWEST:
        nouns += f": fewer than {FEWEST}, so the space is not compared"
    source = "" if options.prompt is None else f", written by the model after {options.prompt!r}, which does not count"
    return (
        f"{nouns}. From {counted:,} tokens of text{source}, {chosen['tokens'].stop} tokens of as many types are "
        f"compared with the same tokens alone, and {len(ids):,} occurrences of {len(np.unique(ids))} types with each "
        f"other; no special token and none at position 0 is among them. {where}."
    )


def findings_of(data: ContextData, analysis: Analysis) -> list[str]:
    """A sentence or two on each thing that was found: what is compared, each comparison, the variance, the neurons."""
    plan = data.plan
    comparisons = [_comparison(plan.layers, name, one, analysis) for name, one in plan.comparisons.items()]
    return [plan.about, *comparisons, _variance(plan.layers, analysis), _neurons(analysis)]


def _comparison(numbers: Sequence[int], name: str, one: Comparison, analysis: Analysis) -> str:
    """On one comparison; `numbers` are the block indices."""
    metrics, layers = analysis.metrics, analysis.layers
    raw, centred, shuffled = (metrics[f"pooled_r_{name}{kind}_overall"] for kind in ("", "_centred", "_shuffled"))
    by_layer = f" ({_range(numbers, layers[f'r_{name}_median'])})" if len(numbers) > 1 else ""
    distance = summary.median(layers[f"distance_{name}"])
    return (
        f"{name}, {one.x_is} against {one.y_is}: the median neuron has r = {metrics[f'r_{name}_overall']:.2f} over "
        f"{len(one.x)} tokens{by_layer}; {metrics[f'share_significant_{name}_overall']:.0%} of the neurons pass "
        f"(q < 0.05). Pooled over neurons and tokens r = {raw:.2f}; with tokens paired at random, which leaves the "
        f"neurons' own means alone, {shuffled:.2f}; without each neuron's mean {centred:.2f}. Between the two "
        f"places a neuron's mean moves by {distance:.1f} standard deviations (root mean square, median layer)."
    )


def _variance(numbers: Sequence[int], analysis: Analysis) -> str:
    """On the shares of the variance, and on position 0; `numbers` are the block indices."""
    layers = analysis.layers
    shares = {part: analysis.metrics[f"share_{part}_overall"] for part in PARTS}
    low, high = (summary.quantile(analysis.neurons["share_context"], share) for share in (0.25, 0.75))
    by_layer = f"; by layer: {_range(numbers, layers['share_context_median'], '.0%')}" if len(numbers) > 1 else ""
    return (
        f"In running text after position 0, context explains {shares['context']:.0%} of the median neuron's variance "
        f"(middle half {low:.0%} to {high:.0%}{by_layer}), the token's type {shares['type']:.0%} and "
        f"its position {shares['position']:.0%}. Position 0 is apart: there a neuron's mean is off by "
        f"{summary.median(layers['first_distance']):.1f} standard deviations (root mean square, median layer)."
    )


def _neurons(analysis: Analysis) -> str:
    """On the neurons with the least and the most context."""
    told = "; ".join(f"the {name}: {_named(analysis.neurons, found)}" for name, found in analysis.ends.items())
    return (
        "Neurons by the share of context, chosen on one half of the types, with their share on the other: "
        f"{told}. Over all neurons the halves correlate at "
        f"{analysis.metrics['share_context_replication_overall']:.2f}."
    )


def _named(neurons: Table, rows: np.ndarray) -> str:
    """Layer, neuron and share of each of the rows."""
    return ", ".join(f"{name_of(neurons, row)} ({neurons['share_context_second_half'][row]:.0%})" for row in rows)


def _range(numbers: Sequence[int], values: np.ndarray, form: str = ".2f") -> str:
    """The smallest and the largest value, each with its layer, in words; `form` is how a value is written."""
    if not np.isfinite(values).any():
        return "not defined in any layer"
    low, high = (
        f"{word} {values[index]:{form}} in layer {numbers[index]}"
        for word, index in (("lowest", int(np.nanargmin(values))), ("highest", int(np.nanargmax(values))))
    )
    return f"{low}, {high}"
