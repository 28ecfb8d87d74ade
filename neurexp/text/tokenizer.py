"""What a tokenizer does with a text: its ids, its special tokens, and what it leaves out or does not know.

Knows no model and no sequence of tokens.
"""

from collections import Counter
from typing import Any

from transformers import PreTrainedTokenizerBase

from neurexp.errors import UserError, one_line


def encode(tokenizer: PreTrainedTokenizerBase, text: str | list[str], **options: Any) -> Any:
    """What the tokenizer makes of a text, or of each of several, as text alone: it adds no special token, and reads
    the spelling of a special token as text.

    Raises:
        UserError: the tokenizer cannot read it, say because it has no token for what it does not know.
    """
    try:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False, **options)
    except Exception as error:  # of the tokenizers library, which raises nothing more special
        if type(error) not in (Exception, ValueError, KeyError, TypeError):
            raise
        raise UserError(
            f"model.tokenizer: it cannot read this text ({one_line(error)}); give the tokenizer that the model was "
            "trained with, or another text"
        ) from error


def dropped_characters(tokenizer: PreTrainedTokenizerBase, text: str) -> Counter[str]:
    """The characters of `text` that the tokenizer leaves out, without a token in their place, and how often each.

    A BPE without an unknown token, and without bytes to fall back on, does so; all other tokenizers have a token, or
    raise. The offsets that it gives are then wrong too. Spaces are not counted: where words are split at spaces, no
    tokenizer has a token for them.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "BPE" or backend.model.unk_token is not None:
        return Counter()
    if backend.model.byte_fallback or "ByteLevel" in f"{backend.pre_tokenizer} {backend.normalizer}":
        return Counter()
    found = Counter(text)
    return Counter(
        {one: n for one, n in found.items() if not one.isspace() and not encode(tokenizer, one)["input_ids"]}
    )


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of the token that stands for all text which the tokenizer does not know, or None where there is none."""
    if tokenizer.unk_token_id is not None:
        return tokenizer.unk_token_id  # type: ignore[return-value]
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    spelling = getattr(model, "unk_token", None)  # transformers need not have been told of it
    return tokenizer.get_vocab().get(spelling) if spelling else None


def only_unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The unknown token, or None where it has another use as well: GPT-2's is also its end of text."""
    others = (tokenizer.eos_token_id, tokenizer.bos_token_id, own_first_token(tokenizer))
    unknown = unknown_token(tokenizer)
    return None if unknown in others else unknown


def require_token(token_id: Any, what: str, why: str = "which is needed; give") -> int:
    """The id of a special token. Raises UserError where the tokenizer has none; `why` is what the message says then."""
    if token_id is None:
        raise UserError(f"model.tokenizer: it has no {what} token, {why} another model.tokenizer")
    return token_id


def own_first_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the tokenizer by itself puts before a text, or None where it puts none there."""
    try:
        plain, full = (tokenizer("a", add_special_tokens=added, verbose=False)["input_ids"] for added in (False, True))
    except Exception:  # it cannot read an `a`
        return None
    if not plain:  # nor has it a token for it: only its name tells whether what is there comes first
        return full[0] if full and full[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id) else None
    before = next((n for n in range(len(full)) if full[n : n + len(plain)] == plain), 0)
    return full[0] if before else None


def first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that a sequence begins with, where it begins with one: the tokenizer's own choice, else its BOS.

    Raises:
        UserError: it has neither.
    """
    own = own_first_token(tokenizer)
    if own is not None:
        return own
    return require_token(
        tokenizer.bos_token_id, "beginning-of-text", "which dataset.bos=true asks for; leave dataset.bos out, or"
    )
