"""The choice of sites and layers, as options and functions take it, and an early check of it.

Imports nothing heavy: a model's `config.json` shows most mistakes within a second.
"""

from collections.abc import Iterable
from typing import Any, cast

import numpy as np

from neurexp.errors import UserError, closest
from neurexp.models import contents
from neurexp.models.families import FAMILIES
from neurexp.models.locations import Location

POOLINGS = ("mean", "first", "last", "max")  # of a word's tokens
# What the number of blocks is called in a `config.json`
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def site_names(site: object) -> list[str]:
    """`experiment.site` as a list of different names: one name, or a list of them.

    Raises:
        UserError: another form.
    """
    names = list(site) if isinstance(site, list | tuple) else [site]
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        shown = str(site).replace("'", "").replace(", ", ",").replace("None", "null")
        raise UserError(f"experiment.site={shown}: give one site, or a list of different ones such as [Q,K,V]")
    return cast(list[str], names)


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


def check_early(location: Location | None, site: object, layer: object, more_sites: Iterable[str] = ()) -> None:
    """Checks the chosen sites and layers by the model's `config.json`, if that can tell. `find_sites` checks the rest.

    Args:
        location: of the model. For None, a GGUF file or an unknown architecture nothing but the form is checked.
        site: `experiment.site`.
        layer: `experiment.layer`; None stands for the default.
        more_sites: the names in `model.sites`.

    Raises:
        UserError: the model has no such site or layer.
    """
    names = site_names(site)
    config = _config_in(location)
    kind = str(config.get("model_type"))
    family = FAMILIES.get(kind)
    if family is None:
        return
    known = [*family.sites, *more_sites]
    for name in names:
        if name not in known and not family.experts:
            raise no_such_site(name, kind, known)
    count = next((config[key] for key in LAYERS if type(config.get(key)) is int), None)
    if layer is not None and count is not None:
        parse_layers(layer, count)


def no_such_site(name: str, kind: str, known: list[str]) -> UserError:
    """The error for a site that is none of `known`; `kind` is the model's type."""
    advice = closest(str(name).upper(), known) or "; give one of them"
    return UserError(f"experiment.site={name}: {kind} has {', '.join(known)}{advice}")


def _config_in(location: Location | None) -> dict[str, Any]:
    """The `config.json` of a model, of its text part if it has several; empty if there is none."""
    if location is None or location.is_gguf or "config.json" not in location.names:
        return {}
    config = contents.read_json(location.file("config.json", f"model.name={location.name}"))
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config
