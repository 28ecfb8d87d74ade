"""The plan of top contexts before its pass, and its data after it. Knows no sentence."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from neurexp.engine.reducers.base import Reducer
from neurexp.engine.reducers.extremes import Extremes
from neurexp.engine.reducers.moments import Moments
from neurexp.engine.reducers.sequence_maxima import SequenceMaxima
from neurexp.experiments import base
from neurexp.experiments.base import Results
from neurexp.experiments.options.others import TopContextsOptions as Options
from neurexp.experiments.top_contexts.design import Design
from neurexp.experiments.top_contexts.explained import PropertySums
from neurexp.experiments.top_contexts.winners import Draws, draw
from neurexp.stats.moments import MomentStatistics, moments_of
from neurexp.text.vocabulary import token_texts

ENDS = ("top", "bottom")
LEAST_IN_HALF = 32  # counted tokens of each half of the sample; with fewer, nothing is explained
ONLY = "text"


@dataclass(frozen=True, kw_only=True)
class TopContextsPlan(base.Plan):
    """What the experiment wants to run."""

    layers: tuple[int, ...]
    counted: np.ndarray  # [sequences, length] bool: no special token, no padding, no skipped position
    design: Design
    reference: str  # which text frequencies are taken from
    units: tuple[tuple[int, int], ...] = ()  # layer and neuron of those whose winners are looked up, by layer


@dataclass(frozen=True)
class TopContextsData:
    """Everything that the analysis needs.

    Args:
        options, plan: of the run.
        values: `[layers, 2, neurons, k]` float32 the highest (descending) and lowest (ascending) activations; NaN where
            there are fewer.
        places: the same shape, int64: sequence · length + column; −1 where there are fewer.
        levels: `[layers, 2, neurons, k, before + 1 + after]` int8, the activations around.
        moments: `[layers, neurons]` each.
        sums: of the properties.
        histogram: `counts`, `start` and `width` of every neuron; empty if there is none.
        winners: of random batches; None if none were asked for.
    """

    options: Options
    plan: TopContextsPlan
    values: np.ndarray
    places: np.ndarray
    levels: np.ndarray
    moments: MomentStatistics
    sums: PropertySums
    histogram: dict[str, np.ndarray]
    winners: Draws | None = None

    @classmethod
    def of(cls, options: Options, plan: TopContextsPlan, results: Results) -> "TopContextsData":
        """Joins a plan with the results of its pass."""
        reducers = results[ONLY]
        extremes, moments = reducers["extremes"], reducers["moments"]
        assert isinstance(extremes, Extremes)
        assert isinstance(moments, Moments)
        gram = reducers["properties"].arrays()
        gram.pop("magnitudes")
        values, places, levels = (one.cpu().numpy() for one in (extremes.values, extremes.places, extremes.levels))
        return cls(
            options,
            plan,
            values,
            places,
            levels,
            moments_of(**moments.arrays()),
            PropertySums(plan.design, **gram),
            reducers["histogram"].arrays() if "histogram" in reducers else {},
            None if "maxima" not in reducers else _winners(options, plan, reducers["maxima"]),
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """Block indices."""
        return self.plan.layers

    @property
    def neurons(self) -> int:
        """Of each layer."""
        return self.values.shape[2]

    @property
    def site(self) -> str:
        """The place in each block."""
        return self.options.site

    @property
    def label(self) -> str:
        """The model and the text, for titles."""
        return self.plan.inputs.label

    @cached_property
    def tokens(self) -> int:
        """How many tokens are counted."""
        return int(self.plan.counted.sum())

    @cached_property
    def kept(self) -> int:
        """How many contexts of one end a neuron has: `k`, or fewer in a short text."""
        return int((self.places >= 0).sum(-1).max(initial=0))

    @cached_property
    def telling(self) -> np.ndarray:
        """Which contexts say something, as `places`, bool: not those whose choice is the order of the text alone.

        If several contexts are equal to the last one that is kept, tokens that were left out may be equal to it, too:
        none of these says anything, unless they are three or more of one type (the first tokens of a text are of
        several; a neuron that knows the type alone has equal values). Nor does any context of a neuron that is
        constant.
        """
        equal = (self.places >= 0) & (self.values == self.values[..., -1:])
        one_type = (~equal | (self.ids == self.ids[..., -1:])).all(-1)
        count = equal.sum(-1)
        tied = (count > 1) & ~(one_type & (count > 2)) & (self.tokens > self.options.k)
        return (self.places >= 0) & ~(tied[..., None] & equal) & ~self.constant[:, None, :, None]

    @cached_property
    def constant(self) -> np.ndarray:
        """Which neurons have one value at all tokens, `[layers, neurons]` bool."""
        return self.values[:, 0, :, 0] == self.values[:, 1, :, 0]

    @cached_property
    def cross_validated(self) -> bool:
        """Whether both halves of the sample have enough tokens."""
        return bool(self.plan.design.counts.sum(1).min() >= LEAST_IN_HALF)

    @cached_property
    def texts(self) -> np.ndarray:
        """`[vocabulary]` object: each token decoded alone."""
        return np.array(token_texts(self.plan.inputs.model.tokenizer), dtype=object)

    @cached_property
    def ids(self) -> np.ndarray:
        """The token of each place, as `places`, int32; −1 where there is none."""
        flat = self.plan.tokens.input_ids.reshape(-1)
        return np.where(self.places >= 0, flat[np.maximum(self.places, 0)], -1).astype(np.int32)


def _winners(options: Options, plan: TopContextsPlan, maxima: Reducer) -> Draws:
    assert isinstance(maxima, SequenceMaxima)
    return draw(
        plan.units,
        maxima.values.cpu().numpy(),
        maxima.columns.cpu().numpy(),
        plan.tokens.valid.shape[1],
        options.batches,
        options.batch_sequences,
        plan.inputs.seed,
    )
