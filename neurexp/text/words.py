"""Lists of labelled words: a folder with a file for each category, and a word on each line.

A line may be a word, an expression of several words or a whole sentence. A line that cannot be used is skipped and
named. Knows nothing of models and of tokens.
"""

import codecs
import logging
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from neurexp.errors import UserError, printable, unseen
from neurexp.io.files import data_files
from neurexp.text.scripts import fold_word
from neurexp.text.skipped import Skipped, check_share

OWN_LISTS = Path(__file__).resolve().parent / "word_lists"  # of `grammar_tuning`
FIRST = ("verbs", "nouns")  # the first two labels; other categories follow in alphabetical order
ENDING = ".txt"
LONGEST_LINE = 10_000  # characters: a longer line is no sentence but another kind of file
FEWEST = 2  # words of a category; an analysis may need more
NOTES = ("readme", "license", "licence", "copying", "notice", "changelog")  # files that describe the lists
WHAT = "a folder with a CATEGORY.txt of words for each category"  # in a message
SHOWN = 5  # names of files in a message
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32 begins the same way

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WordLists:
    """Words by category, in alphabetical order: a result cannot depend on the order of a file."""

    words: dict[str, list[str]]  # category → its words
    empty: int  # lines, dropped
    duplicates: int  # dropped; one word in two spellings of Unicode is one word
    shared: int  # words in more than one category, dropped from all
    skipped: tuple[Skipped, ...] = ()  # lines that are no words, and files that are no lists
    # Where each word stands: the file and the line, counted from 1
    places: dict[str, tuple[str, int]] = field(default_factory=dict, compare=False)
    lines: int = 0  # that are not empty


@dataclass(frozen=True)
class _Line:
    number: int  # within its file, from 1
    word: str


def read_lists(folder: Path, option: str = "experiment.words", bad_words: float = 0.0) -> WordLists:
    """Reads `CATEGORY.txt` files, a word per line; duplicates and words in two categories are dropped and counted.

    Args:
        folder: of the files; their endings may be in capitals, hidden files and notes such as README.txt are no lists.
        option: the option that names the folder, for messages.
        bad_words: the largest share of lines that may be skipped because they cannot be used, 0 to 1.

    Raises:
        UserError: fewer than two categories, a category with fewer than two words left, or too many bad lines.
    """
    files, notes = _files(folder, option)
    read = {name: _lines(file, option) for name, file in files.items()}
    skipped = [one for _, bad, _ in read.values() for one in bad]
    lines = sum(len(found) + len(bad) for found, bad, _ in read.values())
    check_share(skipped, lines, bad_words, "experiment.bad_words", "lines")
    skipped += [Skipped(str(file), 0, "a note about the lists, by its name; no list") for file in notes]
    found, places = dict[str, list[str]](), dict[str, tuple[str, int]]()
    for name, (kept, _, _) in read.items():
        found[name] = [line.word for line in kept]
        for line in kept:
            places.setdefault(line.word, (str(files[name]), line.number))
    # One word in several spellings of Unicode goes by the shortest of them, which is the composed one
    spelled: dict[str, str] = {}
    for word in sorted({word for words in found.values() for word in words}, key=lambda word: (len(word), word)):
        spelled.setdefault(fold_word(word), word)
    own = {name: {fold_word(word) for word in words} for name, words in found.items()}
    shared = {word for word, count in Counter(word for words in own.values() for word in words).items() if count > 1}
    words = {name: sorted(spelled[word] for word in listed - shared) for name, listed in own.items()}
    for name, left in words.items():
        if len(left) < FEWEST:
            raise UserError(_too_few(folder, option, files[name], len(left), bool(found[name])))
    return WordLists(
        words,
        empty=sum(empty for _, _, empty in read.values()),
        duplicates=sum(len(found[name]) - len(own[name]) for name in found),
        shared=len(shared),
        skipped=tuple(skipped),
        places=places,
        lines=lines,
    )


def _too_few(folder: Path, option: str, file: Path, left: int, any_there: bool) -> str:
    if not any_there:
        return f"{option}={folder}: {file.name} is empty; put 4 or more words there, one a line, or take the file away"
    return (
        f"{option}={folder}: {file.name} has {left} words of its own, which stand in no other list; give 4 or more, or "
        "take the file away"
    )


def _files(folder: Path, option: str) -> tuple[dict[str, Path], list[Path]]:
    """Category → its file, in the order of the labels, and the files that only describe the lists."""
    try:
        is_folder = folder.is_dir()
    except OSError as error:  # a name too long for a file
        raise UserError(f"{option}={folder}: cannot be a folder ({error}); give {WHAT}") from error
    if not is_folder:
        what = "is a file" if folder.is_file() else "no such folder"
        raise UserError(f"{option}={folder}: {what}; give {WHAT}")
    try:
        listed = data_files(folder, (ENDING,), recursive=False)
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and path not in listed)
    except OSError as error:
        raise UserError(f"{option}={folder}: cannot be read ({error}); mend that, or give another folder") from error
    notes = [file for file in listed if file.stem.casefold() in NOTES]
    files: dict[str, Path] = {}
    for file in listed:
        name = unicodedata.normalize("NFC", file.stem)  # macOS takes letters apart
        if file in notes:
            continue
        if not name.isprintable():  # in figures and tables it would stand as it is
            raise UserError(f"{option}={folder}: {file.name} is no name of a category; rename it in plain letters")
        if name in files:
            raise UserError(f"{option}={folder}: {files[name].name} and {file.name} name one category; rename one")
        files[name] = file
    if len(files) < 2:
        there = f" ({next(iter(files.values())).name})" if files else ""
        beside = f"; beside it: {', '.join(others[:SHOWN])}{', …' if len(others) > SHOWN else ''}" if others else ""
        raise UserError(
            f"{option}={folder}: {len(files)} CATEGORY.txt there{there}; a contrast needs two or more: add "
            f"them there{beside}"
        )
    first = {name.casefold(): name for name in files}
    order = [first[name] for name in FIRST] if set(FIRST) <= set(first) else []
    return {name: files[name] for name in [*order, *sorted(set(files) - set(order))]}, notes


def _lines(file: Path, option: str) -> tuple[list[_Line], list[Skipped], int]:
    """The words of a file, its lines that cannot be used, and the number of empty lines."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{option}={file.parent}: {file.name} cannot be read ({error.strerror}); make it readable, or take it away"
        ) from error
    if content.startswith(_WIDE):
        raise UserError(f"{option}={file.parent}: {file.name} is not UTF-8 text but UTF-16; save it as UTF-8")
    lines = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    words, bad, empty = [], [], 0
    for number, line in enumerate(lines, start=1):
        try:
            word = line.decode().strip()
        except UnicodeDecodeError:
            bad.append(Skipped(str(file), number, "not UTF-8 text"))
            continue
        if word:
            reason = _why_not(word)
            if reason:
                bad.append(Skipped(str(file), number, reason))
            else:
                words.append(_Line(number, word))
        elif number < len(lines) or line:  # there is no line after the last line break
            empty += 1
    return words, bad, empty


def _why_not(line: str) -> str:
    """Why a line is neither a word nor a sentence; an empty text if it is one."""
    if len(line) > LONGEST_LINE:
        return f"“{printable(line[:30])}…” has {len(line)} characters; a line has at most {LONGEST_LINE}"
    hidden = unseen(line)
    if hidden:
        return f"“{printable(line[:30])}” holds U+{ord(line[hidden[0]]):04X}, which cannot be seen"
    return "" if fold_word(line).strip() else "it holds nothing that can be seen"
