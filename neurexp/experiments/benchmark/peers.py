"""The peers of a benchmark: TransformerLens and nnsight, each asked for the same activations as its users would ask.

They get a copy of the network that shares its weights, for both change what they wrap. Nothing is downloaded. What they
need is imported here and only when it is asked for; where it is not installed they are left out.
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


def _transformer_lens(network: PreTrainedModel, sites: Sequence[Site]) -> Fetch:
    """Its bridge around a model that is there already, and `run_with_cache` with a filter of names."""
    build = import_module("transformer_lens.model_bridge.sources").build_bridge_from_module
    if any(not site.key.startswith("MLP_") for site in sites):
        raise NotImplementedError("only the site MLP is compared")
    twin = _twin(network)
    bridge = build(twin, type(twin).__name__, hf_config=twin.config)
    names = [f"blocks.{site.layer}.mlp.hook_pre" for site in sites]

    def fetch(ids: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(ids, return_type=None, names_filter=names)
            return [cache[name] for name in names]

    return fetch


def _nnsight(network: PreTrainedModel, sites: Sequence[Site]) -> Fetch:
    """A trace that saves every output and stops the forward after the last one."""
    nnsight = import_module("nnsight")
    if any(site.address.parts > 1 for site in sites):
        raise NotImplementedError("only sites that are a module of their own are compared")
    paths = {id(module): path for path, module in network.named_modules()}
    model = nnsight.NNsight(_twin(network))
    modules = [_follow(model, paths[id(site.module)]) for site in sites]

    def fetch(ids: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode(), model.trace(ids) as tracer:
            saved = nnsight.save([module.output for module in modules])
            tracer.stop()
        return saved

    return fetch


def _twin(network: PreTrainedModel) -> PreTrainedModel:
    """Modules of its own, the same weights in memory."""
    return copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()})


def _follow(model: Any, path: str) -> Any:
    return reduce(lambda at, name: at[int(name)] if name.isdigit() else getattr(at, name), path.split("."), model)


# Case → its own name, the package as pip knows it, and what makes it fetch
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
        network: its own modules stay as they are.
        sites: of `find_sites`, on it.
        ids: `[sequences, length]`, a few to compare on.
        reference: our own activations of them, of each site.
        tolerance: the largest ‖theirs − ours‖ / ‖ours‖ over sites for which they count as the same; it is the
            difference that is returned.
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
        except Exception as error:  # whatever it cannot do with this model is no failure of the benchmark
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
