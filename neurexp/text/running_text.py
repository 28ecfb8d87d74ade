"""A dataset's running text as packed token sequences, from the store if they were made before. Knows no model."""

from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from neurexp.config.schema import DatasetConfig
from neurexp.io.provenance import hash_of_tokenizer
from neurexp.text import sources
from neurexp.text.tokens import Tokens, cached, pack


def read_text(dataset: DatasetConfig, tokenizer: PreTrainedTokenizerBase, bos: bool, cache: Path) -> Tokens:
    """Tokenises and packs as much of the dataset as `dataset.tokens` asks for.

    Args:
        dataset: which text, how many tokens, and how they are cut into sequences.
        tokenizer: the model's.
        bos: every sequence begins with BOS.
        cache: the folder of what is kept between runs.

    Raises:
        UserError: the text cannot be read, or has too few tokens.
    """
    key = {
        "dataset": sources.identity(dataset),
        "rules": sources.RULES,
        "text_column": dataset.text_column,
        "tokenizer": hash_of_tokenizer(tokenizer),
        "tokens": dataset.tokens,
        "sequence_length": dataset.sequence_length,
        "bos": bos,
    }

    def tokenise() -> Tokens:
        reading = sources.Reading(dataset)
        texts = sources.documents(dataset, reading)
        tokens = pack(texts, tokenizer, dataset.tokens, dataset.sequence_length, bos, skipped=reading.skipped)
        reading.check()
        return replace(tokens, bad_share=reading.needed)

    return cached(cache, key, tokenise, dataset.bad_rows)
