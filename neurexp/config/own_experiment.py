"""The config of an experiment that is given as a class, as a config file would have it. Imports nothing heavy."""

import re
from dataclasses import MISSING, fields
from typing import Any

from hydra.core.config_store import ConfigStore

from neurexp.config.schema import CONFIG_FOLDER
from neurexp.errors import UserError


def name_of(experiment: type) -> str:
    """`NegationTuning` → `negation_tuning`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", experiment.__name__).lower()


def _defaults(experiment: type) -> dict[str, Any]:
    """The options of an experiment's dataclass with their defaults; Hydra's `???` for one that must be given."""
    made = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(experiment.Options)  # type: ignore[attr-defined]
    }
    return {name: "???" if value is MISSING else value for name, value in made.items()}


def register(experiment: type) -> str:
    """Makes `experiment=NAME` a choice, with the options of the class's base and its own. Returns the name.

    The base is the nearest of the class's own bases that has a file of options in `conf` (`conf/contrast.yaml`).

    Raises:
        UserError: the class is no experiment that can be run so.
    """
    base = next((one for one in experiment.__mro__ if (CONFIG_FOLDER / f"{one.__name__.lower()}.yaml").is_file()), None)
    if base is None or base is experiment or not base.__module__.startswith("neurexp."):
        raise UserError(
            f"{experiment.__name__}: is no experiment of your own; give a class that derives from neurexp.Contrast, "
            "Profile, Regression, Intervention or Optimisation"
        )
    if "<locals>" in experiment.__qualname__:
        raise UserError(f"{experiment.__name__}: is inside a function; define it at the top of a module or cell")
    given, own = _defaults(base), _defaults(experiment)
    # The base's file has its defaults; what the class adds, and what it sets anew, is its own
    own = {option: value for option, value in own.items() if option not in given or value != given[option]}
    name = name_of(experiment)
    node = {
        "defaults": [f"/{base.__name__.lower()}@_here_", "_self_"],
        "name": name,
        "plugin": f"{experiment.__module__}.{experiment.__qualname__}",
        **own,
    }
    ConfigStore.instance().store(name, node, group="experiment", provider="neurexp")
    return name
