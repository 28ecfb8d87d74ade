"""The options of contrasts. Imports nothing heavy."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neurexp.errors import UserError
from neurexp.experiments.options import base
from neurexp.models.choices import POOLINGS
from neurexp.text.labelled_sentences import OWN_SENTENCES, LabelledSentences, read_sentences, spelled_as
from neurexp.text.words import OWN_LISTS, WordLists, read_lists


@dataclass
class ContrastOptions(base.Options):
    """Options of every contrast."""

    layer: Any = None  # the model's own default
    pooling: str = "mean"
    permutations: int = 10_000
    splits: int = 50
    shuffles: int = 20
    text: bool = True
    occurrences: int = 4
    excerpt: int = 120

    def check(self) -> None:
        super().check()
        self.check_range(100, 1_000_000, "permutations")
        self.check_range(2, 10_000, "splits", "shuffles")
        self.check_range(1, 1000, "occurrences")
        self.check_range(8, 1000, "excerpt")
        self.check_one_of("pooling", POOLINGS)


@dataclass
class GrammarTuningOptions(ContrastOptions):
    """The options of conf/experiment/grammar_tuning.yaml."""

    words: str | None = None
    bad_words: float = 0.05
    template: str = "{word}"
    second_template: str | None = "The {word}"

    def check(self) -> None:
        super().check()
        for name in ("template", "second_template"):
            template = getattr(self, name)
            if template is not None and template.count("{word}") != 1:
                raise UserError(f'experiment.{name}={template}: give a text with one {{word}} in it, as "The {{word}}"')
        self.check_share("bad_words")
        _ = self.lists

    @cached_property
    def lists(self) -> WordLists:
        """The words of `words`, or our own. Raises UserError if they cannot be read."""
        if self.words is not None and not self.words.strip():  # an empty path means the current folder
            raise UserError("experiment.words is empty: give experiment.words=FOLDER, or null for our own lists")
        folder = OWN_LISTS if self.words is None else Path(self.words).expanduser()
        return read_lists(folder, bad_words=self.bad_words)


@dataclass
class CategoriesOptions(ContrastOptions):
    """The options of conf/experiment/categories.yaml. `replication` is a file, None or False."""

    site: Any = "PROJ"
    layer: Any = "all"
    pooling: str = "last"
    text: bool = False
    sentences: str | None = None
    replication: Any = None
    bad_sentences: float = 0.05

    def check(self) -> None:
        super().check()
        self.check_share("bad_sentences")
        _ = self.sets

    @cached_property
    def sets(self) -> tuple[LabelledSentences, ...]:
        """The first set of sentences, and the second if there is one. Raises UserError if they cannot be read."""
        own, given = self.sentences is None, self.replication
        file = OWN_SENTENCES / "set_1.jsonl" if self.sentences is None else _file("sentences", self.sentences)
        first = read_sentences(file, "experiment.sentences", self.bad_sentences)
        if len(first.categories) != 2:
            raise UserError(
                f"experiment.sentences={file}: its lines have {len(first.categories)} categories "
                f"({', '.join(first.categories[:5])}); give two"
            )
        if given is False or (given is None and not own):
            return (first,)
        file = OWN_SENTENCES / "set_2.jsonl" if given is None else _file("replication", given)
        second = read_sentences(file, "experiment.replication", self.bad_sentences, first.categories)
        return first, spelled_as(second, first)


def _file(option: str, given: Any) -> Path:
    if not isinstance(given, str) or not given.strip():
        other = "false for none" if option == "replication" else "null for our own"
        raise UserError(f"experiment.{option}={given}: give a file SENTENCES.jsonl, or {other}")
    return Path(given).expanduser()
