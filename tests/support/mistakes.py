"""The line that the command line prints for a mistake in the options, found in this process: no command is started."""

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from neurexp.config.mistakes import explain
from neurexp.config.schema import CONFIG_FOLDER, checked, register_schema, typed_options
from neurexp.experiments.options import known_options


def mistake(*overrides: str) -> str:
    """What is wrong with the overrides, as far as the options alone show it; an empty text if nothing is."""
    register_schema()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            config = compose("config", list(overrides))
        experiment = checked(config).experiment
        if known_options(experiment) is None:  # a class of one's own
            options, plugin = typed_options(experiment)
            plugin(options)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        return message
    return ""
