"""The options of the built-in experiments, and the checks that need neither a model nor a text. Imports nothing heavy.

So a mistake is told before PyTorch is imported. A plugin CLASS has its options in `CLASSOptions`. A class of one's own
has its options beside it; they are checked once its module is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from neurexp.config.schema import typed
from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.experiments.options.base import Options

__all__ = ["Options", "known_options"]

_HOMES = {"Options": "neurexp.experiments.options.base"}
_MODULES = ("contrasts", "interventions", "optimisations", "others", "profiles", "regressions")
__getattr__ = lazy(__name__, _HOMES)


def known_options(experiment: DictConfig) -> "Options | None":
    """The checked options of a built-in experiment; None for a class of one's own.

    Raises:
        UserError: an option has the wrong type, or a value that can never work.
    """
    module, _, name = str(experiment.get("plugin")).rpartition(".")
    if not module.startswith("neurexp.experiments."):
        return None
    for place in _MODULES:
        found = getattr(import_module(f"{__name__}.{place}"), f"{name}Options", None)
        if found is not None:
            options = typed(experiment, found)
            options.check()
            return options
    return None
