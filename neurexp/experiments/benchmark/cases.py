"""The cases of a benchmark: each runs the same token sequences once, to activations or to statistics; and their rounds.

Knows nothing of what is reported.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from neurexp.engine.lanes import lanes_on
from neurexp.engine.passes import run_pass
from neurexp.engine.plan import run
from neurexp.experiments.base import Inputs
from neurexp.experiments.token_length import TokenLength
from neurexp.models.fast import fast_forward
from neurexp.models.load import LanguageModel
from neurexp.models.sites import Site, find_sites
from neurexp.report.report import Report
from neurexp.stats.groups import median_split
from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import token_lengths

BINS = 96  # of the basic statistics' histograms, as many as token_length has at least

Work = Callable[[int], object]  # runs all tokens; its argument is the number of sequences in a forward


@dataclass
class Case:
    """One way of running the tokens, at the batch size that suits it."""

    name: str  # in tables and metrics
    label: str  # for people
    work: Work
    batch_size: int

    def __call__(self) -> None:
        """Runs all of the tokens once."""
        self.work(self.batch_size)


def bare(model: LanguageModel, tokens: Tokens) -> Work:
    """Hugging Face's own forward without the language-model head, called as a user would call it."""
    ids = _ids(model, tokens)

    def work(batch_size: int) -> None:
        with torch.inference_mode():
            for batch in ids.split(batch_size):
                model.network.base_model(batch)

    return work


def capture(model: LanguageModel, tokens: Tokens, site: str, layers: list[int]) -> Work:
    """Our hooks and our forward; the activations are dropped."""

    def work(batch_size: int) -> None:
        with fast_forward(model.network) if model.fast else nullcontext():
            sites = find_sites(model.network, site, layers)
            run_pass(
                model.network,
                sites,
                tokens.input_ids,
                tokens.valid,
                [],
                batch_size=batch_size,
                lanes=lanes_on(model.device),
            )

    return work


class WholePass:
    """The complete `token_length`: pass, statistics, nulls and intervals, without figures, files and cache."""

    def __init__(self, experiment: TokenLength, inputs: Inputs):
        self._experiment, self._inputs = experiment, inputs
        self.report: Report | None = None  # of the last call
        self.analysis = 0.0  # seconds that the last call spent after the pass

    def __call__(self, batch_size: int) -> None:
        plan = self._experiment.prepare(self._inputs)
        results = {planned.name: run(planned, self._inputs.model, batch_size) for planned in plan.passes}
        began = time.perf_counter()
        self.report = self._experiment.analyse(plan, results)
        self.analysis = time.perf_counter() - began


class Recipe:
    """The keep-everything recipe: keep every layer's activations of the whole text, then reduce them.

    It computes basic statistics only: each neuron's mean and standard deviation by group of token length, and each
    layer's histogram by group. No null, no interval, no confound. The groups of the tokens are computed beforehand.
    """

    def __init__(self, model: LanguageModel, tokens: Tokens, sites: Sequence[Site], widths: Sequence[int]):
        """`widths` are the numbers of neurons of the sites, `[sites]`."""
        values = (sum(widths) + 2 * max(widths)) * tokens.input_ids.size
        self.bytes_needed = values * model.network.dtype.itemsize  # to keep all, and to reduce the widest site
        self._network, self._ids, self._sites = model.network, _ids(model, tokens), sites
        lengths = token_lengths(model.tokenizer)
        has_length = tokens.valid & (lengths[tokens.input_ids] >= 0)
        split = median_split(np.bincount(lengths[tokens.input_ids[has_length]]))
        group = np.where(has_length, split.group(lengths[tokens.input_ids]), -1).ravel()
        self._members = [torch.from_numpy(np.flatnonzero(group == one)).to(model.device) for one in range(3)]

    def __call__(self, batch_size: int) -> None:
        kept: list[list[torch.Tensor]] = [[] for _ in self._sites]
        handles = [site.listen(rows.append) for site, rows in zip(self._sites, kept, strict=True)]
        try:
            with torch.inference_mode():
                for batch in self._ids.split(batch_size):
                    self._network(batch)
        finally:
            for handle in handles:
                handle.remove()
        self._reduce(kept)

    def with_fetch(self, fetch: Callable[[torch.Tensor], list[torch.Tensor]]) -> Work:
        """The same statistics of the same tokens, with activations that `fetch` gets, batch by batch."""

        def work(batch_size: int) -> None:
            kept: list[list[torch.Tensor]] = [[] for _ in self._sites]
            for batch in self._ids.split(batch_size):
                for rows, activations in zip(kept, fetch(batch), strict=True):
                    rows.append(activations)
            self._reduce(kept)

        return work

    def _reduce(self, kept: list[list[torch.Tensor]]) -> None:
        with torch.inference_mode():
            for batches in kept:
                basic_statistics(torch.cat(batches).flatten(0, 1), self._members)


def basic_statistics(activations: torch.Tensor, members: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
    """Mean `[neurons]`, deviation `[neurons]` and histogram `[bins]` of each group of activations `[tokens, neurons]`.

    `members` are the indices of each group's tokens, `[tokens of the group]`; a group without any is left out.
    """
    values = activations.float()
    low, high = values.aminmax()
    found = []
    for rows in members:
        if len(rows):
            chosen = values[rows]
            histogram = torch.histc(chosen, BINS, float(low), float(high))
            found.append((chosen.mean(0), chosen.std(0, correction=0), histogram))
    return found


def _ids(model: LanguageModel, tokens: Tokens) -> torch.Tensor:
    ids = np.where(tokens.valid, tokens.input_ids, 0)  # a pad's own id need not be one that the model has
    return torch.from_numpy(ids.astype(np.int64)).to(model.device)


def take_turns(
    cases: Sequence[Case], rounds: int, seconds_of: Callable[[Case], float], each_round: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Runs the cases in turn, A B C, A B C, …: the seconds `[rounds]` of each.

    Other load on the machine then slows all cases alike, and the cases of one round ran close together in time.
    """
    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    for index in range(rounds):
        each_round(index)
        for case in cases:
            seconds[case.name].append(seconds_of(case))
    return {name: np.array(values) for name, values in seconds.items()}


def ratios(seconds: Mapping[str, np.ndarray], reference: str) -> dict[str, np.ndarray]:
    """Each case's seconds over those of the reference in the same round, `[rounds]`."""
    return {name: values / seconds[reference] for name, values in seconds.items()}


def best_batch_size(work: Work, sizes: Sequence[int], seconds_of: Callable[[Callable], float]) -> dict[int, float]:
    """The seconds at each batch size, the quickest first. A first run, which is slower, is not counted."""
    work(sizes[0])
    seconds = {size: seconds_of(lambda size=size: work(size)) for size in sizes}
    return dict(sorted(seconds.items(), key=lambda item: item[1]))
