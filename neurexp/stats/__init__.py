"""Statistics: arrays in, arrays out. Knows no model and no text."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.stats.association import partial_correlation, permutation_p, q_values
    from neurexp.stats.components import variance_components
    from neurexp.stats.effect_sizes import auroc, cohens_d
    from neurexp.stats.groups import GroupSums, MedianSplit, median_split, overlap
    from neurexp.stats.hypothesis_tests import compare
    from neurexp.stats.interventions import (
        bootstrap_intervals,
        in_null_units,
        mean_effects,
        null_band,
        null_moments,
        rank_p,
        specific_effects,
        specific_intervals,
    )
    from neurexp.stats.matching import Draws, balance, matched_draws, mean_ratios
    from neurexp.stats.nulls import auroc_interval, permutation
    from neurexp.stats.pairs import paired, pooled
    from neurexp.stats.probe import neuron_probes
    from neurexp.stats.profile import ProfileSums, profile_layer
    from neurexp.stats.replication import replicate

__all__ = [
    "Draws",
    "GroupSums",
    "MedianSplit",
    "ProfileSums",
    "auroc",
    "auroc_interval",
    "balance",
    "bootstrap_intervals",
    "cohens_d",
    "compare",
    "in_null_units",
    "matched_draws",
    "mean_effects",
    "mean_ratios",
    "median_split",
    "neuron_probes",
    "null_band",
    "null_moments",
    "overlap",
    "paired",
    "partial_correlation",
    "permutation",
    "permutation_p",
    "pooled",
    "profile_layer",
    "q_values",
    "rank_p",
    "replicate",
    "specific_effects",
    "specific_intervals",
    "variance_components",
]

_HOMES = {
    "Draws": "neurexp.stats.matching",
    "GroupSums": "neurexp.stats.groups",
    "MedianSplit": "neurexp.stats.groups",
    "ProfileSums": "neurexp.stats.profile",
    "auroc": "neurexp.stats.effect_sizes",
    "auroc_interval": "neurexp.stats.nulls",
    "balance": "neurexp.stats.matching",
    "bootstrap_intervals": "neurexp.stats.interventions",
    "cohens_d": "neurexp.stats.effect_sizes",
    "compare": "neurexp.stats.hypothesis_tests",
    "in_null_units": "neurexp.stats.interventions",
    "matched_draws": "neurexp.stats.matching",
    "mean_effects": "neurexp.stats.interventions",
    "mean_ratios": "neurexp.stats.matching",
    "median_split": "neurexp.stats.groups",
    "neuron_probes": "neurexp.stats.probe",
    "null_band": "neurexp.stats.interventions",
    "null_moments": "neurexp.stats.interventions",
    "overlap": "neurexp.stats.groups",
    "paired": "neurexp.stats.pairs",
    "partial_correlation": "neurexp.stats.association",
    "permutation": "neurexp.stats.nulls",
    "permutation_p": "neurexp.stats.association",
    "pooled": "neurexp.stats.pairs",
    "profile_layer": "neurexp.stats.profile",
    "q_values": "neurexp.stats.association",
    "rank_p": "neurexp.stats.interventions",
    "replicate": "neurexp.stats.replication",
    "specific_effects": "neurexp.stats.interventions",
    "specific_intervals": "neurexp.stats.interventions",
    "variance_components": "neurexp.stats.components",
}
__getattr__ = lazy(__name__, _HOMES)
