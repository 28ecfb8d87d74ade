"""What is checked of a run before anything heavy is imported: a mistake is told in a second, and leaves nothing behind.

Knows no experiment. Imports nothing heavy.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from neurexp.config.schema import Config, Weights, checked, plain
from neurexp.console import environment
from neurexp.console.interrupts import hearing_signals
from neurexp.errors import UserError
from neurexp.experiments.options import known_options
from neurexp.runs.source import opened

if TYPE_CHECKING:
    from neurexp.experiments.options import Options
    from neurexp.report.finished import FinishedRun


@dataclass(frozen=True)
class Early:
    """What is known of a run by then.

    Args:
        config: the composed config with its types.
        model_name: what titles call the model.
        unreachable: the error of a dataset that the experiment may not need (`Experiment.reads_text`).
        options: of a built-in experiment; None for a class of one's own.
        source: the run that such an experiment goes on from.
    """

    config: Config
    model_name: str
    unreachable: UserError | None
    options: "Options | None"
    source: "FinishedRun | None"


@contextmanager
def checked_early(config: DictConfig) -> Iterator[Early]:
    """Checks the options, and that the model, the text and the source run are there. The source's files are there until
    the block ends.

    Args:
        config: as Hydra composed it.

    Raises:
        UserError: a mistake of the user.
    """
    environment.check()
    typed = checked(config)
    options = hearing_signals(known_options, typed.experiment)
    if typed.experiment.get("control") == "random" and typed.model.weights is Weights.random:
        raise UserError("experiment.control=random: model.weights=random is that already; give one of the two")
    model_name, unreachable = hearing_signals(_reached, typed)
    with opened(getattr(options, "run", None), typed) as source:
        if options is not None and source is not None:
            hearing_signals(options.check_source, source)
        yield Early(typed, model_name, unreachable, options, source)


def _reached(config: Config) -> tuple[str, UserError | None]:
    """Refuses a model or a dataset that cannot be reached, before anything heavy is imported, loaded or written.

    Returns:
        What titles call the model, and the dataset's error of an experiment with an option `text`, which may not read
        the dataset after all: only the experiment can say whether it does (`Experiment.reads_text`).
    """
    from neurexp.models.choices import check_early
    from neurexp.models.label import label_of
    from neurexp.models.locations import locate_parts
    from neurexp.text import sources

    model = config.model
    drawn, has_architecture = model.weights is Weights.random, model.architecture is not None
    arguments = model.name, model.revision, model.tokenizer, model.weights.value, has_architecture, model.fallback
    location, _ = locate_parts(*arguments)
    label = label_of(model.name, location, model.label) + (" with random weights" if drawn else "")
    if model.blocks is None:
        site, layer = (plain(config.experiment.get(name)) for name in ("site", "layer"))
        check_early(location, "MLP" if site is None else site, layer, model.sites)
    if config.experiment.get("text") is False or config.experiment.get("prompt"):
        return label, None
    try:
        sources.check_reachable(config.dataset)
    except UserError as error:
        if "text" not in config.experiment:
            raise
        hinted = UserError(f"{error}; experiment.text=false does without a text")
        hinted.__cause__ = error
        return label, hinted
    return label, None
