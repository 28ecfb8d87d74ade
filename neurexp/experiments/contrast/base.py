"""The base of contrasts: which neurons tell labelled rows apart?

A subclass says which rows there are and how they are labelled (`select`). Site, layers, pooling and the whole analysis
are shared. Knows no statistic, no sentence and no figure: those are in the modules beside this one.
"""

import hashlib
import json
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace

import numpy as np

from neurexp.engine.plan import Pass
from neurexp.errors import UserError
from neurexp.experiments.base import BYTES_PER_NEURON, Experiment, Inputs, Results, TokenGroup
from neurexp.experiments.captured_rows import rows_pass
from neurexp.experiments.contrast.data import FEWEST, Condition, ContrastData, ContrastPlan, Options, TextRows
from neurexp.experiments.contrast.report import write
from neurexp.models.load import LanguageModel, positions_of
from neurexp.report.report import Report
from neurexp.text.occurrences import find_occurrences
from neurexp.text.skipped import Skipped
from neurexp.text.spans import Selection, joined, only_needed
from neurexp.text.tokens import Tokens

RESERVED = {"words", "text", "one_token"}  # a condition cannot have these names


class Contrast(Experiment[ContrastPlan]):
    """Base of contrasts.

    A subclass gives `categories`, as a class attribute or in `__init__`, and implements `select`. Everything else has
    a default.
    """

    Options = Options
    distributed = False  # the rows are few: one process captures them
    categories: Sequence[str]  # names, in the order of the labels
    by_word = False  # each word's rows are averaged first: several sentences with a word are not several words
    row_option = "experiment"  # the option that a user changes to get other rows; for error messages

    @property
    def reads_text(self) -> bool:
        """Whether running text is searched."""
        return bool(self.options.text)

    @abstractmethod
    def select(self, model: LanguageModel) -> Selection:
        """The labelled rows. Its `tokens.skipped` lists the inputs that cannot be used with this model."""

    def conditions(self, model: LanguageModel) -> Mapping[str, Condition]:
        """The same words under other conditions, by name. The report shows them beside the first."""
        return {}

    def in_text(self, model: LanguageModel, rows: Selection, text: Tokens) -> Selection | None:
        """Labelled rows of running text to which the finding should generalise. By default they are the same words.

        None if there are none: a word of several categories has no label in a text.
        """
        words = dict.fromkeys(zip(rows.words, rows.category.tolist(), strict=True))
        if len(words) > len(set(rows.words)):
            return None
        return find_occurrences(text, model.tokenizer, words, self.options.occurrences)

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Inputs that cannot be used with any model."""
        return ()

    def counts(self, skipped: Sequence[Skipped]) -> Mapping[str, int]:
        """Metrics that count what was left out. `skipped` lists all inputs but the text that cannot be used."""
        return {}

    def prepare(self, inputs: Inputs) -> ContrastPlan:
        model, layers = inputs.model, inputs.layers(self.options.layer)
        rows = self.select(model)
        self._check_sizes(rows)
        conditions = dict(self.conditions(model))
        if taken := set(conditions) & RESERVED:
            raise ValueError(f"conditions must have other names than {taken}")
        selections = {"words": rows} | {name: condition.rows for name, condition in conditions.items()}
        skipped = _each_once([*self.skipped, *(one for rows in selections.values() for one in rows.tokens.skipped)])
        counts = dict(self.counts(skipped))
        provenance = {"words_hash": _hash_of_words(rows)}
        found, text = None, None
        if self.reads_text:
            found = self.in_text(model, rows, inputs.text)
            skipped = _each_once([*skipped, *inputs.text.skipped])
            if found is not None and len(found.words):
                text = TextRows.of(found, self.options.excerpt, model.tokenizer)
                selections["text"] = only_needed(joined([text.found, text.excerpt]))
                provenance["text_token_hash"] = found.tokens.hash
        return ContrastPlan(
            inputs=inputs,
            passes=tuple(self._pass(name, selection, inputs, layers) for name, selection in selections.items()),
            tokens=rows.tokens,
            skipped=tuple(skipped),
            provenance=provenance,
            categories=self.categories,
            layers=layers,
            rows=rows,
            conditions=conditions,
            text=text,
            reads_text=self.reads_text,
            counts=counts | _occurrence_counts(found),
            bytes_per_neuron=BYTES_PER_NEURON + self._bytes_of_rows(rows),
        )

    def token_groups(self, inputs: Inputs) -> dict[str, TokenGroup]:
        """For each category all occurrences of its words in the text; none if a word is of several categories.

        Raises:
            UserError: the words are not those of `inputs.source`.
        """
        rows = self.select(inputs.model)
        then = None if inputs.source is None else inputs.source.facts.get("words_hash")
        if inputs.source is not None and then not in (None, _hash_of_words(rows)):
            raise UserError(
                f"{inputs.source.given}: its words are others now (another list, or another model.tokenizer); give a "
                "run of today's words"
            )
        everywhere = copy(self)
        everywhere.options = replace(self.options, occurrences=sys.maxsize)
        found = everywhere.in_text(inputs.model, rows, inputs.text)
        if found is None or found.tokens.hash != inputs.text.hash:  # rows of another text
            return {}
        return {
            name: TokenGroup(*found.masks(category), f"occurrences of the listed {name}")
            for category, name in enumerate(self.categories)
        }

    def analyse(self, plan: ContrastPlan, results: Results) -> Report:
        data = ContrastData.of(self.options, plan, results)
        return write(data.by_word() if self.by_word else data)

    def _check_sizes(self, rows: Selection) -> None:
        what = "words" if self.by_word else "rows"
        for size, name in zip(self._sizes(rows), self.categories, strict=True):
            if size < FEWEST:
                raise UserError(f"{self.row_option}: only {size} {what} of {name} can be used; give {FEWEST} or more")

    def _sizes(self, rows: Selection) -> list[int]:
        """How many rows each category has in the analysis."""
        keys = list(zip(rows.words, rows.category.tolist(), strict=True))
        counted = set(keys) if self.by_word else keys
        return [sum(label == category for _, label in counted) for category in range(len(self.categories))]

    def _bytes_of_rows(self, rows: Selection) -> int:
        """What a neuron's activations take in `activations.safetensors`: twice, where categories have one size."""
        sizes = self._sizes(rows)
        return 4 * sum(sizes) * (2 if len(set(sizes)) == 1 else 1)

    def _pass(self, name: str, selection: Selection, inputs: Inputs, layers: tuple[int, ...]) -> Pass:
        """The pass that captures a selection's rows."""
        _check_length(selection, inputs.model)
        spans = np.stack([selection.sequence, selection.start, selection.stop])
        label = f"{name.capitalize().replace('_', ' ')}: {len(selection.words)} rows"
        return rows_pass(name, selection.tokens, spans, inputs, self.options.site, layers, label, self.options.pooling)


def _check_length(selection: Selection, model: LanguageModel) -> None:
    positions, length = positions_of(model.network), selection.tokens.valid.shape[1]
    if positions is not None and length > positions:
        raise UserError(
            f"experiment: its longest text has {length} tokens; {model.name} has {positions} positions; give shorter "
            "words or templates, or another model.name"
        )


def _hash_of_words(rows: Selection) -> str:
    labelled = json.dumps([rows.words, rows.category.tolist()], ensure_ascii=False)
    return hashlib.sha256(labelled.encode()).hexdigest()


def _each_once(skipped: Sequence[Skipped]) -> list[Skipped]:
    """The items without those that were skipped before for another reason, under another condition for example."""
    first: dict[tuple[str, int | str], Skipped] = {}
    for one in skipped:
        first.setdefault((one.where, one.item or one.reason), one)
    return list(first.values())


def _occurrence_counts(found: Selection | None) -> dict[str, int]:
    counts = (0, 0, 0) if found is None else (len(found.words), found.dropped, found.adjoining)
    names = ("text_occurrences", "text_occurrences_dropped", "text_occurrences_adjoining")
    return dict(zip(names, counts, strict=True))
