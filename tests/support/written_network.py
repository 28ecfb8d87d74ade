"""A network whose neurons are written by hand: they read the token, its position, or a token before, and nothing else.

The stream has a dimension for each token, each position, and each token one and two places back, which two attention
heads copy there. So a neuron's weights say exactly what it fires on.
"""

import numpy as np
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerBase

from neurexp.models.load import LanguageModel

SHARP = 60.0  # attention scores between a position and the one that it copies from
GAIN = 10.0


class Written:
    """The model, and the parts of its stream."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, positions: int, neurons: int):
        types = len(tokenizer)
        self.token = slice(0, types)
        self.position = slice(types, types + positions)
        self.before = slice(self.position.stop, self.position.stop + types)
        self.two_before = slice(self.before.stop, self.before.stop + types)
        width = self.two_before.stop + self.two_before.stop % 2
        config = GPTNeoConfig(
            vocab_size=types,
            hidden_size=width,
            intermediate_size=neurons,
            num_layers=1,
            num_heads=2,
            attention_types=[[["global"], 1]],
            max_position_embeddings=positions,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        self.network = GPTNeoForCausalLM(config).eval().requires_grad_(False)
        block = self.network.transformer.h[0]
        attention, head = block.attn.attention, width // 2
        for parameter in self.network.parameters():
            parameter.zero_()
        for norm in (block.ln_1, block.ln_2, self.network.transformer.ln_f):
            norm.weight.fill_(1)
        self.network.transformer.wte.weight[:, self.token] = torch.eye(types)
        self.network.transformer.wpe.weight[:, self.position] = torch.eye(positions)
        for index, (back, into) in enumerate(((1, self.before), (2, self.two_before))):
            own = slice(index * head, (index + 1) * head)
            for place in range(positions):
                attention.q_proj.weight[own][place, self.position.start + place] = SHARP
                if place >= back:
                    attention.k_proj.weight[own][place, self.position.start + place - back] = 1
            attention.v_proj.weight[own][:types, self.token] = torch.eye(types)
            attention.out_proj.weight[into, own][:, :types] = torch.eye(types)
        self.weights = block.mlp.c_fc.weight  # [neurons, width]
        self.model = LanguageModel(self.network, tokenizer, "written", "made here", "by hand")

    def plant(self, neuron: int, part: slice, values: np.ndarray) -> None:
        """Lets a neuron fire by `values` of the part's dimensions."""
        self.weights[neuron] = 0
        self.weights[neuron, part] = torch.from_numpy(np.asarray(values, dtype=np.float32)) * GAIN
