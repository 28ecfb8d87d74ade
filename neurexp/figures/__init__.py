"""Figures: arrays in, matplotlib figures out. Knows no model and no text; draws without a display."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.figures.bars import ratio_bars
    from neurexp.figures.contrasts import against_null, over_layers, values_by_word, volcano, words_by_neurons
    from neurexp.figures.distributions import group_histograms, split_counts
    from neurexp.figures.estimates import DirectPath, direct_path, estimate_against_exact
    from neurexp.figures.heat import heat_map, heat_page
    from neurexp.figures.in_context import ByLayer, Cloud, r_by_layer, stacked_shares, tokens_of_a_neuron
    from neurexp.figures.interventions import Doses, TokenEffect, dose_response, effects_by_tokens
    from neurexp.figures.profiles import (
        curves_by_layer,
        densities_at_depths,
        density_by_layer,
        density_map,
        over_depth,
        quantiles_by_layer,
    )

__all__ = [
    "ByLayer",
    "Cloud",
    "DirectPath",
    "Doses",
    "TokenEffect",
    "against_null",
    "curves_by_layer",
    "densities_at_depths",
    "density_by_layer",
    "density_map",
    "direct_path",
    "dose_response",
    "effects_by_tokens",
    "estimate_against_exact",
    "group_histograms",
    "heat_map",
    "heat_page",
    "over_depth",
    "over_layers",
    "quantiles_by_layer",
    "r_by_layer",
    "ratio_bars",
    "split_counts",
    "stacked_shares",
    "tokens_of_a_neuron",
    "values_by_word",
    "volcano",
    "words_by_neurons",
]

_HOMES = {
    "ByLayer": "neurexp.figures.in_context",
    "Cloud": "neurexp.figures.in_context",
    "DirectPath": "neurexp.figures.estimates",
    "Doses": "neurexp.figures.interventions",
    "TokenEffect": "neurexp.figures.interventions",
    "against_null": "neurexp.figures.contrasts",
    "curves_by_layer": "neurexp.figures.profiles",
    "densities_at_depths": "neurexp.figures.profiles",
    "density_by_layer": "neurexp.figures.profiles",
    "density_map": "neurexp.figures.profiles",
    "direct_path": "neurexp.figures.estimates",
    "dose_response": "neurexp.figures.interventions",
    "effects_by_tokens": "neurexp.figures.interventions",
    "estimate_against_exact": "neurexp.figures.estimates",
    "group_histograms": "neurexp.figures.distributions",
    "heat_map": "neurexp.figures.heat",
    "heat_page": "neurexp.figures.heat",
    "over_depth": "neurexp.figures.profiles",
    "over_layers": "neurexp.figures.contrasts",
    "quantiles_by_layer": "neurexp.figures.profiles",
    "r_by_layer": "neurexp.figures.in_context",
    "ratio_bars": "neurexp.figures.bars",
    "split_counts": "neurexp.figures.distributions",
    "stacked_shares": "neurexp.figures.in_context",
    "tokens_of_a_neuron": "neurexp.figures.in_context",
    "values_by_word": "neurexp.figures.contrasts",
    "volcano": "neurexp.figures.contrasts",
    "words_by_neurons": "neurexp.figures.contrasts",
}
__getattr__ = lazy(__name__, _HOMES)
