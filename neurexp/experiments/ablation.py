"""Ablation: does the model predict worse without the neurons that were found, and worse than without random ones?"""

from collections.abc import Mapping
from pathlib import Path

from neurexp.experiments import intervention
from neurexp.experiments.base import Inputs, TokenGroup
from neurexp.experiments.intervention.selection import site_of, sites_alike
from neurexp.experiments.options.interventions import AblationOptions as Options
from neurexp.experiments.source import own_experiment


class Ablation(intervention.Intervention):
    """The experiment `ablation`."""

    Options = Options

    def sets(self, inputs: Inputs) -> Mapping[str, intervention.FoundNeurons]:
        options, run = self.options, inputs.source
        if options.neurons is not None:
            sites = [] if run is None else sites_alike(run, options.site)
            known = run.at_site(sites[0]) if run is not None and sites else None
            return {"chosen": intervention.neurons_given(options.neurons, inputs.model.layers, known)}
        assert run is not None
        site = site_of(run, options.site, options.run_site)
        found = intervention.neurons_found(run, options.by, options.count, options.direction, site, options.significant)
        return {name: one if options.count else one.first(intervention.MOST) for name, one in found.items()}

    def groups_of_tokens(self, inputs: Inputs) -> Mapping[str, TokenGroup]:
        return {} if inputs.source is None else own_experiment(inputs.source).token_groups(inputs)

    def describe_source(self, inputs: Inputs) -> str:
        if inputs.source is None:
            return ""
        return f"the {inputs.source.experiment} run {Path(inputs.source.place).name}"
