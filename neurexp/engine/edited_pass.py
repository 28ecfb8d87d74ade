"""The edited pass: the same text through many edited variants of a model, and what each of them predicts.

Each batch runs once without edits, and a variant runs only the blocks from its first edit on (`engine.stream`); several
variants run side by side as one batch. Kept are one batch's residual streams, and the last hidden states of variants
side by side: nothing grows with the text or with the number of variants.
Knows neither what a group of tokens means nor why neurons are edited.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from neurexp.engine.changes import Change, check_tokens
from neurexp.engine.checkpoint import Checkpoints
from neurexp.engine.division import batches_of, ranges_of
from neurexp.engine.edits import Edit, resolve
from neurexp.engine.passes import as_tensor, make_batch
from neurexp.engine.predictions import measures_of, next_tokens
from neurexp.engine.reducers.base import Batch, NotFiniteError, predicting
from neurexp.engine.reducers.effects import Effects
from neurexp.engine.stream import Stream
from neurexp.models.head import Head
from neurexp.models.losses import Losses
from neurexp.models.sites import blocks_of
from neurexp.models.spread import device_of
from neurexp.models.transfer import Outbox, to_device

SIDE_BY_SIDE = 2048  # tokens in one forward of several variants, on a CPU
ON_A_DEVICE = 16384  # the same elsewhere

Variant = Sequence[Edit]  # the edits of one edited model


@dataclass(frozen=True)
class _Step:
    """A part of the work on a batch: variants that begin at one block, side by side. The first step has none."""

    start: int  # the first block that they change
    variants: tuple[int, ...] = ()  # from 1; 0 is the unedited model
    changes: tuple[Change, ...] = ()
    cost: float = 1.0  # in forwards of a batch without edits


def run_edited_pass(
    network: PreTrainedModel,
    variants: Sequence[Variant],
    input_ids: np.ndarray | torch.Tensor,
    valid: np.ndarray | torch.Tensor | None,
    effects: Effects,
    batch_size: int = 4,
    progress: bool = False,
    forecast: Callable[[float, int], None] | None = None,
    part: slice | Sequence[range] = slice(None),
    checkpoints: Checkpoints | None = None,
) -> None:
    """Runs every sequence without edits and with the edits of each variant; `effects` adds up what they predict.

    Args:
        network: a causal Hugging Face model with its head, in evaluation mode; left as it was. No other thread may use
            it in the meantime.
        variants: edits of each edited model; one without edits is the unedited model. Values that an edit takes from a
            text must be given (`Edit.is_measured` is False).
        input_ids: `[sequences, length]`.
        valid: `[sequences, length]` bool, or None for all. A prediction counts if its token and the next are valid.
        effects: updated in place; made for as many variants.
        batch_size: sequences that run together.
        progress: whether to show the work done, if standard error is a terminal.
        forecast: called once, after the first variants of the first batch, with the estimated seconds of the pass, and
            0.
        part: the sequences to run, if not all.
        checkpoints: the pass resumes from them, and saves its progress in them: steps, of which a batch has several.

    Raises:
        UserError: an edit names a site, layer or neuron that the model does not have.
        NotFiniteError: a loss is NaN or infinite.
        OtherPassError: the checkpoints belong to another pass.
        ValueError: `effects` is made for another number of variants or another text, an edit must be measured, or its
            `tokens` have another shape than the text.
    """
    ids = as_tensor(input_ids).cpu()
    mask = torch.ones_like(ids, dtype=torch.bool) if valid is None else as_tensor(valid).cpu()
    batches = batches_of(ranges_of(part, len(ids)), batch_size)
    _check(variants, effects, ids)
    side_by_side = SIDE_BY_SIDE if device_of(network).type == "cpu" else ON_A_DEVICE
    steps = _steps(network, variants, max(1, side_by_side // max(1, batch_size * ids.shape[1])))
    check_tokens([change for step in steps for change in step.changes], ids.shape)
    starts = {step.start for step in steps} - {0, len(blocks_of(network))}
    done = 0 if checkpoints is None else checkpoints.load([effects])
    tokens_in = [int(mask[one.start : one.stop].sum()) for one in batches]
    work = [tokens * step.cost for tokens in tokens_in for step in steps]  # in tokens of a forward without edits
    bar = tqdm(
        total=round(sum(work)),
        initial=round(sum(work[:done])),
        unit=" tokens",
        unit_scale=True,
        disable=None if progress else True,
        leave=False,
    )
    with bar, torch.inference_mode(), Head(network) as head:
        losses = Losses(network, head)
        for number in range(done // len(steps), len(batches)):
            began, first = time.perf_counter(), number * len(steps)
            chosen = batches[number]
            here = slice(chosen.start, chosen.stop)
            batch = make_batch(ids[here], mask[here], chosen.start, device_of(network))
            stream = Stream(network, batch, starts)
            if number == done // len(steps) and not stream.agrees():
                starts = set()
                stream = Stream(network, batch, starts)
            predictions = _Predictions(head, losses, batch, stream.hidden, effects)
            for index in range(max(done, first), first + len(steps)):
                step, is_last = steps[index - first], index + 1 == first + len(steps)
                due = checkpoints is not None and checkpoints.due(at_whole=is_last)
                try:
                    predictions.add(step, stream)
                    if due or forecast is not None or is_last:
                        predictions.take_in()
                except NotFiniteError as error:
                    _explain(error, variants, here)
                    raise
                bar.update(round(work[index]))
                if forecast is not None and (step.variants or len(steps) == 1):
                    forecast((time.perf_counter() - began) * sum(work[done:]) / max(1.0, work[index]), 0)
                    forecast = None
                began = time.perf_counter()
                if checkpoints is not None and due:
                    checkpoints.save([effects], index + 1, batches[: number + 1] if is_last else None)


def _check(variants: Sequence[Variant], effects: Effects, ids: torch.Tensor) -> None:
    if effects.variants != len(variants):
        raise ValueError(f"the effects are made for {effects.variants} variants, but {len(variants)} are given")
    if effects.shape != tuple(ids.shape):
        raise ValueError(f"the effects are made for tokens {list(effects.shape)}, but {list(ids.shape)} are given")
    for edit in (edit for edits in variants for edit in edits):
        if edit.is_measured:
            raise ValueError(f"an edit of kind {edit.kind} in layer {edit.layer} has no values: measure them before")


def _steps(network: PreTrainedModel, variants: Sequence[Variant], most: int) -> list[_Step]:
    """The work on each batch: the unedited model, then variants sorted by where they start, `most` side by side."""
    depth = len(blocks_of(network))
    config = network.config.get_text_config()
    # Of a forward without edits: the head multiplies by as many weights as all blocks together, or fewer or more
    in_head = config.vocab_size * config.hidden_size
    share = in_head / (in_head + sum(weights.numel() for weights in blocks_of(network).parameters()))
    starts = [min((edit.layer for edit in edits), default=depth) for edits in variants]
    steps = [_Step(depth)]
    for start, group in groupby(sorted(range(len(variants)), key=starts.__getitem__), key=starts.__getitem__):
        of_start = list(group)
        for first in range(0, len(of_start), most):
            some = of_start[first : first + most]
            changes = [change for slot, one in enumerate(some) for change in resolve(network, variants[one], slot)]
            cost = len(some) * (share + (1 - share) * (1 - start / depth))
            steps.append(_Step(start, tuple(1 + one for one in some), tuple(changes), cost))
    return steps


def _explain(error: NotFiniteError, variants: Sequence[Variant], sequences: slice) -> None:
    """Adds to the error the sequences, and whose loss it is: `error.site` is the variant."""
    variant, error.site, error.sequences, error.what = error.site, 0, sequences, "the loss"
    if variant:
        edits = [f"{one.kind} at {len(one.neurons)} of {one.site}_{one.layer}" for one in variants[variant - 1]]
        shown = ", ".join(edits[:3]) + (", …" if len(edits) > 3 else "")
        error.what, error.look_at = f"the loss of the model with edits ({shown})", "the values of the edits"


class _Predictions:
    """What one batch's variants predict, added to the effects: from a device all together, which is one wait."""

    def __init__(self, head: Head, losses: Losses, batch: Batch, hidden: torch.Tensor, effects: Effects):
        self._head, self._losses, self._effects, self._first = head, losses, effects, batch.first
        self._counted = predicting(batch.valid)
        rows = self._counted.flatten().nonzero().squeeze(1)
        self._rows = to_device(rows, batch.device)
        self._targets = to_device(next_tokens(batch.input_ids).flatten()[rows], batch.device)
        self._plain = hidden.flatten(0, 1)[self._rows]
        self._pieces = head.pieces(len(rows))
        self._outbox, self._waiting = Outbox(), list[int]()  # losses on a device, and the variants that they are of

    def add(self, step: _Step, stream: Stream) -> None:
        """Runs the variants of a step, and adds what they predict; the first step adds the model without edits."""
        if not step.variants:
            self._effects.count(self._first, self._counted)
        if not len(self._rows):
            return
        if not step.variants:
            self._add_all((0,), self._plain[None])
            return
        hidden = stream.edited(step.start, len(step.variants), step.changes)
        self._add_all(step.variants, hidden.flatten(1, 2)[:, self._rows])

    def _add_all(self, variants: Sequence[int], states: torch.Tensor) -> None:
        """`states` `[variants, tokens, width]` are the last hidden states of the tokens that predict."""
        detailed = [slot for slot, one in enumerate(variants) if one <= self._effects.detailed]
        measured: dict[int, list[torch.Tensor]] = {slot: [] for slot in detailed}
        for piece in self._pieces if detailed else []:
            reference = self._head(self._plain[piece]).log_softmax(-1)
            for slot in detailed:
                measured[slot].append(measures_of(self._head(states[slot, piece]), self._targets[piece], reference))
        for slot, one in enumerate(variants):
            every = torch.cat(measured[slot], dim=1) if slot in measured else None
            if every is None or self._losses.in_parts:  # losses are compared, so all are computed in one way
                losses = self._losses(states[slot], self._targets)[None]
                every = losses if every is None else torch.cat([losses, every[1:]])
            self._add(one, every)

    def _add(self, variant: int, values: torch.Tensor) -> None:
        whole = values.new_zeros(len(values), self._counted.numel())
        whole[:, self._rows] = values
        self._outbox.put(whole)
        self._waiting.append(variant)
        if values.device.type == "cpu" or self._outbox.is_full:
            self.take_in()

    def take_in(self) -> None:
        """Adds what is still on the device. Raises NotFiniteError, whose site is the variant."""
        waiting, self._waiting = self._waiting, []
        for variant, values in zip(waiting, self._outbox.fetch(), strict=True):
            if not bool(values[0].isfinite().all()):
                raise NotFiniteError(variant)
            self._effects.add(variant, values.unflatten(1, self._counted.shape), self._first)
