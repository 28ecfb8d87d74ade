"""The one pass: batches of tokens through a model, each site's activations reduced inside its hook, nothing else kept.

On a CPU batches may run at the same time (`engine.lanes`), with the same result as one after the other.

`capture` is the public function that returns the activations themselves. Knows neither token lengths nor words: what a
reducer must know about the tokens comes as covariates.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from neurexp.engine.checkpoint import Checkpoints
from neurexp.engine.edits import (
    MEASURED,
    Change,
    Edit,
    Place,
    check_edits,
    check_neurons,
    measured,
    network_of,
    resolve,
)
from neurexp.engine.hooks import hooked
from neurexp.engine.lanes import Lanes
from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer
from neurexp.engine.reducers.keep import Keep
from neurexp.engine.reducers.not_finite import NotFinite
from neurexp.models.load import LanguageModel
from neurexp.models.sites import Site, blocks_of, find_sites, parse_layers

Covariates = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], dict[str, Any]]

CHECKED_EVERY = 8  # batches between two checks for NaN and infinity
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


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
    part: slice = slice(None),
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
        part: the sequences to reduce, if not all. The first sequence calibrates the reducers in any case.
        checkpoints: the pass resumes from them, and saves its progress in them.
        lanes: how many batches run at the same time, each in a thread (`engine.lanes`), if every reducer is
            `concurrent`. Other hooks on the network, and `covariates`, are then called in these threads, several at a
            time.
        changes: of `engine.edits.resolve`: the activations are those of the model with these edits.

    Raises:
        NotFiniteError: a site put out NaN or infinity. Raised some batches later: the check waits for the device.
        OtherPassError: the checkpoints belong to another pass.
    """
    device = network.device
    ids = _tensor(input_ids).cpu()
    mask = torch.ones_like(ids, dtype=torch.bool) if valid is None else _tensor(valid).cpu()
    sequences = range(*part.indices(len(ids)))
    widths: dict[int, int] = {}

    if not any(reducer.handles_not_finite for reducer in reducers):
        reducers = [*reducers, NotFinite(len(sites), device)]
    to_calibrate = [reducer for reducer in reducers if not reducer.is_calibrated]
    batches = [range(start, min(start + batch_size, sequences.stop)) for start in sequences[::batch_size]]
    if to_calibrate and len(ids):
        own = sequences[1:] if sequences and sequences[0] == 0 else sequences
        batches = [range(1), *(range(start, min(start + batch_size, own.stop)) for start in own[::batch_size])]
    done = checked = 0 if checkpoints is None else checkpoints.load(reducers)
    tokens_in = [int(mask[chosen.start : chosen.stop].sum()) if chosen[0] in sequences else 0 for chosen in batches]
    count = lanes if len(batches) > 1 and all(reducer.concurrent for reducer in reducers) else 1
    workers = Lanes(count, 1 + len(sites), first=done)

    @contextmanager
    def adding_sequences(index: int) -> Iterator[None]:
        """Adds to the error the sequences that may contain NaN or infinity: all that were not checked before."""
        try:
            yield
        except NotFiniteError as error:
            only_calibrates = batches[0][0] not in sequences  # the first batch is of another process's part
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
        values = activations.flatten(0, 1)
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
                batch = _batch(ids[here], mask[here], chosen.start, device, covariates)
                updated = list(reducers) if chosen[0] in sequences else []
                for reducer in updated:
                    reducer.begin(batch)
            mine.index, mine.batch, mine.reducers = index, batch, updated
            mine.rows = None if batch.rows is None else batch.rows.to(device, non_blocking=True)
            with adding_sequences(index):
                shape = (batch.valid.shape[0], batch.valid.shape[1])
                place = Place(shape, batch.first, batch.valid) if changes else None
                forward(place, use_cache=False, **_inputs(batch))
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
                checkpoints.save(reducers, workers.begun)


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
    counted = NotFinite(len(sites), network.device, raises=False)
    run_pass(network, sites, input_ids, valid, [counted], batch_size=batch_size, part=part)
    return counted.counts.tolist(), counted.values.tolist()


def _tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """The array as a tensor; a copy only if the array is read-only, because PyTorch would warn."""
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.copy()
    return torch.as_tensor(array)


def _argument(name: str, given: Any) -> torch.Tensor:
    try:
        return _tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be numbers [sequences, length], not {type(given).__name__} ({error})") from error


def _check_ids(network: PreTrainedModel, ids: torch.Tensor) -> None:
    vocabulary, positions = network.config.vocab_size, getattr(network.config, "max_position_embeddings", None)
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise ValueError(f"input_ids must be 0 or more, and below the vocabulary's {vocabulary}")
    if positions is not None and ids.shape[1] > positions:
        raise ValueError(f"input_ids has sequences of {ids.shape[1]} tokens; the model has {positions} positions")


def _batch(ids, valid, first: int, device: torch.device, covariates: Covariates | None) -> Batch:
    ids = ids.long().where(valid, 0)  # a pad's id may be unknown to the model
    rows = None if bool(valid.all()) else valid.flatten().nonzero().squeeze(1)
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    chosen = slice(None) if rows is None else rows
    named = {}
    if covariates:
        sequences = torch.arange(first, first + len(ids)).repeat_interleave(ids.shape[1])
        named = covariates(ids.flatten()[chosen], positions.flatten()[chosen], sequences[chosen])
    return Batch(ids, valid, rows, positions, first, named, device)


def _inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """The forward's arguments. Only pads that are not all on the right need a mask, and positions that skip them."""
    inputs = {"input_ids": batch.input_ids}
    right_padded = batch.rows is None or bool((batch.valid[:, :-1] >= batch.valid[:, 1:]).all())
    if not right_padded:
        inputs |= {"attention_mask": batch.valid.long(), "position_ids": batch.positions}
    return {name: tensor.to(batch.device, non_blocking=True) for name, tensor in inputs.items()}


def capture(
    model: LanguageModel | PreTrainedModel,
    input_ids: np.ndarray | torch.Tensor,
    site: str | Sequence[str] = "MLP",
    layers: object = "all",
    valid: np.ndarray | torch.Tensor | None = None,
    batch_size: int = 4,
    budget_bytes: int = 4 * 2**30,
    edits: Sequence[Edit] = (),
) -> dict[str, torch.Tensor]:
    """The activations themselves: `{"MLP_0": [sequences, length, neurons], …}` on the CPU, in the model's dtype.

        model = neurexp.load_model("mini")
        activations = neurexp.capture(model, model.tokenizer("Hello world", return_tensors="pt").input_ids)

    Any number of threads may call it at the same time, on one model or on several, and may also run the model directly.
    Each gets the same result as alone, and none waits for another.

    Args:
        model: of `load_model`, or any causal transformers model of a known family (put it in `eval()` yourself).
        input_ids: `[sequences, length]`, or one sequence `[length]`.
        site: `MLP` (the expansion before its non-linearity), `NEURON`, `RESID_POST`, … (docs/models.md), or several.
        layers: `"all"`, one layer or a list.
        valid: `[sequences, length]` bool; where it is False the result is NaN, and the token is never attended to.
        batch_size: sequences in one forward; it does not change the result beyond the forward's own rounding.
        budget_bytes: the largest size of the result.
        edits: activations that are replaced (`neurexp.Edit`); the result has what they lead to, also at their own
            sites. What an edit takes from the text (a mean) is measured on all valid tokens, without any edit.

    Raises:
        UserError: unknown family, site, layer or neuron.
        MemoryError: the result would not fit the budget; reduce inside a pass instead (`neurexp.engine`).
        ValueError: shapes do not match, or ids are not integers of the vocabulary, or sequences are too long.
        TypeError: `model` is not a model.
    """
    network = network_of(model)
    check_edits(edits)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; give a whole number of 1 or more")
    ids = _argument("input_ids", input_ids)
    if ids.dtype not in INTEGERS or ids.ndim not in (1, 2) or ids.numel() == 0:
        raise ValueError(f"input_ids must be integers [sequences, length], not {ids.dtype} {list(ids.shape)}")
    mask = None if valid is None else _argument("valid", valid)
    if mask is not None and mask.shape != ids.shape:
        raise ValueError(f"valid has shape {list(mask.shape)}, input_ids {list(ids.shape)}")
    if mask is not None and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("valid must be true or false everywhere")
    mask = None if mask is None else mask.bool()
    if ids.ndim == 1:
        ids, mask = ids[None], None if mask is None else mask[None]
    _check_ids(network, ids if mask is None else ids.where(mask, 0))
    sites = find_sites(network, site, parse_layers(layers, len(blocks_of(network))))
    changes = [_measured(network, change, ids, mask, batch_size, budget_bytes) for change in resolve(network, edits)]
    keep = Keep(len(sites), ids.shape[0], ids.shape[1], budget_bytes)
    run_pass(network, sites, ids, mask, [keep], batch_size=batch_size, changes=changes)
    return {found.key: keep.kept[index] for index, found in enumerate(sites)}


def _measured(
    network: PreTrainedModel,
    change: Change,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    batch_size: int,
    budget_bytes: int,
) -> Change:
    """A change with what it takes from the text: it must not depend on how the text is cut into batches."""
    if change.kind not in MEASURED or change.values is not None:
        return change
    keep = Keep(1, ids.shape[0], ids.shape[1], budget_bytes)
    run_pass(network, [change.site], ids, mask, [keep], batch_size=batch_size)
    kept = keep.kept[0] if mask is None else keep.kept[0][mask]
    values = kept.reshape(-1, kept.shape[-1])
    check_neurons(change, values.shape[-1])
    sample = values[:, change.neurons]
    return replace(change, values=sample if change.kind == "resample" else measured(change.kind, sample))
