"""The characters of a token sequence, and those that each token covers.

A token is not always a whole number of characters: byte-level tokenizers and those with byte fallback cut a character
of another script, or an emoji, into several tokens. The bytes are joined here before they are read as characters. Knows
nothing of words.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import regex
from transformers import PreTrainedTokenizerBase

from neurexp.text.tokenizer import only_unknown_token

_SPACE = "▁"  # a space, in the pieces of SentencePiece
_BYTE = regex.compile("<0x([0-9A-Fa-f]{2})>")  # a piece of byte fallback
_CUT = regex.compile("[\udc80-\udcff]")  # a byte of a character whose other bytes are not there
_GRAPHEME = regex.compile(r"\X")


@dataclass(frozen=True)
class Characters:
    """A text and the characters [start, stop) of it that each token covers, whole or in part.

    Tokens that are parts of one character cover the same character. A byte that belongs to no whole character stands
    in `text` as a lone surrogate, U+DC80 to U+DCFF: that of a character which was cut where a sequence begins or ends.
    """

    text: str
    start: np.ndarray  # [tokens] int64, never decreasing
    stop: np.ndarray  # [tokens] int64, never decreasing


def characters(parts: Sequence[bytes]) -> Characters:
    """The characters of tokens that stand one after the other, from the bytes of each (`token_bytes`)."""
    text = b"".join(parts).decode("utf-8", "surrogateescape")
    stop = np.cumsum([len(part) for part in parts], dtype=np.int64)
    start = np.concatenate([np.zeros(1, dtype=np.int64), stop[:-1]]) if len(parts) else stop
    if len(text) == (stop[-1] if len(parts) else 0):  # a byte a character
        return Characters(text, start, stop)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    lone = (codes >= 0xDC80) & (codes <= 0xDCFF)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    begins = np.concatenate([[0], np.cumsum(np.where(lone, 1, widths))])  # in bytes, of each character and of the end
    return Characters(text, np.searchsorted(begins, start, "right") - 1, np.searchsorted(begins, stop, "left"))


def token_bytes(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int], spell_special: bool = True) -> dict[int, bytes]:
    """What each of `ids` stands for within a text, in UTF-8; a space that it begins with is part of it.

    Tokens of words or of their pieces may have no space of their own (WordLevel, WordPiece). They get the one that the
    tokenizer's decoder puts between them.

    Args:
        tokenizer: one with a backend in Rust.
        ids: each is looked up once.
        spell_special: False: NUL stands for special tokens, and for the unknown token a byte that is no character.
    """
    ids = sorted({int(index) for index in ids})
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    pieces = dict(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
    found: dict[int, bytes] = {}
    decoder = backend.decoder
    kind, suffix = str(decoder), getattr(decoder, "suffix", "")
    if decoder is None:  # the model type says how pieces are spelled
        kind, suffix = str(backend.pre_tokenizer), getattr(backend.model, "end_of_word_suffix", None) or ""
    left = []
    for index, piece in pieces.items():
        if piece is None:  # an id that the tokenizer does not know
            found[index] = b""
        elif "ByteLevel" not in kind and _SPACE not in kind and not suffix:
            left.append(index)
        elif index in added:
            found[index] = added[index].content.encode()
        elif "ByteLevel" in kind:
            found[index] = _of_byte_level(piece)
        elif "ByteFallback" in kind and (byte := _BYTE.fullmatch(piece)):
            found[index] = bytes([int(byte[1], 16)])
        elif _SPACE in kind:  # SentencePiece
            found[index] = piece.replace(_SPACE, " ").encode()
        else:  # the first GPT's, whose words end with a marker
            found[index] = piece.replace(suffix, " ").encode()
    found |= _within_text(tokenizer, left)
    if not spell_special:
        unknown = only_unknown_token(tokenizer)
        for index in {*tokenizer.all_special_ids, unknown}.intersection(ids):
            space = b" " if found[index].startswith(b" ") else b""
            found[index] = space + (b"\xff" if index == unknown else b"\0")
    return found


@cache
def _alphabet() -> dict[str, int]:
    """The letters in which byte-level tokenizers spell the 256 bytes: those with a shape of their own as themselves."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + index): byte for index, byte in enumerate(others)}


def _of_byte_level(piece: str) -> bytes:
    letters = _alphabet()
    try:
        return bytes(letters[letter] for letter in piece)
    except KeyError:  # a piece that is spelled as plain text
        return piece.encode()


def _within_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> dict[int, bytes]:
    """The text that tokens of other kinds add to a text: decoded alone, some would lose a leading space."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    alone = dict(zip(ids, backend.decode_batch([[index] for index in ids], skip_special_tokens=False), strict=True))
    # Letters, if there are any: of other texts a decoder may tidy the end
    before = max(ids, key=lambda index: (alone[index].isalnum(), bool(alone[index].strip())), default=None)
    both = backend.decode_batch([[before, index] for index in ids], skip_special_tokens=False)
    first = "" if before is None else alone[before]
    goes_on = getattr(backend.model, "continuing_subword_prefix", None) if backend.decoder is None else None
    found = {}
    for index, text in zip(ids, both, strict=True):
        text = text[len(first) :] if text.startswith(first) else alone[index]
        if goes_on and text.startswith(f" {goes_on}"):
            text = text[1 + len(goes_on) :]
        found[index] = text.encode()
    return found


def readable_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[tuple[str, int, int]]:
    """Tokens as readable texts: (text, first token, last token + 1); tokens of one character are joined.

    A character is what a reader takes for one: a letter with its marks, an emoji of several parts. One that was cut
    where the sequence begins or ends is left out.
    """
    spelled = token_bytes(tokenizer, ids)
    found = characters([spelled[int(index)] for index in ids])
    edges = {0, *(grapheme.end() for grapheme in _GRAPHEME.finditer(found.text))}
    groups: list[tuple[str, int, int]] = []
    first = 0
    for index in range(1, len(ids) + 1):
        ends = index == len(ids) or (found.stop[index - 1] <= found.start[index] and int(found.start[index]) in edges)
        if ends:
            text = found.text[found.start[first] : found.stop[index - 1]]
            if not _CUT.search(text):
                groups.append((text, first, index))
            first = index
    return groups
