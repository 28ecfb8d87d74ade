"""Statistics: arrays in, arrays out. Knows no model and no text."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.stats.association import partial_correlation, permutation_p, q_values
    from neurexp.stats.effect_sizes import auroc, cohens_d
    from neurexp.stats.groups import GroupSums, MedianSplit, median_split, overlap
    from neurexp.stats.hypothesis_tests import compare
    from neurexp.stats.nulls import auroc_interval, permutation
    from neurexp.stats.probe import neuron_probes
    from neurexp.stats.profile import ProfileSums, profile_layer
    from neurexp.stats.replication import replicate

__all__ = [
    "GroupSums",
    "MedianSplit",
    "ProfileSums",
    "auroc",
    "auroc_interval",
    "cohens_d",
    "compare",
    "median_split",
    "neuron_probes",
    "overlap",
    "partial_correlation",
    "permutation",
    "permutation_p",
    "profile_layer",
    "q_values",
    "replicate",
]

_HOMES = {
    "GroupSums": "neurexp.stats.groups",
    "MedianSplit": "neurexp.stats.groups",
    "ProfileSums": "neurexp.stats.profile",
    "auroc": "neurexp.stats.effect_sizes",
    "auroc_interval": "neurexp.stats.nulls",
    "cohens_d": "neurexp.stats.effect_sizes",
    "compare": "neurexp.stats.hypothesis_tests",
    "median_split": "neurexp.stats.groups",
    "neuron_probes": "neurexp.stats.probe",
    "overlap": "neurexp.stats.groups",
    "partial_correlation": "neurexp.stats.association",
    "permutation": "neurexp.stats.nulls",
    "permutation_p": "neurexp.stats.association",
    "profile_layer": "neurexp.stats.profile",
    "q_values": "neurexp.stats.association",
    "replicate": "neurexp.stats.replication",
}
__getattr__ = lazy(__name__, _HOMES)
