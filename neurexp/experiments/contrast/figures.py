"""The figures of a contrast: the arrays that each shows, and its texts. Knows nothing of how they are drawn."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from neurexp.experiments.contrast.analysis import LayerAnalysis
from neurexp.experiments.contrast.data import STRETCHES, STRETCHES_SHOWN, ContrastData
from neurexp.report.report import Table
from neurexp.report.words import name_of
from neurexp.stats.association import LEVEL

SHOWN = 12  # neurons whose values are drawn word by word
MANY = 8  # categories; of more than these the texts give only the number, and fewer neurons are drawn
DRAWN = 2**24  # activations in the picture words × neurons at most; of more words, every n-th is drawn


def extremes(neurons: Table) -> tuple[int, int]:
    """Rows of the highest and of the lowest t."""
    return int(np.nanargmax(neurons["t_welch"])), int(np.nanargmin(neurons["t_welch"]))


def best_layer(layers: Table) -> int:
    """The place of the layer that findings, metrics and figures of one layer are about.

    Its best neuron is the best on unseen words; without any such number, most of its neurons pass Bonferroni.
    """
    unseen = layers["auroc_heldout"]
    return int(np.nanargmax(unseen) if np.isfinite(unseen).any() else np.argmax(layers["share_bonferroni"]))


def describe_sizes(data: ContrastData) -> str:
    """How many rows each category has, in a few words for any number of categories."""
    sizes = np.bincount(data.rows.category, minlength=len(data.categories))
    if len(data.categories) <= MANY:
        return ", ".join(f"{size} {name}" for size, name in zip(sizes, data.categories, strict=True))
    each = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
    return f"{sizes.sum()} rows in {len(data.categories)} categories ({each} each)"


class Figures:
    """The contrast's figures. Each is drawn when its function is called."""

    def __init__(
        self,
        data: ContrastData,
        analyses: list[LayerAnalysis],
        layers: Table,
        neurons: Table,
        metrics: Mapping[str, float],
        over_layers: Mapping[str, tuple[str, str]],
        leaders: Table | None = None,
    ):
        self.data, self.analyses, self.layers, self.neurons = data, analyses, layers, neurons
        self.metrics, self._over_layers, self._leaders = metrics, over_layers, leaders
        self.measured = f"{data.model_name}, {data.site}; {describe_sizes(data)}"
        self.statistic, self.symbol, self.effect = ("t_welch", "t", "cohens_d") if data.two else ("f", "F", "eta2")
        self.place = best_layer(layers)

    def all(self) -> dict[str, Callable[[], Any]]:
        """The functions that draw a figure each, by file name."""
        figures: dict[str, Callable[[], Any]] = {"words_by_neurons": self.words_by_neurons}
        if np.isfinite(self.neurons[self.statistic]).any():
            figures |= {
                "volcano": self.volcano,
                f"{self.symbol.lower()}_against_null": self.against_null,
                "top_neurons": self.top_neurons,
            }
            if self.data.text is not None and self._of_heat():
                figures["text_heat_map"] = self.heat_map
        if len(self.data.layers) > 1:
            figures["over_layers"] = self.over_layers
        return figures

    def pages(self) -> dict[str, Callable[[], str]]:
        """The functions that make an HTML page each, by file name."""
        return {"text_heat_map": self.heat_page} if "text_heat_map" in self.all() else {}

    @property
    def _layer(self) -> int:
        return self.data.layers[self.place]

    def _of_layer(self, name: str) -> np.ndarray:
        return self.neurons[name].reshape(len(self.data.layers), -1)[self.place]

    def words_by_neurons(self):
        from neurexp.figures.contrasts import words_by_neurons

        offset, negative = self.layers["mean_offset"][self.place], self.layers["share_mean_negative"][self.place]
        rows, labels = self.data.activations["words"][self._layer], self.data.rows.category
        step = -(-rows.size // DRAWN)
        shown = np.sort(np.argsort(labels, kind="stable")[::step])  # the same share of each category
        left_out = f"; one word in {step} is drawn" if step > 1 else ""
        return words_by_neurons(
            rows[shown],
            labels[shown],
            self.data.categories,
            self._of_layer("band"),
            f"{negative:.0%} of the neurons of layer {self._layer} have a mean below zero (over all: {offset:+.2f}); "
            f"far out for all words: {self.layers['bands'][self.place]:g}",
            f"{self.measured}; layer {self._layer}{left_out}; marks below: means beyond 3.5 robust SD of the others",
            "activation (model's own units)",
        )

    def volcano(self):
        from neurexp.figures.contrasts import volcano

        found = int(self._of_layer("significant_bonferroni").sum())
        effect, p, q = (self._of_layer(name) for name in (self.effect, f"p_{self.data.test}", f"q_{self.data.test}"))
        threshold = float(p[q < LEVEL].max()) if (q < LEVEL).any() else None
        xlabel = "η²: share of the neuron's variance between the categories"
        if self.data.two:
            xlabel = f"Cohen's d (right: {self.data.categories[1]} higher, left: {self.data.categories[0]})"
        return volcano(
            effect, p, LEVEL / len(p), threshold, [f"{self._layer}.{neuron}" for neuron in self._of_layer("neuron")],
            f"{found} of {len(p)} neurons of layer {self._layer} pass Bonferroni; with shuffled labels "
            f"{self.layers['share_bonferroni_shuffled'][self.place] * len(p):.1f} on average",
            f"{self.measured}; {'Welch t' if self.data.two else 'F'}-test, {int((q < LEVEL).sum())} neurons with "
            "q < 0.05 (Benjamini-Hochberg)",
            xlabel,
            signed=self.data.two,
        )  # fmt: skip

    def against_null(self):
        from neurexp.figures.contrasts import against_null

        null = self.analyses[self.place].null
        values = self._of_layer(self.statistic)
        limit = float(np.quantile(null.largest, 1 - LEVEL))
        beyond = int((self._of_layer("p_maxt") < LEVEL).sum())
        name, largest = ("Welch's t", "|t|") if self.data.two else ("F", "F")
        direction = f" (positive: {self.data.categories[1]} higher)" if self.data.two else ""
        return against_null(
            values[np.isfinite(values)], null.counts, null.edges, limit,
            f"{beyond} neurons of layer {self._layer} lie beyond the largest of all neurons in 95 % of the shuffles",
            f"{self.measured}; null: all neurons with shuffled labels (histogram: the first 2,000 shuffles); dashed: "
            f"95 % quantile of the largest {largest} of any neuron in {len(null.largest):,} shuffles",
            f"{name}{direction}",
        )  # fmt: skip

    def top_neurons(self):
        from neurexp.figures.contrasts import values_by_word

        values = np.nan_to_num(self.neurons[self.statistic])
        order = np.argsort(values)
        half = min((SHOWN if len(self.data.categories) <= MANY else SHOWN // 3) // 2, max(1, len(values) // 2))
        chosen = [*order[::-1][:half], *order[:half][::-1]] if self.data.two else list(order[::-1][: 2 * half])
        chosen = list(dict.fromkeys(chosen))  # a single neuron is both the highest and the lowest
        labels, rows = [], []
        sign = "d = {:+.2f}" if self.data.two else "η² = {:.2f}"
        for index in chosen:
            layer, neuron = int(self.neurons["layer"][index]), int(self.neurons["neuron"][index])
            effect = self.neurons[self.effect][index]
            effect = sign.format(effect) if np.isfinite(effect) else "no spread within the categories"
            labels.append(f"{self.data.site} {layer}.{neuron}\n{effect}")
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
            f"The neurons with the largest {'|t|' if self.data.two else 'F'}, word by word{sizes}",
            f"{self.measured}; dot: a word, bar: mean; {above if self.data.two else ''}selected and shown on the same "
            "words",
            "activation (own scale)",
        )  # fmt: skip

    def over_layers(self):
        from neurexp.figures.contrasts import over_layers

        best = self.place
        share = self.layers["share_bonferroni"]
        most = int(np.argmax(share))
        return over_layers(
            self.data.layers,
            {label: (self.layers[name], self.layers.get(null)) for name, (label, null) in self._over_layers.items()},
            f"Most neurons pass Bonferroni in layer {self.data.layers[most]} ({share[most]:.1%}); on unseen words the "
            f"best neuron is in layer {self.data.layers[best]} (AUROC {self.layers['auroc_heldout'][best]:.2f})",
            f"{self.measured}; dashed: the same with shuffled labels (share: mean; AUROC: 95 % quantile over shuffles)",
        )

    def _heat(self) -> list[tuple[str, list[str], np.ndarray, np.ndarray]]:
        """A passage for each neuron: its title, and the excerpt's texts, activations and categories."""
        passages = []
        for row, category in self._of_heat():
            table = self.neurons if self._leaders is None else self._leaders
            excerpt = self.data.excerpt_of(int(table["layer"][row]), int(table["neuron"][row]))
            assert excerpt is not None
            auroc = table["auroc_text"][row]
            share = 1 - auroc if self.data.two and category == 0 else auroc  # AUROC: category 1 is higher
            score = f"higher on them in {share:.0%} of pairs" if np.isfinite(auroc) else "too few listed words"
            name = f"{self.data.site} {name_of(table, row)}"
            passages.append((f"{name}: prefers {self.data.categories[category]} ({score})", *excerpt))
        return passages

    def _of_heat(self) -> list[tuple[int, int]]:
        """The neurons of the heat map, at most `MANY`: the row in its table, and the category."""
        if self._leaders is None:
            return list(zip(extremes(self.neurons), (1, 0), strict=True))
        strongest = np.sort(np.argsort(-self._leaders["t"], kind="stable")[:MANY])
        return [(int(row), int(self._leaders["label"][row])) for row in strongest]

    def _about_heat(self) -> str:
        text = self.data.text
        assert text is not None
        joined = len(text.shown) < len(text.excerpt.words)
        many = self._leaders is not None and len(self._leaders["t"]) > MANY
        return (
            f"{self.data.label}; the text has {len(text.found.words)} occurrences of listed words, at most "
            f"{self.data.options.occurrences} of each; of up to {STRETCHES} passages with many of them the "
            f"{STRETCHES_SHOWN} with the neuron's most active tokens; colour: the neuron's activation"
            f"{', the mean where one character is several tokens' if joined else ''}"
            f"{f'; the {MANY} categories whose neurons have the highest t' if many else ''}"
        )

    def _heat_title(self) -> str:
        if self._leaders is not None:
            return self._title_of_leaders(self._leaders)
        scores = [self.metrics[name] for name in ("top_auroc_text", "bottom_auroc_text") if name in self.metrics]
        if len(scores) < 2:
            return "The two neurons that differ most, over running text"
        return (  # AUROC is the chance that category 1 is higher
            f"In running text the neuron for {self.data.categories[1]} is right on {scores[0]:.0%} of pairs of listed "
            f"words, and the one for {self.data.categories[0]} on {1 - scores[1]:.0%}"
        )

    def _title_of_leaders(self, leaders: Table) -> str:
        shown = [(self.data.categories[label], leaders["auroc_text"][row]) for row, label in self._of_heat()]
        scores = [f"{share:.0%} ({name})" for name, share in shown if np.isfinite(share)]
        if not scores:
            return "The neuron that prefers each category most, over running text"
        return (
            "In running text the neuron for each category is higher on its listed words than on the others in "
            f"{', '.join(scores)} of pairs"
        )

    def heat_map(self):
        from neurexp.figures.heat import heat_map

        return heat_map(self._heat(), self.data.categories, self._heat_title(), self._about_heat())

    def heat_page(self) -> str:
        from neurexp.figures.heat import heat_page

        return heat_page(self._heat(), self.data.categories, self._heat_title(), self._about_heat())
