"""Ablation: does the model predict worse without the neurons that were found, and worse than without random ones?"""

from collections.abc import Mapping
from typing import Any

from neurexp.errors import UserError
from neurexp.experiments import intervention
from neurexp.experiments.base import Inputs, TokenGroup
from neurexp.experiments.source import own_experiment

SAME_NEURONS = ("MLP", "UP", "ACT", "NEURON")  # sites that number the same neurons


class Ablation(intervention.Intervention):
    """The experiment `ablation`."""

    def __init__(self, options: Any):
        super().__init__(options)
        if options.run is None and options.neurons is None:
            raise UserError(
                "experiment.run is missing: give experiment.run=RUN_FOLDER_OR_ID of a finished run, whose neurons are "
                "ablated, or experiment.neurons=[[LAYER,NEURON],…]"
            )

    def sets(self, inputs: Inputs) -> Mapping[str, intervention.FoundNeurons]:
        options, run = self.options, inputs.source
        if options.neurons is not None:
            return {"chosen": intervention.neurons_given(options.neurons, inputs.model.layers)}
        assert run is not None
        site = self._site_of(inputs)
        found = intervention.neurons_found(run, options.by, options.count, options.direction, site, options.significant)
        return {name: one if options.count else one.first(intervention.MOST) for name, one in found.items()}

    def groups_of_tokens(self, inputs: Inputs) -> Mapping[str, TokenGroup]:
        return {} if inputs.source is None else own_experiment(inputs.source).token_groups(inputs)

    def describe_source(self, inputs: Inputs) -> str:
        if inputs.source is None:
            return ""
        return f"the {inputs.source.experiment} run {inputs.source.place}"

    def _site_of(self, inputs: Inputs) -> str | None:
        """The site of the run whose neurons are the option's; None: the run has one site.

        Raises:
            UserError: the run has no such site.
        """
        run, site = inputs.source, self.options.site
        assert run is not None
        if site in run.sites or not run.sites:
            return site if run.sites else None
        same = [one for one in run.sites if one in SAME_NEURONS and site in SAME_NEURONS]
        if not same:
            raise UserError(
                f"experiment.site={site}: {run.given} found units of {', '.join(run.sites)}; give "
                f"experiment.site={run.sites[0]}"
            )
        return same[0]
