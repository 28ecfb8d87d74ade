"""Running text of a dataset as packed token sequences, which are kept between runs. Knows no model."""

from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from neurexp.config.schema import DatasetConfig
from neurexp.errors import UserError
from neurexp.io.provenance import hash_of_tokenizer
from neurexp.io.store import Store
from neurexp.text import sources
from neurexp.text.parts import how_divided, tokenise_in_parts
from neurexp.text.tokenizer import document_end, first_tokens
from neurexp.text.tokens import Tokens, cached, is_kept, pack


def read_text(
    dataset: DatasetConfig, tokenizer: PreTrainedTokenizerBase, bos: bool, cache: Path, processes: int = 1
) -> Tokens:
    """Tokenises and packs the first `dataset.tokens` tokens of the dataset.

    Args:
        dataset: which text, how many tokens, and how they are cut into sequences.
        tokenizer: the model's.
        bos: whether every sequence begins with `first_tokens(tokenizer)`.
        cache: the store's folder; tokens that an earlier run kept there are reused.
        processes: how many processes want this text now; a long one is tokenised by all of them (`text.parts`).

    Raises:
        UserError: the text cannot be read, or has too few tokens.
    """
    eos = dataset.eos.wanted
    key = {
        "dataset": sources.identity(dataset),
        "rules": sources.RULES,
        "text_column": dataset.text_column,
        "tokenizer": hash_of_tokenizer(tokenizer),
        "tokens": dataset.tokens,
        "sequence_length": dataset.sequence_length,
        "first_tokens": first_tokens(tokenizer) if bos else [],
        "document_end": document_end(tokenizer, eos),
    }

    parts = None

    def tokenise() -> Tokens:
        whole = parts.laid_out(dataset, tokenizer) if parts is not None else None
        if whole is not None:
            return whole
        reading = sources.Reading(dataset)
        texts = sources.documents(dataset, reading)
        tokens = pack(texts, tokenizer, dataset.tokens, dataset.sequence_length, bos, reading.skipped, eos)
        reading.check()
        return replace(tokens, bad_share=reading.needed)

    def is_done() -> bool:
        return is_kept(cache, key, dataset.bad_rows)

    if is_done():
        return cached(cache, key, tokenise, dataset.bad_rows)
    store = Store(cache)
    of_parts = {name: value for name, value in key.items() if name not in ("sequence_length", "first_tokens")}
    entry = store.entry("parts", of_parts | how_divided())
    try:
        parts = tokenise_in_parts(store, entry, dataset, tokenizer, bos, processes, is_done)
        tokens = cached(cache, key, tokenise, dataset.bad_rows)
    except UserError:  # another text is wanted, and this one's parts serve nobody
        entry.remove()
        raise
    if is_done():
        entry.remove()
    return tokens
