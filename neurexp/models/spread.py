"""A model that is spread over devices: GPUs, the CPU's memory and the disk (`model.device_map`).

accelerate chooses where each block lies, and moves inputs to it; a block in the CPU's memory or on the disk computes on
the first GPU, or on the CPU if there is none. Knows no text.
"""

import copy
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from neurexp.errors import UserError

MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
ASIDE = ("cpu", "disk")  # where weights lie that are fetched for each forward


def is_spread(network: nn.Module) -> bool:
    """Whether parts of the model are on several devices, or on the disk."""
    places = {str(place) for place in (getattr(network, "hf_device_map", None) or {}).values()}
    return len(places) > 1 or "disk" in places


def device_of(network: Any) -> torch.device:
    """The device of a model's inputs, and of what is kept of its activations: its own, or the first that computes."""
    if not is_spread(network):
        return network.device
    computing = [place for place in network.hf_device_map.values() if str(place) not in ASIDE]
    return torch.device(computing[0] if computing else "cpu")


def at_hand(module: nn.Module) -> AbstractContextManager[None]:
    """Within the context the module's own weights are in memory, on the device where it computes."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)


def alone(module: nn.Module) -> nn.Module:
    """The module; of a spread model a copy that has its weights in memory and is called as any module."""
    if not hasattr(module, "_hf_hook"):
        return module
    from accelerate.hooks import remove_hook_from_module

    with at_hand(module):
        return remove_hook_from_module(copy.deepcopy(module))


def described(network: nn.Module) -> str:
    """Where the parts of a spread model lie, in words."""
    places = Counter(str(place) for place in network.hf_device_map.values())  # type: ignore[union-attr]
    return ", ".join(f"{'GPU ' * place.isdigit()}{place} ({count} parts)" for place, count in places.items())


def loading_options(device_map: str, max_memory: Mapping[Any, Any] | None, target: torch.device) -> dict[str, Any]:
    """What `from_pretrained` must be told.

    Args:
        device_map: one of `MAPS`.
        max_memory: how much each device may take: GPU index or `cpu` → bytes, or a text such as `10GiB`. What is not
            named is not used; the rest goes to the disk. None: what is free.
        target: a CPU: no GPU is used.

    Raises:
        UserError: accelerate is missing, or an argument is none of these.
    """
    given = f"model.device_map={device_map}"
    if device_map not in MAPS:
        raise UserError(f"{given}: give {', '.join(MAPS)}, or null for one device")
    if find_spec("accelerate") is None:
        raise UserError(f"{given}: needs accelerate: pip install accelerate")
    if target.index is not None:
        raise UserError(f"{given}: spreads the model over all GPUs; give device=auto, or device=cpu for none of them")
    if not isinstance(max_memory, Mapping | None):
        raise UserError(f"model.max_memory={max_memory}: give devices and sizes, such as {{0: 70GiB, cpu: 100GiB}}")
    from accelerate.utils import convert_file_size_to_int, get_max_memory

    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # it tells what `described` tells

    for key, value in (max_memory or {}).items():
        is_device = key == "cpu" or (isinstance(key, int) and not isinstance(key, bool) and key >= 0)
        try:
            size = convert_file_size_to_int(value)
        except (ValueError, AttributeError, TypeError):
            size = -1
        if not is_device or size < 0:
            raise UserError(
                f"model.max_memory={{{key}: {value}}}: give the index of a GPU, or cpu, and a size such as 10GiB"
            )
        if target.type == "cpu" and key != "cpu":
            raise UserError(f"model.max_memory={{{key}: {value}}}: device={target} uses no GPU; give cpu alone")
    if max_memory is None and target.type == "cpu":
        max_memory = {"cpu": get_max_memory()["cpu"]}
    return {"device_map": device_map, "max_memory": None if max_memory is None else dict(max_memory)}
