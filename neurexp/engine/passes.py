"""The one pass: batches of tokens through a model, each site's activations reduced inside its hook, nothing else kept.

`capture` is the public door that keeps the activations themselves. Knows neither token lengths nor words: what a
reducer needs to know of the tokens comes as covariates.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from neurexp.engine.hooks import hooked
from neurexp.engine.reducers import Batch, Keep, Pilot, Reducer
from neurexp.models.load import LanguageModel
from neurexp.models.sites import Site, find_sites, parse_layers

Covariates = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]


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
) -> None:
    """Runs every sequence once and lets each reducer see each site's activations of the valid tokens.

    Args:
        network: a causal Hugging Face model, with or without its head; left as it was.
        sites: of `find_sites`, on that model.
        input_ids: `[sequences, length]`.
        valid: `[sequences, length]` bool, or None for all; a pad is excluded by its position, whatever its id.
        reducers: updated in place.
        covariates: (ids, positions, sequences) `[tokens]` of a batch's valid tokens → name → `[tokens, …]`.
        batch_size: sequences in one forward.
        progress: show tokens per second and the time left, where standard error is a terminal.
        forecast: told once, after the second batch, how many seconds the pass will take by the pace of that batch (the
            first one is slower than all others), and how many neurons it listens to. The hooks are in place then: it
            must not run the model.
    """
    device = network.device
    ids = _tensor(input_ids)
    mask = torch.ones_like(ids, dtype=torch.bool) if valid is None else _tensor(valid)
    batch: Batch | None = None
    widths: dict[int, int] = {}

    def receive(index: int, activations: torch.Tensor) -> None:
        assert batch is not None
        widths[index] = activations.shape[-1]
        rows = activations.flatten(0, 1)
        rows = rows if batch.rows is None else rows[batch.rows]
        for reducer in reducers:
            reducer.update(index, rows, batch)

    bar = tqdm(total=int(mask.sum()), unit=" tokens", unit_scale=True, disable=None if progress else True, leave=False)
    with bar, torch.inference_mode(), hooked(sites, receive) as forward:
        for start in range(0, len(ids), batch_size):
            began = time.perf_counter()
            batch = _batch(ids[start : start + batch_size], mask[start : start + batch_size], start, device, covariates)
            for reducer in reducers:
                reducer.begin(batch)
            forward(network.base_model, use_cache=False, **_inputs(batch))
            bar.update(batch.tokens)
            if forecast is not None and start == batch_size:
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                forecast((time.perf_counter() - began) * len(ids) / len(batch.input_ids), sum(widths.values()))


def measure_pilot(
    network: PreTrainedModel,
    sites: Sequence[Site],
    input_ids: np.ndarray | torch.Tensor,
    valid: np.ndarray | torch.Tensor | None,
) -> Pilot:
    """Runs the first sequence alone, to fix shifts and ranges before the pass, however the pass is cut."""
    pilot = Pilot(len(sites), network.device)
    run_pass(network, sites, input_ids[:1], None if valid is None else valid[:1], [pilot])
    return pilot


def _tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """A tensor of the array; a copy only where PyTorch would warn of sharing memory that must not be written."""
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.copy()
    return torch.as_tensor(array)


def _check_ids(network: PreTrainedModel, ids: torch.Tensor) -> None:
    vocabulary, positions = network.config.vocab_size, getattr(network.config, "max_position_embeddings", None)
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise ValueError(f"input_ids must be 0 or more, and below the vocabulary's {vocabulary}")
    if positions is not None and ids.shape[1] > positions:
        raise ValueError(f"input_ids has sequences of {ids.shape[1]} tokens; the model has {positions} positions")


def _batch(ids, valid, first: int, device: torch.device, covariates: Covariates | None) -> Batch:
    ids, valid = ids.to(device, torch.long), valid.to(device)
    rows = None if bool(valid.all()) else valid.flatten().nonzero().squeeze(1)
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    chosen = slice(None) if rows is None else rows
    named = {}
    if covariates:
        sequences = torch.arange(first, first + len(ids), device=device).repeat_interleave(ids.shape[1])
        named = covariates(ids.flatten()[chosen], positions.flatten()[chosen], sequences[chosen])
    return Batch(ids, valid, rows, positions, first, named)


def _inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """Pads on the right are never attended to, by causality; others need a mask and positions that skip them."""
    right_padded = batch.rows is None or bool((batch.valid[:, :-1] >= batch.valid[:, 1:]).all())
    if right_padded:
        return {"input_ids": batch.input_ids}
    mask = batch.valid.long()
    return {"input_ids": batch.input_ids, "attention_mask": mask, "position_ids": batch.positions}


def capture(
    model: LanguageModel | PreTrainedModel,
    input_ids: np.ndarray | torch.Tensor,
    site: str = "MLP",
    layers: object = "all",
    valid: np.ndarray | torch.Tensor | None = None,
    batch_size: int = 4,
    budget_bytes: int = 4 * 2**30,
) -> dict[str, torch.Tensor]:
    """The activations themselves: `{"MLP_0": [sequences, length, neurons], …}` on the CPU, in the model's dtype.

        model = neurexp.load_model("mini")
        activations = neurexp.capture(model, model.tokenizer("Hello world", return_tensors="pt").input_ids)

    Args:
        model: of `load_model`, or any causal transformers model of a known family (put it in `eval()` yourself).
        input_ids: `[sequences, length]`, or one sequence `[length]`.
        site: `MLP` (the expansion before its non-linearity), `ACT`, `PROJ`, …: the family's site table.
        layers: `"all"`, one layer or a list.
        valid: `[sequences, length]` bool; where it is False the result is NaN, and the token is never attended to.
        batch_size: sequences in one forward; it does not change the result beyond the forward's own rounding.
        budget_bytes: what the result may take at most.

    Raises:
        UserError: unknown family, site or layer.
        MemoryError: the result would not fit the budget; reduce inside a pass instead (`neurexp.engine`).
        ValueError: shapes do not match, or ids are not integers of the vocabulary, or sequences are too long.
    """
    network = model.network if isinstance(model, LanguageModel) else model
    ids = _tensor(input_ids)
    if ids.dtype == torch.bool or ids.is_floating_point() or ids.ndim not in (1, 2) or ids.numel() == 0:
        raise ValueError(f"input_ids must be integers [sequences, length], not {ids.dtype} {list(ids.shape)}")
    mask = None if valid is None else _tensor(valid).bool()
    if mask is not None and mask.shape != ids.shape:
        raise ValueError(f"valid has shape {list(mask.shape)}, input_ids {list(ids.shape)}")
    if ids.ndim == 1:
        ids, mask = ids[None], None if mask is None else mask[None]
    _check_ids(network, ids)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give 1 or more")
    sites = find_sites(network, site, parse_layers(layers, network.config.num_hidden_layers))
    keep = Keep(len(sites), ids.shape[0], ids.shape[1], budget_bytes)
    run_pass(network, sites, ids, mask, [keep], batch_size=batch_size)
    return {found.key: keep.kept[index] for index, found in enumerate(sites)}
