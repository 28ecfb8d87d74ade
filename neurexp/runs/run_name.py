"""What a run is called in MLflow: its title, and what differs from the defaults of its experiment.

Knows no experiment: the defaults are those of the experiment's own config.
"""

from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neurexp.config.schema import flat
from neurexp.runs.names import pairs
from neurexp.runs.sweep_job import Membership

EXPERIMENT, SEED = "experiment.", "run.seed"
FIRST = ("experiment.site", "experiment.words", "experiment.layer", "experiment.control")
OF_THE_CHOICE = ("experiment.name", "experiment.plugin")  # the MLflow experiment says so already


def run_name(title: str, config: DictConfig, options: Any, job: Membership | None) -> str:
    """The title of a run with what tells it from others of its experiment, such as `mini on pydoc, site=ACT, seed=1`.

    Args:
        title: model and dataset.
        config: of the run, as Hydra composed it.
        options: the experiment's, as its own dataclass.
        job: which job of a sweep the run is; the options that the sweep varies end its name.
    """
    changed = _changed(config, options)
    if job is not None:
        changed = {name: value for name, value in changed.items() if not job.varies(name)}
    order = sorted(changed, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    own = {name.removeprefix(EXPERIMENT): _shown(changed[name]) for name in order if name != SEED}
    parts = [title, *pairs(own, list(own))]
    if SEED in changed:
        parts.append(f"seed={changed[SEED]}")
    return ", ".join(parts if job is None or not job.label else [*parts, job.label])


def _changed(config: DictConfig, options: Any) -> dict[str, str | None]:
    """The options of the experiment and the seed that are not the defaults."""
    here, usual = _told(config), _defaults(options)
    names = [name for name in dict.fromkeys([*here, *usual]) if name not in OF_THE_CHOICE]
    return {name: here.get(name) for name in names if here.get(name) != usual.get(name)}


def _defaults(options: Any) -> dict[str, str]:
    """The values of the experiment's yaml file; of its dataclass where no command line chose a file."""
    if GlobalHydra.instance().is_initialized() and HydraConfig.initialized():
        with suppress(HydraException, OmegaConfBaseException):
            hydra = HydraConfig.get()
            searched = [text for text in hydra.overrides.hydra if text.startswith("hydra.searchpath=")]
            chosen = f"experiment={hydra.runtime.choices['experiment']}"
            return _of_file(GlobalHydra.instance().hydra, *searched, chosen)
    usual = OmegaConf.structured(type(options)(name=options.name, plugin=options.plugin))
    return _told(OmegaConf.create({"experiment": usual, "run": {"seed": 0}}))


@lru_cache(maxsize=1)  # for the jobs of a sweep
def _of_file(hydra: object, *overrides: str) -> dict[str, str]:
    """What the command's Hydra composes with only these overrides."""
    return _told(compose("config", list(overrides)))


def _told(config: DictConfig) -> dict[str, str]:
    chosen = OmegaConf.create({"experiment": config.experiment, "run": {"seed": config.run.seed}})
    return {name: value for name, value in flat(chosen).items() if name == SEED or name.startswith(EXPERIMENT)}


def _shown(value: str | None) -> str | None:
    """The value as on the command line; of the path of a file or folder its name."""
    if value in ("True", "False"):
        return value.lower()
    if value is not None and value.startswith("["):
        return value.replace("'", "").replace(", ", ",")
    if value is not None and "/" in value:
        with suppress(OSError, RuntimeError, ValueError):
            path = Path(value).expanduser()
            return path.resolve().name if path.exists() else value
    return value
