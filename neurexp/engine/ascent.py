"""Gradient ascent on the input of a model: the embeddings that excite one unit most, from many starts.

The model's weights stay as they are, and embeddings change (Erhan et al. 2009, “Visualizing higher-layer features of a
deep network”). What is found need not be near any token: `decode` says which token is nearest, and how near.
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

AT_ONCE = 2**27  # cosines that are held at a time
FORECAST_AFTER = 20  # steps


@dataclass(frozen=True)
class Ascent:
    """How the ascent runs.

    Args:
        length: n, the number of embeddings of a start.
        starts: S, how many starts run side by side.
        steps: of Adam (its other parameters are PyTorch's).
        rate: Adam's learning rate.
        penalty: λ. A start θ `[n, width]` has the loss −(mean activation over the n positions) + λ · Σθ², the sum over
            all n · width numbers.
        every: the activation is kept before every n-th step, and after the last.
        seed: of the random starts; each unit has its own.
        directions: random vectors that are decoded, too: what decoding gives by chance.
    """

    length: int = 5
    starts: int = 10
    steps: int = 500
    rate: float = 0.001
    penalty: float = 0.001
    every: int = 10
    seed: int = 0
    directions: int = 2000

    @property
    def points(self) -> list[int]:
        """The steps whose activation is kept."""
        return [*range(0, self.steps, self.every), self.steps]


def random_starts(table: torch.Tensor, ascent: Ascent, unit: Unit) -> torch.Tensor:
    """Normal numbers `[starts, n, width]` float32 with the standard deviation of all numbers of the embedding table.

    The first starts are the same however many there are.
    """
    random = torch.Generator().manual_seed(_seed(ascent.seed, *unit))
    drawn = torch.stack([torch.randn(ascent.length, table.shape[1], generator=random) for _ in range(ascent.starts)])
    return (drawn * deviation(table)).to(table.device)


def deviation(table: torch.Tensor) -> float:
    """The standard deviation of all numbers of an embedding table."""
    sums, count = torch.zeros(2, dtype=torch.float64, device=table.device), table.numel()
    for piece in table.split(4096):  # a copy in float64 of all would be large
        sums[0] += piece.double().sum()
        sums[1] += piece.double().square().sum()
    total, squares = sums.tolist()
    return max(0.0, squares / count - (total / count) ** 2) ** 0.5


def _seed(*parts: int) -> int:
    """One seed of several numbers: unlike sums, different numbers give different seeds."""
    return int(np.random.SeedSequence([part % 2**32 for part in parts]).generate_state(1)[0])


def ascend(
    unit: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    ascent: Ascent,
    after_step: AfterStep = lambda step: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Climbs from every start at once.

    Args:
        unit: of `unit_of_embeddings`.
        start: `[starts, n, width]` float32.
        ascent: steps, rate, penalty, every.
        after_step: called with each step's number.

    Returns:
        The last embeddings, as `start`, and the mean activation over positions by step, `[starts, points]` float32.

    Raises:
        UserError: an activation is NaN or infinite.
    """
    points, curve = set(ascent.points), []
    with torch.inference_mode(False), torch.enable_grad():
        theta = start.detach().clone().requires_grad_()
        adam = torch.optim.Adam([theta], lr=ascent.rate)
        for step in range(ascent.steps):
            reached = unit(theta).mean(1)
            if step in points:
                curve.append(_finite(reached.detach()))
            # The sum over starts: each start's gradient is that of its own loss, and Adam works number by number
            loss = -reached.sum() + ascent.penalty * theta.square().sum()
            (theta.grad,) = torch.autograd.grad(loss, theta)
            adam.step()
            after_step(step)
        theta = theta.detach()
        with torch.no_grad():
            curve.append(_finite(unit(theta).mean(1)))
    return theta, torch.stack(curve, 1).cpu()


def _finite(values: torch.Tensor) -> torch.Tensor:
    if not bool(values.isfinite().all()):
        raise UserError("experiment.rate: the ascent led to an activation that is NaN or infinite; give a smaller rate")
    return values


def decode(vectors: torch.Tensor, table: torch.Tensor, allowed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The allowed token whose embedding has the largest cosine similarity to each vector.

    Args:
        vectors: `[…, width]`.
        table: `[ids, width]`.
        allowed: ids, `[allowed]`.

    Returns:
        Ids and cosines, `[…]`, on the CPU.
    """
    shape, vectors = vectors.shape[:-1], vectors.reshape(-1, vectors.shape[-1]).float()
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    best = torch.full((len(vectors),), -torch.inf, device=vectors.device)
    ids = torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
    for some in allowed.to(table.device).split(max(1, AT_ONCE // max(1, len(vectors)))):
        cosines = vectors @ torch.nn.functional.normalize(table[some].float(), dim=-1).T
        value, place = cosines.max(1)
        better = value > best
        best, ids = best.where(~better, value), ids.where(~better, some[place])
    return ids.reshape(shape).cpu(), best.reshape(shape).cpu()


def run_ascent(
    network: PreTrainedModel,
    site: str,
    units: Sequence[Unit],
    ascent: Ascent,
    allowed: torch.Tensor,
    found: ByUnit,
    prefix: Sequence[int] = (),
    starts: Sequence[torch.Tensor | None] = (),
    progress: bool = False,
    forecast: Callable[[float, int], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Climbs for every unit, from all starts as one batch, and decodes what it reaches.

    Args:
        network: a causal Hugging Face model in `eval()`, without the fast forward.
        site, units: the units, as layer and neuron.
        ascent: the settings.
        allowed: ids that may be decoded, `[allowed]`.
        found: gets `start` and `end` `[starts, n, width]` float32, `curve` `[starts, points]`, `ids` and `cosine`
            `[starts, n]` of each unit; and of no unit `direction_ids` and `direction_cosine` `[directions]`, what
            random vectors decode to.
        prefix: ids before the embeddings.
        starts: for each unit token ids `[starts, n]` whose embeddings are its starts, or None: random embeddings.
        progress, forecast, checkpoints: as in `engine.passes.run_pass`; a step of the checkpoints is a unit.

    Raises:
        UserError: an activation is NaN or infinite, or has no gradient.
        OtherPassError: the checkpoints belong to another pass.
    """
    table = embedding_table(network)
    for index, after_step in each_unit(units, ascent.steps, found, FORECAST_AFTER, progress, forecast, checkpoints):
        if index == 0:  # what was resumed has them
            random = torch.Generator().manual_seed(_seed(ascent.seed, 1))
            directions = torch.randn(ascent.directions, table.shape[1], generator=random).to(table.device)
            ids, cosines = decode(directions, table, allowed)
            found.add(None, direction_ids=ids, direction_cosine=cosines)
        layer, neuron = units[index]
        given = starts[index] if starts else None
        start = random_starts(table, ascent, units[index]) if given is None else table[given.to(table.device)]
        start = start.float()
        (where,) = find_sites(network, site, [layer])
        few = few_threads(network, ascent.starts * (len(prefix) + ascent.length))
        with few, unit_of_embeddings(network, where, neuron, prefix) as unit:
            end, curve = ascend(unit, start, ascent, after_step)
        ids, cosines = decode(end, table, allowed)
        found.add(index, start=start.cpu(), end=end.cpu(), curve=curve, ids=ids, cosine=cosines)
