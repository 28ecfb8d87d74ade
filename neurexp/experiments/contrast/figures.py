"""The figures of a contrast: which arrays each draws, and the sentences on it. Knows nothing of how they are drawn."""

from collections.abc import Callable
from typing import Any

import numpy as np

from neurexp.experiments.contrast.analysis import LayerAnalysis
from neurexp.experiments.contrast.data import ContrastData
from neurexp.report.report import Table
from neurexp.stats.association import LEVEL

SHOWN = 12  # neurons whose values are drawn word by word
MANY = 8  # categories, beyond which they are counted in sentences, and fewer neurons are drawn
DRAWN = 2**24  # activations in a picture at most: of more, every so many words are left out


def extremes(neurons: Table) -> tuple[int, int]:
    """Rows of the highest and of the lowest t."""
    return int(np.nanargmax(neurons["t_welch"])), int(np.nanargmin(neurons["t_welch"]))


def sizes_told(data: ContrastData) -> str:
    """How many rows each category has, in a few words however many categories there are."""
    sizes = np.bincount(data.rows.category, minlength=len(data.categories))
    if len(data.categories) <= MANY:
        return ", ".join(f"{size} {name}" for size, name in zip(sizes, data.categories, strict=True))
    each = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
    return f"{sizes.sum()} rows in {len(data.categories)} categories ({each} each)"


class Figures:
    """The contrast's figures, each drawn when it is called for."""

    def __init__(
        self, data: ContrastData, analyses: list[LayerAnalysis], layers: Table, neurons: Table, metrics, over_layers
    ):
        self.data, self.analyses, self.layers, self.neurons = data, analyses, layers, neurons
        self.metrics, self.over = metrics, over_layers
        self.measured = f"{data.model_name}, {data.site}; {sizes_told(data)}"
        self.statistic, self.symbol, self.effect = ("t_welch", "t", "cohens_d") if data.two else ("f", "F", "eta2")
        # The layer that figures of one layer show
        self.at = int(np.argmax(layers["share_bonferroni"] + 1e-9 * np.nan_to_num(layers["auroc_heldout"])))

    def all(self) -> dict[str, Callable[[], Any]]:
        figures: dict[str, Callable[[], Any]] = {"words_by_neurons": self.words_by_neurons}
        if np.isfinite(self.neurons[self.statistic]).any():
            figures |= {
                "volcano": self.volcano,
                f"{self.symbol.lower()}_against_null": self.against_null,
                "top_neurons": self.top_neurons,
            }
            if self.data.text is not None:
                figures["text_heat_map"] = self.heat_map
        if len(self.data.layers) > 1:
            figures["over_layers"] = self.over_layers
        return figures

    def pages(self) -> dict[str, Callable[[], str]]:
        return {"text_heat_map": self.heat_page} if "text_heat_map" in self.all() else {}

    @property
    def _layer(self) -> int:
        return self.data.layers[self.at]

    def _of_layer(self, name: str) -> np.ndarray:
        return self.neurons[name].reshape(len(self.data.layers), -1)[self.at]

    def words_by_neurons(self):
        from neurexp.figures.contrasts import words_by_neurons

        offset, negative = self.layers["mean_offset"][self.at], self.layers["share_mean_negative"][self.at]
        rows, labels = self.data.activations["words"][self._layer], self.data.rows.category
        step = -(-rows.size // DRAWN)
        shown = np.sort(np.argsort(labels, kind="stable")[::step])  # as many of each category as it has
        left_out = f"; one word in {step} is drawn" if step > 1 else ""
        return words_by_neurons(
            rows[shown],
            labels[shown],
            self.data.categories,
            self._of_layer("band"),
            f"{negative:.0%} of the neurons of layer {self._layer} sit below zero (mean {offset:+.2f}); "
            f"{self.layers['bands'][self.at]:g} are far out for all words",
            f"{self.measured}; layer {self._layer}{left_out}; marks below: means beyond 3.5 robust SD of the others",
            "activation (model's own units)",
        )

    def volcano(self):
        from neurexp.figures.contrasts import volcano

        found = int(self._of_layer("significant_bonferroni").sum())
        effect, p, q = (self._of_layer(name) for name in (self.effect, f"p_{self.data.test}", f"q_{self.data.test}"))
        threshold = float(p[q < LEVEL].max()) if (q < LEVEL).any() else None
        xlabel = "η²: share of the neuron's variance that lies between the categories"
        if self.data.two:
            xlabel = f"Cohen's d (right: {self.data.categories[1]} higher, left: {self.data.categories[0]})"
        return volcano(
            effect, p, LEVEL / len(p), threshold, self._of_layer("neuron"),
            f"{found} of {len(p)} neurons of layer {self._layer} pass Bonferroni; shuffled labels: "
            f"{self.layers['share_bonferroni_shuffled'][self.at] * len(p):.1f} neurons",
            f"{self.measured}; {'Welch t' if self.data.two else 'F'}-test, {int((q < LEVEL).sum())} neurons with "
            "q < 0.05 (Benjamini-Hochberg)",
            xlabel,
            signed=self.data.two,
        )  # fmt: skip

    def against_null(self):
        from neurexp.figures.contrasts import against_null

        null = self.analyses[self.at].null
        values = self._of_layer(self.statistic)
        limit = float(np.quantile(null.largest, 1 - LEVEL))
        beyond = int((self._of_layer("p_maxt") < LEVEL).sum())
        name = "Welch's t" if self.data.two else "F"
        direction = f" (positive: {self.data.categories[1]} higher)" if self.data.two else ""
        return against_null(
            values[np.isfinite(values)], null.counts, null.edges, limit,
            f"{beyond} neurons of layer {self._layer} lie beyond the largest of all neurons in 95 % of the shuffles",
            f"{self.measured}; null: shuffled labels, all neurons (its histogram: the first 2,000 shuffles); dashed: "
            "95 % quantile "
            f"of the largest {'|t|' if self.data.two else 'F'} of any neuron in {len(null.largest):,} shuffles",
            f"{name}{direction}",
        )  # fmt: skip

    def top_neurons(self):
        from neurexp.figures.contrasts import values_by_word

        values = np.nan_to_num(self.neurons[self.statistic])
        order = np.argsort(values)
        half = min((SHOWN if len(self.data.categories) <= MANY else SHOWN // 3) // 2, max(1, len(values) // 2))
        chosen = [*order[::-1][:half], *order[:half][::-1]] if self.data.two else list(order[::-1][: 2 * half])
        chosen = list(dict.fromkeys(chosen))  # of a single neuron, once
        labels, rows = [], []
        sign = "d = {:+.2f}" if self.data.two else "η² = {:.2f}"
        for index in chosen:
            layer, neuron = int(self.neurons["layer"][index]), int(self.neurons["neuron"][index])
            effect = self.neurons[self.effect][index]
            effect = sign.format(effect) if np.isfinite(effect) else "no spread within the categories"
            labels.append(f"{self.data.site}_{layer}, neuron {neuron}\n{effect}")
            rows.append(self.data.activations["words"][layer][:, neuron])
        above = f"above: neurons that prefer {self.data.categories[-1]}, below: {self.data.categories[0]}; "
        effects = np.abs(self.neurons[self.effect][chosen])
        effects = effects[np.isfinite(effects)]
        sizes = (
            f": {'|d|' if self.data.two else 'η²'} from {effects.min():.2f} to {effects.max():.2f}"
            if len(effects)
            else ""
        )
        return values_by_word(
            rows, labels, self.data.rows.category, self.data.categories,
            f"The neurons with the largest {'|t|' if self.data.two else 'F'}, word by word"
            f"{sizes}",
            f"{self.measured}; a dot a word, bar: mean; {above if self.data.two else ''}chosen and shown on the same "
            "words",
            "activation (own scale)",
        )  # fmt: skip

    def over_layers(self):
        from neurexp.figures.contrasts import over_layers

        best = int(np.nanargmax(self.layers["auroc_heldout"]))
        share = self.layers["share_bonferroni"]
        most = int(np.argmax(share))
        return over_layers(
            self.data.layers,
            {label: (self.layers[name], self.layers.get(null)) for name, (label, null) in self.over.items()},
            f"Layer {self.data.layers[most]} has most neurons that pass Bonferroni ({share[most]:.1%}); on unseen "
            f"words the best neuron is in layer {self.data.layers[best]} (AUROC "
            f"{self.layers['auroc_heldout'][best]:.2f})",
            f"{self.measured}; dashed: the same with shuffled labels (share: mean; AUROC: 95 % quantile over shuffles)",
        )

    def _heat(self):
        top, bottom = extremes(self.neurons)
        rows = []
        for index, category in ((top, 1), (bottom, 0)):
            layer, neuron = int(self.neurons["layer"][index]), int(self.neurons["neuron"][index])
            found = self.data.excerpt_of(layer, neuron)
            assert found is not None
            tokens, values, listed = found
            name = f"{self.data.site}_{layer}, neuron {neuron}"
            score = self.neurons["auroc_text"][index]
            right = score if category == 1 else 1 - score  # the chance in the neuron's own direction
            told = f"higher on them in {right:.0%} of pairs" if np.isfinite(score) else "too few listed words"
            rows.append((f"{name}: prefers {self.data.categories[category]} ({told})", tokens, values, listed))
        return rows

    def _about_heat(self) -> str:
        text = self.data.text
        assert text is not None
        joined = len(text.shown) < len(text.excerpt.words)
        return (
            f"{self.data.label}; {len(text.found.words)} occurrences of listed words in the text, at most "
            f"{self.data.options.occurrences} of each; colour: the neuron's activation"
            f"{', the mean where one character is several tokens' if joined else ''}"
        )

    def _heat_title(self) -> str:
        scores = [self.metrics[name] for name in ("top_auroc_text", "bottom_auroc_text") if name in self.metrics]
        if len(scores) < 2:
            return "The two neurons that differ most, over running text"
        # bottom: category 0 should be higher, so the chance in its direction is 1 − AUROC
        return (
            f"In running text the neuron for {self.data.categories[1]} is right on {scores[0]:.0%} of pairs of listed "
            f"words, the one for {self.data.categories[0]} on {1 - scores[1]:.0%}"
        )

    def heat_map(self):
        from neurexp.figures.heat import heat_map

        return heat_map(self._heat(), self.data.categories, self._heat_title(), self._about_heat())

    def heat_page(self) -> str:
        from neurexp.figures.heat import heat_page

        return heat_page(self._heat(), self.data.categories, self._heat_title(), self._about_heat())
