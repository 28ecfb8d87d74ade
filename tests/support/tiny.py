"""Tiny random models of every family that neurexp knows, and the yardstick of their comparisons."""

from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

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

_HEADS = {key: value for key, value in _GATED.items() if key != "num_key_value_heads"}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

# Family → the fields of a small config. A second model of a family has a name of its own, and names the family
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt_neo": {
        **_COMMON,
        "hidden_size": WIDTH,
        "num_layers": LAYERS,
        "num_heads": 4,
        "intermediate_size": EXPANSION,
        "attention_types": [[["global", "local", "local"], 1]],
        "window_size": 5,  # shorter than the sequences of the tests
        "max_position_embeddings": POSITIONS,
    },
    "gpt2": {**_COMMON, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_inner": EXPANSION, "n_positions": 64},
    "gptj": {
        **_COMMON, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_inner": EXPANSION, "n_positions": 64,
        "rotary_dim": 4,
    },
    "gpt_neox": _HEADS,
    "opt": {
        **_COMMON, "hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "ffn_dim": EXPANSION, "max_position_embeddings": POSITIONS, "pad_token_id": 1,
    },
    "bloom": {**_COMMON, "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": 4},
    "falcon": {
        **_COMMON, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "ffn_hidden_size": EXPANSION,
    },
    "phi": _GATED,
    "phi3": {**_GATED, "pad_token_id": 0},
    "starcoder2": _GATED,
    "stablelm": _GATED,
    "llama": _GATED,
    "mistral": {**_GATED, "sliding_window": 5},
    "qwen2": _GATED,
    "qwen3": {**_GATED, "head_dim": 8},
    "olmo": _GATED,
    "granite": {**_GATED, "residual_multiplier": 0.5, "embedding_multiplier": 2.0, "attention_multiplier": 0.3},
    "smollm3": {**_GATED, "pad_token_id": 0},
    "gemma": {**_GATED, "head_dim": 8},
    "gemma2": {**_GATED, "head_dim": 8, "sliding_window": 5},
    "gemma3_text": {**_GATED, "head_dim": 8, "sliding_window": 5},
    "olmo2": _GATED,
    "olmo3": {**_GATED, "sliding_window": 5},
    "cohere": _GATED,
    "cohere2": {**_GATED, "sliding_window": 5},
    "mixtral": _GATED,
    "qwen2_moe": {**_GATED, **_EXPERTS, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**_GATED, **_EXPERTS, "head_dim": 8},
    "olmoe": {**_GATED, "num_experts": 4, "num_experts_per_tok": 2},
}  # fmt: skip


def build(family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A causal LM with its head, its config with `changes`. Weights are so large that all of the forward matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CONFIG_MAPPING[family](**(CONFIGS[family] | changes))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
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
