"""Models: from a config to a language model on a device, and where its neurons live. Knows no experiment."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.models.fast import fast_forward
    from neurexp.models.load import LanguageModel, load_model
    from neurexp.models.sites import Site, find_sites, parse_layers

__all__ = ["LanguageModel", "Site", "fast_forward", "find_sites", "load_model", "parse_layers"]

_HOMES = {
    "LanguageModel": "neurexp.models.load",
    "Site": "neurexp.models.sites",
    "fast_forward": "neurexp.models.fast",
    "find_sites": "neurexp.models.sites",
    "load_model": "neurexp.models.load",
    "parse_layers": "neurexp.models.sites",
}
__getattr__ = lazy(__name__, _HOMES)
