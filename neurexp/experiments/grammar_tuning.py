"""Grammar tuning: are there neurons specialised for a part of speech?

The rows are words, each alone in its sequence or inside a template, and the categories are the lists that the words
come from: verbs and nouns by default. Or the rows are labelled sentences, each as a whole or one word of it. Rows of
the same word are averaged, because several sentences with a word are not several words. Every contrast shares the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from neurexp.experiments import contrast
from neurexp.experiments.contrast.sentence_rows import sentence_rows
from neurexp.experiments.options.contrasts import GrammarTuningOptions as Options
from neurexp.models.load import LanguageModel, positions_of
from neurexp.text.labelled_sentences import LabelledSentences
from neurexp.text.skipped import Skipped, check_share
from neurexp.text.spans import Selection, align, drop_too_long, place
from neurexp.text.words import WordLists


class GrammarTuning(contrast.Contrast):
    """The experiment `grammar_tuning`."""

    Options = Options

    def __init__(self, options: Any):
        super().__init__(options)
        self._given: WordLists | LabelledSentences = options.lists if options.sentences is None else options.labelled
        if isinstance(self._given, WordLists):
            self.row_option, self.categories = "experiment.words", list(self._given.words)
        else:
            self.row_option, self.categories, self.by_word = "experiment.sentences", self._given.categories, True

    def select(self, model: LanguageModel) -> Selection:
        if isinstance(self._given, WordLists):
            return self._placed(model, self._given, self.options.template)
        return sentence_rows(model, self._given, self.options.bad_sentences)

    def conditions(self, model: LanguageModel) -> Mapping[str, contrast.Condition]:
        second = self.options.second_template
        if second is None or not isinstance(self._given, WordLists):
            return {}
        return {"context": contrast.Condition(f"as “{second}”", self._placed(model, self._given, second))}

    @property
    def skipped(self) -> Sequence[Skipped]:
        return self._given.skipped

    def counts(self, skipped: Sequence[Skipped]) -> Mapping[str, int]:
        counts = {"words_duplicate": self._given.duplicates, "words_skipped": len(_lines(skipped))}
        if isinstance(self._given, WordLists):
            counts |= {"words_empty": self._given.empty, "words_shared": self._given.shared}
        return counts

    def _placed(self, model: LanguageModel, lists: WordLists, template: str) -> Selection:
        """A row for each word inside a template. Words that are too long for the model are skipped.

        Raises:
            UserError: too many lines cannot be used.
        """
        examples = [
            place(word, category, template) for category, words in enumerate(lists.words.values()) for word in words
        ]
        positions = positions_of(model.network)
        rows, too_long = drop_too_long(align(model.tokenizer, examples, model.begins_with_bos), positions)
        reason = f"as “{template}” it has more tokens than {model.name} has positions, {positions}"
        skipped = [Skipped(*lists.places[word], reason) for word in too_long]
        all_lines = _lines([*lists.skipped, *skipped])
        check_share(all_lines, lists.lines, self.options.bad_words, "experiment.bad_words", "lines")
        return replace(rows, tokens=replace(rows.tokens, skipped=tuple(skipped)))


def _lines(skipped: Sequence[Skipped]) -> list[Skipped]:
    """The lines that cannot be used, without the files that cannot be used as a whole."""
    return [one for one in skipped if one.item]
