"""The data dictionary of `token_length`: what each column of its tables and each metric means."""


def _per_group(quantity: str, meaning: str) -> dict[str, str]:
    tokens = {
        "shorter": "tokens shorter than the median",
        "equal": "tokens of median length",
        "longer": "tokens longer than the median",
        "special": "special tokens",
    }
    return {f"{quantity}_{name}": f"{meaning}, over {which} only; missing if none" for name, which in tokens.items()}


_OF = "over the tokens that have a length (no special tokens, no skipped positions)"
_PERIOD = "missing if undefined (a neuron or a length that never varies)"

COLUMNS = {
    "layer": "block index, from 0",
    "neuron": "index of the unit within the site",
    "mean": "mean activation over all tokens but skipped positions (layers: and all neurons); model's own units",
    "std": "standard deviation over the same tokens (layers: and all neurons), of the population (ddof 0)",
    "mean_abs": "mean of the activation's magnitude |x| over the same tokens (layers: and all neurons)",
    **_per_group("mean", "mean activation"),
    **_per_group("std", "population standard deviation of the activation"),
    **_per_group("mean_abs", "mean magnitude of the activation"),
    "d_longer_shorter": "(mean_longer − mean_shorter) / std: the standardised difference; a description, not a test",
    "overlap_longer_shorter": "share of area that the histograms of longer and shorter tokens have in common (0 to 1)",
    **{
        f"second_peak_{name}": f"of the layer's histogram of {name} tokens: prominence of its second peak relative to "
        "its highest (0: one peak; towards 1: two equal ones); an effect size, to be held against the control"
        for name in ("shorter", "equal", "longer")
    },
    "constant_neurons": "number of neurons that did not vary beyond float32's rounding (std ≤ 1e-7 · |mean|)",
    "special_distance": "root mean square over neurons of (mean_special − mean) / std: how far out special tokens lie",
    "first_distance": "the same for the tokens at position 0 of a sequence (if they have a length)",
    "skipped_distance": "the same for the tokens at skipped positions",
    "eta2_length": f"η²: share of the neuron's variance between token lengths, each length a category; {_OF}",
    "r_length": f"Pearson's r of the activation with token length {_OF}; {_PERIOD}",
    "r_length_low": "lower end of the 95 % interval of r_length: block jackknife of Fisher's z, once over blocks of "
    "token types and once over blocks of neighbouring sequences, t with blocks − 1 degrees of freedom; the wider one "
    "counts; missing if there is one sequence, or one type, only, or if r is undefined without one of the blocks",
    "r_length_high": "upper end of the same interval",
    "r_frequency": "Pearson's r of the activation with log2 of the token's smoothed frequency, same tokens",
    "r_length_partial": "partial correlation of activation and length given log2 frequency, position (bins 0, 1, 2–3, "
    "4–7, …) and whether the token begins a word",
    "r_length_without_first": "r_length without the tokens at position 0",
    "r_length_with_skipped": "r_length with the tokens at skipped positions; what excluding them changed is the "
    "difference to r_length; there only if experiment.skip_positions is not 0",
    "r_median_with_skipped": "median of r_length_with_skipped over the layer's neurons",
    "r_length_first_half": "r_length in the first half of the sequences",
    "r_length_second_half": "r_length in the second half of the sequences",
    "null_mean": "mean of r under the null: lengths dealt out anew among token types of the same octave of count",
    "null_sd": "standard deviation of r over those draws (experiment.permutations of them)",
    "p_length": "two-sided p of r_length against that null: (r − null_mean) / (null_sd · √(1 + 1/draws)) by "
    "Student's t with draws − 1 degrees of freedom; 1 if undefined",
    "q_length": "p_length corrected for all neurons of the layer (Benjamini-Hochberg, or -Yekutieli if asked)",
    "q_length_all": "p_length corrected for all neurons of all layers of the run",
    "survival": "neurons: r_length_partial / r_length where q_length < 0.05, else missing; layers: slope of "
    "r_length_partial on r_length through the origin over all neurons",
    "r_mean": "mean of r_length over the layer's neurons",
    "r_std": "standard deviation of r_length over the layer's neurons",
    **{f"r_q{q}": f"{q} % quantile of r_length over the layer's neurons" for q in ("05", "25", "75", "95")},
    "r_median": "median of r_length over the layer's neurons",
    "r_median_all": "median of r_length over all neurons",
    "share_positive": "share of the layer's neurons with r_length > 0",
    "share_negative": "share of the layer's neurons with r_length < 0",
    "share_significant": "share of the layer's neurons with q_length < 0.05",
    "share_significant_positive": "of them with r_length > null_mean, as a share of all: the test is about null_mean",
    "share_significant_negative": "of them with r_length < null_mean, as a share of all",
    "r_frequency_median": "median of r_frequency over the layer's neurons",
    "r_partial_median": "median of r_length_partial over the layer's neurons",
    "r_median_without_first": "median of r_length_without_first over the layer's neurons",
    "eta2_median": "median of eta2_length over the layer's neurons",
    "null_sd_median": "median of null_sd over the layer's neurons",
    "r_largest_by_chance": "95 % quantile over the null's draws of the largest |r − null_mean| in the layer",
    "r_detectable": "smallest |r − null_mean| that a test of one neuron at 5 % finds with 80 % power; layer's median",
    "replication_r": "correlation over neurons of r in the first and in the second half of the text",
    "replication_sign": "share of neurons whose r has the same sign in both halves",
    "found_first_half": "share of neurons with q < 0.05 (in the layer) in the first half alone; missing without a "
    "second half",
    "replicated": "of those, the share with p < 0.05 in the second half too and r on the same side of null_mean; "
    "missing if there are none",
    "tokens": "tokens run, special ones and skipped positions included",
    "tokens_special": "number of special tokens (end of text, …), which have no length",
    "length_min": "length of the shortest token that occurs, in characters",
    "length_max": "length of the longest token that occurs, in characters",
    "length_median": "median length over the tokens that have one, in characters",
    "share_shorter": "share of the tokens with a length that are shorter than the median",
    "share_equal": "share of the tokens with a length that lie exactly at the median",
    "share_longer": "share of the tokens with a length that are longer than the median",
    "types": "number of different tokens with a length that occur",
    "types_effective": "(Σ count)² / Σ count²: as many equally frequent types would weigh as much",
    "r_abs_median": "median of |r_length| over all neurons",
    "r_partial_abs_median": "median of |r_length_partial| over all neurons",
    "share_significant_all": "share of all neurons with q_length_all < 0.05",
    "share_significant_all_positive": "of them with r_length > null_mean, as a share of all",
    "survival_overall": "slope of r_length_partial on r_length through the origin over all neurons of all layers",
    "replication_r_overall": "replication_r over all neurons of all layers",
    "r_detectable_median": "median of r_detectable over layers",
    "first_layer_excess": "r_median of the first layer minus the median of the other layers' r_median",
    "last_layers_contraction": "1 − r_std of the last quarter of the layers / r_std of the middle half (medians)",
    "d_longer_shorter_strongest": "d_longer_shorter of the layer where it is largest in magnitude",
    "d_longer_shorter_strongest_layer": "that layer",
    "r_median_strongest": "r_median of the layer where it is largest in magnitude",
    "r_median_strongest_layer": "that layer",
    "histograms.edges": "bin edges `[layers, bins + 1]`, the model's own units",
    "histograms.counts": "activations in each bin [edge, next edge), all neurons together, `[layers, groups, bins]`; "
    "groups: shorter, equal, longer, special, and the tokens at skipped positions where any were skipped",
    "histograms.underflow": "activations below the first edge, `[layers, groups]`",
    "histograms.overflow": "activations at or above the last edge, `[layers, groups]`",
    "histograms.layers": "block index of each row",
    "length_curves.lengths": "token lengths that occur, in characters",
    "length_curves.tokens": "number of tokens of each length",
    "length_curves.mean": "mean activation over these tokens and all neurons of the layer, `[layers, lengths]`",
    "length_curves.layers": "block index of each row",
}
