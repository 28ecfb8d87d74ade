"""Ablation: does the model predict worse without the neurons that were found, and worse than without random ones?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurexp.errors import UserError
from neurexp.experiments import intervention
from neurexp.experiments.base import Inputs, TokenGroup
from neurexp.experiments.source import own_experiment
from neurexp.models.numbering import number_alike
from neurexp.report.finished import FinishedRun


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
            sites = [] if run is None else self._sites_alike(run)
            known = run.at_site(sites[0]) if run is not None and sites else None
            return {"chosen": intervention.neurons_given(options.neurons, inputs.model.layers, known)}
        assert run is not None
        site = self._site_of(run)
        found = intervention.neurons_found(run, options.by, options.count, options.direction, site, options.significant)
        return {name: one if options.count else one.first(intervention.MOST) for name, one in found.items()}

    def groups_of_tokens(self, inputs: Inputs) -> Mapping[str, TokenGroup]:
        return {} if inputs.source is None else own_experiment(inputs.source).token_groups(inputs)

    def describe_source(self, inputs: Inputs) -> str:
        if inputs.source is None:
            return ""
        return f"the {inputs.source.experiment} run {Path(inputs.source.place).name}"

    def _sites_alike(self, run: FinishedRun) -> list[str]:
        """The run's sites whose units are numbered as those of `experiment.site`, that site itself first."""
        site = self.options.site
        same = [one for one in run.sites if number_alike(one, site)]
        return sorted(same, key=lambda one: one != site)

    def _site_of(self, run: FinishedRun) -> str | None:
        """The site of the run whose units are those of `experiment.site`; None: the run does not say its sites.

        Raises:
            UserError: the run has no such site.
        """
        site, wanted = self.options.site, self.options.run_site
        same = self._sites_alike(run)
        if wanted is not None:
            run.at_site(wanted)  # raises UserError if the run has no such site
            if wanted not in same:
                raise UserError(
                    f"experiment.run_site={wanted}: its units are not those of experiment.site={site}; give "
                    f"experiment.site={wanted}"
                )
            return wanted
        if run.sites and not same:
            raise UserError(
                f"experiment.site={site}: {run.given} found units of {', '.join(run.sites)}; give "
                f"experiment.site={run.sites[0]}"
            )
        return same[0] if same else None
