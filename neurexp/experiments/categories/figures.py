"""The figures that categories adds: the arrays that each shows, and its texts. Knows nothing of how they are drawn."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from neurexp.experiments.categories.data import SET_2, CategoryData
from neurexp.report.report import Table

SHOWN = 6  # neurons whose values are drawn sentence by sentence
MANY_WORDS = 16  # with more, the values are not drawn word by word


class Figures:
    """The figures. Each is drawn when its function is called."""

    def __init__(self, data: CategoryData, layers: Table, neurons: Table, metrics: Mapping[str, float]):
        self.data, self.layers, self.neurons, self.metrics = data, layers, neurons, metrics
        contrast, words = data.contrast, data.sets["words"]
        self.indices = list(contrast.layers)
        categories = " and ".join(contrast.categories)
        self.measured = (
            f"{contrast.model_name}, {contrast.site}; {len(words.words)} words ({categories}), {len(words.groups)} "
            "targets in set 1"
        )
        self.place = int(np.argmax(layers["share_sentences"]))  # figures of one layer show this one

    def all(self) -> dict[str, Callable[[], Any]]:
        """The functions that draw a figure each, by file name."""
        figures: dict[str, Callable[[], Any]] = {}
        several = len(self.indices) > 1
        if several:
            figures["sentences_over_layers"] = self.over_layers
        if self.data.has_second:
            figures["t_of_sets"] = self.t_of_sets
        if len(self.data.sets["words"].words) <= MANY_WORDS:
            figures["top_neurons_by_sentence"] = self.by_sentence
        if several and "leak_share" in self.layers:
            figures["leak_over_layers"] = self.leak
        if several and "displacement_last" in self.layers:
            figures["displacement_over_layers"] = self.displacement
        return figures

    def _of_layer(self, name: str) -> np.ndarray:
        return self.neurons[name].reshape(len(self.indices), -1)[self.place]

    def over_layers(self):
        from neurexp.figures.contrasts import over_layers

        shown = {
            "share_sentences": "share of neurons that pass Bonferroni over sentences (Student)",
            "share_separated": "share that separate the categories' words completely",
            "both_sentences": "share significant in both sets with the same sign, over sentences",
            "members": "share of pairs of held-out words ordered rightly",
        }
        return over_layers(
            self.indices,
            {label: (self.layers[name], self.layers[f"{name}_shuffled"]) for name, label in shown.items()
             if name in self.layers},
            f"Over sentences {self.metrics['share_sentences_all']:.1%} of the neurons pass, and "
            f"{self.metrics['share_sentences_all_shuffled']:.1%} if the same words are split in another way; "
            f"over words {self.metrics['share_words_all']:.2%} pass",
            f"{self.measured}; dashed: mean over the other splits of the words, each word with one label",
        )  # fmt: skip

    def t_of_sets(self):
        from neurexp.figures.sentences import t_of_sets

        layer = self.indices[self.place]
        first, second = self._of_layer("significant_sentences"), self._of_layer(f"significant_sentences_{SET_2}")
        both = self._of_layer("concordant_sentences")
        null = self.layers.get("t_r_sentences_shuffled", np.full(len(self.indices), np.nan))[self.place]
        others = f"; with other splits of the words r is {null:.2f} on average" if np.isfinite(null) else ""
        return t_of_sets(
            self._of_layer("t_sentences"), self._of_layer(f"t_sentences_{SET_2}"), both, (first | second) & ~both,
            f"t of the two sets correlates with r = {self.layers['t_r_sentences'][self.place]:.2f} in layer {layer}"
            f"{others}",
            f"{self.measured}, {len(self.data.sets[SET_2].groups)} in set 2; Student's t over sentences, positive: "
            f"{self.data.contrast.categories[1]} higher; dashed: equal",
            "t over sentences",
        )  # fmt: skip

    def by_sentence(self):
        from neurexp.figures.contrasts import values_by_word

        one, layer = self.data.sets["words"], self.indices[self.place]
        t = np.nan_to_num(self._of_layer("t_sentences"))
        chosen = np.argsort(-np.abs(t), kind="stable")[:SHOWN]
        x, t_words = self.data.x("words", layer), self._of_layer("t_welch")
        return values_by_word(
            [x[:, neuron] for neuron in chosen],
            [f"neuron {neuron}: t = {t[neuron]:+.1f}\nover words {t_words[neuron]:+.1f}" for neuron in chosen],
            one.groups, one.words,
            f"The neurons of layer {layer} with the largest |t| over sentences, sentence by sentence, grouped by word",
            f"{self.measured}; dot: a target in its sentence, bar: the word's mean; {self._sides()}",
            "activation (own scale)",
            one.label.tolist(),
        )  # fmt: skip

    def _sides(self) -> str:
        zero, one = self.data.contrast.categories
        size = int((self.data.sets["words"].label == 0).sum())
        return f"the {size} words on the left are {zero}, the others {one}"

    def leak(self):
        from neurexp.figures.sentences import lines_over_layers

        return lines_over_layers(
            self.indices,
            {"part of the category difference": {"leak of an earlier target": self.layers["leak_share"]}},
            f"An earlier target moves a later one by {self.metrics['leak_share_all']:.1%} of the category difference "
            "towards its own category (mean over layers)",
            f"{self.measured}; {self.metrics['rows_leak_all']} targets after {self.metrics['words_leak_all']} earlier "
            "words; grey: the middle 95 % of other splits of these",
            (self.layers["leak_share_low"], self.layers["leak_share_high"]),
        )

    def displacement(self):
        from neurexp.figures.sentences import lines_over_layers

        panels = {
            "displacement (model's own units)": "",
            "displacement / length before the block": "_relative",
        }
        return lines_over_layers(
            self.indices,
            {
                label: {f"{place} token": self.layers[f"displacement_{place}{end}"] for place in ("first", "last")}
                for label, end in panels.items()
            },
            f"In {self.metrics['displacement_last_more']} of {len(self.indices)} layers a word's last token is moved "
            "more than its first, relative to its length",
            f"{self.data.contrast.model_name}; {len(np.unique(self.data.several_tokens))} words of several tokens in "
            "set 1, mean over words; before and after each block, without the final norm",
        )
