"""Edits: activations of chosen neurons are replaced while the model runs.

An `Edit` is what a user writes; `resolve` turns it into a `Change` (`engine.changes`), which acts on a model's site.
Within `edited` every forward of a model runs with edits. Knows nothing of predictions, and not why a neuron is edited.
"""

import inspect
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from neurexp.engine.changes import Change, Place, changing, check_tokens
from neurexp.errors import UserError
from neurexp.models.load import LanguageModel
from neurexp.models.sites import blocks_of, find_sites, trunk_of

KINDS = ("zero", "mean", "peak", "resample", "value", "scale", "add")
MEASURED = ("mean", "peak", "resample")  # kinds that depend on a text
NEEDS_VALUE = ("value", "scale", "add")


@dataclass(frozen=True)
class Edit:
    """Replaces activations of chosen neurons at one site of one layer.

    Args:
        site: a place in a block, `NEURON` for example (docs/models.md).
        layer: the index of the block.
        neurons: indices of neurons of the site.
        kind: what the activation x of a neuron becomes.

            - `zero`: 0.
            - `mean`: the neuron's mean.
            - `peak`: the neuron's mode (`stats.mode`).
            - `resample`: its value at a random token, the same token for all neurons of the edit.
            - `value`: `value`.
            - `scale`: x · `value`.
            - `add`: x + `value`.
        value: a number, or one for each neuron. For `mean` and `peak` it is the mean or mode that you measured. For
            `resample` it is a seed (0 if left out), or values `[rows, neurons]` to draw from. What you leave out is
            measured for you: with `capture` and `predictions` on all valid tokens of the text and without any edit;
            with `edited` on the tokens of each forward (pads are left out by its attention mask), after the edits
            before it.
        tokens: `[sequences, length]` bool, of the tokens that are run, or `[length]` of one sequence: only there.
            None: everywhere.

    Raises:
        ValueError: a site that is no name, a layer that is no index, no neuron or one twice, an unknown kind, or a
            value or tokens that do not fit.
    """

    site: str
    layer: int
    neurons: Sequence[int]
    kind: str = "zero"
    value: Any = None
    tokens: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.site, str):
            raise ValueError(f"site must be the name of one site, such as 'NEURON', not {self.site!r}")
        if isinstance(self.layer, bool) or not isinstance(self.layer, int | np.integer):
            raise ValueError(f"layer must be the index of one block, not {self.layer!r}; give one Edit for each layer")
        object.__setattr__(self, "layer", int(self.layer))
        object.__setattr__(self, "neurons", _indices(self.neurons))
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r}: give one of {', '.join(KINDS)}")
        if self.kind == "zero" and self.value is not None:
            raise ValueError("kind='zero' takes no value; kind='value' does")
        if self.kind in NEEDS_VALUE and self.value is None:
            raise ValueError(f"kind={self.kind!r} needs a value: a number, or one for each neuron")
        if self.value is not None:
            self._check_value()
        if self.tokens is not None:
            tokens = _tensor("tokens", self.tokens)
            if tokens.ndim not in (1, 2) or not bool(((tokens == 0) | (tokens == 1)).all()):
                raise ValueError("tokens must be true or false for each token, [sequences, length], not their indices")

    def _check_value(self) -> None:
        value = _tensor("value", self.value)
        if not bool(value.isfinite().all()):
            raise ValueError("value must be finite")
        if self.kind == "resample":
            rows = value.ndim == 2 and value.shape[1] == len(self.neurons) and len(value) > 0
            if not (rows or (value.ndim == 0 and not value.is_floating_point() and int(value) >= 0)):
                raise ValueError("kind='resample' takes a seed, or values [rows, neurons] to draw from")
        elif value.ndim > 1 or (value.ndim == 1 and len(value) != len(self.neurons)):
            raise ValueError(f"value must be a number, or one for each of the {len(self.neurons)} neurons")

    @property
    def is_measured(self) -> bool:
        """Whether its values must be measured on a text."""
        no_rows = self.value is None or (self.kind == "resample" and torch.as_tensor(self.value).ndim == 0)
        return self.kind in MEASURED and no_rows


def _indices(neurons: Any) -> tuple[int, ...]:
    """Raises ValueError unless these are different indices from 0."""
    try:
        given = np.atleast_1d(np.asarray(neurons))
    except (TypeError, ValueError):  # ragged lists
        given = np.empty(0)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iu" or given.min() < 0:
        raise ValueError(f"neurons must be a list of indices from 0, not {neurons!r}")
    if len(set(given.tolist())) < given.size:
        raise ValueError("neurons has an index twice")
    return tuple(int(index) for index in given)


def _tensor(name: str, given: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be numbers, not {given!r} ({error})") from error


def resolve(network: PreTrainedModel, edits: Sequence[Edit], variant: int = 0) -> list[Change]:
    """The changes of edits, in their order. `variant` is the place of this model among models side by side.

    Raises:
        UserError: the model has no such site or layer.
    """
    changes, count = [], len(blocks_of(network))
    for edit in edits:
        if not 0 <= edit.layer < count:
            raise UserError(f"layer {edit.layer} of an edit: this model has layers 0 to {count - 1}")
        site = find_sites(network, edit.site, [edit.layer])[0]
        given = None if edit.value is None else torch.as_tensor(edit.value)
        seed = 0
        if edit.kind == "resample" and given is not None and given.ndim == 0:
            given, seed = None, int(given)
        tokens = None if edit.tokens is None else torch.as_tensor(edit.tokens).bool()
        tokens = tokens[None] if tokens is not None and tokens.ndim == 1 else tokens
        changes.append(Change(site, torch.tensor(edit.neurons), edit.kind, given, seed, tokens, variant))
    return changes


@contextmanager
def edited(model: LanguageModel | PreTrainedModel, edits: Sequence[Edit]) -> Iterator[Any]:
    """Within the context, every forward of the model runs with the edits; yields the model.

        with neurexp.edited(model, [neurexp.Edit("NEURON", 3, [5, 7], "zero")]):
            logits = model.network(ids).logits

    The edits are gone when the context is left, whatever happens inside. Other hooks stay, and all hooks of a module
    act in the order in which they were registered. Weights are not touched, and gradients flow through the edits (a
    `peak` is a constant). With a KV cache the edits act on the tokens of each forward. Forwards in other threads are
    edited too: for edits of one thread alone, use `capture`.

    Args:
        model: of `load_model`, or any causal transformers model of a known family.
        edits: applied in the order of the sites in a forward, and in their own order at one site. A context within a
            context adds its edits to the outer ones.

    Raises:
        UserError: unknown family, site, layer or neuron (a neuron is checked in the forward); or, in the forward,
            activation checkpointing, which runs blocks again without the edits.
        TypeError: `model` is not a model, or an edit is no `Edit`.
        ValueError: in the forward: an edit's `tokens` have another shape than the tokens that are run.
    """
    network = network_of(model)
    check_edits(edits)
    changes = resolve(network, edits)
    current = threading.local()
    trunk = trunk_of(network)
    parameters = inspect.signature(type(trunk).forward)

    def note(module: torch.nn.Module, arguments: tuple, named: dict[str, Any] | None = None) -> None:
        if named is None:
            return  # see `Site.replace`
        if module.training and torch.is_grad_enabled() and network.is_activation_checkpointing:
            raise UserError("edited: activation checkpointing loses the edits; call activation_checkpointing_disable()")
        given = parameters.bind_partial(module, *arguments, **named).arguments
        ids = given.get("input_ids") if given.get("inputs_embeds") is None else given["inputs_embeds"]
        if ids is None:
            return  # the model says so itself
        shape = (ids.shape[0], ids.shape[1])
        check_tokens(changes, shape)
        mask = given.get("attention_mask")
        if not isinstance(mask, torch.Tensor) or mask.ndim != 2 or mask.shape[1] < shape[1]:
            mask = None
        # With a KV cache the mask also has the tokens that were run before
        current.place = Place(shape, valid=None if mask is None else mask[:, -shape[1] :].bool())

    handle = trunk.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with changing(network, changes, lambda: getattr(current, "place", None)):
            yield model
    finally:
        handle.remove()


def network_of(model: LanguageModel | PreTrainedModel) -> PreTrainedModel:
    """The transformers model. Raises TypeError for anything else."""
    network = model.network if isinstance(model, LanguageModel) else model
    if not isinstance(network, PreTrainedModel):
        raise TypeError(f"model must be load_model's or a transformers model, not {type(network).__name__}")
    return network


def check_edits(edits: Sequence[Edit]) -> None:
    """Raises TypeError unless this is a list of edits."""
    if isinstance(edits, str) or not isinstance(edits, Iterable):
        raise TypeError(f"edits must be a list of neurexp.Edit, not {type(edits).__name__}")
    for edit in edits:
        if not isinstance(edit, Edit):
            raise TypeError(f"edits must be a list of neurexp.Edit, not of {type(edit).__name__}")
