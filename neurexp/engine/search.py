"""Greedy coordinate gradient: a search over token strings for the one that excites a unit most.

After Zou et al. (2023), “Universal and transferable adversarial attacks on aligned language models”, algorithm 1. The
gradient of the unit's mean activation with respect to one-hot tokens says at each position which tokens are promising;
random single swaps among them are run, and the best is kept. Here a string is only replaced by a better one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from neurexp.engine.checkpoint import Checkpoints
from neurexp.engine.one_unit import AfterStep, Unit, each_unit, embedding_table, few_threads, unit_of_embeddings
from neurexp.engine.reducers.by_unit import ByUnit
from neurexp.errors import UserError
from neurexp.models.sites import find_sites
from neurexp.models.transfer import to_device

TOKENS_AT_ONCE = 4096  # of candidates in one forward
TRIED = 8  # better strings of a step, the best first, that are checked for being a text that can be typed
FORECAST_AFTER = 3  # steps

Strings = Callable[[np.ndarray], np.ndarray]  # ids [strings, n] → whether each stays the same when it is encoded again


@dataclass(frozen=True)
class Search:
    """How the search runs.

    Args:
        steps: of which each keeps the best of the swaps that it tries.
        top: tokens with the largest gradient at each position.
        candidates: random single swaps that are run in each step, for each start. If there are no more than that, all
            are run, and a start that none of them improves has ended.
        seed: of the swaps.
    """

    steps: int = 50
    top: int = 64
    candidates: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Best:
    """What a search found, for each start.

    Args:
        ids: the best string, `[starts, n]`.
        curve: its mean activation before the first step and after each, `[starts, steps + 1]` float32.
        text_ids: the best string that stays the same when it is decoded and encoded again; −1 where there is none.
        tried: strings that were run.
    """

    ids: torch.Tensor
    curve: torch.Tensor
    text_ids: torch.Tensor
    tried: int


def one_hot_gradient(
    unit: Callable[[torch.Tensor], torch.Tensor], table: torch.Tensor, ids: torch.Tensor, allowed: torch.Tensor
) -> torch.Tensor:
    """The gradient of each string's mean activation with respect to its one-hot tokens, `[strings, n, allowed]`.

    The embedding is linear in them, so that it is the gradient with respect to the embeddings times the table.
    """
    with torch.inference_mode(False), torch.enable_grad():
        embedded = table[ids].detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(unit(embedded).mean(1).sum(), embedded)
    return gradient @ table[allowed].float().T


def greedy_search(
    unit: Callable[[torch.Tensor], torch.Tensor],
    table: torch.Tensor,
    starts: torch.Tensor,
    allowed: torch.Tensor,
    search: Search,
    is_text: Strings,
    after_step: AfterStep = lambda step: None,
) -> Best:
    """Searches from every start; the starts do not influence each other.

    Args:
        unit: of `unit_of_embeddings`.
        table: of `embedding_table`.
        starts: `[starts, n]` ids.
        allowed: ids that a swap may bring in, `[allowed]`.
        search: the settings.
        is_text: whether strings stay the same when they are decoded and encoded again.
        after_step: called with each step's number.

    Raises:
        UserError: an activation is NaN or infinite.
    """
    current, device = starts.to(table.device), table.device
    allowed = allowed.to(device)
    count, n = current.shape
    top = min(search.top, len(allowed))
    every = n * top <= search.candidates
    value = _run(unit, table, current)
    curve, tried = [value], count
    texts, text_value = torch.full((count, n), -1), torch.full((count,), -torch.inf)
    _note_texts(current[:, None], value[:, None], texts, text_value, is_text)
    ended = False
    for step in range(search.steps):
        if not ended:
            gradient = one_hot_gradient(unit, table, current, allowed)
            gradient[current[:, :, None] == allowed] = -torch.inf  # no swap
            promising = allowed[gradient.topk(top, dim=-1).indices]  # [starts, n, top]
            position, rank = (to_device(one, device) for one in _swaps(search, step, count, n, top))
            swapped = current[:, None].repeat(1, position.shape[1], 1)
            new = promising.gather(1, position[:, :, None].expand(-1, -1, top))
            new = new.gather(2, rank[:, :, None])
            swapped.scatter_(2, position[:, :, None], new)
            values = _run(unit, table, swapped.flatten(0, 1)).view(count, -1)
            tried += values.numel()
            _note_texts(swapped, values, texts, text_value, is_text)
            best, which = values.max(1)
            better = best > value
            chosen = swapped[torch.arange(count, device=device), which]
            current, value = current.where(~better[:, None], chosen), value.where(~better, best)
            ended = every and not bool(better.any())
        curve.append(value)
        after_step(step)
    return Best(current.cpu(), torch.stack(curve, 1).cpu(), texts, tried)


def _swaps(search: Search, step: int, count: int, n: int, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and ranks among the promising tokens of the swaps to try, `[starts, candidates]` each."""
    if n * top <= search.candidates:
        each = torch.arange(n * top).expand(count, -1)
    else:
        draws = [np.random.default_rng([search.seed, step, start]) for start in range(count)]
        each = torch.from_numpy(np.stack([one.choice(n * top, search.candidates, replace=False) for one in draws]))
    return each // top, each % top


def _run(unit: Callable[[torch.Tensor], torch.Tensor], table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The mean activation of each string, `[strings]`."""
    with torch.no_grad():
        pieces = ids.split(max(1, TOKENS_AT_ONCE // ids.shape[1]))
        values = torch.cat([unit(table[some]).mean(1) for some in pieces])
    if not bool(values.isfinite().all()):
        raise UserError("device.dtype: the search met an activation that is NaN or infinite; give float32")
    return values


def _note_texts(
    strings: torch.Tensor, values: torch.Tensor, texts: torch.Tensor, text_value: torch.Tensor, is_text: Strings
) -> None:
    """Keeps each start's best string that is a text that can be typed: `texts` and `text_value`, on the CPU, are
    updated."""
    best, order = (part[:, :TRIED] for part in values.sort(dim=1, descending=True, stable=True))
    strings = strings.gather(1, order[:, :, None].expand(-1, -1, strings.shape[2])).cpu()
    best = best.cpu()
    for start, (own, value) in enumerate(zip(strings, best, strict=True)):
        better = own[value > text_value[start]]  # the first ones
        found = np.flatnonzero(is_text(better.numpy())) if len(better) else []
        if len(found):
            texts[start], text_value[start] = better[found[0]], value[found[0]]


def run_search(
    network: PreTrainedModel,
    site: str,
    units: Sequence[Unit],
    search: Search,
    starts: Sequence[torch.Tensor],
    allowed: torch.Tensor,
    is_text: Strings,
    found: ByUnit,
    prefix: Sequence[int] = (),
    progress: bool = False,
    forecast: Callable[[float, int], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Searches for every unit, from its starts.

    Args:
        network: a causal Hugging Face model in `eval()`, without the fast forward.
        site, units: the units, as layer and neuron.
        search: the settings.
        starts: `[starts, n]` ids for each unit.
        allowed, is_text: as in `greedy_search`.
        found: gets `ids`, `curve` and `text_ids` of each unit (`Best`), and `tried` `[1]`.
        prefix: ids before each string.
        progress, forecast, checkpoints: as in `engine.ascent.run_ascent`.

    Raises:
        UserError: an activation is NaN or infinite, or has no gradient.
        OtherPassError: the checkpoints belong to another pass.
    """
    table = embedding_table(network)
    for index, after_step in each_unit(units, search.steps, found, FORECAST_AFTER, progress, forecast, checkpoints):
        layer, neuron = units[index]
        (where,) = find_sites(network, site, [layer])
        few = few_threads(network, starts[index].numel() + len(starts[index]) * len(prefix))
        with few, unit_of_embeddings(network, where, neuron, prefix) as unit:
            best = greedy_search(unit, table, starts[index], allowed, search, is_text, after_step)
        found.add(index, ids=best.ids, curve=best.curve, text_ids=best.text_ids, tried=torch.tensor([best.tried]))
