"""For a notebook: the activations themselves, and what the model predicts at every token, with and without edits.

What these functions return grows with the number of tokens; experiments reduce inside a pass instead. Knows no
experiment.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from neurexp.engine.changes import (
    Change,
    Place,
    changing,
    check_neurons,
    check_tokens,
    in_this_thread,
    measured,
)
from neurexp.engine.edits import MEASURED, Edit, check_edits, network_of, resolve
from neurexp.engine.passes import as_tensor, inputs_of, make_batch, run_pass
from neurexp.engine.predictions import MEASURES, losses_of, measures_of, next_tokens, of_tokens
from neurexp.engine.reducers.base import predicting
from neurexp.engine.reducers.keep import Keep
from neurexp.engine.texts import Activations, as_texts, rows_of_ids, rows_of_texts
from neurexp.models.choices import parse_layers
from neurexp.models.head import Head
from neurexp.models.load import LanguageModel, positions_of
from neurexp.models.sites import blocks_of, find_sites
from neurexp.models.spread import device_of
from neurexp.models.transfer import to_device

INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


def capture(
    model: LanguageModel | PreTrainedModel,
    input_ids: np.ndarray | torch.Tensor | str | Sequence[str],
    site: str | Sequence[str] = "MLP",
    layers: object = "all",
    valid: np.ndarray | torch.Tensor | None = None,
    batch_size: int = 4,
    budget_bytes: int = 4 * 2**30,
    edits: Sequence[Edit] = (),
    stride: int | None = None,
) -> Activations:
    """The activations themselves: `{"MLP_0": [rows, length, neurons], …}` on the CPU, in the model's dtype.

        model = neurexp.load_model("mini")
        activations = neurexp.capture(model, ["Hello world", "A longer text"])
        activations["MLP_0"], activations.tokens, activations.valid       # a row for each text, padded with NaN
        activations.of(0)["MLP_0"], activations.tokens_of(0)              # one text: [tokens, neurons]

    A text, or a sequence of ids, that is longer than the model's positions is cut into several rows, with a warning.

    Any number of threads may call it at the same time, on one model or on several, and may also run the model directly.
    Each gets the same result as alone, and none waits for another.

    Args:
        model: of `load_model`, or any causal transformers model of a known family (put it in `eval()` yourself).
        input_ids: a text or several (for a model of `load_model`), or token ids `[sequences, length]` or `[length]`.
            Of texts, every row begins with BOS where the model's own tokenizer puts one.
        site: `MLP` (the expansion before its non-linearity), `NEURON`, `RESID_POST`, … (docs/models.md), or several.
        layers: `"all"`, one layer or a list.
        valid: `[sequences, length]` bool; where it is False the result is NaN, and the token is never attended to.
        batch_size: sequences in one forward; it does not change the result beyond the forward's own rounding.
        budget_bytes: the largest size of the result.
        edits: activations that are replaced (`neurexp.Edit`); the result has what they lead to, also at their own
            sites. What an edit takes from the text (a mean) is measured on all valid tokens, without any edit.
        stride: tokens from the beginning of one row to that of the next, where a text is cut. If it is less than the
            positions, rows overlap: with half of them, every token but the first ones sees at least half before it.

    Returns:
        A dictionary, and which token each place is: `.input_ids`, `.valid`, `.tokens`, and where texts were cut
        `.source` and `.start` (the text of each row, and where the row begins in it).

    Raises:
        UserError: unknown family, site, layer or neuron; a text without tokens; texts for a model without tokenizer.
        MemoryError: the result would not fit the budget; reduce inside a pass instead (`neurexp.engine`).
        ValueError: shapes do not match, or ids are not integers of the vocabulary, or `stride` does not fit.
        TypeError: `model` is not a model.
    """
    network = network_of(model)
    check_edits(edits)
    texts = as_texts(input_ids)
    if texts is None:
        rows = rows_of_ids(network, *checked_tokens(network, input_ids, valid, batch_size, cuts=True), stride)
    elif valid is not None:
        raise ValueError("valid is for token ids; every token of a text is valid")
    else:
        rows = rows_of_texts(model, texts, stride)
    ids, mask = checked_tokens(network, rows.input_ids, rows.valid, batch_size)
    sites = find_sites(network, site, parse_layers(layers, len(blocks_of(network))))
    changes = _changes(network, edits, ids, mask, batch_size, budget_bytes)
    keep = Keep(len(sites), ids.shape[0], ids.shape[1], budget_bytes)
    run_pass(network, sites, ids, mask, [keep], batch_size=batch_size, changes=changes)
    kept = {found.key: keep.kept[index] for index, found in enumerate(sites)}
    return Activations(kept, rows, model.tokenizer if isinstance(model, LanguageModel) else None)


def predictions(
    model: LanguageModel | PreTrainedModel,
    input_ids: np.ndarray | torch.Tensor,
    valid: np.ndarray | torch.Tensor | None = None,
    edits: Sequence[Edit] = (),
    tokens: Sequence[int] = (),
    batch_size: int = 4,
    budget_bytes: int = 4 * 2**30,
) -> dict[str, torch.Tensor]:
    """What the model predicts at every token of a text, with and without edits.

        found = neurexp.predictions(model, ids, edits=[neurexp.Edit("NEURON", 3, [5], "mean")])
        found["loss"] - found["loss_unedited"]

    As with `capture`, any number of threads may call it at the same time.

    Args:
        model: of `load_model`, or any causal transformers model of a known family, with its head.
        input_ids: `[sequences, length]`, or one sequence `[length]`.
        valid: `[sequences, length]` bool; False: a pad.
        edits: of the model that is measured; what they take from the text is measured on all valid tokens.
        tokens: ids whose log-probability and rank are wanted at every position.
        batch_size: sequences in one forward.
        budget_bytes: the largest size of activations that are kept to measure an edit's mean, mode or sample.

    Returns:
        `loss`, `kl`, `agrees` and `rank` (see `measures_of`; the reference is the model without edits) and
        `loss_unedited`, each `[sequences, length]` float32 on the CPU: the value at t is of the prediction of the token
        at t + 1, NaN where there is none. With `tokens` also `log_probability_of` and `rank_of`,
        `[sequences, length, tokens]`, of these ids at t + 1, NaN at pads.

    Raises:
        UserError, TypeError, ValueError: as `capture`.
    """
    network = network_of(model)
    check_edits(edits)
    ids, mask = checked_tokens(network, input_ids, valid, batch_size)
    every = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    given = _ids_of_vocabulary(network, tokens)
    changes = _changes(network, edits, ids, mask, batch_size, budget_bytes)
    counted = predicting(every)
    found = {name: torch.full(ids.shape, torch.nan) for name in (*MEASURES, "loss_unedited")}
    if len(given):
        found |= {f"{name}_of": torch.full((*ids.shape, len(given)), torch.nan) for name in ("log_probability", "rank")}
    with torch.inference_mode(), Head(network) as head:
        for start in range(0, len(ids), batch_size):
            here = slice(start, start + batch_size)
            batch = make_batch(ids[here], every[here], start, device_of(network))
            place = Place((batch.valid.shape[0], batch.valid.shape[1]), start, batch.valid)
            hidden = plain = network.base_model(**inputs_of(batch), use_cache=False)[0].flatten(0, 1).to(batch.device)
            if changes:
                with changing(network, changes, in_this_thread(place)):
                    hidden = network.base_model(**inputs_of(batch), use_cache=False)[0].flatten(0, 1).to(batch.device)
            rows, targets = batch.valid.flatten().nonzero().squeeze(1), next_tokens(batch.input_ids).flatten()
            for piece in head.pieces(len(rows)):
                at, own = (to_device(one, hidden.device) for one in (rows[piece], targets[rows[piece]]))
                logits = head(hidden[at])
                unedited = head(plain[at]) if changes else logits
                values = [*measures_of(logits, own, unedited.log_softmax(-1)), losses_of(unedited, own)]
                values = torch.stack([one.float() for one in values]).cpu()
                exists = counted[here].flatten()[rows[piece]]
                for name, column in zip((*MEASURES, "loss_unedited"), values, strict=True):
                    found[name][here].view(-1)[rows[piece][exists]] = column[exists]
                if len(given):
                    for name, column in zip(("log_probability", "rank"), of_tokens(logits, given), strict=True):
                        found[f"{name}_of"][here].view(-1, len(given))[rows[piece]] = column.float().cpu()
    return found


def _ids_of_vocabulary(network: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    """Token ids as a tensor on the network's device. Raises ValueError if some are none."""
    given = _argument("tokens", tokens).flatten()
    size = network.config.get_text_config().vocab_size
    if len(given) and (given.dtype not in INTEGERS or int(given.min()) < 0 or int(given.max()) >= size):
        raise ValueError(f"tokens must be ids of the vocabulary, 0 to {size - 1}, not {given.tolist()}")
    return given.long().to(device_of(network))


def _changes(
    network: PreTrainedModel,
    edits: Sequence[Edit],
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    batch_size: int,
    budget_bytes: int,
) -> list[Change]:
    """The changes of edits, with what they take from the text."""
    changes = resolve(network, edits)
    check_tokens(changes, ids.shape)
    return [measured_on(network, change, ids, mask, batch_size, budget_bytes) for change in changes]


def measured_on(
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


def checked_tokens(
    network: PreTrainedModel, input_ids: Any, valid: Any, batch_size: int, cuts: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The tokens and their mask as tensors `[sequences, length]`; the mask is None if all are valid.

    Sequences may be longer than the model's positions only if the caller `cuts` them.

    Raises:
        ValueError: they do not fit each other or the model, or the batch size is no whole number.
    """
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
    positions = positions_of(network)
    if positions is not None and ids.shape[1] > positions and not cuts:
        raise ValueError(f"input_ids has sequences of {ids.shape[1]} tokens; the model has {positions} positions")
    return ids, mask


def _argument(name: str, given: Any) -> torch.Tensor:
    try:
        return as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = "ids" if name == "tokens" else "[sequences, length]"
        raise ValueError(f"{name} must be numbers {shape}, not {type(given).__name__} ({error})") from error


def _check_ids(network: PreTrainedModel, ids: torch.Tensor) -> None:
    vocabulary = network.config.vocab_size
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise ValueError(f"input_ids must be 0 or more, and below the vocabulary's {vocabulary}")
