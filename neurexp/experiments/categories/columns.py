"""The data dictionary of what categories adds to a contrast. Texts only."""

from collections.abc import Sequence

from neurexp.experiments.categories.data import SET_2

_SPLITS = (
    "the splits of the same words into two categories of these sizes (all if there are at most 200, else "
    "experiment.shuffles random ones); a word keeps one label in all its sentences"
)
_STUDENT = (
    "Student's t with equal variances, a row for each target in its sentence, as in the lectures: it takes the "
    "sentences of one word as independent"
)
_EARLIER = "an earlier word keeps one category in all its sentences"
_TESTS = {"sentences": "t_sentences", "words": "t_welch, over the words' means"}


def columns_of(categories: Sequence[str]) -> dict[str, str]:
    """The definition of every column and metric. Positive: category 1 is higher."""
    one, zero = categories[1], categories[0]
    columns = dict(_COLUMNS)
    columns["t_sentences"] += f"; positive: {one} higher"
    columns["difference_alone"] += f"; {one} − {zero}"
    columns["leak"] += f" (after {one} − after {zero})"
    for name, meaning in _by_split().items():
        columns |= {
            name: meaning,
            f"{name}_shuffled": f"mean of {name} over the other splits of the words: {_SPLITS}",
            f"{name}_p": f"share of all splits of the words, the real one included, with at least this {name}",
            f"{name}_all": f"{name}, mean over layers",
            f"{name}_all_shuffled": f"mean of {name}_all over the other splits of the words",
            f"{name}_all_p": f"share of all splits of the words, the real one included, with at least this {name}_all",
            f"{name}_largest": f"the largest {name} of a layer",
            f"{name}_largest_layer": f"the layer with the largest {name}",
        }
        if name.startswith(("concordance", "both", "overlap")):
            independent = f"{name} if the sets were independent, each with as many significant neurons of each sign"
            columns |= {
                f"{name}_independent": independent,
                f"{name}_all_independent": f"{independent}, mean over layers",
            }
    for place in ("first", "last"):
        moved = (
            f"‖v after the block − v before it‖ of the residual stream at the {place} token of set 1's targets of "
            "several tokens (none at the first position of its sequence): mean over sentences, then over words. No "
            "norm is applied"
        )
        for name, what in (
            (f"displacement_{place}", moved),
            (f"displacement_{place}_relative", f"{moved}; each divided by ‖v before the block‖"),
        ):
            columns |= {
                name: what,
                f"{name}_largest": f"the largest {name} of a layer",
                f"{name}_largest_layer": f"the layer with the largest {name}",
            }
    return columns


def _by_split() -> dict[str, str]:
    """The numbers that are compared with other splits of the words."""
    found = {"members": "over pairs of one word of each category and over the neurons that the other words select: the "
             "share of pairs in which the neuron orders the two held-out words as it orders the other words' "
             "categories. The neurons with the largest 5 % of |Welch's t| among the other words are selected; 0.5 by "
             "chance. At most 100 pairs"}  # fmt: skip
    for end, where in (("", ""), (f"_{SET_2}", " in set 2")):
        found[f"share_separated{end}"] = (
            "share of neurons whose means on all words of one category lie above those on all words of the other"
            f"{where}; its mean over all splits is 1 / number of splits or less, or twice that if the categories "
            "differ in size"
        )
    for level, test in _TESTS.items():
        for end, where in (("", ""), (f"_{SET_2}", " in set 2")):
            found[f"share_{level}{end}"] = f"share of neurons with p < 0.05 / neurons of the layer ({test}){where}"
        significant = f"significant (p < 0.05 / neurons of the layer, {test})"
        found |= {
            f"concordance_{level}": f"share of neurons that are {significant} with the same sign in both sets, or "
            "significant in neither",
            f"both_{level}": f"share of neurons that are {significant} with the same sign in both sets",
            f"overlap_{level}": f"both_{level}, of the neurons that are significant in either set",
            f"t_r_{level}": f"correlation over neurons of t in set 1 and t in set 2 ({test})",
        }
    return found


_COLUMNS = {
    "t_sentences": _STUDENT,
    "p_sentences": "two-sided p of t_sentences, number of rows − 2 degrees of freedom",
    "significant_sentences": "p_sentences < 0.05 / neurons of the layer",
    f"t_sentences_{SET_2}": "t_sentences in set 2",
    f"p_sentences_{SET_2}": "p_sentences in set 2",
    f"significant_sentences_{SET_2}": "significant_sentences in set 2",
    "concordant_sentences": "significant_sentences in both sets, with the same sign",
    "concordant_words": "p < 0.05 / neurons of the layer in both sets, with the same sign (Welch's t over words)",
    "pairs_right": "share of the pairs of held-out words that the neuron orders as it orders the other words' "
    "categories, whether or not these select it; 0.5 by chance",
    "difference_alone": "difference of the categories over words, from targets that are alone in their sentence",
    "leak": "what an earlier target of the sentence moves at a later one: estimated for each earlier word by least "
    "squares, with a constant for each later word and one for each frame (a place in sentences that differ in their "
    "targets only), or for each later word only where no frame is shared; mean over the words of a category",
    "p_leak": "share of all splits of the earlier words, the real one included, with at least this |leak| "
    f"({_EARLIER})",
    "leak_share": "Σ leak · difference_alone / Σ difference_alone² over neurons: an earlier target of a category moves "
    "a later one by this part of the category difference, towards its own category; too small where the difference "
    "is mostly noise",
    "leak_share_low": f"2.5 % quantile of ±leak_share over the other splits of the earlier words ({_EARLIER})",
    "leak_share_high": "97.5 % quantile of the same",
    "leak_share_p": "share of all these splits, the real one included, with at least this |leak_share|",
    "words_leak": "number of earlier words (the nearest before the later target)",
    "rows_leak": "number of later targets that are compared: of words and in frames (see leak) with several rows. "
    "Rows after targets of both categories, or after the same word, are left out",
    "leak_share_all": "mean of leak_share over layers",
    "leak_share_largest": "the largest leak_share of a layer",
    "leak_share_largest_layer": "the layer with the largest leak_share",
    "leak_layers": "number of layers with leak_share_p < 0.05",
    "displacement_last_more": "number of layers with displacement_last_relative above displacement_first_relative",
    "rows_leak_all": "rows_leak, the same in all layers",
    "words_leak_all": "words_leak, the same in all layers",
    "sentences": "number of different texts of set 1",
    f"sentences_{SET_2}": "number of different texts of set 2",
    "sentences_duplicate": "lines that repeat text and target of another line; dropped",
    "sentences_skipped": "lines that cannot be used; skipped.parquet names each, and the reason",
    "sentences.set": "the set of the row, 1 or 2",
    "sentences.word": "the target",
    "sentences.category": "its category",
    "sentences.sequence": "the text, as a row number of the set's token sequences; set 1's are in tokens.safetensors",
    "sentences.position": "position of the target's first token in its sequence",
    "sentences.tokens": "its number of tokens",
    "sentences.alone": "whether it is the only target of its text",
    "sentences.earlier": "the category of the targets before it in its text, as an index; −1 if there is none, if they "
    "are of both, or if one of them is the same word",
}  # fmt: skip
