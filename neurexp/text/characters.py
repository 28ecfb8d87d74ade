"""The characters of a token sequence, and the characters that each token covers.

A token is not always a whole number of characters: tokenizers with byte-level BPE or byte fallback cut an emoji, or a
character of another script, into several tokens. Here the bytes of all tokens are joined before they are decoded. Knows
nothing of words.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import regex
from transformers import PreTrainedTokenizerBase

from neurexp.text.joined import characters
from neurexp.text.tokenizer import only_unknown_token, special_ids

_SPACE = "▁"  # a space in a SentencePiece token
_BYTE = regex.compile("<0x([0-9A-Fa-f]{2})>")  # the token of a byte in byte fallback
_CUT = regex.compile("[\udc80-\udcff]")  # a byte of a character whose other bytes are missing
_GRAPHEME = regex.compile(r"\X")


def token_bytes(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int], spell_special: bool = True) -> dict[int, bytes]:
    """The text that each token adds within a longer text, in UTF-8, with its leading space: id → bytes.

    Tokens of WordLevel and WordPiece have no space of their own. They get the space that the tokenizer's decoder puts
    before them.

    Args:
        tokenizer: a fast tokenizer.
        ids: token ids; repeats do not matter.
        spell_special: if False, special tokens become NUL, and the unknown token a byte that is never a character.
    """
    ids = sorted({int(token_id) for token_id in ids})
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    pieces = dict(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
    spelled: dict[int, bytes] = {}
    decoder = backend.decoder
    kind, suffix = str(decoder), getattr(decoder, "suffix", "")
    if decoder is None:  # then the pre-tokenizer and the model show how tokens are spelled
        kind, suffix = str(backend.pre_tokenizer), getattr(backend.model, "end_of_word_suffix", None) or ""
    other_kinds = []
    for token_id, piece in pieces.items():
        if piece is None:  # an id without a token
            spelled[token_id] = b""
        elif "ByteLevel" not in kind and _SPACE not in kind and not suffix:
            other_kinds.append(token_id)
        elif token_id in added:
            spelled[token_id] = added[token_id].content.encode()
        elif "ByteLevel" in kind:
            spelled[token_id] = _byte_level_bytes(piece)
        elif "ByteFallback" in kind and (byte := _BYTE.fullmatch(piece)):
            spelled[token_id] = bytes([int(byte[1], 16)])
        elif _SPACE in kind:  # SentencePiece
            spelled[token_id] = piece.replace(_SPACE, " ").encode()
        else:  # BPE with an end-of-word suffix, such as the first GPT's
            spelled[token_id] = piece.replace(suffix, " ").encode()
    spelled |= _decoded_within_text(tokenizer, other_kinds)
    if not spell_special:
        unknown = only_unknown_token(tokenizer)
        for token_id in {*special_ids(tokenizer), unknown}.intersection(ids):
            space = b" " if spelled[token_id].startswith(b" ") else b""
            spelled[token_id] = space + (b"\xff" if token_id == unknown else b"\0")
    return spelled


@cache
def _byte_level_alphabet() -> dict[str, int]:
    """The letter that byte-level tokenizers write for each of the 256 bytes (GPT-2's `bytes_to_unicode`, inverted)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


def _byte_level_bytes(piece: str) -> bytes:
    alphabet = _byte_level_alphabet()
    try:
        return bytes(alphabet[letter] for letter in piece)
    except KeyError:  # the token is spelled as plain text
        return piece.encode()


def _decoded_within_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> dict[int, bytes]:
    """The text that each token adds after another token. A token that is decoded alone may lose its leading space."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    sequences = [[token_id] for token_id in ids]
    alone = dict(zip(ids, backend.decode_batch(sequences, skip_special_tokens=False), strict=True))
    # The other token should be letters, because decoders remove spaces around punctuation
    before = max(ids, key=lambda token_id: (alone[token_id].isalnum(), bool(alone[token_id].strip())), default=None)
    both = backend.decode_batch([[before, token_id] for token_id in ids], skip_special_tokens=False)
    first = "" if before is None else alone[before]
    prefix = getattr(backend.model, "continuing_subword_prefix", None) if backend.decoder is None else None
    spelled = {}
    for token_id, text in zip(ids, both, strict=True):
        text = text[len(first) :] if text.startswith(first) else alone[token_id]
        if prefix and text.startswith(f" {prefix}"):
            text = text[1 + len(prefix) :]
        spelled[token_id] = text.encode()
    return spelled


def readable_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[tuple[str, int, int]]:
    """Tokens as readable texts: (text, first token, last token + 1). Tokens of one character are joined.

    A character is a grapheme: a letter with its marks, or an emoji of several parts. A character that is cut where the
    sequence begins or ends is left out.
    """
    spelled = token_bytes(tokenizer, ids)
    found = characters([spelled[int(token_id)] for token_id in ids])
    edges = {0, *(grapheme.end() for grapheme in _GRAPHEME.finditer(found.text))}
    groups: list[tuple[str, int, int]] = []
    first = 0
    for index in range(1, len(ids) + 1):
        if index == len(ids) or (found.stop[index - 1] <= found.start[index] and int(found.start[index]) in edges):
            text = found.text[found.start[first] : found.stop[index - 1]]
            if not _CUT.search(text):
                groups.append((text, first, index))
            first = index
    return groups
