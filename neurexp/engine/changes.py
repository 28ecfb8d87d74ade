"""Changes: edits as they act at a model's sites while it runs.

Changes live in hooks that a context registers and removes. Weights are never touched, and a module's own output is
never written into, because others may keep it. Knows nothing of predictions, and not why a neuron is edited.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from neurexp.errors import UserError
from neurexp.models.sites import Site, blocks_of
from neurexp.models.transfer import to_device


@dataclass(frozen=True)
class Place:
    """Where a forward stands: which sequences of the text it runs, and how many variants of them side by side."""

    shape: tuple[int, int]  # sequences of one variant, length
    first: int = 0  # the index of its first sequence
    valid: torch.Tensor | None = None  # [sequences, length] bool; None: all
    variants: int = 1  # each has all sequences; variant after variant


@dataclass(frozen=True)
class Change:
    """An edit as it acts at a site. `values` are `[neurons]`, or `[rows, neurons]` to draw from; None: measured on the
    tokens of each forward."""

    site: Site
    neurons: torch.Tensor
    kind: str
    values: torch.Tensor | None = None
    seed: int = 0
    tokens: torch.Tensor | None = None
    variant: int = 0

    def of(self, x: torch.Tensor, place: Place) -> torch.Tensor:
        """What the activations x `[tokens, neurons]` of one variant become."""
        new = self._new(x, place)
        if self.tokens is None:
            return new.expand_as(x)
        chosen = self.tokens[place.first : place.first + place.shape[0]]
        check_shape(chosen.shape, place.shape)
        return torch.where(to_device(chosen, x.device).reshape(-1, 1), new, x)

    def _new(self, x: torch.Tensor, place: Place) -> torch.Tensor:
        if self.kind == "zero":
            return torch.zeros_like(x)
        if self.kind == "resample":
            return self._drawn(x, place)
        if self.values is None:
            sample = x
            if place.valid is not None:
                sample = x[to_device(place.valid.flatten().nonzero().squeeze(1), x.device)]
            return measured(self.kind, sample).to(x)
        # In float32 for smaller formats: the result is rounded once
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        values = to_device(self.values.to(x.dtype), x.device)
        if self.kind == "scale":
            return x * values
        return x + values if self.kind == "add" else values

    def _drawn(self, x: torch.Tensor, place: Place) -> torch.Tensor:
        if self.values is not None:
            rows = [
                _random(self.seed, place.first + one, len(self.values), place.shape[1]) for one in range(place.shape[0])
            ]
            return to_device(self.values[torch.cat(rows)].to(x.dtype), x.device)
        allowed = torch.arange(len(x)) if place.valid is None else place.valid.flatten().nonzero().squeeze(1).cpu()
        sources = allowed[_random(self.seed, place.first, len(allowed), len(x))]
        return x[to_device(sources, x.device)]


def check_tokens(changes: Sequence[Change], shape: Sequence[int]) -> None:
    """Raises ValueError if an edit's mask of tokens has another shape than the tokens that are run."""
    for change in changes:
        if change.tokens is not None:
            check_shape(change.tokens.shape, shape)


def check_shape(mask: Sequence[int], run: Sequence[int]) -> None:
    """Raises ValueError if the shapes of a mask and of the tokens that are run differ."""
    if tuple(mask) != tuple(run):
        raise ValueError(f"tokens of an edit has the shape {list(mask)}, the tokens that are run {list(run)}")


def _random(seed: int, sequence: int, most: int, count: int) -> torch.Tensor:
    """`count` numbers below `most` for one sequence of the text: they do not depend on the batches."""
    own = np.random.default_rng([seed, sequence])
    return torch.from_numpy(own.integers(0, most, count))


def measured(kind: str, sample: torch.Tensor) -> torch.Tensor:
    """The mean or the mode (`peak`) of a sample `[tokens, neurons]`, `[neurons]` float64."""
    if kind == "mean":
        return sample.double().mean(0)
    from neurexp.stats.mode import half_sample_mode

    return torch.from_numpy(half_sample_mode(sample.detach().double().cpu().numpy()))


@contextmanager
def changing(network: PreTrainedModel, changes: Sequence[Change], place: Callable[[], Place | None]) -> Iterator[None]:
    """Within the context, forwards of `network` run with the changes. `place` says where the calling thread's forward
    stands; None: this forward is not to be changed."""
    by_site: dict[tuple[str, int], list[Change]] = {}
    for change in changes:
        by_site.setdefault((change.site.name, change.site.layer), []).append(change)
    with ExitStack() as hooks:
        for own in by_site.values():
            register = _in_the_middle if own[0].site.is_bypassed else _at_the_site
            for handle in register(network, own, place):
                hooks.callback(handle.remove)
        yield


def in_this_thread(place: Place) -> Callable[[], Place | None]:
    """For `changing`: forwards of the calling thread stand at `place`, those of others are not changed."""
    own = threading.get_ident()
    return lambda: place if threading.get_ident() == own else None


def _at_the_site(
    network: PreTrainedModel, changes: Sequence[Change], place: Callable[[], Place | None]
) -> Iterator[RemovableHandle]:
    def changed(values: torch.Tensor) -> torch.Tensor:
        here = place()
        return values if here is None else changed_values(values, changes, here)

    yield changes[0].site.replace(changed)


def _in_the_middle(
    network: PreTrainedModel, changes: Sequence[Change], place: Callable[[], Place | None]
) -> Iterator[RemovableHandle]:
    """A norm reads the residual stream in the middle of a block, but the stream also goes around it: what the edit adds
    there is added to the block's output as well, before any other hook sees that."""
    added = threading.local()

    def changed(values: torch.Tensor) -> torch.Tensor:
        added.values, here = None, place()
        if here is None:
            return values
        new = changed_values(values, changes, here)
        added.values = new - values
        return new

    def add(values: torch.Tensor) -> torch.Tensor:
        # None also in a forward that was between the two hooks when another thread registered them
        here = getattr(added, "values", None)
        added.values = None
        return values if here is None else values + here.view_as(values)

    after = replace(changes[0].site, module=blocks_of(network)[changes[0].site.layer])
    after = replace(after, address=replace(after.address, module="", side="output", part=None))
    yield changes[0].site.replace(changed)
    yield after.replace(add, first=True)


def changed_values(values: torch.Tensor, changes: Sequence[Change], place: Place) -> torch.Tensor:
    """A copy of what a module puts out or reads, `[…, columns]`, with the changes of one site.

    Raises:
        UserError: the site has fewer neurons than an edit names.
    """
    site = changes[0].site
    columns = site.columns(values.shape[-1])
    new = values.clone(memory_format=torch.contiguous_format)
    rows = new.view(place.variants, -1, values.shape[-1])
    for change in changes:
        check_neurons(change, len(columns))
        own = to_device(columns[change.neurons], values.device)
        of_variant = rows[change.variant]
        of_variant[:, own] = change.of(of_variant[:, own], place).to(values.dtype)
    return new


def check_neurons(change: Change, count: int) -> None:
    """Raises UserError if the site has fewer neurons than the edit names."""
    if int(change.neurons.max()) >= count:
        raise UserError(
            f"neuron {int(change.neurons.max())} of layer {change.site.layer}: {change.site.name} has neurons 0 to "
            f"{count - 1} there"
        )
