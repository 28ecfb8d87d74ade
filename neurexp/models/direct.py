"""The direct path of a neuron to the logits: its output weights, through the final norm and the unembedding.

No pass over a text is needed. What the reading leaves out: everything that later blocks make of the neuron, and what
depends on the token, which is a norm's division (one positive number for each token, the same for all neurons and all
of the vocabulary) and a soft cap. Knows no text, and not why a neuron is of interest.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from neurexp.models.choices import parse_layers
from neurexp.models.numbering import SHARE_NEURONS
from neurexp.models.sites import blocks_of, family_of, find_sites, sites_of
from neurexp.models.spread import alone, at_hand, device_of

# The norm between a site's projection and the residual stream, as a path in a block, of the families that have one
NORM_AFTER = {"NEURON": "post_feedforward_layernorm", "Z": "post_attention_layernorm"}
WITH_NORM_AFTER = ("gemma2", "gemma3_text", "olmo2", "olmo3")
CLOSE = 1e-4  # relative to the largest value


def output_weights(network: PreTrainedModel, site: str, layer: int) -> torch.Tensor | None:
    """What one unit of each neuron adds to the residual stream.

    That is the neuron's column of the down-projection (of the attention's output projection for `Z`). Granite's
    `residual_multiplier` is applied. Where a norm stands between the projection and the stream (Gemma 2 and 3, OLMo 2
    and 3), its weight is applied, and its division by the token's root mean square is left out.

    Args:
        network: a Hugging Face model with or without its head.
        site: `NEURON`; `ACT`, `MLP` or `UP`, whose neurons have the same indices; or `Z`.
        layer: the index of the block.

    Returns:
        `[neurons, width of the stream]` float32, on the model's device; None for other sites, whose neurons write
        nothing into the stream themselves.

    Raises:
        UserError: the model has no such site or layer.
    """
    layers = parse_layers([layer], len(blocks_of(network)))
    find_sites(network, site, layers)
    reader = "NEURON" if site in SHARE_NEURONS else site
    if reader not in ("NEURON", "Z") or reader not in sites_of(network):
        return None
    (found,) = find_sites(network, reader, layers)
    if found.address.side != "input" or found.address.part is not None:
        return None
    if not isinstance(found.module, Conv1D | nn.Linear):
        return None
    with at_hand(found.module):
        weights = found.module.weight.detach().float().to(device_of(network))
    weights = weights if isinstance(found.module, Conv1D) else weights.T
    weights = weights * getattr(network.config, "residual_multiplier", 1.0)
    if network.config.model_type in WITH_NORM_AFTER:
        norm = blocks_of(network)[layer].get_submodule(NORM_AFTER[reader])
        probed = _probed(norm, weights.shape[1], weights.device)
        if probed is None:
            return None
        weights = weights * probed[0].to(weights.device)
    return weights.contiguous()


def direct_effects(network: PreTrainedModel, weights: torch.Tensor) -> torch.Tensor | None:
    """The logits that vectors of the residual stream add directly, up to one positive factor for each token.

    The final norm's weight is applied (Gemma's is 1 + weight), and its centring if it is a LayerNorm; its division by
    the token's spread is left out, and so are biases and a soft cap. A projection between the norm and the unembedding
    (OPT), and the constant scale of the logits (Granite, Cohere) are applied.

    Args:
        network: a causal Hugging Face model with its head.
        weights: `[n, width of the stream]`, such as rows of `output_weights`.

    Returns:
        `[n, vocabulary]` float32, on the model's device; None if the path cannot be read (`why_no_direct_path`).
    """
    to_logits = path_to_logits(network)
    return None if to_logits is None else to_logits(weights)


def path_to_logits(network: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The function from vectors to what `direct_effects` says of them, for many calls: the path is found only once."""
    path = _find_path(network)
    if isinstance(path, str):
        return None

    def to_logits(weights: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            values = weights.to(path.scale.device, torch.float32)
            values = (values - values.mean(-1, keepdim=True) if path.centres else values) * path.scale
            for linear in path.linear:
                with at_hand(linear):
                    values = values.to(linear.weight.device) @ linear.weight.float().T
            scale = _scale_of_logits(network)
            return (values if scale == 1 else values * scale).to(device_of(network))

    return to_logits


def why_no_direct_path(network: PreTrainedModel) -> str | None:
    """Why `direct_effects` gives None for this model, in half a sentence; None if it does not."""
    path = _find_path(network)
    return path if isinstance(path, str) else None


def stream_goes_through_norms(config: Any) -> bool:
    """Whether the residual stream itself is normed in every block (options of BLOOM and OPT), so that nothing adds up
    along it."""
    after_attention = getattr(config, "apply_residual_connection_post_layernorm", False)
    return bool(after_attention) or getattr(config, "do_layer_norm_before", True) is False


def norm_after_blocks(network: PreTrainedModel) -> nn.Module | None:
    """The norm that reads the last block's output, found by a short forward; None if the unembedding reads it."""
    calls, unembedding = _calls(network), network.get_output_embeddings()
    stream = next(output for module, _, output in calls if module is blocks_of(network)[-1])
    changing = (module for module, read, written in calls if _same(read, stream) and not _same(written, stream))
    found = next(changing, None)
    return None if found is unembedding else found


@dataclass(frozen=True)
class _Path:
    """From the residual stream after the last block to the logits."""

    scale: torch.Tensor  # [width] float32, the final norm's weight
    centres: bool  # whether that norm subtracts the mean
    linear: list[Any] = field(default_factory=list)  # the modules after it; the last one is the unembedding


def _scale_of_logits(network: PreTrainedModel) -> float:
    """The constant that a family multiplies its logits by."""
    config: Any = network.config
    if config.model_type.startswith("granite"):
        return 1.0 / config.logits_scaling
    return float(config.logit_scale) if config.model_type.startswith("cohere") else 1.0


def _find_path(network: PreTrainedModel) -> _Path | str:
    """The path, found by a short forward: each module on it reads what the one before it has put out."""
    config: Any = network.config
    unembedding: Any = network.get_output_embeddings() if network.base_model is not network else None
    if unembedding is None:
        return "the model has no unembedding"
    if stream_goes_through_norms(config):
        return "the residual stream goes through every later block's norm"
    calls = _calls(network)
    current, modules = next(output for module, _, output in calls if module is blocks_of(network)[-1]), []
    while not modules or modules[-1] is not unembedding:
        following = next(
            (call for call in calls if _same(call[1], current) and not _same(call[2], current)),
            None,
        )
        if following is None or following[0] in modules:
            return f"no module that reads what {_named(network, modules)} puts out leads to the unembedding"
        modules.append(following[0])
        current = following[2]
    norm, *linear = modules
    if not linear or not all(isinstance(one, nn.Linear) for one in linear):
        return "what stands between the blocks and the unembedding is no norm, or more than a norm"
    probed = _probed(norm, calls[0][2].shape[-1], device_of(network))
    if probed is None:
        return f"what follows the blocks, {_named(network, [norm])}, is no LayerNorm and no RMSNorm"
    return _Path(*probed, linear)


def _calls(network: PreTrainedModel) -> list[tuple[nn.Module, torch.Tensor, torch.Tensor]]:
    """Modules from the last block on, each with what it read and put out in a short forward, in the order of calls."""
    within = f"{family_of(network).blocks}."
    inside = {module for name, module in network.base_model.named_modules() if name.startswith(within)}
    last, calls, mine, device = blocks_of(network)[-1], [], threading.get_ident(), device_of(network)

    def hook(module: nn.Module, given: tuple, named: dict[str, Any], output: Any) -> None:
        read = given[0] if given else next(iter(named.values()), None)
        written = output[0] if isinstance(output, tuple) else output
        if threading.get_ident() != mine or not (calls or module is last):
            return
        if isinstance(read, torch.Tensor) and isinstance(written, torch.Tensor) and read.is_floating_point():
            calls.append((module, *(one.detach().to(device, copy=True) for one in (read, written))))

    handles = []
    try:
        outside = [module for module in network.modules() if module is last or module not in inside]
        handles += [module.register_forward_hook(hook, with_kwargs=True) for module in outside]
        with torch.inference_mode():
            network(input_ids=torch.arange(3, device=device_of(network))[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.numel() == other.numel() and bool((one.flatten() == other.flatten()).all())


def _named(network: PreTrainedModel, modules: list[nn.Module]) -> str:
    names = {module: name for name, module in network.named_modules()}
    return names[modules[-1]] if modules else "the last block"


def _probed(norm: nn.Module, width: int, device: torch.device) -> tuple[torch.Tensor, bool] | None:
    """A norm's weight `[width]` float32, and whether it centres; None if the module is no such norm.

    The norm itself is asked, with float32 copies of its weights, because some multiply by their weight and some by
    1 + weight: what it makes of x, of mean 0 and spread 1, less what it makes of −x, is 2 · weight · x.
    """
    norm = alone(norm)
    weights = {name: value.detach().float() for name, value in norm.named_parameters()}
    device = next(iter(weights.values())).device if weights else device
    x = torch.ones(width, device=device)
    x[1::2] = -1
    if width % 2:
        x[-3:] = torch.tensor([1.0, 1.0, -2.0]) / 2**0.5
    x *= 100  # the small constant beside the variance is nothing to that

    def of(values: torch.Tensor) -> torch.Tensor:
        return functional_call(norm, weights, (values[None, None],))[0, 0].float()

    with torch.inference_mode():
        odd = (of(x) - of(-x)) / 2
        scale = odd / (x / 100)
        centres = bool(((of(x + 50) - of(-x - 50)) / 2 - odd).abs().max() <= CLOSE * odd.abs().max())
        # A norm gives the same for a multiple of x, and for other x what its weight says
        other = torch.linspace(-3, 5, width, device=device).sin() * 100
        expected = other - other.mean() if centres else other
        expected = expected * scale / expected.square().mean().sqrt()
        is_norm = bool(((of(other) - of(-other)) / 2 - expected).abs().max() <= CLOSE * expected.abs().max())
    return (scale.clone(), centres) if is_norm else None
