"""The report of an optimisation: its tables, metrics, sentences, tensors and figures together. Computes nothing."""

import numpy as np

from neurexp.experiments.optimisation.analysis import analyse
from neurexp.experiments.optimisation.columns import columns_of
from neurexp.experiments.optimisation.data import OptimisationData
from neurexp.experiments.optimisation.figures import Figures
from neurexp.experiments.optimisation.findings import findings_of
from neurexp.report.report import Report


def write(data: OptimisationData) -> Report:
    """Computes the numbers and says what was found."""
    analysis = analyse(data)
    layers, neurons = (np.array(one) for one in zip(*data.plan.units, strict=True))
    place = {"layer": layers, "neuron": neurons}
    curves = place | {"ascent": data.curves, "points": np.array(data.plan.ascent.points)}
    if data.search_curves is not None:
        curves["search"] = data.search_curves
    return Report(
        findings=findings_of(data, analysis),
        metrics=analysis.metrics,
        layers=analysis.layers,
        neurons=analysis.neurons,
        columns=columns_of(data),
        statistic="embedding_activation",
        tables={"optima": analysis.optima, "strings": analysis.strings},
        tensors={"curves": curves, "embeddings": place | {"start": data.start, "end": data.end}},
        over_layers={"gradient_mean": ("mean activation of decoded tokens", "random_mean")},
        figures=Figures(data, analysis).all(),
        provenance={"begins_with": list(data.plan.prefix), "frequencies": data.plan.reference},
    )
