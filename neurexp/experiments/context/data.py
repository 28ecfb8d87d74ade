"""The plan of context before its passes, and its data after them. Knows no sentence and no statistic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neurexp.experiments.base import Plan, Results
from neurexp.experiments.captured_rows import captured
from neurexp.experiments.options.others import ContextOptions as Options

BINS = 8  # of positions, with equal numbers of the text's tokens
NAMED = 5  # neurons at each end, and words that are left out, in the findings
PARTS = ("type", "position", "context")


@dataclass(frozen=True)
class Comparison:
    """The same items in two places: rows of the pass `alone`, and rows of it or of the pass `text`."""

    x: np.ndarray  # [items] rows of `alone`
    y: np.ndarray  # [items] rows of `y_rows_of`
    y_rows_of: str
    texts: Sequence[str]  # of the items
    x_is: str  # what x is, as it stands in a sentence
    y_is: str
    title: str  # of its panel


@dataclass(frozen=True, kw_only=True)
class ContextPlan(Plan):
    """What the analysis needs beside the passes. The rows of the pass `text` are those of `place`, in its order."""

    layers: tuple[int, ...]
    comparisons: Mapping[str, Comparison]
    chosen: Mapping[str, slice]  # rows of the pass `text`: "tokens", "repeated" and "first"
    place: tuple[np.ndarray, np.ndarray]  # sequence and column of each row of the pass `text`
    types: np.ndarray  # [repeated] number of each row's type, from 0
    bins: np.ndarray  # [repeated] number of each row's bin of positions
    words: Mapping[str, str]  # word → why it is left out, or ""
    about: str  # the first finding


def halves_of(types: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of every other type, and those of the others, `[repeated]` bool each."""
    return types % 2 == 0, types % 2 == 1


@dataclass(frozen=True)
class ContextData:
    """Everything that the analysis needs: the options, the plan, and the captured rows of both passes."""

    options: Options
    plan: ContextPlan
    activations: Mapping[str, Mapping[int, np.ndarray]]  # pass → layer → [rows, neurons] float32

    @classmethod
    def of(cls, options: Options, plan: ContextPlan, results: Results) -> "ContextData":
        """Joins a plan with the results of its passes."""
        return cls(options, plan, captured(results, plan.layers))

    def rows(self, name: str, site: int) -> np.ndarray:
        """The rows of a pass in one layer, `[rows, neurons]` float32; `site` is the index of the layer in the plan."""
        return self.activations[name][self.plan.layers[site]]

    def pair(self, comparison: Comparison, site: int) -> tuple[np.ndarray, np.ndarray]:
        """x and y of a comparison in one layer, `[items, neurons]` float32 each."""
        return self.rows("alone", site)[comparison.x], self.rows(comparison.y_rows_of, site)[comparison.y]
