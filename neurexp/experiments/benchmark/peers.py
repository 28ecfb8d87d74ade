"""The peers of a benchmark: TransformerLens and nnsight fetch the same activations, in the way their users would.

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


def _transformer_lens(network: PreTrainedModel, sites: Sequence[Site]) -> Fetch:
    """TransformerLens: its bridge around the loaded model, and `run_with_cache` with a filter of names."""
    build = import_module("transformer_lens.model_bridge.sources").build_bridge_from_module
    if unnamed := {site.name for site in sites} - set(HOOK_NAMES):
        raise NotImplementedError(f"{', '.join(sorted(unnamed))} has no counterpart there that is compared")
    twin = _twin(network)
    bridge = build(twin, type(twin).__name__, hf_config=twin.config)
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
    found = {}
    for case, (name, package, make) in PEERS.items():
        try:
            version = metadata.version(package)
            fetch = make(network, sites)
            difference = max(_difference(*pair) for pair in zip(fetch(ids), reference, strict=True))
        except (ImportError, metadata.PackageNotFoundError) as error:
            log.info("%s: not installed, left out (%s; pip install '.[peers]')", name, one_line(error))
            continue
        except Exception as error:  # a peer that cannot run this model must not stop the benchmark
            log.warning("%s: cannot run this model, left out (%s: %s)", name, type(error).__name__, one_line(error))
            continue
        if not difference <= tolerance:
            log.warning("%s: its activations differ from ours by %.1e, left out", name, difference)
            continue
        found[case] = (f"{name} {version}", fetch, difference)
    return found


def _difference(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    ours = ours.to(theirs.device).double()
    return float((theirs.double() - ours).norm() / ours.norm())
