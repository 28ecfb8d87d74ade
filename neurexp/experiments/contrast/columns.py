"""The data dictionary of a contrast: what each column of its tables and each metric means. Texts only."""

from collections.abc import Sequence


def columns_of(categories: Sequence[str], conditions: dict[str, str]) -> dict[str, str]:
    """Definitions for these categories, and for the conditions beside the first: name → its description."""
    names = " and ".join(f"{index} = {name}" for index, name in enumerate(categories))
    columns = dict(_COLUMNS)
    columns["mean"] += f"; categories: {names}"
    for index, name in enumerate(categories):
        columns[f"mean_{index}"] = f"mean activation over the words of category {index}, {name}"
    for name, where in {"one_token": "within words of one token", **conditions}.items():
        columns |= {
            f"rows_{name}": f"number of words {where}",
            f"t_welch_{name}": f"t_welch {where}; missing with fewer than 4 words of a category",
            f"f_{name}": f"f {where}; missing with fewer than 4 words of a category",
            f"q_{name}": f"q_welch (q_f) {where}",
            f"cohens_d_{name}": f"cohens_d {where}",
            f"share_significant_{name}": f"share_significant {where}; fewer words find less",
            f"share_bonferroni_{name}": f"share_bonferroni {where}; fewer words find less",
            f"d_r_{name}": f"correlation over neurons of cohens_d and cohens_d {where}; the same words stand in both",
            f"d_r_{name}_shuffled_q95": f"d_r_{name} {_SHUFFLED}, the same in both: 95 % quantile over "
            "experiment.shuffles; not near 0, because the same words stand in both",
            f"d_r_{name}_shuffled_undefined": f"number of these shuffles in which d_r_{name} is not defined, because "
            "they left a category without a word; left out of the quantile",
            f"share_bonferroni_{name}_within_layers": f"mean of share_bonferroni_{name} over layers",
            f"d_r_{name}_mean": f"mean of d_r_{name} over layers",
        }
    return columns


_HALVES = (
    "over random splits (experiment.splits) of the words in two halves, each category by itself, neurons are selected "
    "in the first half (Welch, Benjamini-Hochberg within the layer, q < 0.05) and tested in the second"
)
_SHUFFLED = "with the words' labels shuffled"

_COLUMNS = {
    "layer": "block index, from 0",
    "neuron": "index of the unit within the site",
    "mean": "mean activation over all words; model's own units",
    "std": "standard deviation over all words, of the population (ddof 0)",
    "band": "whether the neuron's mean lies beyond 3.5 robust standard deviations (1.4826 × median absolute deviation) "
    "of the median of its layer's means: a vertical band in the picture words × neurons",
    "t_paired": "one-sample t of the differences category 1 − category 0 over pairs of words, n − 1 degrees of "
    "freedom; pairs by number of tokens, then frequency rank, then alphabet. Unless the same word stands in "
    "both categories, which word meets which is arbitrary, and another pairing gives another t. Missing if the "
    "categories differ in size",
    "p_paired": "its two-sided p",
    "t_welch": "Welch's t, (mean_1 − mean_0) / standard error; positive: category 1 is higher",
    "p_welch": "its two-sided p, degrees of freedom by Welch and Satterthwaite; 1 if undefined",
    "f": "F of the one-way analysis of variance over the categories",
    "p_f": "its p; 1 if undefined",
    "eta2": "η²: share of the neuron's variance that lies between categories",
    "p_permutation": "p of |t_welch| (more than two categories: f) among experiment.permutations shuffles of labels: "
    "(1 + exceedances) / (shuffles + 1), so never below that; exact where there are fewer distinct labellings. If "
    "every word has as many rows of each category, labels change within words only",
    "p_maxt": "the same against the largest |t_welch| (f) of any neuron of the layer in each shuffle: corrected for "
    "the family of the layer's neurons",
    "p_maxt_all": "the same against the largest of any neuron of all layers of the run",
    "significant_bonferroni": "p_welch (p_f) < 0.05 / neurons of the layer",
    "significant_bonferroni_all": "p_welch (p_f) < 0.05 / neurons of all layers of the run",
    "q_welch": "p_welch by Benjamini-Hochberg, family: the layer",
    "q_welch_all": "p_welch by Benjamini-Hochberg, family: all layers of the run",
    "q_f": "p_f by Benjamini-Hochberg, family: the layer",
    "q_f_all": "p_f by Benjamini-Hochberg, family: all layers of the run",
    "cohens_d": "(mean_1 − mean_0) / pooled standard deviation",
    "cohens_d_low": "lower end of its 95 % interval, from the noncentral t: for normal values of equal variance",
    "cohens_d_high": "upper end of the same interval",
    "auroc": "chance that a word of category 1 lies above one of category 0 (ties half); 0.5: no difference",
    "selected": f"share of the splits in which the neuron was selected: {_HALVES}",
    "replicated": "share of the splits in which it was selected, and p < 0.05 in the same direction in the second half",
    "probe_accuracy": "accuracy of a logistic regression on this neuron alone, 5-fold cross-validated",
    "probe_separated": "in some fold the neuron separated the training words perfectly: the likelihood has no maximum, "
    "and the threshold midway between the nearest words was taken",
    "auroc_text": "auroc between the listed words where they occur in the dataset's text (at most "
    "experiment.occurrences of each word); missing with fewer than 4 of a category",
    "mean_offset": "mean of `mean` over the layer's neurons",
    "share_mean_negative": "share of neurons with a negative mean",
    "bands": "number of neurons with `band`",
    "std_median": "median of std over the layer's neurons",
    "share_significant": "share of neurons with q_welch (q_f) < 0.05",
    "share_bonferroni": "share of neurons with significant_bonferroni",
    "share_maxt": "share of neurons with p_maxt < 0.05",
    "share_paired_bonferroni": "share of neurons with p_paired < 0.05 / neurons of the layer: the documents' test",
    "share_bonferroni_positive": "of share_bonferroni those where category 1 is higher, as a share of all",
    "share_bonferroni_negative": "of share_bonferroni those where category 0 is higher, as a share of all",
    "d_abs_median": "median of |cohens_d|",
    "auroc_best": "the auroc farthest from 0.5; chosen and measured on the same words, so too good",
    "share_significant_shuffled": f"share_significant {_SHUFFLED}, mean over experiment.shuffles shuffles",
    "share_bonferroni_shuffled": f"share_bonferroni {_SHUFFLED}, mean over experiment.shuffles shuffles",
    "replication_selected": f"number of neurons selected, mean over splits: {_HALVES}",
    "replication_replicated": "number of them with p < 0.05 in the same direction in the second half, mean over splits",
    "replication_by_chance": "the same if the second half's labels are shuffled",
    "replication_rate": "share of all selections that replicated",
    "replication_selected_shuffled": f"replication_selected {_SHUFFLED} before splitting (10 splits a shuffle)",
    "replication_replicated_shuffled": f"replication_replicated {_SHUFFLED} before splitting",
    "auroc_heldout": "auroc in the second half, in the expected direction, of the neuron with the largest |t_welch| in "
    "the first (more than two categories: of its highest category against the rest); mean over splits",
    "auroc_heldout_shuffled": f"the same {_SHUFFLED}: mean over experiment.shuffles of the mean over 10 splits",
    "auroc_heldout_shuffled_q95": f"the same {_SHUFFLED}: 95 % quantile over experiment.shuffles",
    "probe_layer_accuracy": "5-fold cross-validated accuracy of a logistic regression on all neurons of the layer "
    "(standardised, L2, C = 1; fitted in float32 where words × neurons exceed 4 million; of more than two categories "
    "where words × neurons × categories do)",
    "probe_layer_accuracy_shuffled_q95": f"the same {_SHUFFLED}: 95 % quantile over experiment.shuffles (5 of them "
    "with more than 500 rows)",
    "probe_best_accuracy": "5-fold accuracy of the neuron that was best (|t_welch|) among the training words of each "
    "fold: choosing and testing share no word",
    "probe_best_accuracy_shuffled_q95": f"the same {_SHUFFLED}: 95 % quantile over experiment.shuffles",
    "probe_median_accuracy": "median of probe_accuracy over the layer's neurons",
    "probe_accuracy_shuffled_q95": f"probe_accuracy {_SHUFFLED}: 95 % quantile over neurons in one shuffle",
    "probe_separated_neurons": "number of neurons with probe_separated",
    "probe_unconverged": "number of neurons whose regression did not converge",
    "auroc_text_r": "correlation over neurons of auroc and auroc_text; the same words stand in both",
    "auroc_text_r_shuffled_q95": f"the same {_SHUFFLED}, the same in both: 95 % quantile over experiment.shuffles",
    "auroc_text_r_shuffled_undefined": "number of these shuffles in which auroc_text_r is not defined, because a "
    "category was left without an occurrence; left out of the quantile",
    "auroc_text_heldout_undefined": "number of splits whose other half does not occur in the text in both categories; "
    "left out of auroc_text_heldout",
    "auroc_text_heldout": "the neuron with the largest |t_welch| in one half of the words, on their own; its AUROC "
    "between occurrences in the text of the other half, in the expected direction; mean over splits, 0.5 by chance",
    "words": "number of words",
    "words_empty": "empty lines of the word lists; dropped",
    "words_duplicate": "lines of the word lists that repeat another of the same list, in the same spelling or in "
    "another spelling of Unicode; dropped",
    "words_shared": "words that stand in more than one list; dropped from all",
    "words_skipped": "lines of the word lists that cannot be used; skipped.parquet names each, and why",
    "words_unaligned": "words that share a token with the template around them, or that the tokenizer does not know; "
    "dropped",
    "words_one_token": "number of words of a single token",
    "text_occurrences": "occurrences of listed words in the text that were used: whole words by the rules of their "
    "script, as listed or capitalised; after a space their first token holds it, after a quote or a line break not. "
    "The tokens cover nothing else",
    "text_occurrences_dropped": "occurrences that share a token with other characters; dropped",
    "text_occurrences_adjoining": "those of text_occurrences right beside which other letters stand, in a script "
    "without spaces between words: some may be parts of longer words",
    "neurons_tested": "number of neurons of all layers of the run",
    "bonferroni_within_layers": "number of neurons with significant_bonferroni, over all layers of the run",
    "bonferroni_over_all": "number of neurons with significant_bonferroni_all",
    "share_bonferroni_within_layers": "share of all neurons with significant_bonferroni",
    "share_bonferroni_shuffled_within_layers": "mean of share_bonferroni_shuffled over layers",
    "share_significant_over_all": "share of all neurons with q_welch_all (q_f_all) < 0.05",
    "replication_rate_all": "replication_replicated / replication_selected, both summed over layers",
    "replication_rate_chance_all": "replication_by_chance / replication_selected, both summed over layers; of two "
    "categories 2.5 % are expected",
    "auroc_heldout_best": "the largest auroc_heldout of a layer",
    "auroc_heldout_best_layer": "that layer",
    "auroc_text_heldout_best": "the largest auroc_text_heldout of a layer",
    "auroc_text_heldout_best_layer": "that layer",
    "probe_layer_accuracy_best": "the largest probe_layer_accuracy of a layer",
    "probe_layer_accuracy_best_layer": "that layer",
    **{
        f"{end}_{what}": meaning.format("highest" if end == "top" else "lowest", "1" if end == "top" else "0")
        for end in ("top", "bottom")
        for what, meaning in {
            "t": "the {} t_welch of all neurons: the one that prefers category {} most",
            "layer": "the layer of the neuron with the {} t_welch",
            "neuron": "the index of the neuron with the {} t_welch",
            "d": "cohens_d of the neuron with the {} t_welch",
            "auroc_text": "auroc_text of the neuron with the {} t_welch",
            "auroc_text_low": "lower end of the 95 % bootstrap interval over words of auroc_text of the neuron with "
            "the {} t_welch",
            "auroc_text_high": "upper end of the 95 % bootstrap interval over words of auroc_text of the neuron with "
            "the {} t_welch",
            "replicated": "`replicated` of the neuron with the {} t_welch",
        }.items()
    },
    "top_f": "the highest f of all neurons",
    "top_eta2": "eta2 of that neuron",
    "top_category": "index of the category on which that neuron's mean is highest",
    "auroc_text_r_mean": "mean of auroc_text_r over layers",
    "words.word": "the word",
    "words.category": "its category",
    "words.label": "index of the category",
    "words.tokens": "its number of tokens",
    "words.pair": "number of the pair it is in for t_paired; −1 without pairs",
    "agreement.first": "a test: paired_bonferroni (p_paired < 0.05 / neurons of the layer), welch_bonferroni, max_t "
    "(p_maxt < 0.05), welch_bh (q_welch < 0.05), replicated (in more than half of the splits); all layers together",
    "agreement.second": "another test",
    "agreement.both": "neurons that both call significant",
    "agreement.only_first": "neurons that only the first calls significant",
    "agreement.only_second": "neurons that only the second calls significant",
    "agreement.neither": "neurons that neither calls significant",
}
