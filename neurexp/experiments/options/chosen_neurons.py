"""Which neurons an intervention is asked to edit: checks that need no run and no model. Imports nothing heavy."""

from collections.abc import Sequence
from typing import Any

from neurexp.errors import UserError
from neurexp.experiments.options import base
from neurexp.experiments.options.base import given

DIRECTIONS = ("auto", "both", "positive", "negative", "largest")


def check_choice(direction: str, count: int | None) -> None:
    """Raises UserError for an `experiment.direction` or an `experiment.count` that there is not."""
    if direction not in DIRECTIONS:
        raise UserError(f"experiment.direction={direction}: give one of {', '.join(DIRECTIONS)}")
    if count is not None and count < 1:
        raise UserError(f"experiment.count={count}: give a whole number of 1 or more, or null for all that were found")


def check_named(value: Any) -> None:
    """Raises UserError for an `experiment.neurons` that is no list of different pairs of whole numbers."""
    example = "experiment.neurons=[[15,276],[20,1394]] (layer and neuron of each)"
    if not _is_list(value) or not len(value):
        raise UserError(f"{given('neurons', value)}: give {example}")
    for place, pair in enumerate(value):
        if not _is_list(pair) or not base.is_pairs([list(pair)]):
            raise UserError(
                f"{given('neurons', value)}: {base.shown(pair)} is no pair of whole numbers; give {example}"
            )
        if pair in value[:place]:
            raise UserError(
                f"{given('neurons', value)}: neuron {pair[1]} of layer {pair[0]} is named twice; give each once"
            )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
