"""A faster GPT-Neo forward that computes what transformers' eager one does: fused attention and a fused GELU.

transformers has no `sdpa` for GPT-Neo and composes `gelu_new` of several operations. `fast_forward` swaps both inside a
context and puts the originals back, so a model that a caller owns is never left changed. Assumes right-padded batches
without a KV cache, which is all that neurexp runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoMLP, GPTNeoSelfAttention


def _fused_attention(module: GPTNeoSelfAttention, query, key, value, attention_mask=None):
    """GPT-Neo attends without the usual 1/√d, and its local layers see the last `window_size` tokens only."""
    length = query.size(-2)
    if module.attention_type == "local" and length > module.config.window_size:
        mask = module.bias[:, :, :length, :length]
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0), None
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0), None


@contextmanager
def fast_forward(model: PreTrainedModel) -> Iterator[None]:
    """Within the context, `model`'s GPT-Neo blocks attend by `scaled_dot_product_attention` and use a fused GELU."""
    attentions = [module for module in model.modules() if isinstance(module, GPTNeoSelfAttention)]
    mlps = [module for module in model.modules() if isinstance(module, GPTNeoMLP)]
    activations = [mlp.act for mlp in mlps]
    try:
        for attention in attentions:
            attention._attn = MethodType(_fused_attention, attention)
        for mlp in mlps:
            if model.config.activation_function == "gelu_new":
                mlp.act = nn.GELU(approximate="tanh")
        yield
    finally:
        for attention in attentions:
            attention.__dict__.pop("_attn", None)
        for mlp, activation in zip(mlps, activations, strict=True):
            mlp.act = activation
