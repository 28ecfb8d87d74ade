"""A contrast's plan before its passes, and its data after them: labelled rows and their activations.

The analysis, the report, the figures and the column texts read `ContrastData` only. Knows no test and no sentence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurexp.experiments import base
from neurexp.experiments.base import Results
from neurexp.text.characters import shown_tokens
from neurexp.text.spans import Selection

FEWEST = 4  # rows of a category; a smaller category is not compared


@dataclass
class Options(base.Options):
    """Options of every contrast."""

    layer: Any = None  # the model's own default
    pooling: str = "mean"
    permutations: int = 10_000
    splits: int = 50
    shuffles: int = 20
    text: bool = True
    occurrences: int = 4
    excerpt: int = 120


@dataclass(frozen=True)
class Condition:
    """The same labelled words in other rows."""

    description: str  # as it stands in a sentence: "as “The {word}”"
    rows: Selection


@dataclass(frozen=True)
class TextRows:
    """Labelled rows of running text, and an excerpt to look at.

    `shown` divides the excerpt into texts, each with its first and last + 1 token (counted from the excerpt's start).
    Tokens that are parts of one character stand together.
    """

    found: Selection
    excerpt: Selection
    shown: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, found: Selection, excerpt: Selection, tokenizer: Any) -> "TextRows":
        """Divides the excerpt, a row for each token of one stretch of a sequence, into texts."""
        sequence, first, last = int(excerpt.sequence[0]), int(excerpt.start[0]), int(excerpt.stop[-1])
        ids = excerpt.tokens.input_ids[sequence][excerpt.tokens.valid[sequence]]
        groups = [one for one in shown_tokens(tokenizer, ids.tolist()) if first <= one[1] and one[2] <= last]
        return cls(found, excerpt, tuple((text, start - first, stop - first) for text, start, stop in groups))


@dataclass(frozen=True, kw_only=True)
class ContrastPlan(base.Plan):
    """What a contrast wants to run."""

    categories: Sequence[str]
    layers: tuple[int, ...]
    rows: Selection
    conditions: Mapping[str, Condition]
    text: TextRows | None
    reads_text: bool
    counts: Mapping[str, int]


@dataclass(frozen=True)
class ContrastData:
    """Everything that the analysis of a contrast needs.

    `activations` is the name of a selection ("words", a condition's, "text") → layer → `[rows, neurons]` float32. The
    rows of "text" are those of `text.found`, and then those of `text.excerpt`.
    """

    options: Options
    categories: Sequence[str]
    layers: Sequence[int]
    rows: Selection
    activations: Mapping[str, Mapping[int, np.ndarray]]
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    text: TextRows | None = None
    reads_text: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)  # metrics: words and occurrences that were left out
    seed: int = 0
    model_name: str = "model"
    label: str = "model on text"

    @classmethod
    def of(cls, options: Options, plan: ContrastPlan, results: Results) -> "ContrastData":
        """Joins a plan with the results of its passes."""
        activations = {
            name: {layer: reducers["rows"].rows(site).numpy() for site, layer in enumerate(plan.layers)}  # type: ignore[attr-defined]
            for name, reducers in results.items()
        }
        return cls(
            options, plan.categories, plan.layers, plan.rows, activations, plan.conditions, plan.text, plan.reads_text,
            plan.counts, plan.inputs.seed, plan.inputs.model_name, plan.inputs.label,
        )  # fmt: skip

    @property
    def site(self) -> str:
        """The place in each block."""
        return self.options.site

    @property
    def labels(self) -> np.ndarray:
        """The category of each row, `[rows]`."""
        return self.rows.category

    @property
    def two(self) -> bool:
        """Whether there are two categories, so that differences have a sign."""
        return len(self.categories) == 2

    @property
    def test(self) -> str:
        """The name of the main test in column names."""
        return "welch" if self.two else "f"

    def text_rows(self, layer: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The listed words' occurrences, and the excerpt's tokens, `[rows, neurons]` each."""
        if self.text is None:
            return None
        rows, count = self.activations["text"][layer], len(self.text.found.words)
        return rows[:count], rows[count:]

    def excerpt_of(self, layer: int, neuron: int) -> tuple[list[str], np.ndarray, np.ndarray] | None:
        """The excerpt's texts, one neuron's activations on them, and their categories (−1: not listed).

        The activation of a text of several tokens is their mean.
        """
        rows = self.text_rows(layer)
        if self.text is None or rows is None:
            return None
        values, categories = rows[1][:, neuron], self.text.excerpt.category
        spans = [slice(start, stop) for _, start, stop in self.text.shown]
        return (
            [text for text, _, _ in self.text.shown],
            np.array([values[span].mean() for span in spans], dtype=values.dtype),
            np.array([categories[span].max() for span in spans], dtype=np.int64),
        )
