"""The figure of a run beside its control: the statistic that sums the run up, over neurons, layer by layer.

Knows no experiment.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from neurexp.report.report import CONTROLS, Report
from neurexp.report.words import in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def with_figure(report: Report, control: Report, kind: str, setting: str) -> Report:
    """The report with the figure `control`, if it has a statistic of neurons.

    Args:
        report: of the run, with the numbers of its control.
        control: the report of the control.
        kind: of `CONTROLS`.
        setting: the model and the text, for the figure's foot.
    """
    column = report.statistic
    if column not in report.neurons or column not in control.neurons:
        return report
    layers = [int(layer) for layer in np.unique(report.neurons["layer"])]
    ours, theirs = (
        [one.neurons[column][one.neurons["layer"] == layer] for layer in layers] for one in (report, control)
    )

    def draw() -> "Figure":
        from neurexp.figures.profiles import quantiles_by_layer

        words = CONTROLS[kind]
        medians = [np.nanmedian(np.abs(np.concatenate(rows))) for rows in (ours, theirs)]
        title = f"Median |{column}| over neurons: {medians[0]:.3f}, against {medians[1]:.3f} {words.where}"
        meaning = report.columns[column]
        detail = f"{setting}; median and middle half over neurons; {column}: {meaning}"
        series = {"this model and text": ours, f"control: {words.label}": theirs}
        return quantiles_by_layer(layers, series, title, detail, in_words(column, meaning))

    return replace(report, figures=report.figures | {"control": draw})
