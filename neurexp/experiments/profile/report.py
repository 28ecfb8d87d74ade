"""A profile's report: its tables, metrics, sentences, tensors and figures, put together. Computes nothing."""

import numpy as np

from neurexp.experiments.profile.analysis import analyse
from neurexp.experiments.profile.columns import columns_of
from neurexp.experiments.profile.data import ProfileData
from neurexp.experiments.profile.figures import Figures
from neurexp.experiments.profile.findings import NULLS, findings_of
from neurexp.report.report import Report


def write(data: ProfileData) -> Report:
    """Analyses every layer of the profile and says what was found."""
    analysis, covariate, counts = analyse(data), data.covariate, data.histogram
    name, layers, values = covariate.name, np.array(data.layers), data.categories
    of_the_text = ("tokens", "tokens_special", "types", "types_effective")
    of_the_text += tuple(f"{name}_{what}" for what in ("min", "max", "median"))
    of_the_text += tuple(f"share_{group}" for group in covariate.groups)
    return Report(
        findings=findings_of(data, analysis),
        metrics=analysis.metrics,
        layers=analysis.layers,
        neurons=analysis.neurons,
        columns=columns_of(covariate),
        statistic=f"r_{name}",
        of_the_text=frozenset(of_the_text),
        shares={
            "share_significant_all": f"differ from the null of {NULLS[covariate.by_type]}",
            "share_significant_given_context_all": "do so given the token's frequency, position and context",
        },
        over_layers={
            "share_significant": ("share of neurons that differ from the null", ""),
            "r_median": (f"median r with {covariate.noun}", ""),
        },
        tensors={
            "histograms": {
                "edges": data.edges,
                "counts": counts[:, :, 1:-1],
                "underflow": counts[:, :, 0],
                "overflow": counts[:, :, -1],
                "layers": layers,
            },
            f"{name}_curves": {
                covariate.plural: values,
                "tokens": data.plan.value_counts[values],
                "mean": analysis.curves,
                "layers": layers,
            },
        },
        tables={"strongest": analysis.strongest.table} if len(analysis.strongest.table["layer"]) else {},
        figures=Figures(data, analysis).all(),
    )
