"""A faster GPT-Neo forward that computes what transformers' eager one does: fused attention and a fused GELU.

transformers has no `sdpa` for GPT-Neo and composes `gelu_new` of several operations. `fast_forward` swaps both inside a
context and puts the originals back, so a model that a caller owns is never left changed; `difference_from_eager` says
whether it may be used. Assumes right-padded batches without a KV cache, which is all that a run of neurexp has.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import MethodType

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoBlock, GPTNeoMLP, GPTNeoSelfAttention


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


def difference_from_eager(model: PreTrainedModel) -> float | None:
    """‖fast − eager‖ / ‖eager‖ of the hidden states after a global and a local block, on tokens beyond the window.

    None where the model is no GPT-Neo, so that there is no fast forward. Only the blocks up to the first of each kind
    of attention are run: the others are the same code.
    """
    blocks = [block for block in model.modules() if isinstance(block, GPTNeoBlock)]
    if not blocks:
        return None
    kinds = [block.attn.attention_type for block in blocks]
    last = blocks[max(kinds.index(kind) for kind in set(kinds))]
    config = model.config
    length = min(config.max_position_embeddings, config.window_size + 64)
    ids = torch.arange(2 * length, device=model.device).view(2, length).remainder(config.vocab_size)
    kept: list[torch.Tensor] = []

    class Stop(BaseException):
        """Ends the forward after the block that is compared."""

    def keep(module, arguments, output):
        kept.append((output[0] if isinstance(output, tuple) else output).float())
        raise Stop

    handle = last.register_forward_hook(keep)
    try:
        for context in (nullcontext(), fast_forward(model)):
            with torch.inference_mode(), context, suppress(Stop):
                model.base_model(ids, use_cache=False)
    finally:
        handle.remove()
    eager, fast = kept
    return float((fast - eager).norm() / eager.norm())
