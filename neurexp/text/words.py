"""Lists of labelled words: a folder with a file for each category, and a word on each line.

A line may be a word or an expression of several words. Whole sentences belong in a file of `labelled_sentences`. Lines
that cannot be used are skipped and named. Knows nothing of models and tokens.
"""

import logging
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import regex

from neurexp.errors import UserError, printable, unseen
from neurexp.io.files import data_files
from neurexp.text.lines import LONGEST_LINE, lines_of
from neurexp.text.scripts import fold_word
from neurexp.text.skipped import Skipped, check_share

OWN_LISTS = Path(__file__).resolve().parent / "word_lists"  # of `grammar_tuning`
FIRST = ("verbs", "nouns")  # the first two labels; other categories follow in alphabetical order
ENDING = ".txt"
FEWEST = 2  # words of a category; an analysis may need more
NOTES = ("readme", "license", "licence", "copying", "notice", "changelog")  # files that describe the lists
WHAT = "a folder with a CATEGORY.txt of words for each category"  # in error lines
SHOWN = 5  # names of files in an error line

# Three words or more, or a script that writes no spaces, and a mark that ends a sentence
_SENTENCE = regex.compile(r"(?:\S+\s+\S+\s+.*\p{Sentence_Terminal}|.+[。！？])[\p{Pe}\p{Pf}\"']*")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WordLists:
    """Words by category, in alphabetical order, so that no result depends on the order of a file."""

    words: dict[str, list[str]]  # category → its words
    empty: int  # number of empty lines
    duplicates: int  # number of repeated words, dropped; two Unicode spellings of a word are the same word
    shared: int  # number of words in more than one category, dropped from all
    skipped: tuple[Skipped, ...] = ()  # lines that cannot be used, and files that are not lists
    places: dict[str, tuple[str, int]] = field(default_factory=dict, compare=False)  # word → file, line from 1
    lines: int = 0  # number of lines that are not empty


@dataclass(frozen=True)
class _Line:
    number: int  # within its file, from 1
    word: str


def read_lists(folder: Path, option: str = "experiment.words", bad_words: float = 0.0) -> WordLists:
    """Reads `CATEGORY.txt` files, a word per line. Duplicates and words in two categories are dropped and counted.

    Args:
        folder: the files' folder. Hidden files and notes such as README.txt are not lists. `.TXT` is an ending too.
        option: the option that names the folder, for error lines.
        bad_words: the largest share of lines that may be skipped because they cannot be used, 0 to 1.

    Raises:
        UserError: fewer than two categories, a category with fewer than two words left, or too many bad lines.
    """
    files, notes = _files(folder, option)
    read = {name: _lines(file, option) for name, file in files.items()}
    skipped = [item for _, bad, _ in read.values() for item in bad]
    lines = sum(len(good) + len(bad) for good, bad, _ in read.values())
    check_share(skipped, lines, bad_words, "experiment.bad_words", "lines")
    skipped += [Skipped(str(file), 0, "a note about the lists, not a list, by its name") for file in notes]
    listed, places = dict[str, list[str]](), dict[str, tuple[str, int]]()
    for name, (good, _, _) in read.items():
        listed[name] = [line.word for line in good]
        for line in good:
            places.setdefault(line.word, (str(files[name]), line.number))
    # A word with several Unicode spellings is shown in the shortest, which is the composed one
    spelled: dict[str, str] = {}
    for word in sorted({word for words in listed.values() for word in words}, key=lambda word: (len(word), word)):
        spelled.setdefault(fold_word(word), word)
    folded = {name: {fold_word(word) for word in words} for name, words in listed.items()}
    counts = Counter(word for words in folded.values() for word in words)
    shared = {word for word, count in counts.items() if count > 1}
    words = {name: sorted(spelled[word] for word in forms - shared) for name, forms in folded.items()}
    for name, left in words.items():
        if len(left) < FEWEST:
            raise UserError(_too_few(folder, option, files[name], len(left), bool(listed[name])))
    return WordLists(
        words,
        empty=sum(empty for _, _, empty in read.values()),
        duplicates=sum(len(listed[name]) - len(folded[name]) for name in listed),
        shared=len(shared),
        skipped=tuple(skipped),
        places=places,
        lines=lines,
    )


def list_of_sentences(lists: WordLists) -> tuple[str, list[str]] | None:
    """The first category most of whose lines are sentences by their form, and these lines; None if there is none."""
    for name, words in lists.words.items():
        sentences = [word for word in words if _SENTENCE.fullmatch(word)]
        if 2 * len(sentences) > len(words):
            return name, sentences
    return None


def _too_few(folder: Path, option: str, file: Path, left: int, has_words: bool) -> str:
    if not has_words:
        return f"{option}={folder}: {file.name} is empty; put 4 or more words in it, one per line, or remove the file"
    return (
        f"{option}={folder}: {file.name} has {left} different words that are in no other list; give 4 or more, or "
        "remove the file"
    )


def _files(folder: Path, option: str) -> tuple[dict[str, Path], list[Path]]:
    """Category → its file, in the order of the labels; and the notes, files that only describe the lists."""
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
        raise UserError(f"{option}={folder}: cannot be read ({error}); make it readable, or give another") from error
    notes = [file for file in listed if file.stem.casefold() in NOTES]
    files: dict[str, Path] = {}
    for file in listed:
        name = unicodedata.normalize("NFC", file.stem)  # macOS decomposes letters in file names
        if file in notes:
            continue
        if not name.isprintable():  # figures and tables show it
            raise UserError(f"{option}={folder}: {file.name} cannot name a category; rename it in plain letters")
        if name in files:
            raise UserError(
                f"{option}={folder}: {files[name].name} and {file.name} name the same category; rename one of them"
            )
        files[name] = file
    if len(files) < 2:
        found = f" ({next(iter(files.values())).name})" if files else ""
        other = f"; other files: {', '.join(others[:SHOWN])}{', …' if len(others) > SHOWN else ''}" if others else ""
        raise UserError(
            f"{option}={folder}: the folder has {len(files)} CATEGORY.txt{found}; a contrast needs two or more: add "
            f"them{other}"
        )
    by_casefold = {name.casefold(): name for name in files}
    order = [by_casefold[name] for name in FIRST] if set(FIRST) <= set(by_casefold) else []
    return {name: files[name] for name in [*order, *sorted(set(files) - set(order))]}, notes


def _lines(file: Path, option: str) -> tuple[list[_Line], list[Skipped], int]:
    """The words of a file, its lines that cannot be used, and the number of empty lines."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{option}={file.parent}: {file.name} cannot be read ({error.strerror}); make it readable, or remove it"
        ) from error
    words, bad, empty = [], [], 0
    for number, line in enumerate(lines_of(content, f"{option}={file.parent}: {file.name}"), start=1):
        try:
            word = line.decode().strip()
        except UnicodeDecodeError:
            bad.append(Skipped(str(file), number, "not UTF-8 text"))
            continue
        if word:
            reason = _problem(word)
            if reason:
                bad.append(Skipped(str(file), number, reason))
            else:
                words.append(_Line(number, word))
        else:
            empty += 1
    return words, bad, empty


def _problem(line: str) -> str:
    """Why a line cannot be used; empty if it can."""
    if len(line) > LONGEST_LINE:
        return f"“{printable(line[:30])}…” has {len(line)} characters; a line has at most {LONGEST_LINE}"
    hidden = unseen(line)
    if hidden:
        return f"“{printable(line[:30])}” has an invisible character, U+{ord(line[hidden[0]]):04X}"
    return "" if fold_word(line).strip() else "it has only invisible characters"
