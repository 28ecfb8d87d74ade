"""The figures of top contexts: which numbers each shows, and its texts. Computes nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np

from neurexp.experiments.top_contexts.analysis import Analysis
from neurexp.experiments.top_contexts.data import ENDS, TopContextsData
from neurexp.experiments.top_contexts.design import PROPERTIES
from neurexp.experiments.top_contexts.labels import LABELS, NONE, ONE_TOKEN, WORDS
from neurexp.stats.concentration import MOST_ITEMS


class Figures:
    """The figures, each drawn when it is called for."""

    def __init__(self, data: TopContextsData, analysis: Analysis):
        self.data, self.layers, self.neurons, self.metrics = data, analysis.layers, analysis.neurons, analysis.metrics
        self.measured = f"{data.label}, {data.site}, {data.tokens:,} tokens"

    def all(self) -> dict[str, Callable[[], Any]]:
        figures: dict[str, Callable[[], Any]] = {"concentration": self.concentration}
        if self.data.cross_validated:
            figures |= {"properties_by_layer": self.labels, "explained_variance": self.explained}
        return figures

    def labels(self):
        from neurexp.figures.contexts import stacked_shares

        shares = {label: self.metrics[f"share_{label}"] for label in LABELS}
        best = max((label for label in LABELS if label != NONE), key=lambda label: shares[label])
        title = f"{shares[NONE]:.0%} of the neurons are shown to be explained by none of these properties of a token"
        if shares[best] >= 0.005:
            title = (
                f"{shares[best]:.0%} of the neurons are explained by {WORDS[best]}, {shares[NONE]:.0%} by {WORDS[NONE]}"
            )
        drawn = {
            WORDS[label]: (index, self.layers[f"labelled_{label}"])
            for index, label in enumerate(LABELS)
            if shares[label] > 0
        }
        detail = (
            f"{self.measured}; the simplest property that explains 5 % of the neuron's variance or more (q < 0.05), "
            "and half of what the type of the token, or of the one before it, explains"
        )
        return stacked_shares(self.data.layers, drawn, title, detail, "share of the layer's neurons")

    def explained(self):
        from neurexp.figures.contexts import map_over_layers

        names = [name for name in (*PROPERTIES, ONE_TOKEN) if np.isfinite(self.layers[f"ev_{name}"]).any()]
        mean = {name: float(np.nanmean(self.layers[f"ev_{name}"])) for name in names}
        names.sort(key=lambda name: -mean[name])
        title = "No property is defined"
        if names and mean[names[0]] < 0.005:
            title = "In the mean over neurons, each property explains less than 0.5 % of the variance"
        elif names:
            at = self.data.layers[int(np.nanargmax(self.layers[f"ev_{names[0]}"]))]
            first = WORDS[names[0]]
            title = f"{first[0].upper()}{first[1:]} explains {mean[names[0]]:.0%} of a neuron's variance in the mean"
            title += f", most in layer {at}" if len(self.data.layers) > 1 else ""
        rows = {WORDS[name]: self.layers[f"ev_{name}"] for name in names}
        detail = (
            f"{self.measured}; means over the layer's neurons, in %; cross-validated, so that chance gives 0; "
            "properties overlap"
        )
        return map_over_layers(self.data.layers, rows, title, detail, "share of a neuron's variance that is explained")

    def concentration(self):
        from neurexp.figures.contexts import against_chance

        k, panels = min(self.data.kept, MOST_ITEMS), {}
        for end in ENDS:
            heading = f"its {k} {'highest' if end == 'top' else 'lowest'} activations"
            panels[heading] = tuple(
                list(self.neurons[f"{end}_{name}"].reshape(len(self.data.layers), -1))
                for name in ("share", "share_null")
            )
        title = "No neuron has a token"
        if "top_share_mean" in self.metrics:
            title = (
                f"The commonest token takes {self.metrics['top_share_mean']:.0%} of a neuron's {k} highest "
                f"activations, against {self.metrics['top_share_null_mean']:.0%} by chance"
            )
        detail = (
            f"{self.measured}; median and middle half over the layer's neurons; chance: expected of random "
            "tokens of like frequency"
        )
        names = "the neuron's tokens", "random tokens of like frequency"
        return against_chance(self.data.layers, panels, names, title, detail, "share of the commonest token")
