"""The data dictionary of a contrast: what each column of its tables and each metric means. Texts only."""

from collections.abc import Mapping, Sequence


def columns_of(categories: Sequence[str], conditions: Mapping[str, str]) -> dict[str, str]:
    """The definition of every column and metric.

    Args:
        categories: names, in the order of the labels.
        conditions: name → description, "as “The {word}”" for example.
    """
    names = " and ".join(f"{index} = {name}" for index, name in enumerate(categories))
    columns = dict(_COLUMNS)
    columns["mean"] += f"; categories: {names}"
    for index, name in enumerate(categories):
        columns |= {
            f"mean_{index}": f"mean activation over the words of category {index}, {name}",
            f"t_rest_{index}": f"Welch's t of the words of category {index}, {name}, against those of all other "
            "categories; positive: they are higher",
            f"auroc_text_{index}": f"chance that the activation on an occurrence of a word of category {index}, "
            f"{name}, in the dataset's text, is higher than on one of the others (ties count half); missing with fewer "
            "than 4 of either",
        }
    for name, where in {"one_token": "within words of one token", **conditions}.items():
        columns |= {
            f"rows_{name}": f"number of words {where}",
            f"t_welch_{name}": f"t_welch {where}; missing with fewer than 4 words of a category",
            f"f_{name}": f"f {where}; missing with fewer than 4 words of a category",
            f"q_{name}": f"q_welch (q_f) {where}",
            f"cohens_d_{name}": f"cohens_d {where}",
            f"share_significant_{name}": f"share_significant {where}; fewer words find less",
            f"share_bonferroni_{name}": f"share_bonferroni {where}; fewer words find less",
            f"d_r_{name}": f"correlation over neurons of cohens_d and cohens_d {where}, both from the same words",
            f"d_r_{name}_shuffled_q95": f"d_r_{name} {_SHUFFLED}, in the same way for both: 95 % quantile over "
            "experiment.shuffles; not near 0, because both are from the same words",
            f"d_r_{name}_shuffled_undefined": f"number of these shuffles in which d_r_{name} is not defined, because a "
            "category has no word; left out of the quantile",
            f"share_bonferroni_{name}_within_layers": f"mean of share_bonferroni_{name} over layers",
            f"d_r_{name}_mean": f"mean of d_r_{name} over layers",
        }
    return columns


def activations_column(name: str) -> str:
    """The definition of a tensor of activations.safetensors."""
    if name == "labels":
        return "index of each word's category"
    if name.endswith("_by_category"):
        return "activations `[categories, words, neurons]`, words in the order of words.parquet"
    return "activations `[words, neurons]`, a row for each word of words.parquet"


_HALVES = (
    "in each of experiment.splits random splits, the words of each category are divided into two halves, and neurons "
    "are selected in the first half (Welch's t or F; Benjamini-Hochberg within the layer, q < 0.05) and tested in the "
    "second"
)
_SHUFFLED = "with the words' labels shuffled"
_Q95 = "95 % quantile over experiment.shuffles"

_COLUMNS = {
    "layer": "block index, from 0",
    "neuron": "index of the unit within the site",
    "mean": "mean activation over all words; model's own units",
    "std": "standard deviation over all words, of the population (ddof 0)",
    "band": "whether the neuron's mean is more than 3.5 robust standard deviations (1.4826 × median absolute "
    "deviation) from the median of its layer's means: a vertical band in the picture words × neurons",
    "t_paired": "one-sample t of the differences category 1 − category 0 over pairs of words, n − 1 degrees of "
    "freedom; words are paired in the order of their number of tokens, then frequency rank, then alphabet. Unless both "
    "categories have the same words, the pairs are arbitrary, and other pairs give another t. Missing if the "
    "categories differ in size",
    "p_paired": "two-sided p of t_paired",
    "t_welch": "Welch's t, (mean_1 − mean_0) / standard error; positive: category 1 is higher",
    "p_welch": "two-sided p of t_welch, degrees of freedom by Welch and Satterthwaite; 1 if t_welch is not defined",
    "f": "F of the one-way analysis of variance over the categories",
    "p_f": "p of f; 1 if f is not defined",
    "eta2": "η²: share of the neuron's variance that is between categories",
    "p_permutation": "p of |t_welch| (more than two categories: f) among experiment.permutations shuffles of the "
    "labels: (1 + exceedances) / (shuffles + 1), at least 1 / (shuffles + 1); exact if there are fewer distinct "
    "labellings. If every word has the same number of rows in each category, labels are shuffled within words",
    "p_maxt": "p of |t_welch| (f) among the largest |t_welch| (f) of any neuron of the layer in each shuffle: corrects "
    "for all neurons of the layer",
    "p_maxt_all": "p of |t_welch| (f) among the largest of any neuron of all layers of the run in each shuffle",
    "significant_bonferroni": "p_welch (p_f) < 0.05 / neurons of the layer",
    "significant_bonferroni_all": "p_welch (p_f) < 0.05 / neurons of all layers of the run",
    "q_welch": "p_welch corrected by Benjamini-Hochberg, family: the layer",
    "q_welch_all": "p_welch corrected by Benjamini-Hochberg, family: all layers of the run",
    "q_f": "p_f corrected by Benjamini-Hochberg, family: the layer",
    "q_f_all": "p_f corrected by Benjamini-Hochberg, family: all layers of the run",
    "cohens_d": "(mean_1 − mean_0) / pooled standard deviation",
    "cohens_d_low": "lower end of the 95 % interval of cohens_d, from the noncentral t: for normal values of equal "
    "variance",
    "cohens_d_high": "upper end of the same interval",
    "auroc": "chance that the activation on a word of category 1 is higher than on a word of category 0 (ties count "
    "half); 0.5: no difference",
    "selected": f"share of the splits in which the neuron is selected: {_HALVES}",
    "replicated": "share of the splits in which the neuron is selected, and has p < 0.05 in the same direction in the "
    "second half",
    "probe_accuracy": "accuracy of a logistic regression on this neuron alone, 5-fold cross-validated",
    "probe_separated": "whether the neuron separates the training words of some fold perfectly: the likelihood then "
    "has no maximum, and the threshold is midway between the nearest words",
    "auroc_text": "auroc between occurrences of the listed words in the dataset's text (at most experiment.occurrences "
    "of each word); missing with fewer than 4 of a category",
    "mean_offset": "mean of `mean` over the layer's neurons",
    "share_mean_negative": "share of neurons with a negative mean",
    "bands": "number of neurons with `band`",
    "std_median": "median of std over the layer's neurons",
    "share_significant": "share of neurons with q_welch (q_f) < 0.05",
    "share_bonferroni": "share of neurons with significant_bonferroni",
    "share_maxt": "share of neurons with p_maxt < 0.05",
    "share_paired_bonferroni": "share of neurons with p_paired < 0.05 / neurons of the layer",
    "share_bonferroni_positive": "share of neurons with significant_bonferroni and a higher mean on category 1",
    "share_bonferroni_negative": "share of neurons with significant_bonferroni and a higher mean on category 0",
    "d_abs_median": "median of |cohens_d|",
    "auroc_best": "the auroc farthest from 0.5; too optimistic, because the same words select and measure the neuron",
    "share_significant_shuffled": f"share_significant {_SHUFFLED}, mean over experiment.shuffles shuffles",
    "share_bonferroni_shuffled": f"share_bonferroni {_SHUFFLED}, mean over experiment.shuffles shuffles",
    "replication_selected": f"number of neurons selected, mean over splits: {_HALVES}",
    "replication_replicated": "number of selected neurons with p < 0.05 in the same direction in the second half, mean "
    "over splits",
    "replication_by_chance": "replication_replicated with the second half's labels shuffled",
    "replication_rate": "share of the selected neurons that replicate, over all splits",
    "replication_selected_shuffled": f"replication_selected {_SHUFFLED} before splitting (10 splits of each shuffle)",
    "replication_replicated_shuffled": f"replication_replicated {_SHUFFLED} before splitting",
    "auroc_heldout": "auroc in the second half of the neuron with the largest |t_welch| in the first half, in the "
    "direction found there (more than two categories: of the neuron with the largest f, its highest category against "
    "the rest); mean over splits",
    "auroc_heldout_shuffled": f"auroc_heldout {_SHUFFLED}, mean over 10 splits: mean over experiment.shuffles",
    "auroc_heldout_shuffled_q95": f"auroc_heldout {_SHUFFLED}, mean over 10 splits: {_Q95}",
    "probe_layer_accuracy": "5-fold cross-validated accuracy of a logistic regression on all neurons of the layer "
    "(standardised, L2, C = 1; fitted in float32 if words × neurons exceed 4 million, or with more than two categories "
    "if words × neurons × categories do)",
    "probe_layer_accuracy_shuffled_q95": f"probe_layer_accuracy {_SHUFFLED}: {_Q95} (over 5 of them with more than 500 "
    "rows)",
    "probe_best_accuracy": "accuracy of a logistic regression on the best neuron alone, 5-fold cross-validated; the "
    "neuron with the largest |t_welch| among the training words is selected anew in each fold",
    "probe_best_accuracy_shuffled_q95": f"probe_best_accuracy {_SHUFFLED}: {_Q95}",
    "probe_median_accuracy": "median of probe_accuracy over the layer's neurons",
    "probe_accuracy_shuffled_q95": f"probe_accuracy {_SHUFFLED}: 95 % quantile over neurons in one shuffle",
    "probe_separated_neurons": "number of neurons with probe_separated",
    "probe_unconverged": "number of neurons whose regression did not converge",
    "auroc_text_r": "correlation over neurons of auroc and auroc_text, both from the same words",
    "auroc_text_r_shuffled_q95": f"auroc_text_r {_SHUFFLED}, in the same way for both: {_Q95}",
    "auroc_text_r_shuffled_undefined": "number of these shuffles in which auroc_text_r is not defined, because a "
    "category has no occurrence; left out of the quantile",
    "auroc_text_heldout": "auroc between occurrences in the text of one half of the words, of the neuron with the "
    "largest |t_welch| on the other half, in the direction found there (more than two categories: of the neuron with "
    "the largest f, its highest category against the rest); mean over splits, 0.5 by chance",
    "auroc_text_heldout_undefined": "number of splits in which the words of the other half do not occur in the text "
    "in both categories (more than two: in the neuron's highest and in another); left out of auroc_text_heldout",
    "words": "number of words",
    "words_empty": "empty lines of the word lists; dropped",
    "words_duplicate": "lines of the word lists that repeat a word of the same list, in the same or in another Unicode "
    "spelling, or lines of the sentences' file that repeat another; dropped",
    "words_shared": "words of more than one list; dropped from all lists",
    "words_skipped": "lines of the word lists or of the sentences' file that cannot be used; skipped.parquet names "
    "each, and the reason",
    "words_unaligned": "words that share a token with the template around them, or that the tokenizer does not know; "
    "dropped",
    "words_one_token": "number of words of a single token",
    "text_occurrences": "occurrences of listed words in the text that were used: whole words by the rules of their "
    "script, as listed or capitalised. The first token includes the space before the word, if there is one; the tokens "
    "cover no other character",
    "text_occurrences_dropped": "occurrences that share a token with other characters; dropped",
    "text_occurrences_adjoining": "those of text_occurrences that have other letters directly beside them, in a script "
    "without spaces between words: some may be parts of longer words",
    "neurons_tested": "number of neurons of all layers of the run",
    "bonferroni_within_layers": "number of neurons with significant_bonferroni, over all layers of the run",
    "bonferroni_over_all": "number of neurons with significant_bonferroni_all",
    "share_bonferroni_within_layers": "share of all neurons with significant_bonferroni",
    "share_bonferroni_shuffled_within_layers": "mean of share_bonferroni_shuffled over layers",
    "share_significant_over_all": "share of all neurons with q_welch_all (q_f_all) < 0.05",
    "replication_rate_all": "replication_replicated / replication_selected, both summed over layers",
    "replication_rate_chance_all": "replication_by_chance / replication_selected, both summed over layers; with two "
    "categories 2.5 % are expected",
    "auroc_heldout_best": "the largest auroc_heldout of a layer",
    "auroc_heldout_best_layer": "the layer with the largest auroc_heldout",
    "auroc_text_heldout_best": "the largest auroc_text_heldout of a layer",
    "auroc_text_heldout_best_layer": "the layer with the largest auroc_text_heldout",
    "probe_layer_accuracy_best": "the largest probe_layer_accuracy of a layer",
    "probe_layer_accuracy_best_layer": "the layer with the largest probe_layer_accuracy",
    **{
        f"{end}_{what}": meaning.format(end=end, extreme=extreme, category=category)
        for end, extreme, category in (("top", "highest", 1), ("bottom", "lowest", 0))
        for what, meaning in {
            "t": "the {extreme} t_welch of all neurons: of the neuron that prefers category {category} most",
            "layer": "the layer of the neuron with the {extreme} t_welch",
            "neuron": "the index of the neuron with the {extreme} t_welch",
            "d": "cohens_d of the neuron with the {extreme} t_welch",
            "auroc_text": "auroc_text of the neuron with the {extreme} t_welch",
            "auroc_text_low": "lower end of the 95 % bootstrap interval over words of {end}_auroc_text",
            "auroc_text_high": "upper end of the 95 % bootstrap interval over words of {end}_auroc_text",
            "replicated": "`replicated` of the neuron with the {extreme} t_welch",
        }.items()
    },
    "top_f": "the highest f of all neurons",
    "top_eta2": "eta2 of the neuron with the highest f",
    "top_category": "index of the category on which the mean of the neuron with the highest f is highest",
    "auroc_text_r_mean": "mean of auroc_text_r over layers",
    "words.word": "the word",
    "words.category": "its category",
    "words.label": "index of the category",
    "words.tokens": "its number of tokens",
    "words.pair": "number of its pair for t_paired; −1 without pairs",
    "leading.category": "a category; a row for each that some neuron prefers",
    "leading.label": "index of the category",
    "leading.layer": "layer of the neuron that prefers the category most: that with the highest t_rest of the category",
    "leading.neuron": "index of this neuron",
    "leading.t": "its t_rest of the category; too optimistic, because the same words select and measure the neuron",
    "leading.eta2": "its eta2",
    "leading.auroc_text": "its auroc_text of the category",
    "leading.auroc_text_low": "lower end of the 95 % bootstrap interval over words of auroc_text",
    "leading.auroc_text_high": "upper end of the same interval",
    "leading.text_occurrences": "number of occurrences of the category's words in the text that were used",
    "agreement.first": "a test: paired_bonferroni (p_paired < 0.05 / neurons of the layer), welch_bonferroni "
    "(f_bonferroni), max_t (p_maxt < 0.05), welch_bh (f_bh; q_welch or q_f < 0.05), replicated (in more than half of "
    "the splits); all layers together",
    "agreement.second": "another test",
    "agreement.both": "number of neurons that are significant by both tests",
    "agreement.only_first": "number of neurons that are significant by the first test only",
    "agreement.only_second": "number of neurons that are significant by the second test only",
    "agreement.neither": "number of neurons that are significant by neither test",
}
