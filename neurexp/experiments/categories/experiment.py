"""Categories: which neurons tell the words of two categories apart, in sentences?

A row is a target word in a sentence. A category has a few words, and each of them stands in several sentences. These
are few words, not many samples: so each word's rows are averaged, and the contrast is over words. Beside it stands what
the lectures do, a t-test over sentences.

Reads the sentences and plans the passes. Knows no statistic and no figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from neurexp.engine.plan import Pass
from neurexp.errors import UserError
from neurexp.experiments import contrast
from neurexp.experiments.base import Inputs, Results
from neurexp.experiments.captured_rows import rows_pass
from neurexp.experiments.categories.data import SET_2, STREAM, CategoryData
from neurexp.experiments.categories.report import with_sentences
from neurexp.experiments.contrast import ContrastData, ContrastPlan
from neurexp.experiments.contrast.sentence_rows import sentence_rows
from neurexp.experiments.options.contrasts import CategoriesOptions as Options
from neurexp.models.load import LanguageModel
from neurexp.models.sites import sites_of
from neurexp.report.report import Report
from neurexp.report.words import number_of
from neurexp.text.labelled_sentences import LabelledSentences
from neurexp.text.skipped import Skipped
from neurexp.text.spans import Selection, only_needed

FEWEST = 2  # words of each category in set 2: fewer have no variance


class Categories(contrast.Contrast):
    """The experiment `categories`."""

    Options = Options
    row_option = "experiment.sentences"
    by_word = True

    def __init__(self, options: Any):
        super().__init__(options)
        self._sets: tuple[LabelledSentences, ...] = options.sets
        self.categories = self._sets[0].categories

    def select(self, model: LanguageModel) -> Selection:
        return sentence_rows(model, self._sets[0], self.options.bad_sentences)

    def conditions(self, model: LanguageModel) -> Mapping[str, contrast.Condition]:
        if len(self._sets) == 1:
            return {}
        rows = sentence_rows(model, self._sets[1], self.options.bad_sentences)
        for size, name in zip(self._sizes(rows), self.categories, strict=True):
            if size < FEWEST:
                raise UserError(
                    f"experiment.replication: only {number_of(size, 'word')} of {name} can be used; give sentences "
                    f"with {FEWEST} or more, or false for no second set"
                )
        return {SET_2: contrast.Condition("in set 2", rows)}

    @property
    def skipped(self) -> Sequence[Skipped]:
        return [one for sentences in self._sets for one in sentences.skipped]

    def counts(self, skipped: Sequence[Skipped]) -> Mapping[str, int]:
        return {
            "sentences_duplicate": sum(one.duplicates for one in self._sets),
            "sentences_skipped": len([one for one in skipped if one.item]),
        }

    def prepare(self, inputs: Inputs) -> ContrastPlan:
        plan = super().prepare(inputs)
        return replace(plan, passes=(*plan.passes, *_stream_passes(plan)))

    def analyse(self, plan: ContrastPlan, results: Results) -> Report:
        report = super().analyse(plan, results)
        return with_sentences(report, CategoryData(ContrastData.of(self.options, plan, results)))


def _stream_passes(plan: ContrastPlan) -> list[Pass]:
    """Passes that capture the residual stream before and after each block, at the targets of several tokens in set 1.

    The rows are the first tokens of all targets, followed by their last ones. A target at the first position is left
    out: the stream is huge there. No pass without a target of several tokens, or in a model without these sites.
    """
    inputs, rows = plan.inputs, plan.rows.only((plan.rows.lengths > 1) & (plan.rows.start > 0))
    if not len(rows.words) or not set(STREAM) <= set(sites_of(inputs.model.network)):
        return []
    rows = only_needed(rows)
    start = np.concatenate([rows.start, rows.stop - 1])
    spans = np.stack([np.tile(rows.sequence, 2), start, start + 1])
    return [
        rows_pass(site, rows.tokens, spans, inputs, site, plan.layers, f"{site}: {len(rows.words)} targets")
        for site in STREAM
    ]
