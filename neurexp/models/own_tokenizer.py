"""The tokenizer of a model: loaded, compared with the model, and with the counts of its tokens where there are some."""

import logging
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from neurexp.errors import UserError
from neurexp.models import contents
from neurexp.models.locations import Location
from neurexp.models.reading import guarded, source_of
from neurexp.text.vocabulary import vocabulary_size

log = logging.getLogger(__name__)

FEWEST_USED = 0.9  # of a model's embeddings that its tokenizer uses; the rest is padding to a round number


def embedding_rows(network: PreTrainedModel) -> int:
    """How many token ids the model has an embedding for."""
    return network.get_input_embeddings().weight.shape[0]  # type: ignore[return-value, index]


def load_tokenizer(name: str, location: Location) -> PreTrainedTokenizerBase:
    """The tokenizer of a location whose files are here. `name` is what the user gave, for messages.

    Raises:
        UserError: there is none, it is damaged, or it needs a package that is not installed.
    """
    contents.check_tokenizer(f"model.tokenizer={name}", Path(location.path))
    with source_of(location) as source:
        loaded = guarded(name, lambda: AutoTokenizer.from_pretrained(**source), "tokenizer")
    if len(loaded) < 2:  # transformers makes an empty tokenizer of a folder without files
        raise UserError(
            f"model.tokenizer={name}: no tokenizer files there; give model.tokenizer=FOLDER, an id, or mini"
        )
    return loaded


def warn_if_of_another_model(tokenizer_name: str, tokenizer: PreTrainedTokenizerBase, network: PreTrainedModel) -> None:
    """Warns if the number of tokens or the special tokens suggest that the tokenizer is another model's."""
    rows, size, config = embedding_rows(network), vocabulary_size(tokenizer), network.config
    odd = []
    if size > rows:
        beyond = sorted(index for index in tokenizer.get_vocab().values() if index >= rows)
        token = tokenizer.convert_ids_to_tokens(beyond[0])
        odd.append(f"{len(beyond)} of its tokens have no embedding ({token!r}, id {beyond[0]}, the first)")
    elif size < FEWEST_USED * rows:
        odd.append(f"it has ids below {size}, the model embeddings for {rows}")
    generation = getattr(network, "generation_config", None)
    for what in ("bos_token_id", "eos_token_id"):
        own, stated = getattr(tokenizer, what), set[int]()
        for source in (config, generation):
            value = getattr(source, what, None)
            stated |= set(value if isinstance(value, list) else [] if value is None else [value])
        if own is not None and stated and own not in stated:
            odd.append(f"its {what} is {own}, the config says {', '.join(map(str, sorted(stated)))}")
    if odd:
        log.warning("The tokenizer (%s) may be another model's: %s", tokenizer_name, "; ".join(odd))


def token_counts(location: Location, vocabulary: int) -> np.ndarray | None:
    """How often each of `vocabulary` token ids occurs in the tokenizer's training text; None where it is not known."""
    file = Path(location.path) / contents.COUNTS
    if not file.is_file():
        return None
    try:
        counts = load_file(file)["counts"]
    except (SafetensorError, KeyError) as error:
        raise UserError(f"model.tokenizer={location.path}: {file.name} holds no counts; take it away") from error
    if counts.ndim != 1 or len(counts) > vocabulary:
        log.warning("%s is of another tokenizer: not used, frequencies are those of the text", file)
        return None
    return np.pad(counts, (0, vocabulary - len(counts)))  # tokens that were added later do not occur
