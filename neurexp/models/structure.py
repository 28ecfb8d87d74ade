"""The sites of an architecture that neurexp does not know, found by the structure of its blocks.

A short forward of random tokens shows what each linear layer reads and puts out. The sites are taken only if the
recomputation holds in every block: act(MLP), times UP if there is one, is what the down-projection reads, and
attention and MLP add up to what the block adds to the residual stream. Knows no family by name.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from neurexp.models.families import Address, Family, Part
from neurexp.models.spread import device_of

log = logging.getLogger(__name__)

# Largest accepted ‖found − recomputed‖ / ‖recomputed‖
AGREEMENT = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
SEQUENCES, LENGTH = 2, 7  # of the probe
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation")  # names in configs


@dataclass(frozen=True)
class _Seen:
    """What went in and out of the modules of one block, in float32 `[sequences, length, columns]`."""

    inputs: dict[str, torch.Tensor]  # by the module's path in the block; the block itself is ""
    outputs: dict[str, torch.Tensor]
    linear: list[str]


def find_family(network: PreTrainedModel) -> Family | None:
    """The family that a model's structure shows, or None if the recomputation fails.

    The log says what was found, and how well it agrees.
    """
    blocks = _find_blocks(network)
    act = next((getattr(network.config, name, None) for name in ACTIVATIONS if hasattr(network.config, name)), None)
    if blocks is None or not isinstance(act, str) or act not in ACT2FN:
        return None
    path, modules = blocks
    try:
        seen = _listen(network, modules)
    except Exception:  # whatever a strange architecture raises
        return None
    tolerance, non_linearity = AGREEMENT.get(network.dtype, 1e-5), ACT2FN[act]
    for sites in _candidates(seen[0], non_linearity, tolerance):
        worst = max(_disagreement(block, sites, non_linearity) for block in seen)
        if worst <= tolerance:
            log.info(
                "Architecture %s is not in neurexp's table; its sites were found by structure. The MLP's and "
                "attention's output agree to %.0e with what each block adds to the residual stream; Q, K and V are "
                "taken by their names: blocks %s; %s",
                network.config.model_type,
                worst,
                path,
                ", ".join(f"{name} {address}" for name, address in sites.items()),
            )
            return Family(path, sites, origin="structure")
    return None


def _find_blocks(network: PreTrainedModel) -> tuple[str, nn.ModuleList] | None:
    """The list of modules of one class that holds most of the parameters, and its path."""
    lists = [
        (sum(parameter.numel() for parameter in module.parameters()), name, module)
        for name, module in network.base_model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and len({type(one) for one in module}) == 1
    ]
    if not lists:
        return None
    _, name, module = max(lists, key=lambda one: one[0])
    return name, module


def _listen(network: PreTrainedModel, blocks: nn.ModuleList) -> list[_Seen]:
    seen = [_Seen({}, {}, []) for _ in blocks]
    handles = []

    def hook_for(block: _Seen, path: str):
        def hook(module: nn.Module, arguments: tuple, named: dict[str, Any], output: Any) -> None:
            read = arguments[0] if arguments else next(iter(named.values()), None)
            written = output[0] if isinstance(output, tuple) else output
            for store, value in ((block.inputs, read), (block.outputs, written)):
                if isinstance(value, torch.Tensor) and value.numel() % (SEQUENCES * LENGTH) == 0:
                    store[path] = value.detach().float().reshape(SEQUENCES * LENGTH, -1).clone()

        return hook

    try:
        for block, module in zip(seen, blocks, strict=True):
            for path, one in module.named_modules():
                handles.append(one.register_forward_hook(hook_for(block, path), with_kwargs=True))
                if isinstance(one, nn.Linear | Conv1D):
                    block.linear.append(path)
        generator = torch.Generator().manual_seed(0)
        rows = network.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr, index]
        ids = torch.randint(int(rows), (SEQUENCES, LENGTH), generator=generator).to(device_of(network))
        with torch.inference_mode():
            network.base_model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _candidates(block: _Seen, act: Any, tolerance: float) -> Iterator[dict[str, Address]]:
    """Sites that fit the first block: an output projection of attention, a down-projection, and its expansions."""
    if "" not in block.inputs or "" not in block.outputs:
        return
    added = block.outputs[""] - block.inputs[""]
    to_stream = [path for path in block.linear if block.outputs[path].shape == added.shape]
    for down, out in permutations(to_stream, 2):
        if _differ(block.outputs[down] + block.outputs[out], added) > tolerance:
            continue
        for mlp, up in _expansions(block, block.inputs[down], act, tolerance):
            yield _sites(block, mlp, up, down, out, act)


def _expansions(
    block: _Seen, neuron: torch.Tensor, act: Any, tolerance: float
) -> Iterator[tuple[Address, Address | None]]:
    """Linear outputs whose act(·), or act(gate)·up, is what the down-projection reads."""
    width, outputs = neuron.shape[1], {path: block.outputs[path] for path in block.linear}
    same = [path for path in outputs if outputs[path].shape[1] == width]
    for path in same:
        if _differ(act(outputs[path]), neuron) <= tolerance:
            yield Address(path), None
    for gate, up in permutations(same, 2):
        if _differ(act(outputs[gate]) * outputs[up], neuron) <= tolerance:
            yield Address(gate), Address(up)
    for path in outputs:
        if outputs[path].shape[1] == 2 * width:
            halves = outputs[path].chunk(2, dim=1)
            for gate in range(2):
                if _differ(act(halves[gate]) * halves[1 - gate], neuron) <= tolerance:
                    yield Address(path, part=Part("equal", gate, 2)), Address(path, part=Part("equal", 1 - gate, 2))


def _sites(block: _Seen, mlp: Address, up: Address | None, down: str, out: str, act: Any) -> dict[str, Address]:
    sites = {"MLP": mlp}
    if up is not None:
        sites["UP"] = up
    else:
        sites["ACT"] = Address(down, "input")
    activated = act(_value(block, mlp))
    module = next(
        (path for path in block.outputs if path not in block.linear and _same(block.outputs[path], activated)), None
    )
    if module is not None:
        sites["ACT"] = Address(module)
    sites |= {"NEURON": Address(down, "input"), "PROJ": Address(down), "RESID_PRE": Address("", "input")}
    middle = block.inputs[""] + block.outputs[out]
    reader = next((path for path in block.inputs if path and _same(block.inputs[path], middle)), None)
    if reader is not None:
        sites["RESID_MID"] = Address(reader, "input")
    sites |= {"RESID_POST": Address(""), "ATTN_OUT": Address(out), "Z": Address(out, "input")}
    for name in "QKV":
        named = [
            path for path in block.linear if path.rpartition(".")[2] in (f"{name.lower()}_proj", f"{name.lower()}")
        ]
        if len(named) == 1:
            sites[name] = Address(named[0])
    return sites


def _value(block: _Seen, address: Address) -> torch.Tensor:
    values = (block.inputs if address.side == "input" else block.outputs)[address.module]
    return values if address.part is None else values.chunk(address.part.count, dim=1)[address.part.index]


def _disagreement(block: _Seen, sites: dict[str, Address], act: Any) -> float:
    """The larger relative difference of the two recomputations in a block."""
    with suppress(KeyError, RuntimeError):
        value = {name: _value(block, address) for name, address in sites.items()}
        neuron = act(value["MLP"]) * value["UP"] if "UP" in value else act(value["MLP"])
        added = value["RESID_POST"] - value["RESID_PRE"]
        return max(_differ(value["NEURON"], neuron), _differ(value["ATTN_OUT"] + value["PROJ"], added))
    return float("inf")


def _differ(found: torch.Tensor, expected: torch.Tensor) -> float:
    """‖found − expected‖ / ‖expected‖; infinity where that is no number."""
    difference = float((found - expected).norm() / expected.norm())
    return difference if difference == difference else float("inf")


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and _differ(found, expected) < 1e-4
