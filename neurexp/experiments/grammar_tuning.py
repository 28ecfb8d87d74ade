"""Grammar tuning: are there neurons specialised for a part of speech?

The rows are words, each alone in its sequence or inside a template, and the categories are the lists that the words
come from: verbs and nouns by default. Every contrast shares the rest. A line of a list may also be a sentence. It is
one row, and running text is searched for the whole of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from neurexp.experiments import contrast
from neurexp.experiments.options.contrasts import GrammarTuningOptions as Options
from neurexp.models.load import LanguageModel, positions_of
from neurexp.text.skipped import Skipped, check_share
from neurexp.text.spans import Selection, align, drop_too_long, place
from neurexp.text.words import WordLists


class GrammarTuning(contrast.Contrast):
    """The experiment `grammar_tuning`."""

    Options = Options
    row_option = "experiment.words"

    def __init__(self, options: Any):
        super().__init__(options)
        self._lists: WordLists = options.lists
        self.categories = list(self._lists.words)

    def select(self, model: LanguageModel) -> Selection:
        return self._placed(model, self.options.template)

    def conditions(self, model: LanguageModel) -> Mapping[str, contrast.Condition]:
        second = self.options.second_template
        if second is None:
            return {}
        return {"context": contrast.Condition(f"as “{second}”", self._placed(model, second))}

    @property
    def skipped(self) -> Sequence[Skipped]:
        return self._lists.skipped

    def counts(self, skipped: Sequence[Skipped]) -> Mapping[str, int]:
        return {
            "words_empty": self._lists.empty,
            "words_duplicate": self._lists.duplicates,
            "words_shared": self._lists.shared,
            "words_skipped": len(_lines(skipped)),
        }

    def _placed(self, model: LanguageModel, template: str) -> Selection:
        """A row for each word inside a template. Words that are too long for the model are skipped.

        Raises:
            UserError: too many lines cannot be used.
        """
        examples = [
            place(word, category, template)
            for category, words in enumerate(self._lists.words.values())
            for word in words
        ]
        positions = positions_of(model.network)
        rows, too_long = drop_too_long(align(model.tokenizer, examples, model.begins_with_bos), positions)
        reason = f"as “{template}” it has more tokens than {model.name} has positions, {positions}"
        skipped = [Skipped(*self._lists.places[word], reason) for word in too_long]
        all_lines = _lines([*self._lists.skipped, *skipped])
        check_share(all_lines, self._lists.lines, self.options.bad_words, "experiment.bad_words", "lines")
        return replace(rows, tokens=replace(rows.tokens, skipped=tuple(skipped)))


def _lines(skipped: Sequence[Skipped]) -> list[Skipped]:
    """The lines that cannot be used, without the files that cannot be used as a whole."""
    return [one for one in skipped if one.item]
