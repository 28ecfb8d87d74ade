"""Neurons that a user names, as pairs of a layer and a neuron. Knows no kind of experiment."""

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from neurexp.engine.notebook import capture
from neurexp.errors import UserError


def check_neurons(network: PreTrainedModel, site: str, pairs: Iterable[tuple[int, int]], given: str) -> None:
    """Checks that a site has the named neurons.

    Args:
        network: a Hugging Face model with or without its head.
        site: `MLP`, `NEURON`, …
        pairs: layer, which the model has, and neuron of each.
        given: the option, as messages begin with it.

    Raises:
        UserError: the site has no such neuron in one of the layers.
    """
    widths: dict[int, int] = {}
    for layer, neuron in pairs:
        if layer not in widths:
            (values,) = capture(network, torch.zeros(1, 1, dtype=torch.long), site, int(layer)).values()
            widths[layer] = values.shape[-1]
        if not 0 <= neuron < widths[layer]:
            raise UserError(
                f"{given}: there is no neuron {neuron} in layer {layer}; {site} has neurons 0 to "
                f"{widths[layer] - 1} there"
            )
