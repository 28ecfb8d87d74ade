"""Models: from a config to a language model on a device, and the modules that hold its neurons. Knows no experiment.

`load_model` gives a `LanguageModel`; `find_sites` gives the modules whose outputs are the activations of a `Site`.
"""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.models.choices import parse_layers
    from neurexp.models.direct import direct_effects, output_weights
    from neurexp.models.fast import fast_forward
    from neurexp.models.load import LanguageModel, choose_device, load_model
    from neurexp.models.sites import Site, find_sites

__all__ = [
    "LanguageModel",
    "Site",
    "choose_device",
    "direct_effects",
    "fast_forward",
    "find_sites",
    "load_model",
    "output_weights",
    "parse_layers",
]

_HOMES = {
    "LanguageModel": "neurexp.models.load",
    "Site": "neurexp.models.sites",
    "choose_device": "neurexp.models.load",
    "direct_effects": "neurexp.models.direct",
    "fast_forward": "neurexp.models.fast",
    "find_sites": "neurexp.models.sites",
    "load_model": "neurexp.models.load",
    "output_weights": "neurexp.models.direct",
    "parse_layers": "neurexp.models.choices",
}
__getattr__ = lazy(__name__, _HOMES)
