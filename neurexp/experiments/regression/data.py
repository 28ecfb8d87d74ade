"""A regression's plan before its pass, and its data after it: comparisons of labelled rows, and their activations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurexp.engine.reducers.rows import Rows
from neurexp.experiments import base
from neurexp.experiments.base import Results
from neurexp.experiments.contrast.data import TextRows
from neurexp.text.spans import Selection

FEWEST = 10  # rows of a category; a smaller one is not compared


@dataclass
class Options(base.Options):
    """Options of every regression."""

    pooling: str = "mean"
    rows: int = 500
    shuffles: int = 5
    permutations: int = 1000
    heldout: float = 1 / 3
    excerpt: int = 120


@dataclass(frozen=True)
class Comparison:
    """Labelled rows of running text: category 1 against category 0.

    Args:
        rows: the rows; all of one text. A row's word is its type.
        one, zero: what the categories are, as it stands in a sentence: “proper nouns”.
        name: of the comparison, as it stands in a sentence: “by the lectures' rule”.
    """

    rows: Selection
    one: str
    zero: str
    name: str

    @property
    def labels(self) -> np.ndarray:
        """`[rows]`, 0 or 1."""
        return self.rows.category

    @property
    def groups(self) -> np.ndarray:
        """The number of each row's type; rows of one type and different labels are of different groups."""
        keys = [f"{label} {word}" for label, word in zip(self.labels.tolist(), self.rows.words, strict=True)]
        return np.unique(keys, return_inverse=True)[1].reshape(-1)

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of rows of category 0 and of category 1."""
        zero, one = np.bincount(self.labels, minlength=2)
        return int(zero), int(one)

    def training_text(self, heldout: float) -> np.ndarray:
        """The rows before the last part of the text, `[rows]` bool: whole sequences are held out."""
        return self.rows.sequence < round(len(self.rows.tokens.input_ids) * (1 - heldout))

    def training_types(self, heldout: float, seed: int) -> np.ndarray:
        """The rows of a random part of the types of each category, `[rows]` bool."""
        random, groups, train = np.random.default_rng(seed), self.groups, np.zeros(len(self.labels), dtype=bool)
        for label in (0, 1):
            types = random.permutation(np.unique(groups[self.labels == label]))
            train |= np.isin(groups, types[: round(len(types) * (1 - heldout))])
        return train


@dataclass(frozen=True)
class Verdict:
    """Which comparisons decide, and what the neurons are called that differ in the same direction in all of them.

    Args:
        naive: the comparison as the lectures have it.
        decisive: the others' names; the first is the main one, the last the one against the suspected confound.
        what: the neurons' name, in the plural: “proper-noun neurons”.
        confound: what the last one rules out, as it stands in a sentence: “capital letters”.
    """

    naive: str
    decisive: Sequence[str]
    what: str
    confound: str

    def others(self, comparisons: Mapping[str, Comparison]) -> list[str]:
        """The names of the comparisons that neither decide nor are the lectures'."""
        return [name for name in comparisons if name not in (self.naive, *self.decisive)]


@dataclass(frozen=True, kw_only=True)
class RegressionPlan(base.Plan):
    """What a regression runs.

    Args:
        comparisons: by name.
        verdict: what they say together.
        places: for each comparison, the place of its rows among those of the pass, `[rows]`.
        layers: block indices, ascending.
        text: an excerpt of the text to look at; its rows are the pass's last. Its categories are those of `shown`.
        shown: names of the excerpt's categories.
        counts: metrics of the text, and their definitions.
        about: sentences about the text and the rows.
    """

    comparisons: Mapping[str, Comparison]
    verdict: Verdict
    places: Mapping[str, np.ndarray]
    layers: tuple[int, ...]
    text: TextRows | None
    shown: Sequence[str]
    counts: Mapping[str, tuple[float, str]]
    about: Sequence[str]


@dataclass(frozen=True)
class RegressionData:
    """What the analysis needs: the plan, and the activations of its rows, layer → `[rows, neurons]` float32."""

    options: Any
    plan: RegressionPlan
    activations: Mapping[int, np.ndarray]

    @classmethod
    def of(cls, options: Any, plan: RegressionPlan, results: Results) -> "RegressionData":
        """Joins a plan with the results of its pass."""
        rows = results["text"]["rows"]
        assert isinstance(rows, Rows)
        return cls(options, plan, {layer: rows.rows(site).numpy() for site, layer in enumerate(plan.layers)})

    def rows(self, comparison: str, layer: int) -> np.ndarray:
        """The activations of a comparison's rows, `[rows, neurons]`."""
        return self.activations[layer][self.plan.places[comparison]]

    def excerpt_of(self, layer: int, neuron: int) -> tuple[list[str], np.ndarray, np.ndarray] | None:
        """The excerpt's texts, the neuron's activation on each, and each one's category or −1.

        The activation on a text of several tokens is the mean over them.
        """
        text = self.plan.text
        if text is None:
            return None
        values, categories = self.activations[layer][-len(text.excerpt.start) :, neuron], text.excerpt.category
        spans = [slice(start, stop) for _, start, stop in text.shown]
        return (
            [shown for shown, _, _ in text.shown],
            np.array([values[span].mean() for span in spans], dtype=values.dtype),
            np.array([categories[span].max() for span in spans], dtype=np.int64),
        )
