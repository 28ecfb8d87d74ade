"""Grammar tuning: are there neurons specialised for a part of speech?

The rows are words, each alone in its sequence or inside a template, and the categories are the lists that the words
come from: verbs and nouns by default. Every contrast shares the rest. A line of a list may also be a sentence. It is
one row, and running text is searched for the whole of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neurexp.errors import UserError
from neurexp.experiments import contrast
from neurexp.models.load import LanguageModel, positions_of
from neurexp.text.skipped import Skipped, check_share
from neurexp.text.spans import Selection, align, drop_too_long, place
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
    row_option = "experiment.words"

    def __init__(self, options: Any):
        super().__init__(options)
        for name in ("template", "second_template"):
            template = getattr(options, name)
            if template is not None and template.count("{word}") != 1:
                raise UserError(f'experiment.{name}={template}: give a text with one {{word}} in it, as "The {{word}}"')
        if options.words is not None and not options.words.strip():  # an empty path means the current folder
            raise UserError("experiment.words is empty: give experiment.words=FOLDER, or null for our own lists")
        if not 0 <= options.bad_words <= 1:
            raise UserError(f"experiment.bad_words={options.bad_words:g}: give a share from 0 to 1")
        folder = OWN_LISTS if options.words is None else Path(options.words).expanduser()
        self._lists = read_lists(folder, bad_words=options.bad_words)
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
