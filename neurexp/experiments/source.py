"""The experiment of the run that another experiment goes on from. Knows no kind of experiment."""

from pathlib import Path

from neurexp.config.schema import typed_options
from neurexp.errors import UserError, one_line
from neurexp.experiments.base import Experiment
from neurexp.report.finished import FinishedRun


def own_experiment(run: FinishedRun) -> Experiment:
    """The experiment that a finished run was of, with that run's options.

    Raises:
        UserError: its class cannot be imported, or a file that it reads, such as a list of words, is gone.
    """
    try:
        options, plugin = typed_options(run.options.experiment)
        return plugin(options)
    except Exception as error:  # a plugin's module can fail in any way
        started = run.facts.get("working_folder")
        hint = "put back what that run read"
        if started is not None and Path(started) != Path.cwd():
            hint += f", or start in {started}, where that run was started"
        raise UserError(f"{run.given}: its experiment cannot be set up again ({one_line(error)}); {hint}") from error
