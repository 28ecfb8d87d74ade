"""Grammar tuning: are there neurons specialised for a part of speech?

Words on their own, verbs and nouns, as labelled rows; all the rest is what every contrast does. A line of a list may
be a sentence: it is a row as a whole, and in running text it is looked for as a whole.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurexp.errors import UserError
from neurexp.experiments import base, contrast
from neurexp.models.load import LanguageModel
from neurexp.text.skipped import Skipped, check_share
from neurexp.text.spans import Selection, align, fitting, place
from neurexp.text.words import OWN_LISTS, read_lists


@dataclass
class Options(contrast.Options):
    """The options of conf/experiment/grammar_tuning.yaml."""

    words: str | None = None
    bad_words: float = 0.05
    template: str = "{word}"
    second_template: str | None = "The {word}"


class GrammarTuning(contrast.Contrast):
    """The experiment `grammar_tuning`."""

    Options = Options
    chosen_by = "experiment.words"

    def __init__(self, options: Any, setting: base.Setting):
        super().__init__(options, setting)
        for name in ("template", "second_template"):
            template = getattr(options, name)
            if template is not None and template.count("{word}") != 1:
                raise UserError(f'experiment.{name}={template}: give a text with one {{word}} in it, as "The {{word}}"')
        if options.words is not None and not options.words.strip():  # or it would be the current folder
            raise UserError("experiment.words is empty: give experiment.words=FOLDER, or null for our own lists")
        if not 0 <= options.bad_words <= 1:
            raise UserError(f"experiment.bad_words={options.bad_words:g}: give a share from 0 to 1")
        folder = OWN_LISTS if options.words is None else Path(options.words).expanduser()
        self.lists = read_lists(folder, bad_words=options.bad_words)
        self.categories = list(self.lists.words)
        self.too_long: list[Skipped] = []  # for the model

    def select(self, model: LanguageModel) -> Selection:
        return self._placed(model, self.options.template)

    def beside(self, model: LanguageModel) -> dict[str, contrast.Condition]:
        second = self.options.second_template
        if second is None:
            return {}
        return {"context": contrast.Condition(f"as “{second}”", self._placed(model, second))}

    def counts(self) -> dict[str, int]:
        return {
            "words_empty": self.lists.empty,
            "words_duplicate": self.lists.duplicates,
            "words_shared": self.lists.shared,
            "words_skipped": len(self._left_out()),
        }

    def skipped(self) -> list[Skipped]:
        return [*self.lists.skipped, *self.too_long, *super().skipped()]

    def _left_out(self) -> list[Skipped]:
        """The lines that could not be used; a file as a whole is none."""
        return [one for one in (*self.lists.skipped, *self.too_long) if one.item]

    def _placed(self, model: LanguageModel, template: str) -> Selection:
        examples = [
            place(word, category, template)
            for category, words in enumerate(self.lists.words.values())
            for word in words
        ]
        rows = align(model.tokenizer, examples, model.begins_with_bos)
        positions = contrast.positions_of(model)
        rows, left = fitting(rows, positions)
        known = {(one.where, one.item) for one in self.too_long}
        reason = f"as “{template}” it has more tokens than {model.name} has positions, {positions}"
        found = [Skipped(*self.lists.places[word], reason) for word in left]
        self.too_long += [one for one in found if (one.where, one.item) not in known]
        check_share(self._left_out(), self.lists.lines, self.options.bad_words, "experiment.bad_words", "lines")
        return rows
