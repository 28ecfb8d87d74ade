"""What it costs to keep each neuron's top contexts: a pass with and without the reducers of `top_contexts`, in turn.

Knows no other case of the benchmark.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neurexp.engine.lanes import lanes_on
from neurexp.engine.passes import run_pass
from neurexp.engine.reducers import Extremes, Moments, NeuronHistogram, Reducer
from neurexp.experiments.benchmark import cases
from neurexp.experiments.benchmark.cases import Case, Work
from neurexp.models.fast import fast_forward
from neurexp.models.load import LanguageModel
from neurexp.models.sites import find_sites
from neurexp.report.report import Table
from neurexp.text.tokenizer import special_ids
from neurexp.text.tokens import Tokens

log = logging.getLogger(__name__)

K, BEFORE, AFTER, BINS, EVERY = 20, 20, 8, 64, 8  # as top_contexts has them
AIM = 0.1  # of the pass without them, for Extremes and Moments together
NONE, BOTH = "none", "extremes_moments"

CASES = {
    NONE: "the pass alone: capture, and no reducer",
    "extremes": f"with Extremes: the {K} highest and lowest activations of each neuron, and the levels around them",
    "moments": "with Moments",
    BOTH: "with Extremes and Moments",
    "extremes_moments_histogram": f"with both, and a NeuronHistogram of every {EVERY}th sequence",
}

COLUMNS = {
    "context_costs.case": "; ".join(f"{name}: {meaning}" for name, meaning in CASES.items()),
    "context_costs.seconds": "median over the rounds, for all of the tokens",
    "context_costs.seconds_min": "of the quickest round",
    "context_costs.seconds_max": "of the slowest round",
    "context_costs.share": f"median over the rounds of (seconds − seconds of {NONE}) / seconds of {NONE} in the same "
    "round. It falls with the number of tokens: at first every token is one of the highest ones so far",
    "context_costs.share_min": "smallest of these",
    "context_costs.share_max": "largest of these",
    **{f"context_share_{name}": f"context_costs.share of {name}" for name in CASES if name != NONE},
    f"context_share_{BOTH}_min": f"context_costs.share_min of {BOTH}",
    f"context_share_{BOTH}_max": f"context_costs.share_max of {BOTH}",
}


@dataclass
class ContextCosts:
    """What was measured: seconds `[rounds]` of each case by name, over so many tokens."""

    seconds: dict[str, np.ndarray]
    tokens: int

    def table(self) -> Table:
        """`context_costs.parquet`."""
        seconds = np.stack([self.seconds[name] for name in CASES])
        share = seconds / self.seconds[NONE] - 1
        table: Table = {"case": np.array(list(CASES))}
        for name, values in (("seconds", seconds), ("share", share)):
            table[name] = np.median(values, 1)
            table[f"{name}_min"], table[f"{name}_max"] = values.min(1), values.max(1)
        return table

    def metrics(self, table: Table) -> dict[str, float]:
        """Flat metrics of the table."""
        metrics = {f"context_share_{name}": share for name, share in _by_case(table, "share") if name != NONE}
        for end in ("min", "max"):
            metrics[f"context_share_{BOTH}_{end}"] = dict(_by_case(table, f"share_{end}"))[BOTH]
        return metrics

    def findings(self, metrics: dict[str, float]) -> list[str]:
        """A sentence: what Extremes and Moments add to a pass."""

        def share(name: str) -> str:
            return f"{metrics[f'context_share_{name}']:.1%}"

        return [
            f"Top contexts: over {self.tokens:,} tokens, Extremes and Moments add {share(BOTH)} to a pass that reduces "
            f"nothing ({share(f'{BOTH}_min')} to {share(f'{BOTH}_max')}; the aim is {AIM:.0%}): Extremes "
            f"{share('extremes')}, Moments {share('moments')}. With a NeuronHistogram of every {EVERY}th sequence it "
            f"is {share('extremes_moments_histogram')}. The share of Extremes falls with the number of tokens."
        ]


def _by_case(table: Table, column: str) -> list[tuple[str, float]]:
    return list(zip(table["case"].tolist(), table[column].tolist(), strict=True))


def reducers_of(case: str, sites: int, length: int, device: torch.device) -> list[Reducer]:
    """New reducers of a case."""
    made: list[Reducer] = []
    if "extremes" in case:
        made.append(Extremes(sites, K, length, BEFORE, AFTER, device=device))
    if "moments" in case:
        made.append(Moments(sites, device=device))
    if "histogram" in case:
        made.append(NeuronHistogram(sites, BINS, EVERY, device))
    return made


def _reducing(case: str, model: LanguageModel, tokens: Tokens, site: str, layers: list[int]) -> Work:
    """The pass with a case's reducers. Special tokens do not count."""
    special = torch.tensor(sorted(special_ids(model.tokenizer)), dtype=torch.int64)

    def counted(ids: torch.Tensor, positions: torch.Tensor, sequences: torch.Tensor) -> dict[str, Any]:
        return {"counted": torch.isin(ids, special, invert=True)}

    def work(batch_size: int) -> None:
        with fast_forward(model.network) if model.fast else nullcontext():
            sites = find_sites(model.network, site, layers)
            run_pass(
                model.network,
                sites,
                tokens.input_ids,
                tokens.valid,
                reducers_of(case, len(sites), tokens.input_ids.shape[1], model.device),
                counted,
                batch_size,
                lanes=lanes_on(model.device),
            )

    return work


def measure(
    model: LanguageModel,
    tokens: Tokens,
    site: str,
    layers: Sequence[int],
    batch_size: int,
    rounds: int,
    seconds_of: Callable[[Case], float],
) -> ContextCosts:
    """Runs every case once in each round, in turn, after one round that is not counted."""
    turns = [Case(name, name, _reducing(name, model, tokens, site, list(layers)), batch_size) for name in CASES]
    for turn in turns:
        turn()
    seconds = cases.take_turns(
        turns, rounds, seconds_of, lambda index: log.info("Top contexts: round %d of %d", index + 1, rounds)
    )
    return ContextCosts(seconds, tokens.count)
