"""GPT-Neo's blocks with faster attention, products and GELU.

transformers has no `sdpa` for GPT-Neo, and computes `gelu_new` in several operations.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoBlock, GPTNeoMLP, GPTNeoSelfAttention

from neurexp.models import kernels
from neurexp.models.fast.attention import BlockedAttention
from neurexp.models.fast.patches import Change, linear, replaced

BLOCK = 64  # queries at once on a CPU, measured for heads of 64 in float32


def _fused_attention(module: GPTNeoSelfAttention, query, key, value, attention_mask=None):
    """GPT-Neo's attention: without the usual 1/√d, and its local layers see only the last `window_size` tokens."""
    length = query.size(-2)
    if module.attention_type == "local" and length > module.config.window_size:
        mask = module.bias[:, :, :length, :length]
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0), None
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0), None


class _BlockedAttention:
    """The same on a CPU, some queries at a time."""

    def __init__(self) -> None:
        self._attend = BlockedAttention(BLOCK)

    def __call__(self, module: GPTNeoSelfAttention, query, key, value, attention_mask=None):
        if torch.is_grad_enabled():  # in-place results have no gradient
            return _fused_attention(module, query, key, value)
        sequences, heads, length, width = query.shape
        window = module.config.window_size if module.attention_type == "local" else length
        out = query.new_empty(sequences, length, heads, width)
        for index in range(sequences):  # in float32 for every format: eager does so too, and it is faster
            queries, keys, values = (part[index].float() for part in (query, key, value))
            self._attend(queries.unsqueeze(2), keys, values, window, out[index].unsqueeze(2))
        return out.transpose(1, 2), None


def _attention_for(device: torch.device) -> Callable:
    return _BlockedAttention() if device.type == "cpu" else _fused_attention


class _FastGelu(nn.Module):
    """GPT-Neo's `gelu_new` in one operation: a module, because the site `ACT` is its output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return kernels.gelu_tanh(x)


@contextmanager
def fast_blocks(model: PreTrainedModel) -> Iterator[None]:
    """Within the context, the GPT-Neo blocks of `model` use faster kernels."""
    attend = _attention_for(model.device)
    changes: list[Change] = []
    mlps = []
    for block in blocks(model):
        for module in block.modules():
            if isinstance(module, GPTNeoSelfAttention):
                changes.append((module, "_attn", MethodType(attend, module)))
            elif (change := linear(module)) is not None:
                changes.append(change)
            elif isinstance(module, GPTNeoMLP) and model.config.activation_function == "gelu_new":
                mlps.append(module)
    activations = [mlp.act for mlp in mlps]
    try:
        for mlp in mlps:
            mlp.act = _FastGelu()
        with replaced(changes):
            yield
    finally:
        for mlp, activation in zip(mlps, activations, strict=True):
            mlp.act = activation


def blocks(model: PreTrainedModel) -> list[GPTNeoBlock]:
    """The blocks that `fast_blocks` changes, in order."""
    return [module for module in model.modules() if isinstance(module, GPTNeoBlock)]


def kinds(model: PreTrainedModel) -> list[tuple[nn.Module, object, int]]:
    """Each block, what kind of attention it has, and how many tokens that sees (0: all)."""
    return [(block, block.attn.attention_type, model.config.window_size) for block in blocks(model)]
