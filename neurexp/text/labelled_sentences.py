"""Labelled sentences: a JSONL file of texts, each with one target word and the category of that word.

A line is `{"text": …, "target": …, "category": …}`. A text with several targets stands on several lines. The target
must stand in the text exactly once, as a whole word; otherwise it would not be clear which place is meant. Where the
reader allows it, a line may have no target: then the whole text is the row. Lines that cannot be used are skipped and
named. Knows nothing of models and tokens.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from neurexp.errors import UserError, printable, unseen
from neurexp.text.examples import Example
from neurexp.text.lines import LONGEST_LINE, lines_of
from neurexp.text.rows import text_of
from neurexp.text.scripts import PARTS, fold_word, stands_alone
from neurexp.text.skipped import Skipped, check_share

OWN_SENTENCES = Path(__file__).resolve().parent / "sentence_sets"  # of `categories`: set_1.jsonl and set_2.jsonl
SHOWN = 60  # characters of a text in an error line
SHAPE = '{"text": …, "target": …, "category": …}'
WHOLE_SHAPE = '{"text": …, "category": …}, with "target": … where one word of the text is the row'


@dataclass(frozen=True)
class LabelledSentences:
    """The usable lines of a file, in the order of category, word and text, so that no result depends on their order.

    Args:
        file: where they stand.
        categories: names, in the order of the labels.
        examples: a target in its text each. A word in capitals and the same in small letters are one word. A text
            without a target is its own word, with single spaces.
        lines: the line of each example, from 1.
        duplicates: number of lines that repeat text and target of another; dropped.
        skipped: lines that cannot be used.
        count: number of lines that are not empty.
    """

    file: Path
    categories: tuple[str, ...]
    examples: tuple[Example, ...]
    lines: tuple[int, ...]
    duplicates: int
    skipped: tuple[Skipped, ...]
    count: int


def read_sentences(
    file: Path, option: str, bad_sentences: float = 0.0, categories: Sequence[str] | None = None, whole: bool = False
) -> LabelledSentences:
    """Reads a file of labelled sentences.

    Args:
        file: in UTF-8; empty lines are left out.
        option: the option that names the file, for error lines.
        bad_sentences: the largest share of lines that may be skipped because they cannot be used, 0 to 1.
        categories: those of another set: a line of another category cannot be used. None: those of the lines, in
            alphabetical order.
        whole: whether a line may have no target, so that its whole text is the row.

    Raises:
        UserError: the file cannot be read, has no sentence, or has too many bad lines.
    """
    good, skipped, count = list[tuple[int, _Line]](), list[Skipped](), 0
    shape = WHOLE_SHAPE if whole else SHAPE
    first_of_word: dict[str, tuple[str, int]] = {}  # word → its category, and the first line that says so
    for number, content in _lines(file, option, shape):
        count += 1
        try:
            line = _parsed(content, shape, whole)
            if categories is not None and line.category not in categories:
                raise ValueError(f"“{line.category}” is none of the first set's categories, {_named(categories)}")
            category, where = first_of_word.setdefault(_word(line.word), (line.category, number))
            if category != line.category:
                raise ValueError(f"“{_short(line.word)}” is of category “{category}” in line {where}")
        except ValueError as error:
            skipped.append(Skipped(str(file), number, str(error)))
        else:
            good.append((number, line))
    check_share(skipped, count, bad_sentences, "experiment.bad_sentences", "lines")
    if not good:
        raise UserError(f"{option}={file}: it has no sentence; give a file with a line {shape} for each row")
    found = tuple(sorted({line.category for _, line in good})) if categories is None else tuple(categories)
    spelled = _spellings([line.word for _, line in good if not line.is_whole])
    examples = dict[tuple[int, str, str, int], tuple[Example, int]]()
    for number, line in good:
        word = line.word if line.is_whole else spelled[_word(line.word)]
        label = found.index(line.category)
        key = (label, word, line.text, line.start)
        examples.setdefault(key, (Example(line.text, line.start, line.stop, word, label), number))
    ordered = [examples[key] for key in sorted(examples)]
    return LabelledSentences(
        file,
        found,
        tuple(example for example, _ in ordered),
        tuple(number for _, number in ordered),
        len(good) - len(examples),
        tuple(skipped),
        count,
    )


def spelled_as(sentences: LabelledSentences, others: LabelledSentences) -> LabelledSentences:
    """The sentences with each word spelled as among the others, where these have it in capitals or in small letters."""
    known = {_word(one.word): one.word for one in others.examples}
    examples = tuple(replace(one, word=known.get(_word(one.word), one.word)) for one in sentences.examples)
    return replace(sentences, examples=examples)


@dataclass(frozen=True)
class _Line:
    text: str
    start: int  # of the target in the text
    stop: int
    word: str  # the target as it stands there; of a whole text the text with single spaces
    category: str
    is_whole: bool  # there is no target


def _lines(file: Path, option: str, shape: str) -> Iterator[tuple[int, bytes]]:
    """The number and the content of each line that is not empty."""
    try:
        content = file.read_bytes()
    except IsADirectoryError as error:
        raise UserError(f"{option}={file}: it is a folder; give a file with a line {shape} for each row") from error
    except FileNotFoundError as error:
        raise UserError(f"{option}={file}: no such file; give one with a line {shape} for each row") from error
    except OSError as error:
        raise UserError(
            f"{option}={file}: cannot be read ({error.strerror}); make it readable, or give another"
        ) from error
    for number, line in enumerate(lines_of(content, f"{option}={file}: it"), start=1):
        if line.strip():
            yield number, line


def _parsed(line: bytes, shape: str, whole: bool) -> _Line:
    """The parts of a line. Raises ValueError, whose message is the reason why it cannot be used."""
    try:
        value: Any = json.loads(line.decode())
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.colno}; a line is {shape}") from None
    if not isinstance(value, dict):
        raise ValueError(f"not an object; a line is {shape}")
    is_whole = whole and value.get("target") is None
    keys = ("text", "category") if is_whole else ("text", "target", "category")
    for key in keys:
        if key not in value:
            hint = "; experiment=grammar_tuning takes lines without it" if key == "target" else ""
            raise ValueError(f"no key “{key}”; a line is {shape}{hint}")
        if not isinstance(value[key], str) or not value[key].strip():
            raise ValueError(f"“{key}” is no text; a line is {shape}")
    text, category = text_of(value["text"]), text_of(value["category"]).strip()
    if len(text) > LONGEST_LINE:
        raise ValueError(f"a text of {len(text)} characters; a sentence has at most {LONGEST_LINE}")
    target = " ".join(text.split()) if is_whole else text_of(value["target"]).strip()
    if unseen(target) if is_whole else not target.isprintable():
        raise ValueError(f"its {'text' if is_whole else 'target'} has an invisible character")
    if not category.isprintable():
        raise ValueError("its category has an invisible character")
    if is_whole:
        return _Line(text.strip(), 0, len(text.strip()), target, category, True)
    places = _places(text, target)
    if len(places) != 1:
        shown = printable(target)
        raise ValueError(
            f"“{shown}” stands in the text {len(places)} times as a whole word; a target must stand there once"
            if places
            else f"“{shown}” does not stand in the text as a whole word, spelled so"
        )
    return _Line(text, places[0], places[0] + len(target), target, category, False)


def _places(text: str, target: str) -> list[int]:
    """Where the target begins in the text as a whole word."""
    padded = f" {text} "  # the edges of a text end a word
    ends = {0, *accumulate(map(len, PARTS.findall(padded)))}
    starts = [match.start() for match in re.finditer(f"(?={re.escape(target)})", padded)]  # they may overlap
    return [
        start - 1
        for start in starts
        if {start, start + len(target)} <= ends and stands_alone(padded, start, start + len(target))
    ]


def _word(target: str) -> str:
    return fold_word(target).casefold()


def _spellings(targets: Sequence[str]) -> dict[str, str]:
    """Word → its most frequent spelling; among equals the first in the alphabet, from the end: small letters."""
    counts = defaultdict[str, Counter[str]](Counter)
    for target in targets:
        counts[_word(target)][fold_word(target)] += 1
    return {word: max(forms, key=lambda form: (forms[form], form)) for word, forms in counts.items()}


def _short(word: str) -> str:
    return word if len(word) <= SHOWN else f"{word[:SHOWN]}…"


def _named(categories: Sequence[str]) -> str:
    return " and ".join(f"“{one}”" for one in categories)
