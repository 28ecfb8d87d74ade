"""Labelled words: lists of them, where a word's tokens are in a text, and where listed words occur in running text.

A word is found again by character offsets, so that tokens of a template around it never count as its own. Knows
nothing of models.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.errors import UserError
from neurexp.text.tokenizer import dropped_characters, encode, first_token, unknown_token
from neurexp.text.tokens import Tokens, token_texts

OWN_LISTS = Path(__file__).resolve().parent / "words"
FIRST = ("verbs", "nouns")  # the order of the source documents; other categories follow the alphabet
JOINERS = ("'", "’", "-", "‐", "_")  # after these a word is part of a longer one
LONGEST_CHARACTER = 4  # bytes, and so tokens at most
LONGEST_WORD = 100  # characters
FEWEST = 2  # words of a category, for it to be a list at all; what an analysis needs is its own affair


@dataclass(frozen=True)
class WordLists:
    """Words by category, in alphabetical order: a result cannot depend on the order of a file."""

    words: dict[str, list[str]]  # category → its words
    empty: int  # lines, dropped
    duplicates: int  # dropped
    shared: int  # words in more than one category, dropped from all


@dataclass(frozen=True)
class Example:
    """A text, and the characters [start, stop) of it that are the word."""

    text: str
    start: int
    stop: int
    word: str
    category: int


@dataclass(frozen=True)
class Selection:
    """Labelled rows: row i is the tokens [start, stop) of one sequence, and belongs to a category."""

    tokens: Tokens
    sequence: np.ndarray  # [rows] int
    start: np.ndarray  # [rows] int, columns of `tokens`
    stop: np.ndarray  # [rows] int
    category: np.ndarray  # [rows] int
    words: list[str]  # [rows]
    dropped: int = 0  # words that share a token with what stands around them

    def ids(self, row: int) -> list[int]:
        """The token ids of a row."""
        return self.tokens.input_ids[self.sequence[row], self.start[row] : self.stop[row]].tolist()

    def only(self, chosen: np.ndarray) -> "Selection":
        """The rows where `chosen` `[rows]` is True, of the same tokens."""
        spans = {name: getattr(self, name)[chosen] for name in ("sequence", "start", "stop", "category")}
        return replace(self, **spans, words=[word for word, one in zip(self.words, chosen, strict=True) if one])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return self.stop - self.start


def read_lists(folder: Path, option: str = "experiment.words") -> WordLists:
    """Reads `CATEGORY.txt` files, a word per line; duplicates and words in two categories are dropped and counted.

    Raises:
        UserError: fewer than two categories, a category with fewer than two words left, or a file that is not text.
    """
    try:
        is_folder = folder.is_dir()
    except OSError as error:  # a name too long for a file
        raise UserError(f"{option}={folder}: cannot be a folder ({error})") from error
    if not is_folder:
        what = "is a file" if folder.is_file() else "no such folder"
        raise UserError(f"{option}={folder}: {what}; give a folder with a CATEGORY.txt of words for each category")
    files = {file.stem: file for file in folder.glob("*.txt") if file.is_file()}
    if len(files) < 2:
        raise UserError(f"{option}={folder}: {len(files)} CATEGORY.txt there; a contrast needs two or more")
    order = [*FIRST, *sorted(set(files) - set(FIRST))] if set(FIRST) <= set(files) else sorted(files)
    found, empty = dict[str, list[str]](), dict[str, int]()
    for name in order:
        found[name], empty[name] = _read(files[name], option)
    duplicates = sum(len(words) - len(set(words)) for words in found.values())
    lists = Counter(word for words in found.values() for word in set(words))
    shared = {word for word, count in lists.items() if count > 1}
    words = {name: sorted(set(listed) - shared) for name, listed in found.items()}
    for name, left in words.items():
        if len(left) < FEWEST:
            raise UserError(
                f"{option}={folder}: {name}.txt has {len(left)} words of its own, which stand in no other list; give "
                "4 or more"
            )
    return WordLists(words, sum(empty.values()), duplicates, len(shared))


def _read(file: Path, option: str) -> tuple[list[str], int]:
    """The words of a file, and the number of empty lines."""
    try:
        lines = file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{option}={file.parent}: {file.name} is not UTF-8 text ({error})") from error
    words = [line.strip() for line in lines if line.strip()]
    for word in words:
        if len(word) > LONGEST_WORD or not word.isprintable():
            shown = ascii(word[:30])
            raise UserError(
                f"{option}={file.parent}: {file.name} holds {shown}, which is no word (one a line, printable, at most "
                f"{LONGEST_WORD} characters)"
            )
    end = 1 if lines[-1] == "" else 0  # of the last line, not a line of its own
    return words, len(lines) - end - len(words)


def place(word: str, category: int, template: str) -> Example:
    """The word inside `template`, whose `{word}` it takes the place of."""
    before, _, after = template.partition("{word}")
    return Example(before + word + after, len(before), len(before) + len(word), word, category)


def align(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], begin_with_bos: bool = False, required: bool = True
) -> Selection:
    """Tokenises each example as a sequence of its own, padded on the right, and finds its word's tokens.

    A token belongs to the word if it covers any of its characters; a space before the word may be part of it. A word
    whose tokens cover other characters of the text as well cannot be told from them, and one that the tokenizer does
    not know in all of its characters is another word to the model: both are dropped, and counted.

    Raises:
        UserError: the tokenizer gives no offsets, or no word is left and one is `required`.
    """
    if not tokenizer.is_fast:
        raise UserError("model.tokenizer: it gives no character offsets, which finding a word's tokens needs")
    bos = [first_token(tokenizer)] if begin_with_bos else []
    found = encode(tokenizer, [example.text for example in examples], return_offsets_mapping=True)
    unknown = unknown_token(tokenizer)
    rows, kept = [], []
    for example, ids, offsets in zip(examples, found["input_ids"], found["offset_mapping"], strict=True):
        own = [i for i, (a, b) in enumerate(offsets) if a < example.stop and b > example.start]
        if not own:
            continue
        covered = example.text[offsets[own[0]][0] : example.start] + example.text[example.stop : offsets[own[-1]][1]]
        if covered.strip() or unknown in [ids[i] for i in own] or dropped_characters(tokenizer, example.text):
            continue
        rows.append([*bos, *ids])
        kept.append((example, len(bos) + own[0], len(bos) + own[-1] + 1))
    if not kept and required:
        raise UserError("experiment: no word has tokens of its own in its text; set it apart by spaces")
    longest = max((len(row) for row in rows), default=0)
    pad = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
    ids = np.full((len(rows), longest), pad, dtype=np.int32)
    valid = np.arange(longest) < np.array([len(row) for row in rows], dtype=np.int64)[:, None]
    ids[valid] = [index for row in rows for index in row]
    return Selection(
        Tokens(ids, valid, len(rows)),
        np.arange(len(rows)),
        np.array([start for _, start, _ in kept]),
        np.array([stop for _, _, stop in kept]),
        np.array([example.category for example, _, _ in kept]),
        [example.word for example, _, _ in kept],
        dropped=len(examples) - len(kept),
    )


def occurrences(
    tokens: Tokens, tokenizer: PreTrainedTokenizerBase, words: Iterable[tuple[str, int]], most: int
) -> Selection:
    """Where listed words stand in running text, as whole words after a space, in lower case or capitalised.

    Args:
        tokens: the text.
        tokenizer: of the text.
        words: (word, category) pairs.
        most: of each word so many occurrences at most, the first ones: no frequent word decides alone.
    """
    by_first: dict[int, list[tuple[tuple[int, ...], str, int]]] = {}
    for word, category in words:
        for form in {word, word.capitalize()}:
            # Within a text, where a tokenizer that begins every text with a space of its own adds none
            found = align(tokenizer, [place(form, category, "a {word}")], required=False)
            if len(found.words):
                ids = tuple(found.tokens.input_ids[0, found.start[0] : found.stop[0]].tolist())
                by_first.setdefault(ids[0], []).append((ids, word, category))
    spans, seen = [], dict[str, int]()
    for row in np.flatnonzero(np.isin(tokens.input_ids, list(by_first)).any(1)):
        ids = tokens.input_ids[row][tokens.valid[row]]
        for start in np.flatnonzero(np.isin(ids, list(by_first))):
            fits = [one for one in by_first[int(ids[start])] if tuple(ids[start : start + len(one[0])]) == one[0]]
            if not fits:
                continue
            form, word, category = max(fits, key=lambda one: len(one[0]))
            stop = int(start) + len(form)
            if (
                seen.get(word, 0) < most
                and stop < len(ids)
                and not _goes_on(tokenizer, ids[stop : stop + LONGEST_CHARACTER])
            ):
                seen[word] = seen.get(word, 0) + 1
                spans.append((int(row), int(start), stop, category, word))
    columns = list(zip(*spans, strict=True)) if spans else [[], [], [], [], []]
    return Selection(tokens, *(np.array(column, dtype=np.int64) for column in columns[:4]), words=list(columns[4]))


def _goes_on(tokenizer: PreTrainedTokenizerBase, following: np.ndarray) -> bool:
    """Whether a word goes on with these tokens: a letter, digit, mark, apostrophe or hyphen comes next."""
    ids = [int(index) for index in following]
    text = token_texts(tokenizer, ids[:1])[0]
    if text.startswith("\ufffd"):  # a part of a character: its other bytes are in the next tokens
        text = str(tokenizer.decode(ids))
    first = text[:1]
    return (
        first.isalnum() or first in JOINERS or unicodedata.category(first or " ").startswith("M") or first == "\ufffd"
    )


def excerpt(selection: Selection, length: int) -> Selection:
    """Every token, as a row, of the stretch of `length` tokens where most words stand, of every category if possible.

    The rows' categories are −1, but those of tokens of the selection's words; `words` are the tokens' numbers.
    """
    tokens = selection.tokens
    length = min(length, tokens.valid.shape[1])
    category = np.full(tokens.valid.shape, -1)
    within = []  # words of each category in each stretch, [categories, sequences, places]
    for one in np.unique(selection.category):
        of = selection.category == one
        marked = np.zeros(tokens.valid.shape, dtype=np.int64)
        marked[selection.sequence[of], selection.start[of]] = 1
        running = np.pad(marked.cumsum(1), ((0, 0), (1, 0)))
        within.append(running[:, length:] - running[:, :-length])
    for row, start, stop, one in zip(
        selection.sequence, selection.start, selection.stop, selection.category, strict=True
    ):
        category[row, start:stop] = one
    score = np.sum(within, axis=0) + 2 * np.min(within, axis=0)
    full = tokens.valid.sum(1) >= length
    row, start = np.unravel_index(np.where(full[:, None], score, -1).argmax(), score.shape)
    places = np.arange(start, min(start + length, int(tokens.valid[row].sum())))
    return replace(
        selection,
        sequence=np.full(len(places), row),
        start=places,
        stop=places + 1,
        category=category[row, places],
        words=[str(place) for place in places],
    )


def pairs(tokenizer_ids: Sequence[Sequence[int]], words: Sequence[str]) -> list[int]:
    """The order in which a category's words are paired with another's: number of tokens, frequency, alphabet.

    The frequency rank is that of the word's rarest token in the tokenizer's vocabulary: byte-pair encodings number
    their tokens in the order of merging, frequent ones first.
    """
    key = [(len(ids), sorted(ids, reverse=True), word) for ids, word in zip(tokenizer_ids, words, strict=True)]
    return sorted(range(len(words)), key=key.__getitem__)
