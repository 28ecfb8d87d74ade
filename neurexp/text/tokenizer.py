"""How a tokenizer reads a text: token ids, special tokens, and characters without a token.

Knows no model and no sequence of tokens.
"""

from collections import Counter
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from neurexp.errors import UserError, one_line

T = TypeVar("T")

# What ended a document in the pretraining of models whose EOS may be a chat marker
ENDS_OF_DOCUMENTS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<EOS_TOKEN>")


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
    before, after = added_tokens(tokenizer)
    others = (tokenizer.eos_token_id, tokenizer.bos_token_id, *before, *after, *(document_end(tokenizer) or []))
    unknown = unknown_token(tokenizer)
    return None if unknown in others else unknown


def require_token(token_id: T | None, what: str, why: str = "which is needed; give") -> T:
    """Returns `token_id`, the id of a special token (or the ids of several).

    Raises:
        UserError: it is None; the message names the token as `what` and goes on with `why`.
    """
    if token_id is None:
        raise UserError(f"model.tokenizer: it has no {what} token, {why} another model.tokenizer")
    return token_id


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text by default (`add_special_tokens=True`)."""
    try:
        plain, full = (tokenizer("a", add_special_tokens=added, verbose=False)["input_ids"] for added in (False, True))
    except Exception:  # the tokenizer cannot read an `a`
        return [], []
    if plain:
        start = next((n for n in range(len(full)) if full[n : n + len(plain)] == plain), None)
        return ([], []) if start is None else (full[:start], full[start + len(plain) :])
    # Without a token for `a`, only the names show which special token is the first and which is the last
    before = full[:1] if full and full[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id) else []
    rest = full[len(before) :]
    return before, rest[-1:] if rest and rest[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id) else []


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids of all tokens that stand for no text: named, marked as special, or put around a text by default.

    The unknown token is among them where the tokenizer names it as special.
    """
    before, after = added_tokens(tokenizer)
    marked = [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]
    return {*tokenizer.all_special_ids, *marked, *before, *after}


def first_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens to begin a sequence with: those that the tokenizer puts before a text by default, or else BOS.

    Raises:
        UserError: the tokenizer has neither.
    """
    bos: Any = tokenizer.bos_token_id
    why = "which dataset.bos=true asks for; leave dataset.bos out, or give"
    return added_tokens(tokenizer)[0] or [require_token(bos, "beginning-of-text", why)]


def document_end(tokenizer: PreTrainedTokenizerBase, eos: bool | None = None) -> list[int] | None:
    """The tokens between two documents; None if the tokenizer has none.

    Chat models often name the end of a turn as EOS. In the text of their pretraining another token ended a document.

    Args:
        tokenizer: the model's.
        eos: True: those that the tokenizer puts after a text by default, or else EOS. False: nothing, an empty list.
            None: as True, but in place of an EOS that the chat template spells out, the first of `ENDS_OF_DOCUMENTS`
            that the tokenizer has as a special token.
    """
    if eos is False:
        return []
    own, end, name = added_tokens(tokenizer)[1], tokenizer.eos_token_id, tokenizer.eos_token
    if own or end is None:
        return own or None
    if eos is None and name not in ENDS_OF_DOCUMENTS and _is_chat_marker(tokenizer, str(name)):
        special = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        end = next((special[one] for one in ENDS_OF_DOCUMENTS if one in special), end)
    return [end]  # type: ignore[list-item]


def _is_chat_marker(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether the chat template (of several: one of them) spells the token out."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return any(token in one for one in (template.values() if isinstance(template, dict) else [template]))
