"""The figures of context: which arrays each draws, and the sentences on it. Knows nothing of how they are drawn."""

from collections.abc import Callable
from typing import Any

import numpy as np

from neurexp.experiments.context.analysis import Analysis
from neurexp.experiments.context.data import PARTS, ContextData
from neurexp.stats import summary


class Figures:
    """The figures, each drawn when it is called for."""

    def __init__(self, data: ContextData, analysis: Analysis):
        self.data, self.plan = data, data.plan
        self.neurons, self.layers, self.metrics = analysis.neurons, analysis.layers, analysis.metrics

    def all(self) -> dict[str, Callable[[], Any]]:
        """File name without ending → what draws the figure."""
        return {
            "r_by_layer": self.r_by_layer,
            "tokens_of_a_neuron": self.tokens_of_a_neuron,
            "variance_components": self.variance_components,
        }

    def r_by_layer(self):
        """Each comparison's r over the layers: of the neurons, and pooled over them."""
        from neurexp.figures.in_context import ByLayer, r_by_layer

        layers, metrics = self.layers, self.metrics
        series = {
            f"{name}: {one.title}": ByLayer(
                np.stack([layers[f"r_{name}_{end}"] for end in ("q25", "median", "q75")], axis=1),
                layers[f"pooled_r_{name}"], layers[f"pooled_r_{name}_centred"], layers[f"pooled_r_{name}_shuffled"],
            )
            for name, one in self.plan.comparisons.items()
        }  # fmt: skip
        title = (
            f"A token in its place and alone: r = {metrics['r_alone_neutral_overall']:.2f} for the median neuron, "
            f"{metrics['pooled_r_alone_neutral_overall']:.2f} pooled over neurons"
        )
        detail = f"{self.plan.inputs.label}; the title is of alone_neutral, over all layers"
        return r_by_layer(self.plan.layers, series, title, detail)

    def tokens_of_a_neuron(self):
        """The tokens of a usual neuron of the model's default layer, or of the layer nearest to it."""
        from neurexp.figures.in_context import Cloud, tokens_of_a_neuron

        (wanted,) = self.plan.inputs.layers(None)
        site = int(np.abs(np.array(self.plan.layers) - wanted).argmin())
        layer, r = self.plan.layers[site], self._of_layer("r_alone_neutral", site)
        off = np.abs(r - summary.median(r))
        neuron = int(np.nanargmin(off)) if np.isfinite(off).any() else 0
        clouds = []
        for name, one in self.plan.comparisons.items():
            if one.y_rows_of == "text":
                x, y = (values[:, neuron] for values in self.data.pair(one, site))
                own = self._of_layer(f"r_{name}", site)[neuron]
                clouds.append(Cloud(f"{name}: r = {own:.2f}", x, y, one.texts, one.x_is, one.y_is))
        title = f"Neuron {layer}.{neuron}, the nearest to its layer's median r (alone_neutral): the same tokens twice"
        detail = f"{self.plan.inputs.label}; layer.neuron; a dot is a token, model's own units"
        return tokens_of_a_neuron(clouds, title, detail)

    def _of_layer(self, name: str, site: int) -> np.ndarray:
        """A column of the neurons of one layer, `[neurons]`."""
        return self.neurons[name].reshape(len(self.plan.layers), -1)[site]

    def variance_components(self):
        """The mean shares of type, position and context over the layers."""
        from neurexp.figures.in_context import stacked_shares

        names = {"type": "the token's type", "position": "its position", "context": "its context"}
        parts = {names[part]: self.layers[f"share_{part}_mean"] for part in PARTS}
        share = self.metrics["share_context_overall"]
        title = f"Context explains {share:.0%} of the median neuron's variance in running text"
        detail = (
            f"{self.plan.inputs.label}; {len(self.plan.types):,} occurrences of {self.metrics['types_repeated']} token "
            "types; areas: means over the layer's neurons"
        )
        return stacked_shares(self.plan.layers, parts, title, detail)
