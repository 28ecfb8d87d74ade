"""A regression's plan before its passes, and its data after them: comparisons of labelled rows, and their activations.

Knows no test and no figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurexp.experiments import base
from neurexp.experiments.base import Results
from neurexp.experiments.captured_rows import captured
from neurexp.experiments.contrast.data import TextRows
from neurexp.text.spans import Selection

# Types of a category, where the test over types decides. Of one type and 31 others, a neuron of that word alone has
# p = 1/32
FEWEST_TYPES = 5


@dataclass(frozen=True)
class Comparison:
    """Labelled rows: category 1 against category 0.

    Args:
        rows: the rows; all of the same tokens. A row's word is its type.
        one, zero: what the categories are, as it stands in a sentence: “proper nouns”.
        name: of the comparison, as it stands in a sentence: “by the lectures' rule”.
        blocks: `[rows]` integers: types of one block are one piece of evidence. In shuffles the two labels of a block
            change places, in all of its rows at once, and a block is held out as a whole. None: types are shuffled.
        shuffled_over: what keeps one label in shuffles, in the plural, as it stands in a sentence: “word types”.
        units: `[rows]` names: what is held out in place of the end of the text, the last units. None: the sequences.
    """

    rows: Selection
    one: str
    zero: str
    name: str
    blocks: np.ndarray | None = None
    shuffled_over: str = "word types"
    units: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """`[rows]`, 0 or 1."""
        return self.rows.category

    @property
    def groups(self) -> np.ndarray:
        """The number of each row's type, or block; rows of different labels are of different groups."""
        types = self.rows.words if self.blocks is None else self.blocks.tolist()
        keys = [f"{label} {one}" for label, one in zip(self.labels.tolist(), types, strict=True)]
        return np.unique(keys, return_inverse=True)[1].reshape(-1)

    @property
    def unit_numbers(self) -> np.ndarray:
        """The number of each row's unit, in the order of their first rows, `[rows]`; without units its sequence."""
        if self.units is None:
            return self.rows.sequence
        _, first, number = np.unique(self.units, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[number.reshape(-1)]

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of rows of category 0 and of category 1."""
        zero, one = np.bincount(self.labels, minlength=2)
        return int(zero), int(one)

    def training_text(self, heldout: float) -> np.ndarray:
        """The rows before the last part of the text, `[rows]` bool: whole sequences, or units, are held out."""
        if self.units is not None:
            number = self.unit_numbers
            return number < round((number.max() + 1) * (1 - heldout))
        return self.rows.sequence < round(len(self.rows.tokens.input_ids) * (1 - heldout))

    def training_types(self, heldout: float, seed: int) -> np.ndarray:
        """The rows of a random part of the types of each category, or of the blocks, `[rows]` bool."""
        random, groups, train = np.random.default_rng(seed), self.groups, np.zeros(len(self.labels), dtype=bool)
        if self.blocks is not None:
            blocks = random.permutation(np.unique(self.blocks))
            return np.isin(self.blocks, blocks[: round(len(blocks) * (1 - heldout))])
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
        over_types: whether the test that shuffles labels over word types (or blocks) must find a neuron, too, in each
            comparison that decides.
    """

    naive: str
    decisive: Sequence[str]
    what: str
    confound: str
    over_types: bool = False

    def others(self, comparisons: Mapping[str, Comparison]) -> list[str]:
        """The names of the comparisons that neither decide nor are the lectures'."""
        return [name for name in comparisons if name not in (self.naive, *self.decisive)]


@dataclass(frozen=True)
class Between:
    """Rows of a third kind that are measured between the categories of a comparison (`positions`).

    Args:
        comparison: the one whose category 1 is the third kind.
        kind: what it is, in the plural, as it stands in a sentence: “words that negate in part”.
        kinds: type → a narrower kind, for some types.
    """

    comparison: str
    kind: str
    kinds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RegressionPlan(base.Plan):
    """What a regression runs.

    Args:
        comparisons: by name.
        verdict: what they say together.
        sources: for each comparison, the name of its pass.
        places: for each comparison, the place of its rows among those of its pass, `[rows]`.
        layers: block indices, ascending.
        text: an excerpt of the text to look at, of the tokens of the pass `text`, whose last rows are the excerpt's.
            Its categories are those of `shown`.
        shown: names of the excerpt's categories.
        counts: metrics of the text, and their definitions.
        about: sentences about the text and the rows.
        between: for some comparisons, the rows that are measured between their categories.
    """

    comparisons: Mapping[str, Comparison]
    verdict: Verdict
    sources: Mapping[str, str]
    places: Mapping[str, np.ndarray]
    layers: tuple[int, ...]
    text: TextRows | None
    shown: Sequence[str]
    counts: Mapping[str, tuple[float, str]]
    about: Sequence[str]
    between: Mapping[str, Between] = field(default_factory=dict)

    @property
    def tested_over(self) -> str:
        """What the tests of the comparisons that decide shuffle labels over: “word types and negations”."""
        return " and ".join(dict.fromkeys(self.comparisons[name].shuffled_over for name in self.verdict.decisive))


@dataclass(frozen=True)
class RegressionData:
    """What the analysis needs: the plan, and its rows' activations, pass → layer → `[rows, neurons]` float32."""

    options: Any
    plan: RegressionPlan
    activations: Mapping[str, Mapping[int, np.ndarray]]

    @classmethod
    def of(cls, options: Any, plan: RegressionPlan, results: Results) -> "RegressionData":
        """Joins a plan with the results of its passes."""
        return cls(options, plan, captured(results, plan.layers))

    def rows(self, comparison: str, layer: int) -> np.ndarray:
        """The activations of a comparison's rows, `[rows, neurons]`."""
        return self.activations[self.plan.sources[comparison]][layer][self.plan.places[comparison]]

    def excerpt_of(self, layer: int, neuron: int) -> tuple[list[str], np.ndarray, np.ndarray] | None:
        """`TextRows.around_strongest` of a neuron; None without an excerpt."""
        text = self.plan.text
        if text is None:
            return None
        return text.around_strongest(self.activations["text"][layer][-len(text.excerpt.start) :, neuron])
