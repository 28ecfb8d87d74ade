"""Faster blocks for the families with rotary positions, RMSNorm and a gated MLP, on a CPU: Llama and its relatives.

A module is replaced only if it is exactly one of transformers' classes in `FAMILIES`, and the caller has not replaced
its `forward`. All modules are called as modules, so hooks see what they see in transformers' own forward. An output is
written over only where no hook has seen it. Forwards with gradients, a KV cache, a mask or given positions go through
transformers' own attention.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from neurexp.models import kernels
from neurexp.models.fast.attention import BlockedAttention
from neurexp.models.fast.patches import Change, Replacement, linear, replaced, unseen, writable

BLOCK = 32  # queries of each head at once, measured for 3 heads of 64 that share their keys, in float32

# The prefix of a family's class names in transformers.models.FAMILY.modeling_FAMILY
FAMILIES = {
    "gemma": "Gemma",
    "granite": "Granite",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "smollm3": "SmolLM3",
}
SCALED_RESIDUALS = {"granite"}  # their blocks multiply what they add
CENTRED_NORMS = {"gemma"}  # their norms multiply by 1 + weight
SILU = ("SiLUActivation", "SiLU")
# What a forward may be given without leaving the plain causal attention
PLAIN_ARGUMENTS = {"input_ids", "inputs_embeds", "use_cache", "output_hidden_states", "return_dict"}


def _part(module: nn.Module) -> tuple[str, str] | None:
    """The family of a module and what it is there (`Attention`, `MLP`, …); None if it is not exactly transformers'."""
    cls = type(module)
    family = cls.__module__.removeprefix("transformers.models.").partition(".")[0]
    prefix = FAMILIES.get(family)
    if prefix is None or cls.__module__ != f"transformers.models.{family}.modeling_{family}":
        return None
    if not cls.__name__.startswith(prefix) or cls.forward.__module__ != cls.__module__:  # patched by another library
        return None
    return family, cls.__name__.removeprefix(prefix)


def _claimed(module: nn.Module, part: str) -> bool:
    """Whether a module is that part of a known family, with transformers' own `forward`."""
    found = _part(module)
    return found is not None and found[1] == part and "forward" not in module.__dict__


def _window(module: Any, family: str) -> int:
    """How many tokens a layer's attention sees, with the query's own; 0 for all."""
    config = module.config
    if family == "mistral":
        return config.sliding_window or 0
    kinds = getattr(config, "layer_types", None)
    if family in ("qwen2", "qwen3", "smollm3") and kinds and kinds[module.layer_idx] == "sliding_attention":
        return config.sliding_window or 0
    return 0


def _base(model: PreTrainedModel) -> nn.Module | None:
    """The model without its head, if it is of a known family, attends causally and all its blocks are known."""
    base: Any = model.base_model
    if model.device.type != "cpu" or not _claimed(base, "Model"):
        return None
    config = base.config
    causal = getattr(config, "is_causal", True) and not getattr(config, "use_bidirectional_attention", False)
    kinds = set(getattr(config, "layer_types", None) or [])
    known = all(_claimed(block, "DecoderLayer") and _claimed(block.self_attn, "Attention") for block in base.layers)
    return base if causal and known and kinds <= {"full_attention", "sliding_attention"} else None


class _Forward(threading.local):
    """Whether the calling thread is in a forward that needs nothing but plain causal attention."""

    plain = False


class _FastBlocks:
    """The replacements for one model, with the memory that they share."""

    def __init__(self, base: nn.Module):
        self._base = base
        self._now = _Forward()
        self._attend = BlockedAttention(BLOCK)

    def changes(self) -> list[Change]:
        """What to replace."""
        changes: list[Change] = [(self._base, "forward", Replacement(self._model, self._base))]
        replacements = {
            "Attention": self._attention,
            "MLP": self._mlp,
            "DecoderLayer": self._block,
            "RMSNorm": self._norm,
        }
        for module in self._base.modules():
            family, part = _part(module) or ("", "")
            if (change := linear(module)) is not None:
                changes.append(change)
            elif "forward" in module.__dict__ or (part == "DecoderLayer" and family in SCALED_RESIDUALS):
                continue
            elif part in replacements:
                changes.append((module, "forward", Replacement(replacements[part], module)))
        return changes

    def _model(self, module: nn.Module, /, *given: Any, **named: Any) -> Any:
        """The model's forward, which notes whether its attention is plain."""
        others = [value for name, value in named.items() if name not in PLAIN_ARGUMENTS]
        wanted = not (torch.is_grad_enabled() or module.training or module.config.output_attentions)  # type: ignore[union-attr]
        before = self._now.plain
        self._now.plain = wanted and len(given) <= 1 and all(value is None or value is False for value in others)
        try:
            return type(module).forward(module, *given, **named)
        finally:
            self._now.plain = before

    def _attention(self, module: Any, /, *given: Any, **named: Any) -> Any:
        x, positions = named.get("hidden_states"), named.get("position_embeddings")
        if not self._now.plain or given or x is None or positions is None or named.get("past_key_values") is not None:
            return type(module).forward(module, *given, **named)
        sequences, length, _ = x.shape
        queries, keys, values = (
            part(x).view(sequences, length, -1, module.head_dim)
            for part in (module.q_proj, module.k_proj, module.v_proj)
        )
        if hasattr(module, "q_norm"):
            queries, keys = module.q_norm(queries), module.k_norm(keys)
        heads, groups, width = keys.shape[2], queries.shape[2] // keys.shape[2], module.head_dim
        cos, sin = (part.float() for part in positions)
        if not getattr(module, "use_rope", True):
            cos, sin = torch.ones_like(cos), torch.zeros_like(sin)
        window = _window(module, _part(module)[0]) or length  # type: ignore[index]
        ready_queries = self._attend.memory("queries", heads, length, groups, width)
        ready_keys = self._attend.memory("keys", heads, length, width)
        out = x.new_empty(sequences, length, heads, groups, width)
        for index in range(sequences):  # in float32 for every format
            angles = torch.stack([cos[index % len(cos)], sin[index % len(sin)]])
            scaled = (angles * module.scaling)[:, :, None]  # the same for all heads of a group
            grouped = queries[index].view(length, heads, groups, width).transpose(0, 1)
            _rotate(grouped, scaled[0], scaled[1], ready_queries)
            _rotate(keys[index].transpose(0, 1), angles[0], angles[1], ready_keys)
            self._attend(ready_queries, ready_keys, values[index].transpose(0, 1).float(), window, out[index])
        return module.o_proj(out.view(sequences, length, -1)), None

    def _mlp(self, module: Any, /, x: torch.Tensor) -> torch.Tensor:
        """down(act(gate) · up), the product in the memory of `up` where no hook sees that."""
        if torch.is_grad_enabled():
            return type(module).forward(module, x)
        gate = module.gate_proj(x)
        activation = module.act_fn
        fused = type(activation).__name__ in SILU and unseen(activation) and "forward" not in activation.__dict__
        activated = None if fused else activation(gate)
        up = module.up_proj(x)
        overwritten = up if writable(module.up_proj) else torch.empty_like(up)
        if activated is None:
            return module.down_proj(kernels.silu_times(gate, up, overwritten))
        return module.down_proj(torch.mul(activated, up, out=overwritten))

    def _block(self, module: Any, /, hidden_states: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        """x + attention(norm(x)), then + MLP(norm(·)): each sum in the memory of what is added, if no hook sees it."""
        if not self._now.plain or given:
            return type(module).forward(module, hidden_states, *given, **named)
        attention, mlp = module.self_attn, module.mlp
        added, _ = attention(hidden_states=module.input_layernorm(hidden_states), **named)
        middle = _sum(hidden_states, added, (attention, attention.o_proj))
        added = mlp(module.post_attention_layernorm(middle))
        return _sum(middle, added, (mlp, mlp.down_proj))

    def _norm(self, module: Any, /, x: torch.Tensor) -> torch.Tensor:
        weight = module.weight
        if torch.is_grad_enabled() or x.dtype != torch.float32 or weight.dtype != torch.float32:
            return type(module).forward(module, x)
        if _part(module)[0] in CENTRED_NORMS:  # type: ignore[index]
            return kernels.rms_norm(x, 1.0 + weight, module.eps)
        return kernels.rms_norm(x, weight, module.variance_epsilon)


def _sum(x: torch.Tensor, added: torch.Tensor, makers: tuple[nn.Module, nn.Module]) -> torch.Tensor:
    """x + added; in the memory of `added` if nobody else has what `makers` put out."""
    return added.add_(x) if writable(*makers) else x + added


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> None:
    """Rotary positions (Su et al., 2021; the two halves of a head are the pairs): x·cos + (−x₂, x₁)·sin.

    `x` and `out` are of one shape `[…, width]`, `cos` and `sin` of one that expands to it.
    """
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=out)
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])


@contextmanager
def fast_blocks(model: PreTrainedModel) -> Iterator[None]:
    """Within the context, the blocks of `model` use faster kernels, if it is of one of the families."""
    base = _base(model)
    with replaced([] if base is None else _FastBlocks(base).changes()):
        yield


def kinds(model: PreTrainedModel) -> list[tuple[nn.Module, object, int]]:
    """Each block, what kind of attention it has, and how many tokens that sees (0: all); empty for other families."""
    base: Any = _base(model)
    found = []
    for block in [] if base is None else base.layers:
        attention = block.self_attn
        window = _window(attention, _part(attention)[0])  # type: ignore[index]
        found.append((block, (window, bool(getattr(attention, "use_rope", True))), window))
    return found
