"""A profile: how do activations depend on a property of the token? The base of token length and of its siblings.

A subclass says only which covariate each token has. The pass, the group means, r with its null and interval, what is
left of r once its confounds are controlled for, and the figures are shared.
"""

import hashlib
from abc import abstractmethod
from typing import Any

import numpy as np
import torch

from neurexp.engine.plan import Pass
from neurexp.engine.reducers.gram import Gram
from neurexp.engine.reducers.histogram import Histogram
from neurexp.errors import UserError
from neurexp.experiments.base import Experiment, Inputs, Results, TokenGroup
from neurexp.experiments.profile.columns import check_names
from neurexp.experiments.profile.covariate import UNDEFINED, Covariate
from neurexp.experiments.profile.data import SKIPPED, SPECIAL, Options, ProfileData, ProfilePlan
from neurexp.experiments.profile.design import Design
from neurexp.experiments.profile.grouping import Grouping
from neurexp.experiments.profile.report import write
from neurexp.io.provenance import hash_of_tokenizer
from neurexp.report.report import Report
from neurexp.stats.groups import HIGH, LOW
from neurexp.text.vocabulary import begins_word


class Profile(Experiment[ProfilePlan]):
    """Base of profiles. A subclass implements `covariate`."""

    Options = Options
    cacheable = True  # the statistics of its pass stand for the same pass of later runs

    @abstractmethod
    def covariate(self, inputs: Inputs) -> Covariate:
        """The property of tokens that activations are related to. `inputs.text` are the tokens that are run."""

    def prepare(self, inputs: Inputs) -> ProfilePlan:
        model, tokens, options = inputs.model, inputs.text, self.options
        layers, starts = inputs.layers(options.layer), begins_word(model.tokenizer)
        covariate, grouping = self._grouped(inputs, len(starts))
        skipped, split, value_counts = options.skip_positions, grouping.split, grouping.value_counts
        if split is None:
            raise UserError(f"dataset.tokens: no token of this text has a {covariate.noun}; give more text")
        reference_counts, reference = inputs.reference_counts
        groups = SPECIAL + 1 + (skipped > 0)
        group_of_value = np.append(split.group(np.arange(len(value_counts))), SPECIAL)  # −1 is the last
        design = Design(
            tokens,
            covariate,
            reference_counts,
            starts,
            options.permutations,
            options.blocks,
            skipped,
            inputs.seed,
            group_of_value,
            groups,
        )
        by_value = torch.from_numpy(group_of_value)

        def covariates(ids: torch.Tensor, positions: torch.Tensor, sequences: torch.Tensor) -> dict[str, Any]:
            value = torch.from_numpy(design.values_of(ids.numpy(), positions.numpy(), sequences.numpy())).long()
            group = torch.where(positions < skipped, SKIPPED, by_value[value])
            return {"group": group, "design": design(ids, positions, sequences)}

        def reducers(sites: int) -> dict[str, Any]:
            gram = Gram(design.width, sites, design.squared, design.columns["group"], device=model.device)
            return {"histogram": Histogram(groups, sites, options.bins, model.device), "gram": gram}

        planned = Pass(
            name="text",
            tokens=tokens,
            site=options.site,
            layers=layers,
            reducers=reducers,
            covariates=covariates,
            key={
                "experiment": f"{type(self).__module__}.{type(self).__qualname__}",
                "covariate": hashlib.sha256(covariate.values.astype("<i8").tobytes()).hexdigest(),
                "tokenizer": hash_of_tokenizer(model.tokenizer),
                "reference_counts": hashlib.sha256(reference_counts.tobytes()).hexdigest(),
                "seed": inputs.seed,
                # The other options are of the analysis: the same pass serves them
                **{name: getattr(options, name) for name in ("skip_positions", "permutations", "blocks", "bins")},
            },
            cacheable=self.cacheable,
        )
        return ProfilePlan(
            inputs=inputs,
            passes=(planned,),
            tokens=tokens,
            skipped=tokens.skipped,
            layers=layers,
            covariate=covariate,
            design=design,
            split=split,
            value_counts=value_counts,
            special=int(tokens.valid.sum() - (grouping.values != UNDEFINED).sum()),
            reference=f"the counts of {reference}",
        )

    def token_groups(self, inputs: Inputs) -> dict[str, TokenGroup]:
        """The tokens below and above the text's median value, which `prepare` compares."""
        covariate, grouping = self._grouped(inputs, len(begins_word(inputs.model.tokenizer)))
        low, _, high = covariate.groups
        at = "" if grouping.split is None else f", {grouping.split.median:g} {covariate.unit}"
        sides = {low: (LOW, "below"), high: (HIGH, "above")}
        masks = {name: grouping.members(group) for name, (group, _) in sides.items()}
        return {
            name: TokenGroup(masks[name], masks[name], f"tokens {side} the median {covariate.noun}{at}")
            for name, (_, side) in sides.items()
        }

    def _grouped(self, inputs: Inputs, vocabulary: int) -> tuple[Covariate, Grouping]:
        """The covariate, and the text's tokens grouped by it. Raises UserError if all positions are skipped."""
        covariate, tokens, skipped = self.covariate(inputs), inputs.text, self.options.skip_positions
        check_names(covariate)
        if covariate.by_type and len(covariate.values) != vocabulary:
            raise ValueError(
                f"{covariate.name} has {len(covariate.values)} values; give one for each of the vocabulary's "
                f"{vocabulary} tokens"
            )
        length = tokens.valid.shape[1]
        if not 0 <= skipped < length:
            raise UserError(f"experiment.skip_positions={skipped}: give a whole number from 0 to {length - 1}")
        return covariate, Grouping.of(covariate, tokens, skipped)

    def analyse(self, plan: ProfilePlan, results: Results) -> Report:
        return write(ProfileData.of(self.options, plan, results))
