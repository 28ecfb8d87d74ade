"""A contrast's plan before its passes, and its data after them: labelled rows and their activations.

The analysis, the report and the figures read `ContrastData` only. Knows no test and no sentence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from neurexp.experiments import base
from neurexp.experiments.base import Results
from neurexp.experiments.captured_rows import captured
from neurexp.experiments.options.contrasts import ContrastOptions as Options
from neurexp.text.characters import readable_tokens
from neurexp.text.spans import Selection, excerpts, joined

FEWEST = 4  # rows of a category; a smaller category is not compared
STRETCHES = 4  # of running text in an excerpt
STRETCHES_SHOWN = 2  # by each neuron: those in which it is most active
GAP = " […] "  # between two of them


@dataclass(frozen=True)
class Condition:
    """The same labelled words in other rows."""

    description: str  # as it stands in a sentence: "as “The {word}”"
    rows: Selection


@dataclass(frozen=True)
class TextRows:
    """Labelled rows of running text, and excerpts to look at.

    Args:
        found: the labelled rows.
        excerpt: a row for each token of one or several stretches of the text.
        shown: the excerpt's texts, each with the range [start, stop) of the excerpt's rows that it covers. Tokens that
            are parts of one character are one text.
        stretches: the range [start, stop) of `shown` that each stretch has.
    """

    found: Selection
    excerpt: Selection
    shown: tuple[tuple[str, int, int], ...]
    stretches: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, found: Selection, length: int, tokenizer: Any) -> "TextRows":
        """Chooses the excerpts, of which a neuron shows about `length` tokens, and divides them into texts."""
        chosen = excerpts(found, -(-length // STRETCHES_SHOWN), STRETCHES, tokenizer)
        chosen.sort(key=lambda one: (int(one.sequence[0]), int(one.start[0])))
        shown: list[tuple[str, int, int]] = []
        stretches, rows = [], 0
        for one in chosen:
            sequence, first, last = int(one.sequence[0]), int(one.start[0]), int(one.stop[-1])
            ids = one.tokens.input_ids[sequence][one.tokens.valid[sequence]]
            texts = readable_tokens(tokenizer, ids.tolist())
            inside = [(text, start, stop) for text, start, stop in texts if first <= start and stop <= last]
            stretches.append((len(shown), len(shown) + len(inside)))
            shown += [(text, rows + start - first, rows + stop - first) for text, start, stop in inside]
            rows += last - first
        return cls(found, joined(chosen), tuple(shown), tuple(stretches))

    def around_strongest(self, values: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The texts of the stretches in which a neuron is most active, with its activation and category on each.

        Args:
            values: `[rows of the excerpt]` of the neuron.

        Returns:
            The texts, in the text's order; the activation on each, the mean where a text is several tokens; the
            category of each, −1 for what is no listed word. Between two stretches stands a text without activation.
        """
        spans = [slice(start, stop) for _, start, stop in self.shown]
        means = np.array([values[span].mean() for span in spans], dtype=values.dtype)
        categories = np.array([self.excerpt.category[span].max() for span in spans], dtype=np.int64)
        filled = [(start, stop) for start, stop in self.stretches if stop > start]
        strongest = sorted(filled, key=lambda stretch: -means[stretch[0] : stretch[1]].max())[:STRETCHES_SHOWN]
        texts: list[str] = []
        parts: list[np.ndarray] = []
        kinds: list[np.ndarray] = []
        for start, stop in sorted(strongest):
            if texts:
                texts.append(GAP)
                parts.append(np.array([np.nan], dtype=values.dtype))
                kinds.append(np.array([-1]))
            texts += [text for text, _, _ in self.shown[start:stop]]
            parts.append(means[start:stop])
            kinds.append(categories[start:stop])
        return texts, np.concatenate([*parts, means[:0]]), np.concatenate([*kinds, categories[:0]])


@dataclass(frozen=True, kw_only=True)
class ContrastPlan(base.Plan):
    """What a contrast runs, and what its analysis needs beside the activations (see `ContrastData`)."""

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

    Args:
        options: the contrast's.
        categories: names, in the order of the labels.
        layers: block indices, ascending.
        rows: the labelled rows.
        activations: selection ("words", a condition's name, "text") → layer → `[rows, neurons]` float32. The rows of
            "text" are those of `text.found`, followed by those of `text.excerpt`.
        conditions: the same words in other rows, by name.
        text: rows of running text; None if it was not searched, or if nothing was found.
        reads_text: running text was searched.
        counts: metrics of the words and occurrences that were left out.
        seed: of every random choice.
        model_name: for titles.
        label: the model and the dataset, for titles.
    """

    options: Options
    categories: Sequence[str]
    layers: Sequence[int]
    rows: Selection
    activations: Mapping[str, Mapping[int, np.ndarray]]
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    text: TextRows | None = None
    reads_text: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    model_name: str = "model"
    label: str = "model on text"

    @classmethod
    def of(cls, options: Options, plan: ContrastPlan, results: Results) -> "ContrastData":
        """Joins a plan with the results of its passes."""
        return cls(
            options=options,
            categories=plan.categories,
            layers=plan.layers,
            rows=plan.rows,
            activations=captured(results, plan.layers),
            conditions=plan.conditions,
            text=plan.text,
            reads_text=plan.reads_text,
            counts=plan.counts,
            seed=plan.inputs.seed,
            model_name=plan.inputs.model_name,
            label=plan.inputs.label,
        )

    def by_word(self) -> "ContrastData":
        """The same with one row for each word and category: the mean of its rows, in float32.

        The row's place is that of the first of them. Rows of running text stay as they are.
        """
        rows, averages = _one_each(self.rows)
        activations = {**self.activations, "words": averages(self.activations["words"])}
        conditions = {}
        for name, condition in self.conditions.items():
            own, averages = _one_each(condition.rows)
            activations[name] = averages(self.activations[name])
            conditions[name] = replace(condition, rows=own)
        return replace(self, rows=rows, activations=activations, conditions=conditions)

    @property
    def site(self) -> str:
        """The place in each block, `MLP` for example."""
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
        """The main test, as column names have it."""
        return "welch" if self.two else "f"

    @property
    def enough_in_text(self) -> np.ndarray:
        """`[categories]` bool: whether the category, and all others together, have enough rows of running text."""
        found = np.zeros(0, dtype=np.int64) if self.text is None else self.text.found.category
        counts = np.bincount(found, minlength=len(self.categories))
        return (counts >= FEWEST) & (len(found) - counts >= FEWEST)

    def text_rows(self, layer: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The activations on the listed words' occurrences and on the excerpt's tokens, `[rows, neurons]` each."""
        if self.text is None:
            return None
        rows, count = self.activations["text"][layer], len(self.text.found.words)
        return rows[:count], rows[count:]

    def excerpt_of(self, layer: int, neuron: int) -> tuple[list[str], np.ndarray, np.ndarray] | None:
        """`TextRows.around_strongest` of a neuron; None without a text."""
        rows = self.text_rows(layer)
        if self.text is None or rows is None:
            return None
        return self.text.around_strongest(rows[1][:, neuron])


def number_words(rows: Selection) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """The number of each row's word `[rows]`, and the label and the word of each number, in the order of both."""
    keys = list(zip(rows.category.tolist(), rows.words, strict=True))
    distinct = sorted(set(keys))
    number = {key: index for index, key in enumerate(distinct)}
    return np.array([number[key] for key in keys]), distinct


def _one_each(rows: Selection) -> tuple[Selection, Callable[[Mapping[int, np.ndarray]], dict[int, np.ndarray]]]:
    """The first row of each word and category; and a function that averages activations over each word's rows."""
    of_row, distinct = number_words(rows)
    members = [np.flatnonzero(of_row == number) for number in range(len(distinct))]
    first = np.array([own[0] for own in members])

    def averages(activations: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        return {
            layer: np.stack([x[own].mean(0, dtype=np.float64) for own in members]).astype(np.float32)
            for layer, x in activations.items()
        }

    spans = {name: getattr(rows, name)[first] for name in ("sequence", "start", "stop", "category")}
    return replace(rows, **spans, words=[word for _, word in distinct]), averages
