"""The data dictionary of a profile: what each column of its tables and each metric means. Texts only."""

from dataclasses import replace

from neurexp.experiments.profile.covariate import Covariate
from neurexp.experiments.profile.strongest import KEPT


def check_names(covariate: Covariate) -> None:
    """Raises ValueError if the covariate's words give two columns the same name."""
    unlike_any_other = replace(covariate, name="name_", groups=("low_", "equal_", "high_"))
    if len(columns_of(covariate)) < len(columns_of(unlike_any_other)):
        raise ValueError(
            f"the covariate {covariate.name!r} with the groups {', '.join(covariate.groups)}: two columns would have "
            "one name; choose other words"
        )


def _per_group(covariate: Covariate, quantity: str, meaning: str) -> dict[str, str]:
    low, equal, high = covariate.groups
    tokens = {
        low: f"tokens below the median {covariate.noun}",
        equal: f"tokens at the median {covariate.noun}",
        high: f"tokens above the median {covariate.noun}",
        "special": f"tokens without a {covariate.noun} (special tokens)",
    }
    return {f"{quantity}_{name}": f"{meaning}, over {which} only; missing if none" for name, which in tokens.items()}


def columns_of(covariate: Covariate) -> dict[str, str]:
    """Every definition, in the covariate's words."""
    name, noun, unit, d = covariate.name, covariate.noun, covariate.unit, covariate.difference
    low, equal, high = covariate.groups
    over = f"over the tokens that have a {noun} (no special tokens, no skipped positions)"
    missing = f"missing if undefined (a neuron or a {noun} that never varies)"
    context = (
        f"the {noun} of the previous three tokens, the {noun} to be expected after the previous token's type (its mean "
        "over the tokens that follow the type in other sequences), and averages over the earlier tokens of the "
        f"sequence of {noun}, log2 frequency and word beginning (over all of them, and with weights that halve every "
        "16 tokens)"
    )
    null = "values dealt out anew among token types of the same octave of count"
    if not covariate.by_type:
        null = "values shifted circularly along the text, by at least a sequence or a quarter of the text"
    draws_in_context = (
        "here the null deals out anew what log2 frequency and word beginning leave of the values, and the draws are "
        "given the same confounds"
    )
    if not covariate.by_type:
        draws_in_context = "here the null shifts what the confounds leave of the values"
    return {
        "layer": "block index, from 0",
        "neuron": "index of the unit within the site",
        "mean": "mean activation over all tokens but skipped positions (layers: and all neurons); model's own units",
        "std": "standard deviation over the same tokens (layers: and all neurons), of the population (ddof 0)",
        "mean_abs": "mean of the activation's magnitude |x| over the same tokens (layers: and all neurons)",
        **_per_group(covariate, "mean", "mean activation"),
        **_per_group(covariate, "std", "population standard deviation of the activation"),
        **_per_group(covariate, "mean_abs", "mean magnitude of the activation"),
        d: f"(mean_{high} − mean_{low}) / std: the standardised difference; a description, not a test",
        f"overlap_{high}_{low}": f"share of area that the histograms of the {high} and the {low} tokens have in "
        "common (0 to 1)",
        **{
            f"second_peak_{group}": f"in the layer's histogram of the {group} tokens: prominence of its second peak "
            "relative to its highest (0: one peak; towards 1: two equal ones); an effect size, to be held against the "
            "control"
            for group in covariate.groups
        },
        "constant_neurons": "number of neurons that did not vary beyond float32's rounding (std ≤ 1e-7 · |mean|)",
        "special_distance": "root mean square over neurons of (mean_special − mean) / std: how far out special tokens "
        "lie",
        "first_distance": "the same for the tokens at position 0 of a sequence (if they have a value)",
        "skipped_distance": "the same for the tokens at skipped positions",
        f"eta2_{name}": f"η²: share of the neuron's variance between the values of the {noun}, each value a "
        f"category; {over}",
        f"r_{name}": f"Pearson's r of the activation with the {noun} {over}; {missing}",
        f"r_{name}_low": f"lower end of the 95 % interval of r_{name}: block jackknife of Fisher's z, once over "
        "blocks of token types and once over blocks of neighbouring sequences, t with blocks − 1 degrees of freedom; "
        "the wider one counts; missing if there is only one sequence or one type, or if r is undefined without one of "
        "the blocks",
        f"r_{name}_high": "upper end of the same interval",
        "r_frequency": "Pearson's r of the activation with log2 of the token's smoothed frequency, same tokens",
        f"r_{name}_partial": f"partial correlation of activation and {noun} given log2 frequency, position (bins 0, "
        "1, 2–3, 4–7, …) and whether the token begins a word",
        f"r_{name}_given_context": f"the same given the token's context too: {context}; a network that mixes "
        "neighbours in, as any does, shows these in place of the token itself",
        f"r_{name}_given_context_low": f"lower end of a 95 % interval of r_{name}_given_context: Fisher's z, its "
        "standard error that of the draws behind the p, Student's t with draws − 1 degrees of freedom; missing if the "
        "draws do not vary",
        f"r_{name}_given_context_high": "upper end of the same interval",
        f"r_{name}_without_first": f"r_{name} without the tokens at position 0",
        f"r_{name}_with_skipped": f"r_{name} with the tokens at skipped positions; what excluding them changed is the "
        f"difference to r_{name}; present only if experiment.skip_positions is not 0",
        "r_median_with_skipped": f"median of r_{name}_with_skipped over the layer's neurons",
        f"r_{name}_first_half": f"r_{name} in the first half of the sequences",
        f"r_{name}_second_half": f"r_{name} in the second half of the sequences",
        "null_mean": f"mean of r under the null: {null}",
        "null_sd": "standard deviation of r over those draws (experiment.permutations of them)",
        f"p_{name}": f"two-sided p of r_{name} against that null: (r − null_mean) / (null_sd · √(1 + 1/draws)) by "
        "Student's t with draws − 1 degrees of freedom; 1 if undefined",
        f"q_{name}": f"p_{name} corrected for all neurons of the layer (Benjamini-Hochberg, or -Yekutieli if asked)",
        f"q_{name}_all": f"p_{name} corrected for all neurons of all layers of the run",
        f"p_{name}_given_context": f"two-sided p of r_{name}_given_context, as p_{name}: {draws_in_context}",
        f"q_{name}_given_context": f"p_{name}_given_context corrected for all neurons of the layer",
        f"q_{name}_given_context_all": f"p_{name}_given_context corrected for all neurons of all layers of the run",
        "survival": f"neurons: r_{name}_partial / r_{name} where q_{name} < 0.05, else missing; layers: slope of "
        f"r_{name}_partial on r_{name} through the origin over all neurons",
        "r_mean": f"mean of r_{name} over the layer's neurons",
        "r_std": f"standard deviation of r_{name} over the layer's neurons",
        **{f"r_q{q}": f"{q} % quantile of r_{name} over the layer's neurons" for q in ("05", "25", "75", "95")},
        "r_median": f"median of r_{name} over the layer's neurons",
        "r_median_all": f"median of r_{name} over all neurons",
        "share_positive": f"share of the layer's neurons with r_{name} > 0",
        "share_negative": f"share of the layer's neurons with r_{name} < 0",
        "share_significant": f"share of the layer's neurons with q_{name} < 0.05",
        "share_significant_given_context": f"share of the layer's neurons with q_{name}_given_context < 0.05",
        "share_significant_positive": f"share of the layer's neurons with q_{name} < 0.05 and r_{name} > "
        "null_mean: the test is about null_mean",
        "share_significant_negative": f"share of the layer's neurons with q_{name} < 0.05 and r_{name} < null_mean",
        "r_frequency_median": "median of r_frequency over the layer's neurons",
        "r_partial_median": f"median of r_{name}_partial over the layer's neurons",
        "r_given_context_median": f"median of r_{name}_given_context over the layer's neurons",
        "r_median_without_first": f"median of r_{name}_without_first over the layer's neurons",
        "eta2_median": f"median of eta2_{name} over the layer's neurons",
        "null_sd_median": "median of null_sd over the layer's neurons",
        "r_largest_by_chance": "95 % quantile over the null's draws of the largest |r − null_mean| in the layer",
        "r_detectable": "smallest |r − null_mean| that a test of one neuron at 5 % finds with 80 % power; median "
        "over the layer's neurons",
        "replication_r": "correlation over neurons of r in the first and in the second half of the text",
        "replication_sign": "share of neurons whose r has the same sign in both halves",
        "found_first_half": "share of neurons with q < 0.05 (in the layer) in the first half alone; missing without a "
        "second half",
        "replicated": "of those, the share with p < 0.05 in the second half too and r on the same side of null_mean; "
        "missing if there are none",
        "tokens": "tokens run, special ones and skipped positions included",
        "tokens_special": f"number of tokens without a {noun}: special tokens (end of text, …), for example",
        f"{name}_min": f"smallest {noun} that occurs, in {unit}",
        f"{name}_max": f"largest {noun} that occurs, in {unit}",
        f"{name}_median": f"median {noun} over the tokens that have one, in {unit}",
        f"share_{low}": f"share of the tokens below the median {noun}, of those that have one",
        f"share_{equal}": f"share of the tokens exactly at the median {noun}, of those that have one",
        f"share_{high}": f"share of the tokens above the median {noun}, of those that have one",
        "types": f"number of different tokens that occur and have a {noun}",
        "types_effective": "(Σ count)² / Σ count²: as many equally frequent types would weigh as much",
        "r_abs_median": f"median of |r_{name}| over all neurons",
        "r_partial_abs_median": f"median of |r_{name}_partial| over all neurons",
        "r_given_context_abs_median": f"median of |r_{name}_given_context| over all neurons",
        "share_significant_given_context_all": f"share of all neurons with q_{name}_given_context_all < 0.05",
        "share_significant_all": f"share of all neurons with q_{name}_all < 0.05",
        "share_significant_all_error": "standard error of share_significant_all over other draws of the null, from a "
        "jackknife over eight parts of the draws; nothing else that may vary is in it",
        "share_significant_all_positive": f"share of all neurons with q_{name}_all < 0.05 and r_{name} > null_mean",
        "survival_overall": f"slope of r_{name}_partial on r_{name} through the origin over all neurons of all layers",
        "replication_r_overall": "replication_r over all neurons of all layers",
        "r_detectable_median": "median of r_detectable over layers",
        "first_layer_above_others": "r_median of the first layer minus the median of the other layers' r_median",
        "last_layers_contraction": "1 − r_std of the last quarter of the layers / r_std of the middle half (medians)",
        f"{d}_strongest": f"{d} of the layer where it is largest in magnitude",
        f"{d}_strongest_layer": "that layer",
        "r_median_strongest": "r_median of the layer where it is largest in magnitude",
        "r_median_strongest_layer": "that layer",
        "histograms.edges": "bin edges `[layers, bins + 1]`, the model's own units",
        "histograms.counts": "activations in each bin [edge, next edge), all neurons together, `[layers, groups, "
        f"bins]`; groups: {low}, {equal}, {high}, special, and the tokens at skipped positions where any were skipped",
        "histograms.underflow": "activations below the first edge, `[layers, groups]`",
        "histograms.overflow": "activations at or above the last edge, `[layers, groups]`",
        "histograms.layers": "block index of each row",
        "strongest.layer": f"block index: the neurons with the largest |r_{name}_given_context| of those with "
        f"q_{name}_given_context_all < 0.05, up to {KEPT} with a positive r, then up to {KEPT} with a negative one",
        "strongest.neuron": "index of the unit within the site",
        "strongest.r": f"r_{name}_given_context; of the largest of many, so rather too large",
        "strongest.low": f"r_{name}_given_context_low",
        "strongest.high": f"r_{name}_given_context_high",
        "strongest.q": f"q_{name}_given_context_all",
        f"strongest.r_{name}": f"r_{name}",
        "strongest.mean": "mean, as in neurons.parquet",
        "strongest.std": "std, as in neurons.parquet",
        f"{name}_curves.{covariate.plural}": f"values of the {noun} that occur, in {unit}",
        f"{name}_curves.tokens": "number of tokens of each value",
        f"{name}_curves.mean": "mean activation over these tokens and all neurons of the layer, `[layers, values]`",
        f"{name}_curves.layers": "block index of each row",
    }
