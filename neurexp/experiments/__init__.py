"""Experiments: a kind of question is a folder, a question is a file. Knows no hook, no run folder and no MLflow."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.experiments.base import Experiment, Inputs, Options, Plan, Results, TokenGroup
    from neurexp.experiments.source import own_experiment

__all__ = ["Experiment", "Inputs", "Options", "Plan", "Results", "TokenGroup", "own_experiment"]

_HOMES = {
    "Experiment": "neurexp.experiments.base",
    "Inputs": "neurexp.experiments.base",
    "Options": "neurexp.experiments.base",
    "Plan": "neurexp.experiments.base",
    "Results": "neurexp.experiments.base",
    "TokenGroup": "neurexp.experiments.base",
    "own_experiment": "neurexp.experiments.source",
}
__getattr__ = lazy(__name__, _HOMES)
