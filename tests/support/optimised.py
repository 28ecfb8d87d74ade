"""Units to maximise: a tiny model with a unit that fires on one bigram, and a tokenizer of its words."""

from typing import Any

import numpy as np
import torch
from tiny import LAYERS, POSITIONS, WIDTH
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast

from neurexp.experiments.maximise import Maximise, Options
from neurexp.models.load import LanguageModel

END, WORDS = "<|endoftext|>", 39
FIRST, SECOND = 7, 21  # the planted bigram
PLANTED = 3  # the neuron of layer 0 that fires on it


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word `w1` … `w39`, and the end of text."""
    vocabulary = {END: 0} | {f"w{index}": index for index in range(1, WORDS + 1)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, unk_token=END)


def planted() -> LanguageModel:
    """One block; its attention carries the token before, and one neuron adds up whether that is FIRST and this SECOND.

    The embedding has a direction A for FIRST and B for SECOND. The query and key of a head are such that a token
    attends to the one before it: by positions along two directions of their own.
    """
    config = GPTNeoConfig(
        vocab_size=WORDS + 1,
        hidden_size=WIDTH,
        num_layers=1,
        num_heads=1,
        attention_types=[[["global"], 1]],
        intermediate_size=8,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=0,
        attention_dropout=0.0,
        resid_dropout=0.0,
        embed_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GPTNeoForCausalLM(config).eval().requires_grad_(False)
    block, table = network.transformer.h[0], network.transformer.wte.weight
    attention = block.attn.attention
    for parameter in network.parameters():
        parameter.zero_()
    for norm in (block.ln_1, block.ln_2, network.transformer.ln_f):
        norm.weight.fill_(1)
    random = torch.Generator().manual_seed(1)
    # Dimensions 0 and 1: the bigram; 2 and 3: what the attention carries; 4 to 9: the other words; 10 to 15: positions
    words = torch.randn(WORDS + 1, 6, generator=random)
    words -= words.mean(1, keepdim=True)  # of one length and mean, so that the norm treats all alike
    table[:, 4:10] = 4 * torch.nn.functional.normalize(words, dim=1)
    table[FIRST, 0] = table[SECOND, 1] = 8.0
    angles = torch.arange(POSITIONS)[:, None] * torch.tensor([2.4, 1.1, 0.37])
    network.transformer.wpe.weight[:, 10:16] = 3 * torch.cat([angles.sin(), angles.cos()], 1)
    for index, step in enumerate((2.4, 1.1, 0.37)):
        sine, cosine = 10 + index, 13 + index
        # The key turns by one step, so that it agrees best with the query of the position after
        for weight, turn in ((attention.q_proj.weight, 0.0), (attention.k_proj.weight, step)):
            weight[sine, sine] = weight[cosine, cosine] = np.cos(turn)
            weight[sine, cosine], weight[cosine, sine] = np.sin(turn), -np.sin(turn)
    attention.v_proj.weight[2, 0] = attention.out_proj.weight[2, 2] = 1.0
    block.mlp.c_fc.weight[PLANTED, 2] = block.mlp.c_fc.weight[PLANTED, 1] = 1.0
    block.mlp.c_fc.bias[PLANTED] = -1.5
    block.mlp.c_fc.weight[4:] = torch.randn(4, WIDTH, generator=random)
    return LanguageModel(network, tokenizer(), "planted", "made here", "random")


def maximise(**options: Any) -> Maximise:
    """The experiment with few steps, unless `options` say otherwise."""
    few = {"starts": 3, "steps": 20, "search_steps": 6, "windows": 3, "draws": 19, "search_starts": 2}
    return Maximise(Options(name="maximise", plugin="", **{**few, **options}))


__all__ = ["FIRST", "LAYERS", "PLANTED", "SECOND", "WORDS", "maximise", "planted", "tokenizer"]
