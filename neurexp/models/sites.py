"""Sites: for each model family, the module in block i whose output holds the activations of a *site*.

`MLP` is the MLP's expansion before its non-linearity. In a gated MLP that is the gate projection, whose output passes
the non-linearity; `UP` is the other projection. Knows nothing of hooks or statistics.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from neurexp.errors import UserError, closest


@dataclass(frozen=True)
class Address:
    """A module inside a block, and one of the equal parts of its output (GPT-2 fuses Q, K and V)."""

    module: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Family:
    """One architecture: the list of its blocks, and its sites."""

    blocks: str
    sites: dict[str, Address]


_GATED = {
    "MLP": Address("mlp.gate_proj"),
    "UP": Address("mlp.up_proj"),
    "ACT": Address("mlp.act_fn"),
    "PROJ": Address("mlp.down_proj"),
    "Q": Address("self_attn.q_proj"),
    "K": Address("self_attn.k_proj"),
    "V": Address("self_attn.v_proj"),
}

# By the `model_type` of the model's config. Paths are relative to the model without its language-model head.
FAMILIES = {
    "gpt_neo": Family(
        "h",
        {
            "MLP": Address("mlp.c_fc"),
            "ACT": Address("mlp.act"),
            "PROJ": Address("mlp.c_proj"),
            "Q": Address("attn.attention.q_proj"),
            "K": Address("attn.attention.k_proj"),
            "V": Address("attn.attention.v_proj"),
        },
    ),
    "gpt2": Family(
        "h",
        {
            "MLP": Address("mlp.c_fc"),
            "ACT": Address("mlp.act"),
            "PROJ": Address("mlp.c_proj"),
            "Q": Address("attn.c_attn", 0, 3),
            "K": Address("attn.c_attn", 1, 3),
            "V": Address("attn.c_attn", 2, 3),
        },
    ),
    "gpt_neox": Family(
        "layers",
        {
            "MLP": Address("mlp.dense_h_to_4h"),
            "ACT": Address("mlp.act"),
            "PROJ": Address("mlp.dense_4h_to_h"),
        },
    ),
    "llama": Family("layers", _GATED),
    "mistral": Family("layers", _GATED),
    "qwen2": Family("layers", _GATED),
}


def family_of(model_type: str) -> Family:
    """The family of a config's `model_type`. Raises UserError for an unknown one, and names the known ones."""
    if model_type not in FAMILIES:
        raise UserError(
            f"model.name: the architecture {model_type!r} is not known to neurexp; known are {', '.join(FAMILIES)}; "
            "give a model of one of them"
        )
    return FAMILIES[model_type]


@dataclass(frozen=True)
class Site:
    """One site of one layer of a model: its key (`MLP_0`), its module and its number of neurons."""

    key: str
    layer: int
    module: nn.Module
    address: Address


def find_sites(model: PreTrainedModel, site: str, layers: list[int] | None = None) -> list[Site]:
    """The modules of `site` in `layers` (every layer if None) of a Hugging Face model, with or without its head.

    Raises:
        UserError: the family, the site or a layer is unknown; the message lists what there is.
    """
    family = family_of(model.config.model_type)
    if not isinstance(site, str) or site not in family.sites:
        raise UserError(
            f"experiment.site={site}: {model.config.model_type} has {', '.join(family.sites)}"
            + (closest(str(site).upper(), family.sites) or "; give one of them")
        )
    blocks = cast(nn.ModuleList, model.base_model.get_submodule(family.blocks))
    address = family.sites[site]
    chosen = range(len(blocks)) if layers is None else layers
    return [Site(f"{site}_{layer}", layer, blocks[layer].get_submodule(address.module), address) for layer in chosen]


def parse_layers(layers: object, count: int) -> list[int]:
    """`"all"`, one layer or a list of layers → sorted indices without repeats.

    Raises:
        UserError: another form, or a layer beyond the model's `count` layers.
    """
    what = f"experiment.layer={layers}: this model has layers 0 to {count - 1}; give all, one of them, or a list"
    if isinstance(layers, str) and layers == "all":
        return list(range(count))
    plain = layers.tolist() if isinstance(layers, np.ndarray | np.generic) else layers
    asked = plain if isinstance(plain, list | tuple | range) else [plain]
    if not asked or not all(type(layer) is int and 0 <= layer < count for layer in asked):
        raise UserError(what)
    return sorted(set(asked))  # type: ignore[type-var]
