"""Grammar tuning: are there neurons specialised for a part of speech?

Words on their own, verbs and nouns, as labelled rows; all the rest is what every contrast does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurexp.errors import UserError
from neurexp.experiments import base, contrast
from neurexp.models.load import LanguageModel
from neurexp.text.words import OWN_LISTS, Selection, align, place, read_lists


@dataclass
class Options(contrast.Options):
    """The options of conf/experiment/grammar_tuning.yaml."""

    words: str | None = None
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
        folder = OWN_LISTS if options.words is None else Path(options.words).expanduser()
        self.lists = read_lists(folder)
        self.categories = list(self.lists.words)

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
        }

    def _placed(self, model: LanguageModel, template: str) -> Selection:
        examples = [
            place(word, category, template)
            for category, words in enumerate(self.lists.words.values())
            for word in words
        ]
        return align(model.tokenizer, examples, model.begins_with_bos)
