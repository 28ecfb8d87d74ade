"""Tiny random models of every family that neurexp knows, and the yardstick of their comparisons."""

from collections.abc import Callable

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from neurexp.engine.reducers.base import Batch, Reducer
from neurexp.engine.reducers.gram import Cells

torch.set_num_threads(1)  # with matrices this small, threads do little but wait for one another

VOCABULARY, POSITIONS, WIDTH, EXPANSION, LAYERS = 60, 64, 16, 40, 3
END_OF_TEXT = 0  # BOS, EOS and padding at once, as in GPT-2's and GPT-Neo's tokenizers

_COMMON = {"vocab_size": VOCABULARY, "bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT}
_GATED = {
    **_COMMON,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": EXPANSION,
    "max_position_embeddings": POSITIONS,
}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt_neo": lambda: GPTNeoConfig(
        **_COMMON,
        hidden_size=WIDTH,
        num_layers=LAYERS,
        num_heads=4,
        intermediate_size=EXPANSION,
        attention_types=[[["global", "local", "local"], 1]],
        window_size=5,  # shorter than the sequences of the tests
        max_position_embeddings=POSITIONS,
    ),
    "gpt2": lambda: GPT2Config(**_COMMON, n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_inner=EXPANSION, n_positions=64),
    "gpt_neox": lambda: GPTNeoXConfig(
        **_COMMON,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=EXPANSION,
        max_position_embeddings=POSITIONS,
    ),
    "llama": lambda: LlamaConfig(**_GATED),
    "mistral": lambda: MistralConfig(**_GATED, sliding_window=5),
    "qwen2": lambda: Qwen2Config(**_GATED),
}


def build(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A causal LM with its head. Its weights are large enough that every part of the forward matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(CONFIGS[family](), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.to(dtype).eval()


def token_ids(sequences: int, length: int, seed: int = 1) -> torch.Tensor:
    """Random ids `[sequences, length]`, END_OF_TEXT among them."""
    ids = torch.randint(VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(seed))
    ids[:, length // 2] = END_OF_TEXT
    return ids


def difference(found, reference) -> float:
    """‖found − reference‖ / ‖reference‖ in float64."""
    found, reference = (torch.as_tensor(values).double() for values in (found, reference))
    assert found.shape == reference.shape
    return float(torch.linalg.vector_norm(found - reference) / torch.linalg.vector_norm(reference))


def batch_of(**covariates) -> Batch:
    """A batch of one sequence, all of it valid, as a pass would hand it to a reducer; the first covariate is a row a
    token."""
    named = {
        name: values if isinstance(values, list) else torch.as_tensor(np.asarray(values))
        for name, values in covariates.items()
    }
    tokens = len(next(iter(named.values())))
    valid = torch.ones(1, tokens, dtype=torch.bool)
    return Batch(torch.zeros(1, tokens, dtype=torch.long), valid, None, torch.arange(tokens)[None], 0, named)


def feed(reducer: Reducer, sites: torch.Tensor, **covariates) -> Reducer:
    """Shows a reducer one batch: activations `[sites, tokens, neurons]` and covariates `[tokens]`."""
    batch = batch_of(**covariates)
    reducer.begin(batch)
    for site, activations in enumerate(sites):
        reducer.update(site, activations, batch)
    return reducer


def matrix_of(cells: list[Cells], tokens: int, columns: int) -> torch.Tensor:
    """The matrix `[tokens, columns]` that a list of cells stands for, written out token by token."""
    matrix, given = np.zeros((tokens, columns), dtype=np.float32), []
    for one in cells:
        design, of_token, own = one.design.numpy(), one.of_token.tolist(), one.columns.tolist()
        assert (one.of_token.dtype, one.design.dtype, one.columns.dtype) == (torch.int64, torch.float32, torch.int64)
        assert len(of_token) == tokens
        assert design.shape == (len(design), len(own))
        assert own == sorted(set(own))
        for token, cell in enumerate(of_token):
            assert 0 <= cell < len(design)
            for place, column in enumerate(own):
                matrix[token, column] = design[cell, place]
        given += own
    assert len(given) == len(set(given))  # no column is given twice
    return torch.from_numpy(matrix)
