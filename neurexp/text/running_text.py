"""Running text of a dataset as packed token sequences, which are kept between runs. Knows no model."""

from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from neurexp.config.schema import DatasetConfig
from neurexp.io.provenance import hash_of_tokenizer
from neurexp.text import sources
from neurexp.text.tokenizer import document_end, first_tokens
from neurexp.text.tokens import Tokens, cached, pack


def read_text(dataset: DatasetConfig, tokenizer: PreTrainedTokenizerBase, bos: bool, cache: Path) -> Tokens:
    """Tokenises and packs the first `dataset.tokens` tokens of the dataset.

    Args:
        dataset: which text, how many tokens, and how they are cut into sequences.
        tokenizer: the model's.
        bos: whether every sequence begins with `first_tokens(tokenizer)`.
        cache: the store's folder; tokens that an earlier run kept there are reused.

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

    def tokenise() -> Tokens:
        reading = sources.Reading(dataset)
        texts = sources.documents(dataset, reading)
        tokens = pack(texts, tokenizer, dataset.tokens, dataset.sequence_length, bos, reading.skipped, eos)
        reading.check()
        return replace(tokens, bad_share=reading.needed)

    return cached(cache, key, tokenise, dataset.bad_rows)
