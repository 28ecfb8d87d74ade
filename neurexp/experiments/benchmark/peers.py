"""The peers of a benchmark: TransformerLens and nnsight fetch the same activations, and edit the same neurons,
in the way their users would.

Both change the network that they wrap, so each gets a copy that shares its weights. Nothing is downloaded. Each
library is imported when it is used, and left out if it is not installed.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from functools import reduce
from importlib import import_module, metadata
from typing import Any

import torch
from transformers import PreTrainedModel

from neurexp.errors import one_line
from neurexp.experiments.benchmark.ablations import Ablate, token_losses
from neurexp.models.sites import Site

log = logging.getLogger(__name__)

Fetch = Callable[
    [torch.Tensor], list[torch.Tensor]
]  # ids [sequences, length] → each site's [sequences, length, neurons]


# Site → the name of TransformerLens's hook in a block
HOOK_NAMES = {
    "MLP": "mlp.hook_pre", "UP": "mlp.hook_pre_linear", "NEURON": "mlp.hook_post", "PROJ": "hook_mlp_out",
    "RESID_PRE": "hook_resid_pre", "RESID_MID": "hook_resid_mid", "RESID_POST": "hook_resid_post",
    "ATTN_OUT": "hook_attn_out", "Z": "attn.hook_z", "Q": "attn.hook_q", "K": "attn.hook_k", "V": "attn.hook_v",
}  # fmt: skip


def _bridge(network: PreTrainedModel) -> Any:
    """TransformerLens's bridge around the loaded model."""
    build = import_module("transformer_lens.model_bridge.sources").build_bridge_from_module
    twin = _twin(network)
    return build(twin, type(twin).__name__, hf_config=twin.config)


def _transformer_lens(network: PreTrainedModel, sites: Sequence[Site]) -> Fetch:
    """TransformerLens: `run_with_cache` with a filter of names."""
    if unnamed := {site.name for site in sites} - set(HOOK_NAMES):
        raise NotImplementedError(f"{', '.join(sorted(unnamed))} has no counterpart there that is compared")
    bridge = _bridge(network)
    names = [f"blocks.{site.layer}.{HOOK_NAMES[site.name]}" for site in sites]

    def fetch(ids: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(ids, return_type=None, names_filter=names)
            return [cache[name].flatten(2) for name in names]  # heads apart

    return fetch


def _nnsight(network: PreTrainedModel, sites: Sequence[Site]) -> Fetch:
    """nnsight: a trace that saves every output and stops the forward after the last one."""
    nnsight = import_module("nnsight")
    paths = {id(module): path for path, module in network.named_modules()}
    model = nnsight.NNsight(_twin(network))
    places = [(_follow(model, paths[id(site.module)]), site.address.side) for site in sites]

    def fetch(ids: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode(), model.trace(ids) as tracer:
            saved = nnsight.save([getattr(module, side) for module, side in places])
            tracer.stop()
        return [site.read(values) for site, values in zip(sites, saved, strict=True)]

    return fetch


def _zeros_of_transformer_lens(network: PreTrainedModel, site: Site) -> Ablate:
    """TransformerLens: `run_with_hooks`, and its own loss per token."""
    bridge = _bridge(network)
    name = f"blocks.{site.layer}.{HOOK_NAMES[site.name]}"

    def ablate(ids: torch.Tensor, neurons: torch.Tensor) -> torch.Tensor:
        def zero(values: torch.Tensor, hook: Any) -> torch.Tensor:
            values[..., neurons] = 0
            return values

        with torch.inference_mode():
            return bridge.run_with_hooks(ids, return_type="loss", loss_per_token=True, fwd_hooks=[(name, zero)])

    return ablate


def _zeros_of_nnsight(network: PreTrainedModel, site: Site) -> Ablate:
    """nnsight: a trace that writes into what the module reads or puts out, and the loss of the logits that it saves."""
    nnsight = import_module("nnsight")
    paths = {id(module): path for path, module in network.named_modules()}
    model = nnsight.NNsight(_twin(network))
    module, side = _follow(model, paths[id(site.module)]), site.address.side
    head = _follow(model, paths[id(network.get_output_embeddings())])

    def ablate(ids: torch.Tensor, neurons: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), model.trace(ids):
            if side == "input":
                module.input[..., neurons] = 0
            else:
                module.output[..., neurons] = 0
            logits = nnsight.save(head.output)
        return token_losses(logits, ids)

    return ablate


def _twin(network: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules that shares the weights in memory."""
    return copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()})


def _follow(model: Any, path: str) -> Any:
    return reduce(lambda at, name: at[int(name)] if name.isdigit() else getattr(at, name), path.split("."), model)


# Case → the library's name, its name on PyPI, and the function that builds its `Fetch`
PEERS: dict[str, tuple[str, str, Callable[[PreTrainedModel, Sequence[Site]], Fetch]]] = {
    "transformer_lens": ("TransformerLens", "transformer-lens", _transformer_lens),
    "nnsight": ("nnsight", "nnsight", _nnsight),
}


# Case → the library's name, its name on PyPI, and the function that builds its `Ablate`
ABLATING: dict[str, tuple[str, str, Callable[[PreTrainedModel, Site], Ablate]]] = {
    "transformer_lens": ("TransformerLens", "transformer-lens", _zeros_of_transformer_lens),
    "nnsight": ("nnsight", "nnsight", _zeros_of_nnsight),
}


def find_ablating_peers(
    network: PreTrainedModel, site: Site, difference_of: Callable[[Ablate], float], tolerance: float
) -> dict[str, tuple[str, Ablate, float]]:
    """The installed peers that predict what our edited models do: case → (name and version, ablate, difference).

    Args:
        network: the model; its modules are not changed.
        site: whose neurons are set to zero.
        difference_of: the largest difference of a loss from ours, in nats.
        tolerance: of that.
    """
    return _usable(ABLATING, lambda make: make(network, site), difference_of, tolerance, "losses")


def find_peers(
    network: PreTrainedModel,
    sites: Sequence[Site],
    ids: torch.Tensor,
    reference: Sequence[torch.Tensor],
    tolerance: float,
) -> dict[str, tuple[str, Fetch, float]]:
    """The peers that are installed and give the same activations: case → (name and version, fetch, difference).

    Args:
        network: the model; its modules are not changed.
        sites: its sites, from `find_sites`.
        ids: `[sequences, length]`, for the comparison.
        reference: our activations on `ids`, one tensor for each site.
        tolerance: of the difference, which is the largest ‖theirs − ours‖ / ‖ours‖ over sites.
    """

    def difference(fetch: Fetch) -> float:
        return max(_difference(*pair) for pair in zip(fetch(ids), reference, strict=True))

    return _usable(PEERS, lambda make: make(network, sites), difference, tolerance, "activations")


def _usable(
    peers: dict[str, tuple[str, str, Any]],
    build: Callable[[Any], Any],
    difference_of: Callable[[Any], float],
    tolerance: float,
    compared: str,
) -> dict[str, tuple[str, Any, float]]:
    """Those of `peers` that are installed, run the model, and give what we give."""
    found = {}
    for case, (name, package, make) in peers.items():
        try:
            version = metadata.version(package)
            work = build(make)
            difference = difference_of(work)
        except (ImportError, metadata.PackageNotFoundError) as error:
            log.info("%s: not installed, left out (%s; pip install '.[peers]')", name, one_line(error))
            continue
        except Exception as error:  # a peer that cannot run this model must not stop the benchmark
            log.warning("%s: cannot run this model, left out (%s: %s)", name, type(error).__name__, one_line(error))
            continue
        if not difference <= tolerance:
            log.warning("%s: its %s differ from ours by %.1e, left out", name, compared, difference)
            continue
        found[case] = (f"{name} {version}", work, difference)
    return found


def _difference(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    ours = ours.to(theirs.device).double()
    return float((theirs.double() - ours).norm() / ours.norm())
