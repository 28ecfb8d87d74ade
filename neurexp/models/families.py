"""Model families: for each architecture, the list of its blocks and what in a block each *site* is.

A site is a place in a block whose values are activations. `MLP` is the MLP's expansion before its non-linearity; in a
gated MLP that is the gate projection, and `UP` is the other one. `ACT` comes after the non-linearity. `NEURON` is what
the down-projection reads: act(gate)·up, or `ACT` where nothing is gated. `PROJ` is what the down-projection puts out.
`RESID_PRE`, `RESID_MID` and `RESID_POST` are the residual stream before the block, between attention and MLP, and
after the block. `Q`, `K` and `V` are the projections before any norm or rotary embedding; `Z` is what the attention's
output projection reads, and `ATTN_OUT` what it puts out. A family is data; knows no model and no
hook, and imports nothing heavy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from neurexp.errors import UserError

if TYPE_CHECKING:
    import torch

# Every site that a family may have, in the order of tables and messages
SITES = {
    "MLP": "the MLP's expansion before its non-linearity; in a gated MLP the gate",
    "UP": "the other expansion of a gated MLP",
    "ACT": "the expansion after its non-linearity",
    "NEURON": "what the down-projection reads: act(gate)·up, or ACT where nothing is gated",
    "PROJ": "what the down-projection puts out",
    "RESID_PRE": "the residual stream before the block",
    "RESID_MID": "the residual stream between attention and MLP",
    "RESID_POST": "the residual stream after the block",
    "ATTN_OUT": "what the attention's output projection puts out",
    "Z": "what the attention's output projection reads, head after head",
    "Q": "queries, head after head, before any norm or rotary embedding",
    "K": "keys, likewise",
    "V": "values, likewise",
}
BY_HEAD = ("Z", "Q", "K", "V")


@dataclass(frozen=True)
class Part:
    """Which columns of a fused projection belong to a site: one of `count` parts, laid out as `layout` says.

    - `equal`: the parts follow one another, all of one width.
    - `heads`: [heads, parts, head width], as GPT-NeoX and BLOOM fuse Q, K and V.
    - `groups`: [key heads, queries of a key head + 2, head width], as Falcon does.
    - `sizes`: queries, keys and values follow one another; keys and values have fewer heads (Phi-3).
    """

    layout: Literal["equal", "heads", "groups", "sizes"]
    index: int
    count: int = 3

    def of(self, values: "torch.Tensor", config: Any) -> "torch.Tensor":
        """The part of values `[…, columns]`, as `[…, columns of the part]`. `config` is the model's.

        Raises:
            UserError: the columns do not make so many equal parts.
        """
        if self.layout == "equal":
            if values.shape[-1] % self.count:
                raise UserError(
                    f"model.sites: {values.shape[-1]} columns do not make {self.count} equal parts; give another {self}"
                )
            return values.chunk(self.count, dim=-1)[self.index]
        heads, width = config.num_attention_heads, head_width(config)
        if self.layout == "heads":
            return values.unflatten(-1, (heads, self.count, width))[..., self.index, :].flatten(-2)
        keys = key_heads(config)
        if self.layout == "sizes":
            return values.split([heads * width, keys * width, keys * width], dim=-1)[self.index]
        groups = values.unflatten(-1, (keys, heads // keys + 2, width))
        chosen = groups[..., :-2, :] if self.index == 0 else groups[..., self.index - 3, None, :]
        return chosen.flatten(-3)

    def __str__(self) -> str:
        return f"[{self.index}/{self.count}]" + ("" if self.layout == "equal" else f" by {self.layout}")


def head_width(config: Any) -> int:
    """The number of columns of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def key_heads(config: Any) -> int:
    """The number of heads of keys and of values."""
    if config.model_type == "falcon" and not config.new_decoder_architecture:
        return 1 if config.multi_query else config.num_attention_heads
    return getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or (
        config.num_attention_heads
    )  # fmt: skip


@dataclass(frozen=True)
class Address:
    """A module's output or input, and the part of it that belongs to the site."""

    module: str  # its path in the block; empty: the block itself
    side: Literal["output", "input"] = "output"
    part: Part | None = None
    # The site exists only where the config's field has this value; several pairs must all hold
    only: tuple[tuple[str, object], ...] = ()

    def exists(self, config: Any) -> bool:
        """Whether a model of this config has the site."""
        return all(getattr(config, name, None) == value for name, value in self.only)

    def __str__(self) -> str:
        name = (self.module or "the block") + ("" if self.part is None else f"{self.part}")
        return name if self.side == "output" else f"{name}:input"


@dataclass(frozen=True)
class Family:
    """One architecture: the list of its blocks, as a path in the model without its head, and its sites."""

    blocks: str
    sites: dict[str, Address]
    experts: bool = False  # a mixture of experts, whose neurons have no site
    origin: str = "table"  # table, structure or options: how neurexp knows it


def family(
    blocks: str,
    *,
    out: str,
    mlp: str = "",
    down: str = "",
    act: str = "",
    up: str = "",
    qkv: str | Sequence[str] = (),
    layout: Literal["equal", "heads", "groups", "sizes"] = "equal",
    mid: str | Address = "",
) -> Family:
    """A family from paths of modules in a block.

    Args:
        blocks: the list of blocks, in the model without its head.
        out: the attention's output projection.
        mlp: the expansion; in a gated MLP the gate. If `up` is the same module, the two are its halves.
        down: the down-projection. Empty, as `mlp`: a mixture of experts.
        act: the module of the non-linearity, if it is a module.
        up: the other expansion of a gated MLP.
        qkv: the projections of queries, keys and values; or one module that fuses them as `layout` says.
        mid: what reads the residual stream between attention and MLP; empty: nothing does.
    """
    fused = up == mlp and bool(up)
    sites = {}
    if down:
        sites["MLP"] = Address(mlp, part=Part("equal", 0, 2) if fused else None)
        if up:
            sites["UP"] = Address(up, part=Part("equal", 1, 2) if fused else None)
        if act or not up:
            sites["ACT"] = Address(act) if act else Address(down, "input")
        sites["NEURON"] = Address(down, "input")
        sites["PROJ"] = Address(down)
    sites["RESID_PRE"] = Address("", "input")
    if mid:
        sites["RESID_MID"] = Address(mid, "input") if isinstance(mid, str) else mid
    sites |= {"RESID_POST": Address(""), "ATTN_OUT": Address(out), "Z": Address(out, "input")}
    for index, name in enumerate("QKV" if qkv else ""):
        sites[name] = Address(qkv, part=Part(layout, index)) if isinstance(qkv, str) else Address(qkv[index])
    return Family(blocks, sites, experts=not down)


def _separate(attention: str) -> list[str]:
    return [f"{attention}.{one}_proj" for one in "qkv"]


_LLAMA = family(
    "layers",
    mlp="mlp.gate_proj",
    up="mlp.up_proj",
    act="mlp.act_fn",
    down="mlp.down_proj",
    qkv=_separate("self_attn"),
    out="self_attn.o_proj",
    mid="post_attention_layernorm",
)
_EXPERTS = family("layers", qkv=_separate("self_attn"), out="self_attn.o_proj", mid="post_attention_layernorm")


def _with_mid(known: Family, mid: Address | None) -> Family:
    """A family with another `RESID_MID`, or without one, where attention and MLP run beside each other."""
    sites = {name: mid if name == "RESID_MID" else address for name, address in known.sites.items()}
    return replace(known, sites={name: address for name, address in sites.items() if address is not None})


# By the `model_type` of the model's config
FAMILIES = {
    "gpt_neo": family(
        "h",
        mlp="mlp.c_fc",
        act="mlp.act",
        down="mlp.c_proj",
        qkv=_separate("attn.attention"),
        out="attn.attention.out_proj",
        mid="ln_2",
    ),
    "gpt2": family(
        "h", mlp="mlp.c_fc", act="mlp.act", down="mlp.c_proj", qkv="attn.c_attn", out="attn.c_proj", mid="ln_2"
    ),
    "gptj": family("h", mlp="mlp.fc_in", act="mlp.act", down="mlp.fc_out", qkv=_separate("attn"), out="attn.out_proj"),
    "gpt_neox": family(
        "layers",
        mlp="mlp.dense_h_to_4h",
        act="mlp.act",
        down="mlp.dense_4h_to_h",
        qkv="attention.query_key_value",
        layout="heads",
        out="attention.dense",
        mid=Address("post_attention_layernorm", "input", only=(("use_parallel_residual", False),)),
    ),
    "opt": family(
        "decoder.layers",
        mlp="fc1",
        act="activation_fn",
        down="fc2",
        qkv=_separate("self_attn"),
        out="self_attn.out_proj",
        mid=Address("final_layer_norm", "input", only=(("do_layer_norm_before", True),)),
    ),
    "bloom": family(
        "h",
        mlp="mlp.dense_h_to_4h",
        act="mlp.gelu_impl",
        down="mlp.dense_4h_to_h",
        qkv="self_attention.query_key_value",
        layout="heads",
        out="self_attention.dense",
        mid="post_attention_layernorm",
    ),
    "falcon": family(
        "h",
        mlp="mlp.dense_h_to_4h",
        act="mlp.act",
        down="mlp.dense_4h_to_h",
        qkv="self_attention.query_key_value",
        layout="groups",
        out="self_attention.dense",
        mid=Address(
            "post_attention_layernorm", "input", only=(("parallel_attn", False), ("new_decoder_architecture", False))
        ),
    ),
    "phi": family(
        "layers",
        mlp="mlp.fc1",
        act="mlp.activation_fn",
        down="mlp.fc2",
        qkv=_separate("self_attn"),
        out="self_attn.dense",
    ),
    "phi3": family(
        "layers",
        mlp="mlp.gate_up_proj",
        up="mlp.gate_up_proj",
        act="mlp.activation_fn",
        down="mlp.down_proj",
        qkv="self_attn.qkv_proj",
        layout="sizes",
        out="self_attn.o_proj",
        mid="post_attention_layernorm",
    ),
    "starcoder2": family(
        "layers",
        mlp="mlp.c_fc",
        act="mlp.act",
        down="mlp.c_proj",
        qkv=_separate("self_attn"),
        out="self_attn.o_proj",
        mid="post_attention_layernorm",
    ),
    "stablelm": _with_mid(
        _LLAMA, Address("post_attention_layernorm", "input", only=(("use_parallel_residual", False),))
    ),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "olmo", "granite", "smollm3", "gemma"), _LLAMA),
    # A norm follows attention and MLP. The MLP reads the stream through another norm, or as it is
    **dict.fromkeys(("gemma2", "gemma3_text"), _with_mid(_LLAMA, Address("pre_feedforward_layernorm", "input"))),
    **dict.fromkeys(("olmo2", "olmo3"), _with_mid(_LLAMA, Address("mlp", "input"))),
    **dict.fromkeys(("cohere", "cohere2"), _with_mid(_LLAMA, None)),
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "olmoe"), _EXPERTS),
}

# What people call them
TITLES = {
    "gpt_neo": "GPT-Neo", "gpt2": "GPT-2", "gptj": "GPT-J", "gpt_neox": "GPT-NeoX (Pythia)", "opt": "OPT",
    "bloom": "BLOOM", "falcon": "Falcon", "phi": "Phi", "phi3": "Phi-3", "starcoder2": "StarCoder2",
    "stablelm": "StableLM", "llama": "Llama (SmolLM2)", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3",
    "olmo": "OLMo", "granite": "Granite", "smollm3": "SmolLM3", "gemma": "Gemma", "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 (text)", "olmo2": "OLMo 2", "olmo3": "OLMo 3", "cohere": "Cohere", "cohere2": "Cohere 2",
    "mixtral": "Mixtral", "qwen2_moe": "Qwen2 MoE", "qwen3_moe": "Qwen3 MoE", "olmoe": "OLMoE",
}  # fmt: skip
