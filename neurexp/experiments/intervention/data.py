"""An intervention's plan before its passes, and its data after them: what the model predicts in each trial.

The analysis, the report, the figures and the column texts read `InterventionData` only. Knows no test and no sentence.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neurexp.engine.reducers.effects import Effects
from neurexp.experiments import base
from neurexp.experiments.intervention.direct import DirectPath, direct_path
from neurexp.experiments.intervention.draws import Drawn, Measured, draw
from neurexp.experiments.intervention.selection import FoundNeurons
from neurexp.experiments.intervention.trials import Pairs, Trials
from neurexp.experiments.options.interventions import InterventionOptions as Options
from neurexp.models.direct import why_no_direct_path


@dataclass(frozen=True)
class Group:
    """A group of predictions: those made at some tokens, or of some tokens."""

    name: str
    description: str  # as it stands in a sentence: “predictions at tokens of …”


ALL = Group("all", "all predictions")


@dataclass(frozen=True, kw_only=True)
class InterventionPlan(base.Plan):
    """What an intervention runs, and what its analysis needs beside the results."""

    layers: tuple[int, ...]
    sets: Mapping[str, FoundNeurons]
    trials: Trials
    groups: tuple[Group, ...]  # the first is `ALL`
    own_groups: Mapping[str, str]  # set → the group of predictions that its finding is about
    blocks_are_sequences: bool  # intervals are over sequences; else over blocks of consecutive ones
    category_tokens: Mapping[str, np.ndarray]  # name of a group of tokens → ids that begin one of its members
    source: str  # the run that the neurons are from, in words; empty without one
    notes: tuple[str, ...] = ()  # what a reader must know of neurons and groups


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
        measured: of each neuron: mean, magnitude, estimates.
        drawn: random neurons in place of the sets', and a sample of all neurons.
        direct: the direct paths to the logits, or None.
        why_no_direct: if there are none.
        source: the run that the neurons are from, in words; empty without one.
        notes: what a reader must know of neurons and groups, in sentences.
        blocks_are_sequences: each block is one sequence.
        seed: of every random choice.
        model_name, label: for titles.
    """

    options: Options
    layers: tuple[int, ...]
    sets: Mapping[str, FoundNeurons]
    trials: Trials
    groups: tuple[Group, ...]
    own_groups: Mapping[str, str]
    loss: np.ndarray
    details: np.ndarray
    counts: np.ndarray
    measured: Measured
    drawn: Drawn
    direct: DirectPath | None
    why_no_direct: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()
    blocks_are_sequences: bool = True
    seed: int = 0
    model_name: str = "model"
    label: str = "model on text"

    @classmethod
    def of(cls, options: Options, plan: InterventionPlan, results: base.Results) -> "InterventionData":
        """Joins a plan with the results of its passes."""
        inputs, trials, effects = plan.inputs, plan.trials, results["edits"]["effects"]
        assert isinstance(effects, Effects)
        measured = Measured.of(results, plan.layers, trials.kinds)
        drawn = draw(measured, inputs.model.network, options.site, trials, inputs.seed)
        return cls(
            options=options,
            layers=plan.layers,
            sets=plan.sets,
            trials=trials,
            groups=plan.groups,
            own_groups=plan.own_groups,
            loss=effects.loss.numpy(),
            details=effects.details.numpy(),
            counts=effects.counts.numpy(),
            measured=measured,
            drawn=drawn,
            direct=direct_path(inputs.model, options.site, trials.sets, drawn.sets, plan.category_tokens),
            why_no_direct=why_no_direct_path(inputs.model.network) or f"{options.site} has no output weights",
            source=plan.source,
            notes=plan.notes,
            blocks_are_sequences=plan.blocks_are_sequences,
            seed=inputs.seed,
            model_name=inputs.model_name,
            label=inputs.label,
        )

    @property
    def site(self) -> str:
        """Where neurons are edited."""
        return self.options.site

    def flat(self, pairs: Pairs) -> np.ndarray:
        """The index of each neuron among all of `layers`, one layer after the other."""
        places = np.searchsorted(self.layers, pairs[..., 0])
        return places * self.measured.mean.shape[1] + pairs[..., 1]
