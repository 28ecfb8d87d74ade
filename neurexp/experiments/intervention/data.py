"""An intervention's plan before its passes, and its data after them: what the model predicts in each trial.

The analysis, the report, the figures and the column texts read `InterventionData` only. Knows no test and no sentence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurexp.experiments import base
from neurexp.experiments.intervention.direct import DirectPath
from neurexp.experiments.intervention.trials import Pairs, Trials


@dataclass
class Options(base.Options):
    """Options of every intervention."""

    site: Any = "NEURON"
    run: str | None = None
    neurons: Any = None
    by: str | None = None
    count: int = 16
    direction: str = "auto"
    significant: bool = True
    kind: Any = "mean"
    ks: Any = None
    draws: int = 200
    alone: bool = True
    sample: int = 64
    bootstraps: int = 2000


@dataclass(frozen=True)
class Group:
    """A group of predictions: those made at some tokens, or of some tokens."""

    name: str
    description: str  # as it stands in a sentence: "predictions of …"


ALL = Group("all", "all predictions")


@dataclass(frozen=True)
class NeuronSet:
    """Neurons that are edited together.

    Args:
        pairs: `[n, 2]`, layer and neuron, in the order of their rank.
        scores: `[n]`, by which they were ranked; NaN if the user gave them.
        column: what the scores are; empty if the user gave the neurons.
        description: as it stands in a sentence.
    """

    pairs: Pairs
    scores: np.ndarray
    column: str
    description: str


@dataclass(frozen=True, kw_only=True)
class InterventionPlan(base.Plan):
    """What an intervention runs, and what its analysis needs beside the results."""

    layers: tuple[int, ...]
    sets: Mapping[str, NeuronSet]
    trials: Trials
    groups: tuple[Group, ...]  # the first is `ALL`
    own_groups: Mapping[str, str]  # set → the group of predictions that its finding is about
    blocks: int  # of consecutive sequences, for intervals
    sequences_of_block: int  # the largest number
    category_tokens: Mapping[str, np.ndarray]  # group → ids that begin one of its members in the text


@dataclass(frozen=True)
class InterventionData:
    """Everything that the analysis of an intervention needs.

    Args:
        options: the intervention's.
        layers: block indices of `neurons.parquet`, ascending.
        sets: the sets of neurons, by name.
        trials: where the result of each trial stands.
        groups: of predictions; the first is all.
        own_groups: set → the group that its finding is about.
        loss: `[1 + trials, groups, blocks]`, sums of −log p(next token) in nats; 0 is the model without edits.
        details: `[1 + detailed trials, 3, groups, blocks]`, sums of the KL divergence from the model without edits in
            nats, of agreement (1 where the most probable token is the same), and of the rank of the next token.
        counts: `[groups, blocks]`, predictions.
        mean, magnitude: `[layers, neurons]`, the mean of the activation and of its magnitude over the text.
        estimates: kind → `[layers, neurons]`, first-order estimate of the change of the mean loss in nats.
        norms: `[layers, neurons]`, of the output weights; None where the site has none.
        drawn: set → `[draws, n, 2]`, random neurons in place of the set's.
        features: what they were matched in, `[layers · neurons, f]`, logarithms.
        sample: `[sample, 2]`, neurons of the sample.
        direct: the direct paths to the logits, or None.
        why_no_direct: if there are none.
        source: the run that the neurons are from, in words; empty without one.
        blocks_are_sequences: each block is one sequence.
        site: where neurons are edited.
        seed: of every random choice.
        model_name, label: for titles.
    """

    options: Options
    layers: tuple[int, ...]
    sets: Mapping[str, NeuronSet]
    trials: Trials
    groups: tuple[Group, ...]
    own_groups: Mapping[str, str]
    loss: np.ndarray
    details: np.ndarray
    counts: np.ndarray
    mean: np.ndarray
    magnitude: np.ndarray
    estimates: Mapping[str, np.ndarray]
    norms: np.ndarray | None
    drawn: Mapping[str, np.ndarray]
    features: np.ndarray
    sample: Pairs
    direct: DirectPath | None
    why_no_direct: str = ""
    source: str = ""
    blocks_are_sequences: bool = True
    site: str = "NEURON"
    seed: int = 0
    model_name: str = "model"
    label: str = "model on text"
    counts_of_tokens: Mapping[str, int] = field(default_factory=dict)

    def flat(self, pairs: Pairs) -> np.ndarray:
        """The index of each neuron among all of `layers`, one layer after the other."""
        places = np.searchsorted(self.layers, pairs[..., 0])
        return places * self.mean.shape[1] + pairs[..., 1]
