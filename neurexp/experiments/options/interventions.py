"""The options of interventions. Imports nothing heavy."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from neurexp.errors import UserError
from neurexp.experiments.options import base
from neurexp.experiments.options.base import given
from neurexp.experiments.options.chosen_neurons import check_choice, check_named

if TYPE_CHECKING:
    from neurexp.experiments.intervention.selection import FoundNeurons
    from neurexp.report.finished import FinishedRun

KINDS = ("mean", "zero", "peak", "resample")


@dataclass
class InterventionOptions(base.Options):
    """Options of every intervention."""

    controls: ClassVar[tuple[str, ...]] = ("off",)

    site: Any = "NEURON"
    run: str | None = None
    run_site: str | None = None
    neurons: Any = None
    by: str | None = None
    count: int | None = None
    direction: str = "auto"
    significant: bool = True
    kind: Any = "mean"
    ks: Any = None
    draws: int = 200
    alone: bool = True
    sample: int = 64
    bootstraps: int = 2000

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of replacement, also where one is given."""
        return (self.kind,) if isinstance(self.kind, str) else tuple(self.kind)

    def check(self) -> None:
        super().check()
        self.check_range(20, 10_000, "draws")
        self.check_range(0, 100_000, "sample")
        self.check_range(100, 100_000, "bootstraps")
        check_choice(self.direction, self.count)
        kinds = [self.kind] if isinstance(self.kind, str) else self.kind
        if not isinstance(kinds, list) or not kinds or not all(kind in KINDS for kind in kinds):
            raise UserError(f"{given('kind', self.kind)}: give one of {', '.join(KINDS)}, or a list of them")
        if len(set(kinds)) < len(kinds):
            raise UserError(f"{given('kind', self.kind)}: give each once")
        ks = self.ks
        if ks is not None and not (isinstance(ks, list) and all(type(k) is int and k > 0 for k in ks) and ks):
            raise UserError(f"{given('ks', ks)}: give a list of whole numbers of 1 or more, such as [1,2,4], or null")
        self.check_one_site("edits")
        if self.neurons is not None:
            check_named(self.neurons)


@dataclass
class AblationOptions(InterventionOptions):
    """The options of conf/experiment/ablation.yaml."""

    def check(self) -> None:
        super().check()
        if self.run is None and self.neurons is None:
            raise UserError(
                "experiment.run is missing: give experiment.run=RUN_FOLDER_OR_ID of a finished run, whose neurons are "
                "ablated, or experiment.neurons=[[LAYER,NEURON],…]"
            )

    def check_source(self, run: "FinishedRun") -> None:
        if self.neurons is None:
            from neurexp.experiments.intervention.selection import neurons_found, site_of

            site = site_of(run, self.site, self.run_site)
            found = neurons_found(run, self.by, self.count, self.direction, site, self.significant)
            if self.count is not None:
                _check_others(run.at_site(site), found, self.count)


def _check_others(run: "FinishedRun", found: "Mapping[str, FoundNeurons]", count: int) -> None:
    """Raises UserError if a layer has fewer other neurons than a set has there: each is matched with another one."""
    pairs = {name: {(int(a), int(b)) for a, b in one.pairs} for name, one in found.items()}
    chosen = Counter(layer for layer, _ in set().union(*pairs.values()))
    in_layer = Counter(run.neurons["layer"].tolist())
    for name, own in pairs.items():
        for layer, targets in Counter(layer for layer, _ in own).items():
            others = in_layer[layer] - chosen[layer]
            if others < targets:
                raise UserError(
                    f"experiment.count={count}: the set {name} has {targets} of the {in_layer[layer]} neurons of layer "
                    f"{layer}, and {others} are left to draw as many random ones from; give a smaller number"
                )
