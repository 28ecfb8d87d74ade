"""A faster GPT-Neo forward that computes what transformers' eager one does, up to rounding.

transformers has no `sdpa` for GPT-Neo, and computes `gelu_new` in several operations. Inside a context `fast_forward`
replaces the attention, the GELU and the products with the weights. Afterwards it restores the originals, so a caller's
model is never left changed. `difference_from_eager` measures whether it may be used. Assumes right-padded batches
without a KV cache, as in every run of neurexp.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoBlock, GPTNeoMLP, GPTNeoSelfAttention

from neurexp.models import kernels

BLOCK = 64  # queries at once on a CPU, measured for heads of 64 in float32
ALIGNED = 16  # keys; widths that are multiples of it multiply faster


def _fused_attention(module: GPTNeoSelfAttention, query, key, value, attention_mask=None):
    """GPT-Neo's attention: without the usual 1/√d, and its local layers see only the last `window_size` tokens."""
    length = query.size(-2)
    if module.attention_type == "local" and length > module.config.window_size:
        mask = module.bias[:, :, :length, :length]
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0), None
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0), None


class _BlockedAttention:
    """The same on a CPU: some queries at a time, only against the keys that they may see, in reused memory.

    PyTorch's own fused attention uses tiles that are too small for a CPU, and does not skip keys outside a window.
    """

    def __init__(self) -> None:
        self._own = threading.local()  # several threads may run the model at once
        self._blocks = cache(_query_blocks)

    def __call__(self, module: GPTNeoSelfAttention, query, key, value, attention_mask=None):
        if torch.is_grad_enabled():  # in-place results have no gradient
            return _fused_attention(module, query, key, value)
        sequences, heads, length, width = query.shape
        window = module.config.window_size if module.attention_type == "local" else length
        out = query.new_empty(sequences, length, heads, width).transpose(1, 2)
        for index in range(sequences):  # in float32 for every format: eager does so too, and it is faster
            queries, keys, values = (part[index].float() for part in (query, key, value))
            for start, stop, first, hidden in self._blocks(length, window):
                scores = self._memory((heads, stop - start, stop - first))
                torch.bmm(queries[:, start:stop], keys[:, first:stop].transpose(1, 2), out=scores)
                scores[..., start - first :] += hidden[:, start - first :]
                if stop - window > first:  # not every query sees the first keys
                    scores[..., : start - first] += hidden[:, : start - first]
                torch.softmax(scores, -1, out=scores)
                out[index, :, start:stop] = torch.bmm(scores, values[:, first:stop])
        return out, None

    def _memory(self, shape: tuple[int, ...]) -> torch.Tensor:
        size = shape[0] * shape[1] * shape[2]
        scratch = getattr(self._own, "scratch", None)
        if scratch is None or scratch.numel() < size:
            with torch.inference_mode(False):  # it serves inside of that mode and outside
                scratch = self._own.scratch = torch.empty(size)
        return scratch[:size].view(shape)


def _query_blocks(length: int, window: int) -> list[tuple[int, int, int, torch.Tensor]]:
    """Queries start … stop, the first key that any of them may see, and −∞ `[queries, keys]` where one may not."""
    place, blocks = torch.arange(length), []
    for start in range(0, length, BLOCK):
        stop, first = min(start + BLOCK, length), max(0, start - window + 1) // ALIGNED * ALIGNED
        distance = place[start:stop, None] - place[first:stop]
        hidden = torch.zeros(distance.shape)
        blocks.append((start, stop, first, hidden.masked_fill_((distance < 0) | (distance >= window), -torch.inf)))
    return blocks


def _attention_for(device: torch.device) -> Callable:
    return _BlockedAttention() if device.type == "cpu" else _fused_attention


def _linear(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return kernels.linear(x, module.weight, module.bias)


class _FastGelu(nn.Module):
    """GPT-Neo's `gelu_new` in one operation: a module, because the site `ACT` is its output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return kernels.gelu_tanh(x)


@contextmanager
def _attributes(changes: list[tuple[nn.Module, str, Any]]) -> Iterator[None]:
    """Sets an attribute of each module, and restores it on leaving, also after an error."""
    kept = [(module, name, module.__dict__.get(name)) for module, name, _ in changes]
    try:
        for module, name, value in changes:
            module.__dict__[name] = value
        yield
    finally:
        for module, name, value in reversed(kept):
            if value is None:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = value


@contextmanager
def fast_forward(model: PreTrainedModel) -> Iterator[None]:
    """Within the context, the GPT-Neo blocks of `model` use faster kernels for attention, products and GELU."""
    attend = _attention_for(model.device)
    changes, mlps = [], []
    for block in (module for module in model.modules() if isinstance(module, GPTNeoBlock)):
        for module in block.modules():
            if isinstance(module, GPTNeoSelfAttention):
                changes.append((module, "_attn", MethodType(attend, module)))
            elif type(module).forward is nn.Linear.forward and "forward" not in module.__dict__:  # not the caller's
                changes.append((module, "forward", MethodType(_linear, module)))
            elif isinstance(module, GPTNeoMLP) and model.config.activation_function == "gelu_new":
                mlps.append(module)
    activations = [mlp.act for mlp in mlps]
    try:
        for mlp in mlps:
            mlp.act = _FastGelu()
        with _attributes(changes):
            yield
    finally:
        for mlp, activation in zip(mlps, activations, strict=True):
            mlp.act = activation


def difference_from_eager(model: PreTrainedModel) -> float | None:
    """‖fast − eager‖ / ‖eager‖ of the hidden states after a global and a local block, on tokens beyond the window.

    None if the model is no GPT-Neo: then there is no fast forward. Only the blocks up to the first of each kind
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
