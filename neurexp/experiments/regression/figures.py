"""The figures of a regression: the arrays that each shows, and its texts. Knows nothing of how they are drawn."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from neurexp.experiments.regression.data import RegressionData
from neurexp.experiments.regression.findings import strongest
from neurexp.experiments.regression.positions import ALL
from neurexp.report.report import Report, Table
from neurexp.report.words import name_of, percent
from neurexp.stats.association import LEVEL
from neurexp.stats.logistic import OVERLAP, log10_p

TINY = 1e-300  # the smallest p that is drawn


class Figures:
    """The figures. Each is drawn when its function is called."""

    def __init__(
        self,
        data: RegressionData,
        neurons: Table,
        layers: Table,
        metrics: Mapping[str, float],
        report: Report,
    ):
        self.data, self.plan, self.neurons, self.layers = data, data.plan, neurons, layers
        self.metrics, self._over_layers = metrics, report.over_layers
        self.positions = report.tables.get("positions")
        self.verdict = data.plan.verdict
        self.main, self.naive = self.verdict.decisive[0], self.verdict.naive
        self.measured = f"{self.plan.inputs.label}, {data.options.site}"
        # Figures of one layer show the one with most survivors; among equals, the one with most significant neurons
        self.place = int(np.argmax(layers["share_survives"] + 1e-6 * layers[f"share_significant_{self.main}"]))

    def all(self) -> dict[str, Callable[[], Any]]:
        """The functions that draw a figure each, by file name."""
        figures: dict[str, Callable[[], Any]] = {
            "beta_against_p": self.funnel,
            "beta_against_t": self.against_t,
            "comparisons": self.comparisons,
        }
        if len(self.plan.layers) > 1:
            figures["over_layers"] = self.over_layers
        if self.positions:
            figures["positions"] = self.between
        if self._heat():
            figures["text_heat_map"] = self.heat_map
        return figures

    def pages(self) -> dict[str, Callable[[], str]]:
        """The functions that make an HTML page each, by file name."""
        return {"text_heat_map": self.heat_page} if self._heat() else {}

    @property
    def _layer(self) -> int:
        return self.plan.layers[self.place]

    def _of_layer(self, name: str) -> np.ndarray:
        return self.neurons[name].reshape(len(self.plan.layers), -1)[self.place]

    def _sizes(self, name: str) -> str:
        one = self.plan.comparisons[name]
        return f"{one.sizes[1]} {one.one} against {one.sizes[0]} {one.zero}"

    @property
    def _by_types(self) -> str:
        over = f"; {self.verdict.what} also pass the test over {self.plan.tested_over}"
        return over if self.verdict.over_types else ""

    def funnel(self):
        from neurexp.figures.regressions import funnel

        survives, significant = self._of_layer("survives"), self._of_layer(f"significant_{self.main}")
        names = [f"{self._layer}.{neuron}" for neuron in self._of_layer("neuron")]
        one = self.plan.comparisons[self.main]
        return funnel(
            self._of_layer(f"beta_{self.main}"), -log10_p(self._of_layer(f"chi2_{self.main}")), survives,
            self._of_layer(f"separation_{self.main}") != OVERLAP, names, -np.log10(LEVEL / len(survives)),
            self.verdict.what,
            f"{int(significant.sum())} of {len(survives)} neurons of layer {self._layer} are significant {one.name}; "
            f"{int(survives.sum())} are {self.verdict.what}",
            f"{self.measured}; {self._sizes(self.main)}; {self.verdict.what}: significant in the same direction "
            f"{self.plan.comparisons[self.verdict.decisive[-1]].name} as well{self._by_types}",
            f"β (log odds per standard deviation; right: higher on {one.one})",
        )  # fmt: skip

    def against_t(self):
        from neurexp.figures.regressions import against_t

        name = self.main
        r = self.layers[f"r_beta_t_{name}"][self.place]
        p_wald, p_t = (np.maximum(self._of_layer(f"{column}_{name}"), TINY) for column in ("p_wald", "p_t"))
        chi2, significant = self._of_layer(f"chi2_{name}"), self._of_layer(f"significant_{name}")
        near = significant & (self._of_layer(f"wald_{name}") ** 2 < chi2 / 2)
        separated = int((self._of_layer(f"separation_{name}") != OVERLAP).sum())
        apart = f"{separated} neurons separate the categories" if separated else "no neuron separates the categories"
        return against_t(
            self._of_layer(f"beta_{name}"), np.nan_to_num(self._of_layer(f"t_{name}")),
            -log10_p(chi2), -np.log10(p_wald), -np.log10(p_t),
            near,
            f"β and t correlate with r = {r:.3f} in layer {self._layer}; near separation, in {int(near.sum())} "
            "neurons, Wald's p falls behind",
            f"{self.measured}; {self._sizes(name)}; {apart}; t grows with the number of rows and is no effect size",
        )  # fmt: skip

    def comparisons(self):
        from neurexp.figures.regressions import slopes_of_comparisons

        others = [self.naive, *self.verdict.decisive[1:]]
        return slopes_of_comparisons(
            self.neurons[f"beta_{self.main}"],
            [(f"β {self.plan.comparisons[name].name}", self.neurons[f"beta_{name}"]) for name in others],
            self.neurons["survives"],
            f"β {self.plan.comparisons[self.main].name}",
            self.verdict.what,
            f"{self.metrics['number_survivors']} of {self.metrics['neurons_tested']} neurons are {self.verdict.what}; "
            f"{self.metrics['naive_only']} are significant only {self.plan.comparisons[self.naive].name}",
            f"{self.measured}; a point: a neuron of any layer; β: log odds per standard deviation",
        )

    def over_layers(self):
        from neurexp.figures.contrasts import over_layers

        share = self.layers["share_survives"]
        most = int(np.argmax(share))
        return over_layers(
            self.plan.layers,
            {label: (self.layers[name], self.layers.get(null)) for name, (label, null) in self._over_layers.items()},
            f"Most {self.verdict.what} are in layer {self.plan.layers[most]}: {percent(share[most], 1)} of its neurons"
            if share.any()
            else f"No layer has {self.verdict.what}",
            f"{self.measured}; likelihood ratio, p < 0.05 / neurons of the layer{self._by_types}; dashed: the same "
            f"with the labels shuffled over {self.plan.comparisons[self.main].shuffled_over} (mean)",
        )

    def between(self):
        from neurexp.figures.positions import positions

        table, others = self.positions or {}, list(self.plan.between.values())
        middles = " and ".join(
            f"{one.kind} at {self.metrics[f'position_{one.comparison}']:.2f}"
            for one in others
            if f"position_{one.comparison}" in self.metrics
        )
        count = int(table["neurons"][0])
        labels = [
            f"[{kind}: all]" if word == ALL else word for kind, word in zip(table["kind"], table["word"], strict=True)
        ]
        return positions(
            {**table, "label": np.array(labels)}, {name: one.name for name, one in self.plan.comparisons.items()},
            f"Between the categories (0 and 1) lie {middles}",
            f"{self.measured}; median over the {self.verdict.what} ({count}), with its 95 % bootstrap interval over "
            "words and rows; a word of the categories stands between all others",
        )  # fmt: skip

    def _heat(self) -> list[tuple[str, list[str], np.ndarray, np.ndarray]]:
        """A passage for the strongest neuron of each sign."""
        passages = []
        for side in (1, -1):
            for index in strongest(self.neurons, side)[:1]:
                excerpt = self.data.excerpt_of(int(self.neurons["layer"][index]), int(self.neurons["neuron"][index]))
                if excerpt is None:
                    continue
                auroc = self.neurons[f"auroc_heldout_{self.main}"][index]
                one = self.plan.comparisons[self.main]
                score = f" (AUROC {auroc:.2f} in the held-out text)" if np.isfinite(auroc) else ""
                which = one.one if side > 0 else one.zero
                passages.append((f"{name_of(self.neurons, index)}: higher on {which}{score}", *excerpt))
        return passages

    def _about_heat(self) -> str:
        which = "passages of the held-out text with the neuron's most active tokens"
        return f"{self.measured}; {which}; colour: the neuron's activation"

    def heat_map(self):
        from neurexp.figures.heat import heat_map

        return heat_map(self._heat(), self.plan.shown, self._heat_title(), self._about_heat())

    def heat_page(self) -> str:
        from neurexp.figures.heat import heat_page

        return heat_page(self._heat(), self.plan.shown, self._heat_title(), self._about_heat())

    def _heat_title(self) -> str:
        return f"The strongest {self.verdict.what}, on a passage from the end of the text"
