"""Tokenises a long text in parts, by several processes at once, into the same tokens as by one.

A part is a piece of the source, or several small ones. Its tokens are stored whole or not at all, so an interrupted
process's successor goes on. Processes find the parts that nobody works at by locks in the store, and need not know each
other. One of them lays the parts end to end. A text with something that cannot be used is left to `pack`, which knows
what to say of it.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from transformers import PreTrainedTokenizerBase

from neurexp.config.schema import DatasetConfig
from neurexp.io.files import make_folder
from neurexp.io.provenance import version_of
from neurexp.io.store import Entry, Store
from neurexp.text.pieces import HUB_PIECE, Piece, Pieces
from neurexp.text.sources import Reading
from neurexp.text.tokenizer import document_end, dropped_characters, encode, first_tokens
from neurexp.text.tokens import Tokens, cut, in_sequences, tokens_of_text

log = logging.getLogger(__name__)

LONG = 2_000_000  # tokens: a shorter text is tokenised in parts only where several processes wait for it
PART = 16 * 2**20  # bytes of a part, about
GLANCE = 0.2  # seconds between two looks for what other processes have done
PATIENCE = 600.0  # seconds for a part that another process is at: it may hang, or its machine may have failed


def tokenise_in_parts(
    store: Store,
    entry: Entry,
    dataset: DatasetConfig,
    tokenizer: PreTrainedTokenizerBase,
    begin_with_bos: bool,
    processes: int,
    is_done: Callable[[], bool],
) -> "Parts | None":
    """Helps to tokenise until all tokens that `dataset` asks for are stored.

    Args:
        store: shared by the processes.
        entry: of the store, for the parts; its key has everything that the tokens of a document depend on.
        dataset, tokenizer, begin_with_bos: as in `running_text.read_text`.
        processes: how many work at it; no part so far beyond the first missing one is begun.
        is_done: whether another process has laid the parts out, and may have removed them.

    Returns:
        The stored parts; None if the text is short, is done, or `pack` must read it. It never waits longer than
        `PATIENCE` for another process's part: it makes that part, too.
    """
    if processes == 1 and dataset.tokens <= LONG:
        return None
    bos = first_tokens(tokenizer) if begin_with_bos else []
    needed = tokens_of_text(dataset.tokens, dataset.sequence_length, len(bos))
    make_folder(store.folder)
    source = Pieces(dataset)
    known = _Lazily(_grouped(source))
    joint = document_end(tokenizer, dataset.eos.wanted) or []
    if not needed:
        return None
    lengths: list[int] = []  # tokens of the stored parts, from the first on
    since = time.monotonic()  # when there was something new
    while sum(lengths) - len(joint) < needed:  # nothing joins the first document
        if not known.has(len(lengths)):
            return None  # too little text, or a part that cannot be read: `pack` explains it
        missing = f"part_{len(lengths)}"
        found = entry.load(missing)
        if found is not None:
            if not found["regular"][0]:
                return None
            lengths.append(len(found["ids"]))
            since = time.monotonic()
            continue
        if is_done():
            return None
        if entry.has(missing) and entry.load(missing) is None:  # it may not be read, nor removed
            log.warning("A stored part of the text cannot be read (%s): reading the whole text", entry.file(missing))
            return None
        is_late = time.monotonic() - since > PATIENCE
        worked = False
        for number in range(len(lengths), len(lengths) + processes):
            if known.has(number) and not entry.has(f"part_{number}"):
                with _locked(store, entry, number) as is_mine:
                    is_mine = is_mine or (is_late and number == len(lengths))
                    worked = is_mine and not entry.has(f"part_{number}")
                    if worked:
                        entry.save(_tokenised(source, known.found[number], dataset, tokenizer), f"part_{number}")
            if worked and not entry.has(f"part_{number}"):
                return None  # the store takes nothing; it has said so
            if worked:
                since = time.monotonic()
                break
        if not worked:
            time.sleep(GLANCE)
    return Parts(entry, len(lengths), needed, bos, joint)


def how_divided() -> dict[str, Any]:
    """What decides which documents a part has: a number means another part where this differs."""
    return {"part": PART, "hub_piece": HUB_PIECE, "datasets": version_of("datasets"), "pyarrow": version_of("pyarrow")}


class _Lazily:
    """The parts of a source, of which only as many are looked up as were asked for."""

    def __init__(self, parts: Iterator[tuple[Piece, ...]]):
        self._parts, self.found = parts, list[tuple[Piece, ...]]()

    def has(self, number: int) -> bool:
        """Whether there is a part of this number, and can be read, as those before it."""
        while len(self.found) <= number:
            try:
                part = next(self._parts, None)
            except Exception:  # no part comes after it
                part = None
            if part is None:
                return False
            self.found.append(part)
        return True


def _grouped(found: Iterable[Piece]) -> Iterator[tuple[Piece, ...]]:
    """Parts of about `PART` bytes."""
    part: list[Piece] = []
    for piece in found:
        part.append(piece)
        if sum(one.size for one in part) >= PART:
            yield tuple(part)
            part = []
    if part:
        yield tuple(part)


@contextmanager
def _locked(store: Store, entry: Entry, number: int) -> Iterator[bool]:
    """Whether the part is locked for this process: another one may be at work at it.

    Where it cannot be locked at all, it counts as locked: a part that two processes make is the same twice.
    """
    file = store.lock_file(f"{entry.name}_part_{number}")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError:  # another user's file
        yield True
        return
    try:
        yield True
    finally:
        with suppress(OSError):
            file.unlink()
        lock.release()


def _tokenised(
    source: Pieces, part: Sequence[Piece], dataset: DatasetConfig, tokenizer: PreTrainedTokenizerBase
) -> dict[str, np.ndarray]:
    """The tokens of a part, as far as all of them could be needed, each document after its joint; where they start."""
    joint = document_end(tokenizer, dataset.eos.wanted)
    reading, regular = Reading(dataset), joint is not None
    ids: list[np.ndarray] = []
    starts: list[int] = []
    filled = 0
    try:
        for text in source.documents_of(part, reading):
            if filled >= dataset.tokens + len(joint or []):
                break
            starts.append(filled + len(joint or []))
            for tokens in (joint or [], *_encoded(text, tokenizer)):
                ids.append(np.asarray(tokens, dtype=np.int32))
                filled += len(tokens)
    except Exception:  # `pack` meets the same problem, and explains it
        regular = False
    stream = np.concatenate(ids) if ids else np.zeros(0, dtype=np.int32)
    regular = regular and not reading.skipped
    return {"ids": stream, "starts": np.array(starts, dtype=np.int64), "regular": np.array([int(regular)])}


def _encoded(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    for piece in cut(text, tokenizer):
        if dropped_characters(tokenizer, piece):
            raise ValueError("the tokenizer has no token for some characters")
        yield encode(tokenizer, piece)["input_ids"]


class Parts:
    """The stored parts of a text."""

    def __init__(self, entry: Entry, count: int, needed: int, bos: Sequence[int], joint: Sequence[int]):
        self._entry, self._count, self._needed, self._bos, self._joint = entry, count, needed, bos, joint

    def laid_out(self, dataset: DatasetConfig, tokenizer: PreTrainedTokenizerBase) -> Tokens | None:
        """The tokens as `pack` makes them; None if a part has gone."""
        stream = np.empty(self._needed, dtype=np.int32)
        filled, starts, is_first = 0, [], True
        for number in range(self._count):
            part = self._entry.load(f"part_{number}")
            if part is None:
                return None
            skip = len(self._joint) if is_first and len(part["starts"]) else 0  # nothing joins the first document
            is_first = is_first and not len(part["starts"])
            ids = part["ids"][skip : skip + self._needed - filled]
            stream[filled : filled + len(ids)] = ids
            places = part["starts"] - skip + filled
            begun = places - (0 if skip else len(self._joint)) < self._needed
            if skip:
                begun[1:] = places[1:] - len(self._joint) < self._needed
            starts.append(np.minimum(places[begun], self._needed))
            filled += len(ids)
        if filled < self._needed:
            return None
        every = np.concatenate(starts)
        arguments = dataset.tokens, dataset.sequence_length, self._bos, Counter[str]()
        return in_sequences(stream, every, tokenizer, *arguments)
