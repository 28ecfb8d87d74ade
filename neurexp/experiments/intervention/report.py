"""An intervention's report: its tables, metrics, sentences and figures, put together. Computes nothing."""

from neurexp.experiments.intervention.analysis import analyse
from neurexp.experiments.intervention.columns import columns_of
from neurexp.experiments.intervention.data import InterventionData
from neurexp.experiments.intervention.figures import Figures
from neurexp.experiments.intervention.findings import findings_of
from neurexp.report.report import Report

OF_THE_TEXT = ("predictions", "edited_models")


def write(data: InterventionData) -> Report:
    """Analyses all trials and says what was found."""
    analysis = analyse(data)
    over = "sequences" if data.blocks_are_sequences else f"{data.counts.shape[1]} blocks of consecutive sequences"
    tables = {"effects": analysis.effects} | ({"direct": analysis.direct} if analysis.direct else {})
    return Report(
        findings=findings_of(data, analysis),
        metrics=analysis.metrics,
        layers=analysis.layers,
        neurons=analysis.neurons,
        columns=columns_of(list(data.sets), data.trials.kinds, data.options.draws, over),
        statistic="delta_loss_estimate",
        of_the_text=frozenset(OF_THE_TEXT),
        tables=tables,
        over_layers={"estimate_abs_mean": ("mean |estimated change of the loss|, nats", "")},
        figures=Figures(data, analysis).all(),
        provenance={"edited_sets": {name: one.description for name, one in data.sets.items()}},
    )
