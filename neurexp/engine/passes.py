"""The one pass: batches of tokens through a model, each site's activations reduced inside its hook, nothing else kept.

On a CPU batches may run at the same time (`engine.lanes`), with the same result as one after the other.

`engine.notebook` has functions that return the activations themselves. Knows neither token lengths nor words: what a
reducer must know about the tokens comes as covariates.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from neurexp.engine.changes import Change, Place, check_tokens
from neurexp.engine.checkpoint import Checkpoints
from neurexp.engine.division import batches_of, ranges_of
from neurexp.engine.hooks import hooked
from neurexp.engine.lanes import Lanes
from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer
from neurexp.engine.reducers.not_finite import NotFinite
from neurexp.models.sites import Site
from neurexp.models.spread import device_of
from neurexp.models.transfer import to_device

Covariates = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], dict[str, Any]]

CHECKED_EVERY = 8  # batches between two checks for NaN and infinity


def run_pass(
    network: PreTrainedModel,
    sites: Sequence[Site],
    input_ids: np.ndarray | torch.Tensor,
    valid: np.ndarray | torch.Tensor | None,
    reducers: Sequence[Reducer],
    covariates: Covariates | None = None,
    batch_size: int = 4,
    progress: bool = False,
    forecast: Callable[[float, int], None] | None = None,
    part: slice | Sequence[range] = slice(None),
    checkpoints: Checkpoints | None = None,
    lanes: int = 1,
    changes: Sequence[Change] = (),
) -> None:
    """Runs every sequence once and lets each reducer see each site's activations of the valid tokens.

    If a reducer must be calibrated, the first sequence runs alone. Then the calibration does not depend on the batches.

    Args:
        network: a causal Hugging Face model, with or without its head; left as it was.
        sites: of `find_sites`, on that model.
        input_ids: `[sequences, length]`.
        valid: `[sequences, length]` bool, or None for all. Pads are excluded by position, whatever their ids.
        reducers: updated in place.
        covariates: (ids, positions, sequences) `[tokens]` of a batch's valid tokens → name → `[tokens, …]`, all of it
            on the CPU.
        batch_size: sequences in one forward.
        progress: whether to show tokens per second and the time left, if standard error is a terminal.
        forecast: called once, after the second batch (the first is slower than all others), with the estimated seconds
            of the pass and the number of neurons. It must not run the model, because the hooks are in place.
        part: the sequences to reduce, if not all; ranges are ascending. The first sequence calibrates the reducers in
            any case.
        checkpoints: the pass resumes from them, and saves its progress in them.
        lanes: how many batches run at the same time, each in a thread (`engine.lanes`), if every reducer is
            `concurrent`. Other hooks on the network, and `covariates`, are then called in these threads, several at a
            time.
        changes: of `engine.edits.resolve`: the activations are those of the model with these edits.

    Raises:
        NotFiniteError: a site put out NaN or infinity. Raised some batches later: the check waits for the device.
        OtherPassError: the checkpoints belong to another pass.
        ValueError: a change's mask of tokens has another shape than `input_ids`.
    """
    device = device_of(network)
    ids = as_tensor(input_ids).cpu()
    mask = torch.ones_like(ids, dtype=torch.bool) if valid is None else as_tensor(valid).cpu()
    check_tokens(changes, ids.shape)
    own = ranges_of(part, len(ids))
    widths: dict[int, int] = {}

    if not any(reducer.handles_not_finite for reducer in reducers):
        reducers = [*reducers, NotFinite(len(sites), device)]
    if checkpoints is not None:
        checkpoints.calibrate(reducers)
    to_calibrate = [reducer for reducer in reducers if not reducer.is_calibrated]
    batches = batches_of(own, batch_size)
    if to_calibrate and len(ids):
        others = [one[1:] if one[0] == 0 else one for one in own]
        batches = [range(1), *batches_of(others, batch_size)]
    is_own = [any(chosen[0] in one for one in own) for chosen in batches]  # the first may calibrate only
    done = checked = 0 if checkpoints is None else checkpoints.load(reducers)
    tokens_in = [
        int(mask[chosen.start : chosen.stop].sum()) if mine else 0 for chosen, mine in zip(batches, is_own, strict=True)
    ]
    count = lanes if len(batches) > 1 and all(reducer.concurrent for reducer in reducers) else 1
    workers = Lanes(count, 1 + len(sites), first=done)

    @contextmanager
    def adding_sequences(index: int) -> Iterator[None]:
        """Adds to the error the sequences that may contain NaN or infinity: all that were not checked before."""
        try:
            yield
        except NotFiniteError as error:
            only_calibrates = not is_own[0]  # the first batch is of another process's part
            first = last = 0
            if index > 0 or not only_calibrates:
                last = workers.begun - 1  # it may have been in another lane's batch
                first = min(max(checked, int(only_calibrates)), last)
            error.sequences = slice(batches[first].start, batches[last].stop)
            raise

    def check(index: int) -> None:
        nonlocal checked
        with adding_sequences(index):
            for reducer in reducers:
                reducer.check()
        checked = index + 1

    mine = threading.local()  # the batch that a thread is working on

    def receive(site: int, activations: torch.Tensor) -> None:
        widths[site] = activations.shape[-1]
        values = activations.flatten(0, 1).to(device)  # of a model on several devices
        values = values if mine.rows is None else values[mine.rows]
        with workers.turn(mine.index, 1 + site):
            if mine.index == 0:  # a resumed pass was calibrated before its first checkpoint
                for reducer in to_calibrate:
                    reducer.calibrate(site, values)
            for reducer in mine.reducers:
                reducer.update(site, values, mine.batch)

    def run_batch(index: int) -> None:
        began, chosen = time.perf_counter(), batches[index]
        here = slice(chosen.start, chosen.stop)
        with torch.inference_mode():
            with workers.turn(index, 0):
                batch = make_batch(ids[here], mask[here], chosen.start, device, covariates)
                updated = list(reducers) if is_own[index] else []
                for reducer in updated:
                    reducer.begin(batch)
            mine.index, mine.batch, mine.reducers = index, batch, updated
            mine.rows = None if batch.rows is None else to_device(batch.rows, device)
            with adding_sequences(index):
                shape = (batch.valid.shape[0], batch.valid.shape[1])
                place = Place(shape, batch.first, batch.valid) if changes else None
                forward(place, use_cache=False, **inputs_of(batch))
            if index % CHECKED_EVERY == 0:
                check(index)
        bar.update(tokens_in[index])
        if forecast is not None and index == min(done + workers.count, len(batches) - 1) > done:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            pace = (time.perf_counter() - began) / len(chosen) / workers.count
            forecast(pace * sum(map(len, batches[done:])), sum(widths.values()))

    bar = tqdm(
        total=sum(tokens_in),
        initial=sum(tokens_in[:done]),
        unit=" tokens",
        unit_scale=True,
        disable=None if progress else True,
        leave=False,
    )
    with bar, hooked(network, sites, receive, changes) as forward:
        while workers.begun < len(batches):
            workers.run(run_batch, len(batches), pause=lambda: checkpoints is not None and checkpoints.due())
            check(workers.begun - 1)
            if checkpoints is not None and checkpoints.due():
                covered = [one for one, mine in zip(batches[: workers.begun], is_own, strict=False) if mine]
                checkpoints.save(reducers, workers.begun, covered)


def count_not_finite(
    network: PreTrainedModel,
    sites: Sequence[Site],
    input_ids: np.ndarray | torch.Tensor,
    valid: np.ndarray | torch.Tensor | None,
    part: slice,
    batch_size: int = 4,
) -> tuple[list[int], list[int]]:
    """Counts the activations of each site that are NaN or infinite over the sequences of `part`.

    Returns:
        Those counts, and the numbers of all activations, one for each site.
    """
    counted = NotFinite(len(sites), device_of(network), raises=False)
    run_pass(network, sites, input_ids, valid, [counted], batch_size=batch_size, part=part)
    return counted.counts.tolist(), counted.values.tolist()


def as_tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """The array as a tensor; a copy only if the array is read-only, because PyTorch would warn."""
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.copy()
    return torch.as_tensor(array)


def make_batch(
    ids: torch.Tensor, valid: torch.Tensor, first: int, device: torch.device, covariates: Covariates | None = None
) -> Batch:
    """A batch of tokens `[sequences, length]`, of which `first` is the index of the first sequence."""
    ids = ids.long().where(valid, 0)  # a pad's id may be unknown to the model
    rows = None if bool(valid.all()) else valid.flatten().nonzero().squeeze(1)
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    chosen = slice(None) if rows is None else rows
    named = {}
    if covariates:
        sequences = torch.arange(first, first + len(ids)).repeat_interleave(ids.shape[1])
        named = covariates(ids.flatten()[chosen], positions.flatten()[chosen], sequences[chosen])
    return Batch(ids, valid, rows, positions, first, named, device)


def inputs_of(batch: Batch) -> dict[str, torch.Tensor]:
    """The forward's arguments. Only pads that are not all on the right need a mask, and positions that skip them."""
    inputs = {"input_ids": batch.input_ids}
    right_padded = batch.rows is None or bool((batch.valid[:, :-1] >= batch.valid[:, 1:]).all())
    if not right_padded:
        inputs |= {"attention_mask": batch.valid.long(), "position_ids": batch.positions}
    return {name: to_device(tensor, batch.device) for name, tensor in inputs.items()}
