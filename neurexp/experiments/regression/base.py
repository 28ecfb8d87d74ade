"""The base of regressions: labelled rows of running text, or of sentences of one's own, in several comparisons.

A subclass says which comparisons there are (`choose`), and which of them decide (`verdict`). The rows of the same
tokens are captured in one pass, and those that several comparisons share once. Knows no statistic and no figure.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from neurexp.engine.plan import Pass
from neurexp.errors import UserError
from neurexp.experiments.base import Experiment, Inputs, Results
from neurexp.experiments.captured_rows import rows_pass
from neurexp.experiments.contrast.data import TextRows
from neurexp.experiments.options.regressions import FEWEST
from neurexp.experiments.options.regressions import RegressionOptions as Options
from neurexp.experiments.regression.data import (
    FEWEST_TYPES,
    Between,
    Comparison,
    RegressionData,
    RegressionPlan,
    Verdict,
)
from neurexp.experiments.regression.report import write
from neurexp.report.report import Report
from neurexp.report.words import number_of
from neurexp.text.spans import Selection
from neurexp.text.tokens import Tokens


@dataclass(frozen=True)
class Chosen:
    """What a subclass chooses in a text.

    Args:
        comparisons: by name.
        counts: metrics of the text, and their definitions.
        about: sentences about the text and the rows.
        shown: labelled rows, of the tokens of the main comparison, of which the excerpt has as many as possible; None:
            no excerpt.
        categories: names of the categories of `shown`.
        between: for some comparisons, the rows that are measured between their categories.
    """

    comparisons: Mapping[str, Comparison]
    counts: Mapping[str, tuple[float, str]]
    about: Sequence[str]
    shown: Selection | None = None
    categories: Sequence[str] = ()
    between: Mapping[str, Between] = field(default_factory=dict)


BYTES_PER_COMPARISON = 140  # of a neuron in neurons.parquet: some twenty columns


class Regression(Experiment[RegressionPlan]):
    """Base of regressions. A subclass gives `verdict` and implements `choose`."""

    Options = Options
    distributed = False  # the rows are few: one process captures them
    verdict: Verdict  # its comparisons are required; others are left out if the text has too few rows

    @abstractmethod
    def choose(self, inputs: Inputs) -> Chosen:
        """The comparisons of `inputs.text`, and what is said of the text."""

    def prepare(self, inputs: Inputs) -> RegressionPlan:
        text, layers = inputs.text, inputs.layers(self.options.layer)
        chosen = self.choose(inputs)
        for name in (*self.verdict.decisive, self.verdict.naive):
            _check_size(chosen.comparisons[name], text, self.verdict.over_types and name != self.verdict.naive)
        kept = {name: one for name, one in chosen.comparisons.items() if min(one.sizes) >= FEWEST}
        main = kept[self.verdict.decisive[0]].rows.tokens
        shown, passage = chosen.shown, None
        if shown is not None and len(shown.words):
            passage = TextRows.of(shown, self.options.excerpt, inputs.model.tokenizer)
        sources, passes, places = _sources(kept, main), [], {}
        for source in dict.fromkeys(sources.values()):
            selections = {name: kept[name].rows for name in kept if sources[name] == source}
            spans, own_places = _each_once(selections)
            places |= own_places
            if passage is not None and source == "text":
                spans = np.concatenate([spans, _spans(passage.excerpt)])
            tokens = next(iter(selections.values())).tokens
            passes.append(self._pass(source, spans, tokens, inputs, layers))
        return RegressionPlan(
            inputs=inputs,
            passes=tuple(passes),
            tokens=main,
            skipped=text.skipped,
            comparisons=kept,
            sources=sources,
            places=places,
            layers=layers,
            text=passage,
            verdict=self.verdict,
            shown=chosen.categories,
            counts=chosen.counts,
            about=chosen.about,
            between=chosen.between,
            bytes_per_neuron=BYTES_PER_COMPARISON * len(kept),
        )

    def analyse(self, plan: RegressionPlan, results: Results) -> Report:
        return write(RegressionData.of(self.options, plan, results))

    def _pass(self, name: str, spans: np.ndarray, tokens: Tokens, inputs: Inputs, layers: tuple[int, ...]) -> Pass:
        """The pass that captures the rows `[rows, 3]` of some tokens. Sequences without a row are not run."""
        needed, sequence = np.unique(spans[:, 0], return_inverse=True)
        spans = np.stack([sequence.reshape(-1), spans[:, 1], spans[:, 2]])
        used = replace(tokens, input_ids=tokens.input_ids[needed], valid=tokens.valid[needed])
        label = f"{name.capitalize()}: {spans.shape[1]} rows"
        return rows_pass(name, used, spans, inputs, self.options.site, layers, label, self.options.pooling)


def _check_size(comparison: Comparison, text: Tokens, over_types: bool) -> None:
    zeros, ones = comparison.sizes
    if min(zeros, ones) < FEWEST:
        raise UserError(
            f"dataset.tokens={text.count}: the text has only {min(zeros, ones)} "
            f"{comparison.one if ones <= zeros else comparison.zero} that can be used; give {FEWEST} or more (a larger "
            "dataset.tokens, or another text)"
        )
    for label, what in enumerate((comparison.zero, comparison.one)):
        words = zip(comparison.labels, comparison.rows.words, strict=True)
        types = len({word for own, word in words if own == label})
        if over_types and types < FEWEST_TYPES:
            raise UserError(
                f"dataset.tokens={text.count}: the text has only {number_of(types, 'different word')} among the {what} "
                f"that can be used; give {FEWEST_TYPES} or more (a larger dataset.tokens, or another text)"
            )


def _sources(comparisons: Mapping[str, Comparison], main: Tokens) -> dict[str, str]:
    """Comparison → its pass: “text” for the main tokens, else the first comparison of the same tokens."""
    sources = {}
    for name, one in comparisons.items():
        same = next(other for other in comparisons if comparisons[other].rows.tokens is one.rows.tokens)
        sources[name] = "text" if one.rows.tokens is main else same
    return sources


def _each_once(selections: Mapping[str, Selection]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The different spans of all selections `[spans, 3]`, and the place of each selection's rows among them."""
    spans = {name: _spans(rows) for name, rows in selections.items()}
    unique, place = np.unique(np.concatenate(list(spans.values())), axis=0, return_inverse=True)
    split = np.split(place.reshape(-1), np.cumsum([len(one) for one in spans.values()])[:-1])
    return unique, dict(zip(spans, split, strict=True))


def _spans(rows: Selection) -> np.ndarray:
    """`[rows, 3]`: sequence, first token, last token + 1."""
    return np.stack([rows.sequence, rows.start, rows.stop], axis=1).astype(np.int64)
