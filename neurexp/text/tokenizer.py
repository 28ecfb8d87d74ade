"""How a tokenizer reads a text: token ids, special tokens, and characters without a token.

Knows no model and no sequence of tokens.
"""

from collections import Counter
from typing import Any

from transformers import PreTrainedTokenizerBase

from neurexp.errors import UserError, one_line


def encode(tokenizer: PreTrainedTokenizerBase, text: str | list[str], **options: Any) -> Any:
    """The tokenizer's encoding of a text or of several, without special tokens.

    The spelling of a special token within the text is read as plain text. `options` go to the tokenizer.

    Raises:
        UserError: the tokenizer cannot read the text, for example because it lacks an unknown token.
    """
    try:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False, **options)
    except Exception as error:  # the tokenizers library has no exceptions of its own
        if type(error) not in (Exception, ValueError, KeyError, TypeError):
            raise
        raise UserError(
            f"model.tokenizer: it cannot read this text ({one_line(error)}); give the tokenizer that the model was "
            "trained with, or another text"
        ) from error


def dropped_characters(tokenizer: PreTrainedTokenizerBase, text: str) -> Counter[str]:
    """The characters of `text` for which the tokenizer gives no token at all, with their counts.

    Only BPE tokenizers with neither an unknown token nor byte fallback leave out characters. Their character offsets
    are then wrong too. Spaces do not count, because tokenizers that split a text at spaces have no token for them.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "BPE" or backend.model.unk_token is not None:
        return Counter()
    if backend.model.byte_fallback or "ByteLevel" in f"{backend.pre_tokenizer} {backend.normalizer}":
        return Counter()
    counts = Counter(text)
    return Counter(
        {char: n for char, n in counts.items() if not char.isspace() and not encode(tokenizer, char)["input_ids"]}
    )


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of the token for text that the tokenizer does not know; None if it has no such token."""
    if tokenizer.unk_token_id is not None:
        return tokenizer.unk_token_id  # type: ignore[return-value]
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    spelling = getattr(model, "unk_token", None)  # transformers' own configuration may lack it
    return tokenizer.get_vocab().get(spelling) if spelling else None


def only_unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The unknown token; None if it also has another use, as GPT-2's, which is its end-of-text token."""
    others = (tokenizer.eos_token_id, tokenizer.bos_token_id, own_first_token(tokenizer))
    unknown = unknown_token(tokenizer)
    return None if unknown in others else unknown


def require_token(token_id: Any, what: str, why: str = "which is needed; give") -> int:
    """Returns `token_id`, the id of a special token.

    Raises:
        UserError: it is None; the message names the token as `what` and goes on with `why`.
    """
    if token_id is None:
        raise UserError(f"model.tokenizer: it has no {what} token, {why} another model.tokenizer")
    return token_id


def own_first_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the tokenizer adds before a text by default; None if it adds none there."""
    try:
        plain, full = (tokenizer("a", add_special_tokens=added, verbose=False)["input_ids"] for added in (False, True))
    except Exception:  # the tokenizer cannot read an `a`
        return None
    if not plain:  # without a token for `a`, only the name shows whether a special token is the first
        return full[0] if full and full[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id) else None
    before = next((n for n in range(len(full)) if full[n : n + len(plain)] == plain), 0)
    return full[0] if before else None


def first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token to begin a sequence with: `own_first_token`, or else BOS.

    Raises:
        UserError: the tokenizer has neither.
    """
    own = own_first_token(tokenizer)
    if own is not None:
        return own
    return require_token(
        tokenizer.bos_token_id, "beginning-of-text", "which dataset.bos=true asks for; leave dataset.bos out, or"
    )
