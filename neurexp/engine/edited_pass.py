"""The edited pass: the same text through many edited variants of a model, and what each of them predicts.

An edit in layer l changes nothing below l. So each batch runs once without edits, its residual stream is kept where
edits begin, and a variant runs only the blocks from there on; several variants run side by side as one batch. Kept are
one batch's streams and, for as many variants as fit a budget, its last hidden states: nothing grows with the text.
Knows neither what a group of tokens means nor why neurons are edited.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from neurexp.engine.changes import Change, Place, changing, check_tokens, in_this_thread
from neurexp.engine.checkpoint import Checkpoints
from neurexp.engine.edits import Edit, resolve
from neurexp.engine.passes import as_tensor, inputs_of, make_batch
from neurexp.engine.predictions import losses_of, measures_of, next_tokens
from neurexp.engine.reducers.base import Batch, NotFiniteError, predicting
from neurexp.engine.reducers.effects import Effects
from neurexp.models.fast.patches import replaced
from neurexp.models.head import Head
from neurexp.models.sites import blocks_of

log = logging.getLogger(__name__)

BUDGET = 256 * 2**20  # bytes of last hidden states, of as many variants as fit
SIDE_BY_SIDE = 2048  # tokens in one forward of several variants, on a CPU
ON_A_DEVICE = 16384  # the same elsewhere
# Largest accepted ‖from a block − whole‖ / ‖whole‖ of last hidden states: the rounding of each number format
AGREEMENT = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 2e-2, torch.float16: 2e-3}

Variant = Sequence[Edit]  # the edits of one edited model


@dataclass(frozen=True)
class _Variant:
    """A variant as it runs: its place among all of them, its changes, and the first block that they change."""

    index: int  # from 1; 0 is the unedited model
    edits: tuple[Edit, ...]
    start: int


def run_edited_pass(
    network: PreTrainedModel,
    variants: Sequence[Variant],
    input_ids: np.ndarray | torch.Tensor,
    valid: np.ndarray | torch.Tensor | None,
    effects: Effects,
    batch_size: int = 4,
    progress: bool = False,
    forecast: Callable[[float, int], None] | None = None,
    part: slice = slice(None),
    checkpoints: Checkpoints | None = None,
) -> None:
    """Runs every sequence without edits and with the edits of each variant; `effects` adds up what they predict.

    Args:
        network: a causal Hugging Face model with its head, in evaluation mode; left as it was.
        variants: edits of each edited model. Values that an edit takes from a text must be given
            (`Edit.is_measured` is False).
        input_ids: `[sequences, length]`.
        valid: `[sequences, length]` bool, or None for all. A prediction counts if its token and the next are valid.
        effects: updated in place; made for as many variants.
        batch_size: sequences that run together.
        progress: whether to show the work done, if standard error is a terminal.
        forecast: called once, after the first part of the first batch, with the estimated seconds of the pass, and 0.
        part: the sequences to run, if not all.
        checkpoints: the pass resumes from them, and saves its progress in them.

    Raises:
        UserError: an edit names a site, layer or neuron that the model does not have.
        NotFiniteError: a loss is NaN or infinite.
        OtherPassError: the checkpoints belong to another pass.
    """
    ids = as_tensor(input_ids).cpu()
    mask = torch.ones_like(ids, dtype=torch.bool) if valid is None else as_tensor(valid).cpu()
    sequences = range(*part.indices(len(ids)))
    batches = [range(start, min(start + batch_size, sequences.stop)) for start in sequences[::batch_size]]
    for edits in variants:
        check_tokens(resolve(network, edits), ids.shape)
    depth = len(blocks_of(network))
    found = [
        _Variant(index + 1, tuple(edits), min(edit.layer for edit in edits)) for index, edits in enumerate(variants)
    ]
    found.sort(key=lambda one: one.start)
    chunks = _chunks(found, batch_size * ids.shape[1] * _bytes_of_hidden(network))
    done = 0 if checkpoints is None else checkpoints.load([effects])
    # In forwards of a batch: how much of the work each chunk is
    cost = [float(index == 0) + sum(1 - one.start / depth for one in chunk) for index, chunk in enumerate(chunks)]
    per_batch = sum(cost)
    tokens_in = [int(mask[one.start : one.stop].sum()) for one in batches]
    bar = tqdm(
        total=round(sum(tokens_in) * per_batch),
        unit=" tokens",
        unit_scale=True,
        disable=None if progress else True,
        leave=False,
    )
    with bar, torch.inference_mode(), Head(network) as head:
        for number in range(done // len(chunks), len(batches)):
            chosen = batches[number]
            here = slice(chosen.start, chosen.stop)
            batch = make_batch(ids[here], mask[here], chosen.start, network.device)
            stream = _Stream(network, batch, {one.start for one in found} - {0})
            work = _Predictions(head, batch, stream.hidden, effects)
            for index in range(done % len(chunks) if number == done // len(chunks) else 0, len(chunks)):
                started = time.perf_counter()
                if index == 0:
                    work.unedited()
                chunk = chunks[index]
                for together, hidden in stream.edited(chunk):
                    work.edited(together, hidden)
                bar.update(round(tokens_in[number] * cost[index]))
                if forecast is not None:
                    left = sum(tokens_in[number:]) * per_batch
                    forecast((time.perf_counter() - started) * left / max(1.0, tokens_in[number] * cost[index]), 0)
                    forecast = None
                if checkpoints is not None and checkpoints.due():
                    checkpoints.save([effects], number * len(chunks) + index + 1)


def _bytes_of_hidden(network: PreTrainedModel) -> int:
    """Of the last hidden state of a token."""
    return network.config.get_text_config().hidden_size * network.dtype.itemsize


def _chunks(variants: list[_Variant], each: int) -> list[list[_Variant]]:
    """Variants in groups whose last hidden states fit the budget, `each` bytes for one variant; at least one group."""
    step = max(1, BUDGET // each)
    return [variants[first : first + step] for first in range(0, len(variants), step)] or [[]]


class _Stream:
    """One batch through the model without edits: its last hidden states, and its residual stream where edits begin."""

    def __init__(self, network: PreTrainedModel, batch: Batch, starts: set[int]):
        self._network, self._batch, self._inputs = network, batch, inputs_of(batch)
        self._blocks = blocks_of(network)
        self._kept: dict[int, torch.Tensor] = {}
        self._outputs: dict[int, Any] = {}
        handles = [self._keep(start) for start in starts]
        try:
            self.hidden = network.base_model(**self._inputs, use_cache=False)[0]
        finally:
            for handle in handles:
                handle.remove()
        self._whole = bool(starts) and not self._agrees(max(starts))

    def _keep(self, start: int) -> Any:
        def after(module: nn.Module, arguments: tuple, output: Any) -> None:
            values = output[0] if isinstance(output, tuple) else output
            self._kept[start] = values
            self._outputs[start] = isinstance(output, tuple)

        return self._blocks[start - 1].register_forward_hook(after)

    def _agrees(self, start: int) -> bool:
        """Whether the model from a block on computes what the whole model does: an architecture may keep more between
        blocks than the residual stream."""
        short = self._run(start, 1)
        wrong = float((short.float() - self.hidden.float()).norm() / self.hidden.float().norm())
        if wrong <= AGREEMENT.get(short.dtype, 1e-5):
            return True
        log.warning(
            "From block %d on the model differs from the whole model by %.1e: every edited model runs whole",
            start,
            wrong,
        )
        return False

    def edited(self, variants: Sequence[_Variant]) -> Iterator[tuple[list[_Variant], torch.Tensor]]:
        """Runs variants side by side, as many as are worth it; yields them with their last hidden states
        `[variants, sequences, length, width]`. `variants` are sorted by where they start."""
        sequences, length = self._batch.valid.shape
        most = SIDE_BY_SIDE if self._network.device.type == "cpu" else ON_A_DEVICE
        step = max(1, most // (sequences * length))
        for start, group in groupby(variants, key=lambda one: 0 if self._whole else one.start):
            of_start = list(group)
            for first in range(0, len(of_start), step):
                some = of_start[first : first + step]
                changes = [
                    change for slot, one in enumerate(some) for change in resolve(self._network, one.edits, slot)
                ]
                yield some, self._run(start, len(some), changes).unflatten(0, (len(some), sequences))

    def _run(self, start: int, variants: int, changes: Sequence[Change] = ()) -> torch.Tensor:
        """The last hidden states of variants from block `start` on, `[variants · sequences, length, width]`."""
        sequences, length = self._batch.valid.shape
        place = Place((sequences, length), self._batch.first, self._batch.valid, variants)
        inputs = {name: values.repeat(variants, 1) for name, values in self._inputs.items()}
        with self._skipped(start, variants), changing(self._network, changes, in_this_thread(place)):
            return self._network.base_model(**inputs, use_cache=False)[0]

    @contextmanager
    def _skipped(self, start: int, variants: int) -> Iterator[None]:
        """Within the context, the blocks below `start` put out what they put out without edits."""
        if start == 0:
            yield
            return
        kept = self._kept[start]
        kept = kept if variants == 1 else kept.repeat(variants, *[1] * (kept.dim() - 1))
        output = (kept, None) if self._outputs[start] else kept

        def put_out(*arguments: Any, **named: Any) -> Any:
            return output

        with replaced([(block, "forward", put_out) for block in self._blocks[:start]]):
            yield


class _Predictions:
    """What one batch's variants predict, added to the effects."""

    def __init__(self, head: Head, batch: Batch, hidden: torch.Tensor, effects: Effects):
        self._head, self._effects, self._first = head, effects, batch.first
        self._counted = predicting(batch.valid)
        self._rows = self._counted.flatten().nonzero().squeeze(1).to(batch.device)
        self._targets = next_tokens(batch.input_ids).flatten().to(batch.device)[self._rows]
        self._plain = hidden.flatten(0, 1)[self._rows]
        self._pieces = head.pieces(len(self._rows))

    def unedited(self) -> None:
        """Adds the model without edits."""
        self._effects.count(self._first, self._counted)
        values = torch.zeros(1 + 3, len(self._rows), device=self._rows.device)
        for piece in self._pieces:
            logits = self._head(self._plain[piece])
            values[:, piece] = measures_of(logits, self._targets[piece], logits.log_softmax(-1))
        self._add(0, values)

    def edited(self, variants: Sequence[_Variant], hidden: torch.Tensor) -> None:
        """Adds variants, whose last hidden states are `[variants, sequences, length, width]`."""
        states = hidden.flatten(1, 2)[:, self._rows]
        detailed = [one.index <= self._effects.detailed for one in variants]
        found = [torch.zeros(4 if every else 1, len(self._rows), device=self._rows.device) for every in detailed]
        for piece in self._pieces:
            reference = self._head(self._plain[piece]).log_softmax(-1) if any(detailed) else None
            for slot, every in enumerate(detailed):
                logits = self._head(states[slot, piece])
                if every and reference is not None:
                    found[slot][:, piece] = measures_of(logits, self._targets[piece], reference)
                else:
                    found[slot][0, piece] = losses_of(logits, self._targets[piece])
        for one, values in zip(variants, found, strict=True):
            self._add(one.index, values)

    def _add(self, variant: int, values: torch.Tensor) -> None:
        if not bool(values[0].isfinite().all()):
            raise NotFiniteError(0)
        whole = torch.zeros(len(values), self._counted.numel(), device=values.device)
        whole[:, self._rows] = values
        self._effects.add(variant, whole.unflatten(1, self._counted.shape), self._first)
