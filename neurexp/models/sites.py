"""Sites of a model: from a name such as `MLP` to the modules in its blocks, and how to listen to them.

Which module a site is, `models.families` says for the known architectures, `models.structure` for others, or the user
(`use_family`). Knows nothing of statistics, and not what happens to the activations.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from neurexp.errors import UserError, closest
from neurexp.models.choices import no_such_site, site_names
from neurexp.models.families import BY_HEAD, FAMILIES, SITES, Address, Family, Part, head_width
from neurexp.models.structure import find_family

TELL = "tell neurexp where its neurons are with model.blocks=PATH and model.sites.MLP=PATH (docs/models.md)"
_ADDRESS = re.compile(r"(?P<module>[A-Za-z_][\w.]*|)(?:\[(?P<index>\d+)/(?P<count>\d+)\])?(?P<input>:input)?")

# Families that were found by structure, or that the user gave, by the model without its head
_families: WeakKeyDictionary[nn.Module, Family] = WeakKeyDictionary()


@dataclass(frozen=True)
class Site:
    """One site of one layer of a model: its name, its module and its place there."""

    name: str
    layer: int
    module: nn.Module
    address: Address
    config: Any  # of the model

    @property
    def key(self) -> str:
        """The key of its activations, `MLP_0`."""
        return f"{self.name}_{self.layer}"

    @property
    def is_bypassed(self) -> bool:
        """Whether its values also go around the module that reads them: the residual stream between attention and MLP
        does, except where a config lets the stream go through the norm."""
        through_norm = getattr(self.config, "apply_residual_connection_post_layernorm", False)
        return self.name == "RESID_MID" and self.address.side == "input" and not through_norm

    def read(self, values: Any) -> torch.Tensor:
        """The activations in the module's output, or in its first input: `[…, neurons]`."""
        if isinstance(values, tuple):
            values = values[0]
        return values if self.address.part is None else self.address.part.of(values, self.config)

    def listen(self, receive: Callable[[torch.Tensor], None]) -> RemovableHandle:
        """Calls `receive` with the activations whenever the module is called, until the handle is removed."""
        if self.address.side == "output":
            return self.module.register_forward_hook(lambda module, arguments, output: receive(self.read(output)))

        def before(module: nn.Module, arguments: tuple, named: dict[str, Any] | None = None) -> None:
            if named is None:
                return  # see `replace`
            receive(self.read(arguments or next(iter(named.values()))))

        return self.module.register_forward_pre_hook(before, with_kwargs=True)

    def columns(self, width: int) -> torch.Tensor:
        """Which of the `width` columns that the module puts out, or reads, are the site's neurons: `[neurons]`."""
        every = torch.arange(width)
        return every if self.address.part is None else self.address.part.of(every, self.config)

    def replace(self, change: Callable[[torch.Tensor], torch.Tensor], first: bool = False) -> RemovableHandle:
        """Calls `change` with all columns `[…, width]` of the module's output, or of its first input, and lets the
        model go on with what it returns, until the handle is removed. `first`: before hooks that are there already."""
        if self.address.side == "output":

            def after(module: nn.Module, arguments: tuple, output: Any) -> Any:
                return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

            return self.module.register_forward_hook(after, prepend=first)

        def before(
            module: nn.Module, arguments: tuple, named: dict[str, Any] | None = None
        ) -> tuple[tuple, dict[str, Any]] | None:
            if named is None:  # another thread is just registering or removing the hook: PyTorch does so in two steps
                return None
            if arguments:
                return (change(arguments[0]), *arguments[1:]), named
            name = next(iter(named))
            return arguments, named | {name: change(named[name])}

        return self.module.register_forward_pre_hook(before, with_kwargs=True, prepend=first)


def unknown_architecture(model_type: object) -> UserError:
    """The error for a `model_type` that neurexp does not know. It names the known ones, and the options that help."""
    return UserError(
        f"model.name: the architecture {model_type!r} is not known to neurexp; known are {', '.join(FAMILIES)}; give a "
        f"model of one of them, or {TELL}"
    )


def family_of(network: PreTrainedModel) -> Family:
    """The family of a Hugging Face model, with or without its head.

    An architecture that is not in the table is searched by its structure, once for each model, with a short forward.

    Raises:
        UserError: neither helps; the message names the known architectures.
    """
    given = _families.get(network.base_model)
    if given is not None:
        return given
    known = FAMILIES.get(network.config.model_type)
    if known is None:
        known = find_family(network)
        if known is None:
            raise unknown_architecture(network.config.model_type)
        use_family(network, known)
    return known


def use_family(network: PreTrainedModel, family: Family) -> None:
    """Takes `family` for this model from now on."""
    _families[network.base_model] = family


def family_with(network: PreTrainedModel, blocks: str | None, sites: Mapping[str, str]) -> Family:
    """The model's family, with the blocks and sites that a user gives (`model.blocks=`, `model.sites.NAME=`).

    Args:
        network: the model.
        blocks: the path of the list of blocks, in the whole model or in the model without its head; None: as known.
        sites: name → the path of a module in a block. `PATH:input` is what the module reads; `PATH[1/3]` is the second
            of three equal parts.

    Raises:
        UserError: a path leads nowhere, or does not have this form.
    """
    known = FAMILIES.get(network.config.model_type)
    if blocks is None:
        known = known or family_of(network)
        blocks = known.blocks
    blocks = blocks.removeprefix(f"{network.base_model_prefix}.")
    found = _module(network.base_model, blocks, f"model.blocks={blocks}")
    if not isinstance(found, nn.ModuleList) or not len(found):
        lists = [name for name, module in network.base_model.named_modules() if isinstance(module, nn.ModuleList)]
        raise UserError(
            f"model.blocks={blocks}: is no list of blocks (it is {type(found).__name__}); this model has "
            f"{', '.join(lists[:8]) or 'none'}; give one of them"
        )
    own = {name: _parsed(name, path) for name, path in sites.items()}
    for name, address in own.items():
        _module(found[0], address.module, f"model.sites.{name}={address}")
    stream = {"RESID_PRE": Address("", "input"), "RESID_POST": Address("")}
    whole = (known.sites if known is not None else stream) | own
    ordered = {
        name: whole[name]
        for name in sorted(whole, key=lambda name: list(SITES).index(name) if name in SITES else len(SITES))
    }
    return replace(known or Family(blocks, {}), blocks=blocks, sites=ordered, origin="options")


def _parsed(name: str, path: str) -> Address:
    match = _ADDRESS.fullmatch(str(path))
    if match is None or not (match["module"] or match["input"]) or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
        raise UserError(
            f"model.sites.{name}={path}: give a NAME in capitals, and PATH, PATH:input or PATH[INDEX/COUNT], such as "
            "model.sites.MLP=mlp.fc1"
        )
    part = None
    if match["count"]:
        index, count = int(match["index"]), int(match["count"])
        if not 0 <= index < count:
            raise UserError(f"model.sites.{name}={path}: give an INDEX from 0 and a larger COUNT, such as [0/3]")
        part = Part("equal", index, count)
    return Address(match["module"], "input" if match["input"] else "output", part)


def _module(root: nn.Module, path: str, given: str) -> nn.Module:
    try:
        return root.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in root.named_modules() if name and "." not in name]
        near = closest(path, [name for name, _ in root.named_modules() if name])
        raise UserError(
            f"{given}: no such module in {type(root).__name__}{near or ', which has ' + ', '.join(names)}"
        ) from None


def blocks_of(network: PreTrainedModel) -> nn.ModuleList:
    """The model's blocks, in order. Raises UserError for an unknown architecture."""
    return cast(nn.ModuleList, network.base_model.get_submodule(family_of(network).blocks))


def trunk_of(network: PreTrainedModel) -> nn.Module:
    """The module that runs the blocks, from token ids to the last hidden states: OPT's is not the whole base model."""
    return network.base_model.get_submodule(family_of(network).blocks.rpartition(".")[0])


def sites_of(network: PreTrainedModel) -> dict[str, Address]:
    """The sites that this model has, by name. Some depend on the config: a parallel block has no `RESID_MID`."""
    return {name: address for name, address in family_of(network).sites.items() if address.exists(network.config)}


def find_sites(
    network: PreTrainedModel, site: str | Sequence[str] = "MLP", layers: Sequence[int] | None = None
) -> list[Site]:
    """The modules of one or several sites in `layers` (every layer if None): all layers of a site, then the next site.

    `network` is a Hugging Face model with or without its head.

    Raises:
        UserError: the family, a site or a layer is unknown; the message lists what there is.
    """
    known, blocks = sites_of(network), blocks_of(network)
    found = []
    for name in [site] if isinstance(site, str) else site_names(site):
        if name not in known:
            raise _unknown_site(network, name, known)
        address = known[name]
        for layer in range(len(blocks)) if layers is None else layers:
            try:
                module = blocks[layer].get_submodule(address.module)
            except AttributeError:
                raise UserError(
                    f"experiment.site={name}: layer {layer} of this model has no {address.module}; give "
                    f"experiment.layer= of layers that have it, or another model.sites.{name}="
                ) from None
            found.append(Site(name, layer, module, address, network.config))
    return found


def _unknown_site(network: PreTrainedModel, name: str, known: Mapping[str, Address]) -> UserError:
    family, kind = family_of(network), network.config.model_type
    if family.experts and name in SITES:
        return UserError(
            f"experiment.site={name}: {kind} is a mixture of experts, whose neurons neurexp cannot address, because "
            f"each token goes through other experts; it has {', '.join(known)}; give one of them"
        )
    if name in family.sites:
        return UserError(
            f"experiment.site={name}: this {kind} has none, because its attention and MLP run beside each other or its "
            f"norms follow them; it has {', '.join(known)}; give one of them"
        )
    error = no_such_site(name, kind, list(known))
    return UserError(f"{error}, or {TELL}") if name in SITES and "MLP" not in known else error


def width_of_head(network: PreTrainedModel, site: str) -> int | None:
    """How many neurons a head has, at a site that is made of heads (`Q`, `K`, `V`, `Z`); None elsewhere."""
    known = FAMILIES.get(network.config.model_type)
    if site not in BY_HEAD or known is None or family_of(network).sites[site] != known.sites.get(site):
        return None
    return head_width(network.config)
