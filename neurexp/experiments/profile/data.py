"""A profile's plan before its pass, and its data after it: sums over tokens, and what they are sums of.

The analysis, the report, the figures and the column texts read `ProfileData` only. Knows no sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from neurexp.engine.reducers.histogram import Histogram
from neurexp.experiments import base
from neurexp.experiments.base import Results
from neurexp.experiments.options.profiles import ProfileOptions as Options
from neurexp.experiments.profile.covariate import Covariate
from neurexp.experiments.profile.design import Design
from neurexp.stats.groups import GroupSums, MedianSplit
from neurexp.stats.profile import ProfileSums

SPECIAL, SKIPPED = 3, 4  # the groups of tokens without a value, and of tokens at skipped positions


@dataclass(frozen=True, kw_only=True)
class ProfilePlan(base.Plan):
    """What a profile wants to run."""

    layers: tuple[int, ...]
    covariate: Covariate
    design: Design
    split: MedianSplit
    value_counts: np.ndarray  # [largest value + 1] tokens of each value
    special: int  # tokens without a value
    reference: str  # which text frequencies are taken from


@dataclass(frozen=True)
class ProfileData:
    """Everything that the analysis of a profile needs."""

    options: Options
    plan: ProfilePlan
    sums: ProfileSums
    groups: GroupSums
    histogram: np.ndarray  # [layers, groups, bins + 2], under- and overflow first and last
    edges: np.ndarray  # [layers, bins + 1], the model's own units

    @classmethod
    def of(cls, options: Options, plan: ProfilePlan, results: Results) -> "ProfileData":
        """Joins a plan with the results of its pass."""
        (reducers,) = results.values()
        histogram, design = reducers["histogram"], plan.design
        assert isinstance(histogram, Histogram)
        gram = reducers["gram"].arrays()
        group, squared = design.columns["group"], design.columns["group"].start - design.squared.start
        groups = GroupSums(
            count=np.diag(gram["zz"])[group].round().astype(np.int64),
            sums=gram["zx"][:, group],
            squares=gram["qxx"][:, squared : squared + design.groups],
            magnitudes=gram.pop("magnitudes"),
            shift=gram["shift"],
        )
        sums = ProfileSums(
            **gram,
            columns=design.columns,
            squared_from=design.squared.start,
            categories=design.categories,
            centre=design.centre,
        )
        return cls(options, plan, sums, groups, histogram.arrays()["counts"], histogram.edges.numpy())

    @property
    def covariate(self) -> Covariate:
        """The property of tokens that is profiled."""
        return self.plan.covariate

    @property
    def layers(self) -> Sequence[int]:
        """Block indices."""
        return self.plan.layers

    @property
    def site(self) -> str:
        """The place in each block."""
        return self.options.site

    @property
    def label(self) -> str:
        """The model and the text, for titles."""
        return self.plan.inputs.label

    @property
    def categories(self) -> np.ndarray:
        """The values that occur, ascending."""
        return self.plan.design.categories.astype(np.int64)

    @cached_property
    def tokens(self) -> int:
        """How many tokens have a value, and were not skipped."""
        return int(self.plan.value_counts.sum())
