"""The report of context: its tables, metrics, sentences and figures, put together.

Computes nothing. Knows neither a pass nor how a figure is drawn.
"""

import numpy as np

from neurexp.experiments.context.analysis import analyse
from neurexp.experiments.context.columns import columns_of
from neurexp.experiments.context.data import ContextData, ContextPlan
from neurexp.experiments.context.figures import Figures
from neurexp.experiments.context.findings import findings_of
from neurexp.report.report import Report, Table

OF_THE_TEXT = frozenset({"words_used", "tokens_compared", "types_repeated", "tokens_repeated", "neurons_compared"})


def write(data: ContextData) -> Report:
    """Analyses every layer and says what was found."""
    analysis = analyse(data)
    return Report(
        findings=findings_of(data, analysis),
        metrics={name: value for name, value in analysis.metrics.items() if np.isfinite(value)},
        layers=analysis.layers,
        neurons=analysis.neurons,
        columns=columns_of(data.plan.comparisons),
        statistic="share_context",
        of_the_text=OF_THE_TEXT,
        shares={
            "share_significant_alone_neutral_overall": "follow in their place what they are for the same token alone "
            "(q < 0.05)"
        },
        tables={"words": _words(data.plan), "sample": _sample(data.plan)},
        figures=Figures(data, analysis).all(),
        over_layers={
            "share_context_median": ("share of the variance that context explains", ""),
            "r_alone_neutral_median": ("r of a token alone with the token in its place", ""),
        },
    )


def _words(plan: ContextPlan) -> Table:
    """A row for each noun of the list."""
    return {"word": np.array(list(plan.words)), "left_out": np.array(list(plan.words.values()))}


def _sample(plan: ContextPlan) -> Table:
    """A row for each token of the text that is compared with itself alone."""
    sequence, column = (one[plan.chosen["tokens"]] for one in plan.place)
    return {
        "text": np.array(plan.comparisons["alone_neutral"].texts),
        "id": plan.tokens.input_ids[sequence, column],
        "sequence": sequence,
        "position": column,
    }
