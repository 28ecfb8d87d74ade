"""The options of contrasts. Imports nothing heavy."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neurexp.errors import UserError
from neurexp.experiments.options import base
from neurexp.models.choices import POOLINGS
from neurexp.text.labelled_sentences import (
    OWN_SENTENCES,
    WHOLE_SHAPE,
    LabelledSentences,
    read_sentences,
    spelled_as,
)
from neurexp.text.words import OWN_LISTS, WHAT, WordLists, list_of_sentences, read_lists

ALONE, IN_CONTEXT = "{word}", "The {word}"  # the templates that words have by default


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
    sentences: str | None = None
    bad_words: float = 0.05
    bad_sentences: float = 0.05
    template: str = ALONE
    second_template: str | None = IN_CONTEXT

    def check(self) -> None:
        super().check()
        if self.words is not None and self.sentences is not None:
            raise UserError(
                "experiment.words and experiment.sentences are both given; give words=FOLDER for word lists, or "
                "sentences=FILE.jsonl for labelled sentences"
            )
        for name in ("template", "second_template"):
            template = getattr(self, name)
            if template is not None and template.count("{word}") != 1:
                raise UserError(f'experiment.{name}={template}: give a text with one {{word}} in it, as "The {{word}}"')
            if self.sentences is not None and template not in (None, ALONE, IN_CONTEXT):
                raise UserError(
                    f"experiment.{name}={template}: experiment.sentences has texts of its own, which stand in no "
                    "template; leave it out"
                )
        self.check_share("bad_words")
        self.check_share("bad_sentences")
        _ = self.lists if self.sentences is None else self.labelled

    @cached_property
    def lists(self) -> WordLists:
        """The words of `words`, or our own. Raises UserError if they cannot be read."""
        if self.words is not None and not self.words.strip():  # an empty path means the current folder
            raise UserError("experiment.words is empty: give experiment.words=FOLDER, or null for our own lists")
        folder = OWN_LISTS if self.words is None else Path(self.words).expanduser()
        if _is_there(folder.is_file):
            raise UserError(
                f"experiment.words={folder}: is a file; give {WHAT}, or experiment.sentences=FILE.jsonl for labelled "
                "sentences"
            )
        lists = read_lists(folder, bad_words=self.bad_words)
        if (found := list_of_sentences(lists)) is not None:
            name, sentences = found
            raise UserError(
                f"experiment.words={folder}: {len(sentences)} of {len(lists.words[name])} lines of “{name}” are "
                f"sentences (“{sentences[0][:40]}{'…' if len(sentences[0]) > 40 else ''}”); give "
                f"experiment.sentences=FILE.jsonl with a line {WHOLE_SHAPE}"
            )
        return lists

    @cached_property
    def labelled(self) -> LabelledSentences:
        """The sentences of `sentences`. Raises UserError if they cannot be read."""
        file = _file("sentences", self.sentences, "null for word lists")
        if _is_there(file.is_dir):
            raise UserError(
                f"experiment.sentences={file}: it is a folder; give a file with a line {WHOLE_SHAPE}, or "
                "experiment.words=FOLDER for word lists"
            )
        read = read_sentences(file, "experiment.sentences", self.bad_sentences, whole=True)
        if len(read.categories) < 2:
            only = ", ".join(read.categories)
            raise UserError(f"experiment.sentences={file}: its lines have one category ({only}); give two or more")
        return read


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
        file = OWN_SENTENCES / "set_1.jsonl"
        if not own:
            file = _file("sentences", self.sentences, "null for our own")
        first = read_sentences(file, "experiment.sentences", self.bad_sentences)
        if len(first.categories) != 2:
            raise UserError(
                f"experiment.sentences={file}: its lines have {len(first.categories)} categories "
                f"({', '.join(first.categories[:5])}); give two"
            )
        if given is False or (given is None and not own):
            return (first,)
        file = OWN_SENTENCES / "set_2.jsonl" if given is None else _file("replication", given, "false for none")
        second = read_sentences(file, "experiment.replication", self.bad_sentences, first.categories)
        return first, spelled_as(second, first)


def _is_there(test: Callable[[], bool]) -> bool:
    """The answer of `Path.is_file` or `Path.is_dir`; False for a path that no file can have."""
    try:
        return test()
    except OSError:
        return False


def _file(option: str, given: Any, other: str) -> Path:
    if not isinstance(given, str) or not given.strip():
        raise UserError(f"experiment.{option}={given}: give a file SENTENCES.jsonl, or {other}")
    return Path(given).expanduser()
