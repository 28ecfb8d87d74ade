"""From documents to token sequences `[sequences, length]` with exactly the requested number of tokens.

Documents are joined by the tokenizer's end-of-text token, which counts as a token and is special. A last partial
sequence is padded on the right; validity is by position, never by token id. Arrays over the vocabulary are indexed by
token id, so their length is the largest id and one more: ids may have gaps. Knows nothing of models.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.errors import UserError
from neurexp.io.store import Entry, Store
from neurexp.text.skipped import Skipped, named
from neurexp.text.tokenizer import (
    dropped_characters,
    encode,
    first_token,
    needed_token,
    only_unknown_token,
    unknown_token,
    vocabulary_size,
)

UNDEFINED = -1  # the length of special tokens, and of ids without a token
# After a letter, before a space or a newline that a letter follows, or before the end of a clause
_CUT = re.compile(r"(?<=[^\W\d_])(?:(?=[ \n][^\W\d_])|(?=[.,;。，、；！？]))")
PIECE = 100_000  # characters of a long document that are tokenised at a time
LONGEST_PIECE = 1_000_000  # if there is no such place: the text is no prose


@dataclass(frozen=True)
class Tokens:
    """Token sequences as they are run."""

    input_ids: np.ndarray  # [sequences, length] int32
    valid: np.ndarray  # [sequences, length] bool: False where a sequence is padded
    documents: int  # number of documents; the last one is usually cut
    skipped: tuple[Skipped, ...] = ()  # parts of the text that could not be used
    bad_share: float = 0.0  # the least dataset.bad_rows that accepts the text, as far as it was read

    @property
    def count(self) -> int:
        """The number of valid tokens."""
        return int(self.valid.sum())

    @property
    def hash(self) -> str:
        """SHA-256 over shape, ids and validity: equal for equal inputs to the model."""
        digest = hashlib.sha256(repr(self.input_ids.shape).encode())
        digest.update(np.ascontiguousarray(self.input_ids, dtype="<i4").tobytes())
        digest.update(np.packbits(self.valid).tobytes())
        return digest.hexdigest()


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


def _save(entry: Entry, tokens: Tokens) -> None:
    skipped = json.dumps([(one.where, one.item, one.reason) for one in tokens.skipped])
    arrays = {
        "input_ids": tokens.input_ids,
        "valid": tokens.valid,
        "documents": np.array([tokens.documents]),
        "skipped": np.frombuffer(skipped.encode(), np.uint8),
        "bad_share": np.array([tokens.bad_share]),
    }
    entry.save(arrays)


def _load(entry: Entry, bad_rows: float) -> Tokens | None:
    arrays = entry.load()
    if arrays is None:
        return None
    try:
        skipped = [Skipped(*one) for one in json.loads(arrays["skipped"].tobytes())]
        documents, bad_share = int(arrays["documents"][0]), float(arrays["bad_share"][0])
        tokens = Tokens(arrays["input_ids"], arrays["valid"], documents, tuple(skipped), bad_share)
    except (KeyError, ValueError, TypeError):  # of another version
        return None
    return tokens if bad_share <= bad_rows else None


def pack(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    tokens: int,
    sequence_length: int,
    begin_with_bos: bool = False,
    skipped: Sequence[Skipped] = (),
) -> Tokens:
    """Tokenises documents until there are exactly `tokens`, and cuts the stream into sequences.

    Args:
        documents: read only as far as needed.
        tokenizer: adds no tokens of its own; the spelling of a special token inside a text is plain text.
        tokens: number of tokens of the result, special ones included.
        sequence_length: of each sequence but a last partial one.
        begin_with_bos: every sequence begins with `first_token` of the tokenizer.
        skipped: parts of the source that could not be used; the list may grow while `documents` are read.

    Raises:
        UserError: the documents end before, the tokenizer lacks a token that is needed, or it cannot read the text.
    """
    rows = -(-tokens // sequence_length)
    bos = [first_token(tokenizer)] if begin_with_bos else []
    needed = tokens - rows * len(bos)
    stream = np.empty(needed, dtype=np.int32)
    filled = begun = 0
    dropped = Counter[str]()
    for text in documents:
        if begun:  # the end of text joins documents, so it comes before every one but the first
            stream[filled] = needed_token(
                tokenizer.eos_token_id,
                "end-of-text",
                "which joins documents; give one document, fewer dataset.tokens, or",
            )
            filled += 1
        begun += 1
        for piece in _pieces(text, tokenizer):
            if filled == needed:
                break
            dropped.update(dropped_characters(tokenizer, piece))
            ids = encode(tokenizer, piece)["input_ids"][: needed - filled]
            stream[filled : filled + len(ids)] = ids
            filled += len(ids)
        if filled == needed:
            break
    if filled < needed:
        there = filled + len(bos) * -(-filled // (sequence_length - len(bos)))
        but = f", {len(skipped)} skipped: {named(skipped)}" if skipped else ""
        raise UserError(
            f"dataset.tokens={tokens}: the text has only {there} tokens ({begun} documents{but}); give fewer, or more "
            "text"
        )
    # Pads are excluded by position, and the model never sees their ids
    pad = 0 if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    input_ids = np.full((rows, sequence_length), pad, dtype=np.int32)
    valid = np.arange(rows * sequence_length).reshape(rows, sequence_length) < tokens
    body = valid.copy()
    if bos:
        input_ids[:, 0] = bos[0]
        body[:, 0] = False
    input_ids[body] = stream
    return Tokens(input_ids, valid, begun, (*_lost(stream, dropped, tokenizer), *skipped))


def _lost(stream: np.ndarray, dropped: Counter[str], tokenizer: PreTrainedTokenizerBase) -> list[Skipped]:
    """What the tokenizer left out of a text, or does not know: of each the number."""
    reasons = []
    if dropped:
        most = dropped.most_common(1)[0][0]
        reasons.append(f"the tokenizer has no token for {dropped.total()} characters, {most!r} most often")
    unknown = only_unknown_token(tokenizer)
    if unknown is not None and (count := int((stream == unknown).sum())):
        name = tokenizer.convert_ids_to_tokens(unknown)
        reasons.append(f"the tokenizer does not know what {count} of the {len(stream)} tokens stand for: {name!r}")
    return [Skipped("the text", 0, reason) for reason in reasons]


def _pieces(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """A long document in pieces whose tokens, joined, are the document's: memory does not grow with its length.

    GPT-2's pre-tokeniser, and those made after it, end a word at such places: a cut there changes no token. Where none
    is to be found (a picture in base64) the text is cut anywhere, or a line of 50 MB would take minutes. A tokenizer of
    another kind gets the whole document.
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


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int] | None = None) -> list[str]:
    """`tokenizer.decode([id])` of each of `ids`, or of every id of the vocabulary; an id that no token has gives "".

    SentencePiece tokenizers drop a leading space (▁) in decoding a token alone; it is put back here.
    """
    if ids is None:
        return list(_vocabulary_texts(tokenizer, vocabulary_size(tokenizer)))
    return _texts(tokenizer, [int(index) for index in ids])


@lru_cache(maxsize=4)
def _vocabulary_texts(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    return _texts(tokenizer, list(range(size)))


def _texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    alone, backend = [[index] for index in ids], getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # all at once, in Rust
        texts = backend.decode_batch(alone, skip_special_tokens=False)
    else:
        texts = tokenizer.batch_decode(alone, clean_up_tokenization_spaces=False)
    pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(ids)]
    for index, piece in enumerate(pieces):
        if piece.startswith("\u2581"):
            spaces = len(piece) - len(piece.lstrip("\u2581"))
            text = texts[index]
            texts[index] = " " * max(0, spaces - (len(text) - len(text.lstrip(" ")))) + text
    return texts


def token_lengths(tokenizer: PreTrainedTokenizerBase, strip_space: bool = False) -> np.ndarray:
    """The length in characters of the token of every id, `[vocabulary_size]` int32.

    It is that of `tokenizer.decode([id])`: a leading space counts unless `strip_space`; bytes that are no whole
    character decode to U+FFFD, which counts 1. Special tokens, the unknown token among them, and ids that no token has
    have no length: `UNDEFINED`.
    """
    texts = token_texts(tokenizer)
    lengths = np.array([len(text.removeprefix(" ") if strip_space else text) for text in texts], dtype=np.int32)
    there = np.zeros(len(lengths), dtype=bool)
    there[list(tokenizer.get_vocab().values())] = True
    special = [*tokenizer.all_special_ids, unknown_token(tokenizer)]
    there[[index for index in special if index is not None and index < len(there)]] = False
    lengths[~there] = UNDEFINED
    return lengths
