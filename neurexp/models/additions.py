"""What attention and MLP add to the residual stream of a block, from what their output projections put out.

In most families that is the same. A norm after the projection (Gemma 2 and 3, OLMo 2 and 3) or a constant factor
(Granite) stands between the two in others. Knows no text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from neurexp.models.direct import NORM_AFTER, WITH_NORM_AFTER, stream_goes_through_norms
from neurexp.models.sites import blocks_of, family_of
from neurexp.models.spread import device_of

_NORMS = {"ATTN_OUT": NORM_AFTER["Z"], "PROJ": NORM_AFTER["NEURON"]}


@dataclass(frozen=True)
class Additions:
    """What a block's attention and MLP add to the stream, `[…, width]`; None where it cannot be read."""

    attention: torch.Tensor | None
    mlp: torch.Tensor | None
    why_none: str = ""  # why one of them cannot be read, in half a sentence


def additions(network: PreTrainedModel, layer: int, captured: Mapping[str, torch.Tensor | None]) -> Additions:
    """What a block adds to the residual stream.

    Args:
        network: a Hugging Face model with or without its head.
        layer: the block's index.
        captured: the activations at `ATTN_OUT` and `PROJ`, `[…, width]`; what is missing gives None.
    """
    config: Any = network.config
    if stream_goes_through_norms(config):
        return Additions(None, None, "the residual stream of this model goes through norms, so nothing adds up")
    factor = getattr(config, "residual_multiplier", 1.0)

    def added(site: str) -> torch.Tensor | None:
        values = captured.get(site)
        if values is None:
            return None
        if config.model_type in WITH_NORM_AFTER:
            norm = blocks_of(network)[layer].get_submodule(_NORMS[site])
            with torch.inference_mode():
                values = norm(values.to(device_of(network))).cpu()
        return values * factor

    experts = family_of(network).experts
    return Additions(added("ATTN_OUT"), added("PROJ"), "the experts have no site of their own" if experts else "")
