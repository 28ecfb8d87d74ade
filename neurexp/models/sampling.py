"""Text that a language model writes itself: seeded samples at temperature 1. Knows no experiment."""

import numpy as np
import torch
from transformers import DynamicCache

from neurexp.errors import UserError
from neurexp.models.load import LanguageModel, positions_of
from neurexp.text.tokenizer import encode, first_tokens, special_ids
from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import vocabulary_size

LONGEST = 256  # new tokens of a sequence
SEQUENCES = 16  # that are written at the same time
SHORTEST = 16  # new tokens that a sequence must have room for


def write_text(model: LanguageModel, prompt: str, count: int, seed: int) -> tuple[Tokens, np.ndarray]:
    """Continuations of a prompt, drawn from the model's own probabilities (temperature 1, the whole vocabulary).

    Each sequence begins with the prompt, after BOS where the model's sequences begin with it, and goes on with at most
    `LONGEST` new tokens. Special tokens are never drawn, so no continuation ends early.

    Args:
        model: what writes.
        prompt: the same for all sequences.
        count: new tokens of all sequences together.
        seed: of the draws.

    Returns:
        The sequences, prompts included, and which of their tokens are new, `[sequences, length]` bool.

    Raises:
        UserError: the prompt has no token or leaves no room, or the model predicts NaN.
    """
    ids = encode(model.tokenizer, prompt)["input_ids"]
    if not ids:
        raise UserError(
            f"experiment.prompt={prompt!r}: it has no token; give some words, or null for the dataset's text"
        )
    begun = [*(first_tokens(model.tokenizer) if model.begins_with_bos else []), *ids]
    positions = positions_of(model.network)
    room = LONGEST if positions is None else min(LONGEST, positions - len(begun))
    if room < SHORTEST:
        raise UserError(
            f"experiment.prompt: it has {len(begun)} tokens, and {model.name} has {positions} positions; give a prompt "
            f"that leaves room for {SHORTEST} more"
        )
    model.check_ids(np.array(begun))
    each = min(room, count)
    sequences = -(-count // each)
    random = torch.Generator().manual_seed(seed)
    new = [
        _continued(model, begun, each, len(some), random)
        for some in np.array_split(np.arange(sequences), -(-sequences // SEQUENCES))
    ]
    input_ids = np.concatenate([np.tile(np.array(begun), (sequences, 1)), np.concatenate(new)], axis=1).astype(np.int32)
    is_new = np.zeros(input_ids.shape, dtype=bool)
    is_new[:, len(begun) :] = np.arange(sequences * each).reshape(sequences, each) < count
    valid = is_new.copy()
    valid[:, : len(begun)] = True
    return Tokens(np.where(valid, input_ids, 0), valid, sequences), is_new


def _continued(
    model: LanguageModel, begun: list[int], each: int, sequences: int, random: torch.Generator
) -> np.ndarray:
    """`[sequences, each]` new tokens."""
    network, new = model.network, []
    given = torch.tensor([begun] * sequences, device=model.device)
    cache = DynamicCache(config=network.config)
    never = torch.tensor(sorted(special_ids(model.tokenizer)))
    tokens = vocabulary_size(model.tokenizer)  # a model may have more rows
    with torch.inference_mode():
        for _ in range(each):
            output = network(given, past_key_values=cache, use_cache=True)
            logits = output.logits[:, -1, :tokens].double().cpu()
            logits[:, never[never < logits.shape[1]]] = -torch.inf
            p = logits.softmax(-1)
            if not bool(p.isfinite().all()):
                raise UserError("experiment.prompt: the model predicts NaN after it; give device.dtype=float32")
            drawn = torch.multinomial(p, 1, generator=random)
            new.append(drawn[:, 0].numpy())
            given = drawn.to(model.device)
    return np.stack(new, axis=1)
