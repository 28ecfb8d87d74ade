"""From documents to token sequences `[sequences, length]` with exactly the requested number of tokens.

Documents are joined by an end-of-text token (`tokenizer.document_end`), which counts as a token and is special. A last
partial sequence is padded on the right. Padding is marked by position, never by token id, because a pad may share its
id with another token. Knows nothing of models.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.errors import UserError
from neurexp.io.store import Entry, Store
from neurexp.text.skipped import Skipped, named
from neurexp.text.tokenizer import (
    document_end,
    dropped_characters,
    encode,
    first_tokens,
    only_unknown_token,
    require_token,
)

# Where a long document may be cut: after a letter, and before a clause ends or a space or newline precedes a letter
_CUT = re.compile(r"(?<=[^\W\d_])(?:(?=[ \n][^\W\d_])|(?=[.,;。，、；！？]))")
PIECE = 100_000  # the least number of characters of a long document that are tokenised at a time
LONGEST_PIECE = 1_000_000  # a piece ends here at the latest, even if no safe cut was found


@dataclass(frozen=True)
class Tokens:
    """Token sequences, as the model reads them."""

    input_ids: np.ndarray  # [sequences, length] int32
    valid: np.ndarray  # [sequences, length] bool: False where a sequence is padded
    documents: int  # number of documents; the last one is usually incomplete
    skipped: tuple[Skipped, ...] = ()  # parts of the text that could not be used
    bad_share: float = 0.0  # the smallest dataset.bad_rows that accepts the text, as far as it was read
    # [documents] int64, ascending: sequence · length + column of each one's first token. None: a sequence is a document
    starts: np.ndarray | None = None

    @cached_property
    def document(self) -> np.ndarray:
        """The document of each token, from 0, `[sequences, length]` int64; −1 where a sequence is padded.

        The end-of-text token after a document belongs to it. Tokens that are put before every sequence belong to the
        document of the token that follows them.
        """
        sequences, length = self.valid.shape
        starts = np.arange(sequences) * length if self.starts is None else self.starts
        places = np.arange(sequences * length).reshape(sequences, length)
        return np.where(self.valid, np.searchsorted(starts, places, side="right") - 1, -1)

    @property
    def count(self) -> int:
        """The number of valid tokens."""
        return int(self.valid.sum())

    @property
    def hash(self) -> str:
        """SHA-256 over shape, ids and validity: equal for equal inputs to the model. Documents are no part of it."""
        digest = hashlib.sha256(repr(self.input_ids.shape).encode())
        digest.update(np.ascontiguousarray(self.input_ids, dtype="<i4").tobytes())
        digest.update(np.packbits(self.valid).tobytes())
        return digest.hexdigest()


def padded(sequences: Sequence[Sequence[int]], pad: int = 0) -> Tokens:
    """Token sequences of any lengths, padded on the right with the id `pad`, each a document of its own."""
    lengths = np.array([len(one) for one in sequences], dtype=np.int64)
    valid = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    ids = np.full(valid.shape, pad, dtype=np.int32)
    ids[valid] = [token_id for one in sequences for token_id in one]
    return Tokens(ids, valid, len(sequences))


def cached(folder: Path, key: dict[str, Any], make: Callable[[], Tokens], bad_rows: float = 1.0) -> Tokens:
    """The tokens that `make` makes, from the store in `folder` if they were made before under the same `key`.

    The accepted share of bad rows is no part of the key, because it does not change the tokens. If `bad_rows` is less
    than what the stored tokens need, `make` is called, which explains why it refuses the text.
    If several processes start at the same time, one tokenises and the others wait for it.
    """
    entry = Store(folder).entry("tokens", key)
    found = _load(entry, bad_rows)
    if found is None:
        with entry.lock("the same text"):
            found = _load(entry, bad_rows)
            if found is None:
                found = make()
                _save(entry, found)
    return found


def is_kept(folder: Path, key: dict[str, Any], bad_rows: float = 1.0) -> bool:
    """Whether `cached` would find the tokens in the store."""
    return _load(Store(folder).entry("tokens", key), bad_rows) is not None


def _save(entry: Entry, tokens: Tokens) -> None:
    skipped = json.dumps([(item.where, item.item, item.reason) for item in tokens.skipped])
    arrays = {
        "input_ids": tokens.input_ids,
        "valid": tokens.valid,
        "documents": np.array([tokens.documents]),
        "skipped": np.frombuffer(skipped.encode(), np.uint8),
        "bad_share": np.array([tokens.bad_share]),
        "starts": np.arange(len(tokens.valid)) * tokens.valid.shape[1] if tokens.starts is None else tokens.starts,
    }
    entry.save(arrays)


def _load(entry: Entry, bad_rows: float) -> Tokens | None:
    arrays = entry.load()
    if arrays is None:
        return None
    try:
        skipped = [Skipped(*fields) for fields in json.loads(arrays["skipped"].tobytes())]
        documents, bad_share = int(arrays["documents"][0]), float(arrays["bad_share"][0])
        tokens = Tokens(arrays["input_ids"], arrays["valid"], documents, tuple(skipped), bad_share, arrays["starts"])
    except (KeyError, ValueError, TypeError):  # written by another version of neurexp
        return None
    return tokens if bad_share <= bad_rows else None


def pack(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    tokens: int,
    sequence_length: int,
    begin_with_bos: bool = False,
    skipped: Sequence[Skipped] = (),
    eos: bool | None = None,
) -> Tokens:
    """Tokenises documents until there are exactly `tokens`, and cuts the stream into sequences.

    Args:
        documents: read only as far as needed.
        tokenizer: the spelling of a special token inside a text is tokenised as plain text.
        tokens: number of tokens of the result, special tokens included.
        sequence_length: tokens of each sequence; the last one may have fewer.
        begin_with_bos: every sequence begins with `first_tokens(tokenizer)`.
        skipped: parts of the source that could not be used; the list may grow while `documents` are read.
        eos: `document_end(tokenizer, eos)` joins the documents.

    Raises:
        UserError: the documents have too few tokens, the tokenizer lacks a special token that is needed or cannot read
            the text, or a sequence has no room for text.
    """
    bos = first_tokens(tokenizer) if begin_with_bos else []
    needed = tokens_of_text(tokens, sequence_length, len(bos))
    joint = document_end(tokenizer, eos)
    stream = np.empty(needed, dtype=np.int32)
    filled = begun = 0  # tokens, documents
    starts = []  # of documents, in the stream
    dropped = Counter[str]()
    for text in documents:
        if begun:
            between = require_token(
                joint, "end-of-text", "which joins documents; give dataset.eos=false to join them by nothing, or"
            )[: needed - filled]
            stream[filled : filled + len(between)] = between
            filled += len(between)
        begun += 1
        starts.append(filled)
        for piece in cut(text, tokenizer):
            if filled == needed:
                break
            dropped.update(dropped_characters(tokenizer, piece))
            ids = encode(tokenizer, piece)["input_ids"][: needed - filled]
            stream[filled : filled + len(ids)] = ids
            filled += len(ids)
        if filled == needed:
            break
    if filled < needed:
        available = filled + len(bos) * -(-filled // (sequence_length - len(bos)))
        but = f", {len(skipped)} skipped: {named(skipped)}" if skipped else ""
        raise UserError(
            f"dataset.tokens={tokens}: the text has only {available} tokens ({begun} documents{but}); give fewer, or "
            "more text"
        )
    return in_sequences(stream, starts, tokenizer, tokens, sequence_length, bos, dropped, skipped)


def tokens_of_text(tokens: int, sequence_length: int, bos: int) -> int:
    """How many of `tokens` are not among the `bos` tokens that begin each sequence.

    Raises:
        UserError: a sequence has no room for text.
    """
    if bos >= sequence_length:
        raise UserError(
            f"dataset.sequence_length={sequence_length}: each sequence begins with {bos} special tokens; give "
            f"{bos + 1} or more, or dataset.bos=false"
        )
    sequences = -(-tokens // sequence_length)
    last = tokens - (sequences - 1) * sequence_length
    return tokens - (sequences - 1) * bos - min(bos, last)


def in_sequences(
    stream: np.ndarray,
    starts: Sequence[int] | np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    tokens: int,
    sequence_length: int,
    bos: Sequence[int],
    dropped: Counter[str],
    skipped: Sequence[Skipped] = (),
) -> Tokens:
    """Cuts a stream of `tokens_of_text` tokens into sequences; `starts` are the places of its documents in it."""
    sequences = -(-tokens // sequence_length)
    pad = 0 if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    input_ids = np.full((sequences, sequence_length), pad, dtype=np.int32)
    # Only now, when the text is known to be long enough: these arrays are as large as the tokens that were asked for
    valid = np.arange(sequences * sequence_length).reshape(sequences, sequence_length) < tokens
    is_text = valid.copy()
    is_text[:, : len(bos)] = False
    input_ids[:, : len(bos)] = bos
    input_ids[~valid] = pad
    input_ids[is_text] = stream
    unreadable = _unreadable_parts(stream, dropped, tokenizer)
    return Tokens(
        input_ids, valid, len(starts), (*unreadable, *skipped), starts=_in_sequences(starts, sequence_length, len(bos))
    )


def _in_sequences(places: Sequence[int] | np.ndarray, length: int, bos: int) -> np.ndarray:
    """Places in the stream as sequence · length + column; what begins a sequence's text begins before its BOS."""
    sequence, column = np.divmod(np.asarray(places, dtype=np.int64), length - bos)
    return sequence * length + np.where(column > 0, column + bos, 0)


def _unreadable_parts(stream: np.ndarray, dropped: Counter[str], tokenizer: PreTrainedTokenizerBase) -> list[Skipped]:
    """The characters without a token and the unknown tokens, with their numbers."""
    reasons = []
    if dropped:
        most = dropped.most_common(1)[0][0]
        reasons.append(f"the tokenizer has no token for {dropped.total()} characters, {most!r} most often")
    unknown = only_unknown_token(tokenizer)
    if unknown is not None and (count := int((stream == unknown).sum())):
        name = tokenizer.convert_ids_to_tokens(unknown)
        reasons.append(f"the tokenizer does not know what {count} of the {len(stream)} tokens stand for: {name!r}")
    return [Skipped("the text", 0, reason) for reason in reasons]


def cut(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Cuts a long document into pieces that have the same tokens as the whole, to save memory.

    GPT-2's pre-tokenizer and similar ones end a word at every `_CUT`, so a cut there changes no token. A text without
    such a place (a picture in base64) is cut anywhere, because a line of 50 MB would take minutes. Other kinds of
    tokenizer get the whole document.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if len(text) <= PIECE or backend is None or "ByteLevel" not in str(backend.pre_tokenizer) or backend.normalizer:
        yield text
        return
    start = 0
    while len(text) - start > PIECE:
        match = _CUT.search(text, start + PIECE, start + LONGEST_PIECE)
        stop = match.start() if match else start + LONGEST_PIECE
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]
