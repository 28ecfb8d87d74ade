"""The data dictionary of an optimisation: what each column, metric and tensor means. Texts only."""

from neurexp.experiments.optimisation.data import OptimisationData

WORDS = {
    "gradient": "the tokens that gradient ascent decoded to",
    "discrete": "what the search found from random strings",
    "discrete_from_text": "what the search found from the text's best window",
    "text": "the best windows of the text",
}


def columns_of(data: OptimisationData) -> dict[str, str]:
    """Every definition."""
    options, n = data.options, data.options.length
    alone = f"run alone: {n} tokens after what begins a sequence for this model"
    columns = {
        "layer": "block index, from 0",
        "neuron": "index of the unit within the site",
        "units": "number of the layer's units in this run",
        "text_mean": "mean activation over the text's tokens (special tokens left out), model's own units",
        "text_sd": "standard deviation of the same",
        "text_maximum": "highest activation at a token of the text, in its place",
        "text_window": f"highest mean over {n} consecutive tokens of the text, in their place",
        "start_activation": f"mean activation over the {n} positions at the random embeddings, mean over starts",
        "embedding_activation": "the same after gradient ascent: no token has these embeddings",
        "embedding_best": "the same, of the best start",
        "norm_ratio": "mean norm of an embedding after the ascent over the mean norm before it",
        "decoded": "tokens that were decoded: starts times positions",
        "distinct": "different tokens among them; decoded: the nearest token by cosine similarity of embeddings",
        "repeats": "decoded − distinct",
        "repeats_null": "mean of the same for tokens that random directions decode to",
        "p_repeats": "one-sided p by rank: (1 + draws of random directions with as many repeats) / (1 + draws)",
        "repeats_uniform": "expected repeats if each token of text were as likely",
        "cosine_decoded": "mean cosine similarity of an embedding after the ascent and its nearest token's",
        "cosine_decoded_null": "mean of the same for random directions",
        "cosine_optima": f"mean cosine similarity of two starts after the ascent (all {n} embeddings as one vector)",
        "cosine_optima_low": "lower end of its 95 % interval by the jackknife over starts",
        "cosine_optima_high": "upper end of that interval",
        "cosine_starts": "the same similarity before the ascent",
        "cosine_null_low": "2.5 % quantile of the same similarity among draws of random starts",
        "cosine_null_high": "97.5 % quantile",
        "p_cosine_optima": "one-sided p by rank of cosine_optima among these draws",
        "cosine_displacements": "mean cosine similarity of two starts' displacements (after − before the ascent)",
        "gradient_mean": f"mean activation of the decoded tokens when they are {alone}; mean over starts",
        "random_mean": "the same of random tokens of the same octave of frequency in place of each",
        "random_sd": f"standard deviation of that mean over {options.draws} draws",
        "p_gradient": "one-sided p by rank of gradient_mean among the draws; not corrected for the number of units",
        "random_best": "mean over the draws of the best string's mean activation, of as many strings as starts",
        "p_gradient_best": "one-sided p by rank of gradient_best among the draws' best strings",
        "random_peak": "mean over the draws of the highest activation at one position",
        "kept": "(gradient_mean − random_mean) / (embedding_activation − random_mean): the share of what the ascent "
        "reached that its decoded tokens keep; missing if the ascent reached no more than random tokens",
        "tried": "strings that the search has run",
        "best_way": "which way found the string of tokens with the highest mean activation: gradient, discrete "
        "(the search, from random strings or from the text), data (a window of the text), or none where several did",
        "best_way_peak": "the same, by the highest activation at one position",
    }
    for source, words in WORDS.items():
        columns |= {
            f"{source}_best": f"highest mean activation over the {n} positions of {words}, {alone}",
            f"{source}_peak": f"highest activation at one position of {words}, {alone}",
            f"{source}_best_typed": f"as {source}_best, of the strings that the tokenizer reads back as they are",
        }
    columns |= {f"{name}_mean": f"mean over units: {text}" for name, text in columns.items()}
    columns["units_all"] = "number of units"
    for way in ("gradient", "discrete", "data", "none"):
        columns[f"share_best_{way}"] = f"share of the units whose best_way is {way}"
    return columns | _of_files(n, data.plan.ascent.every)


def _of_files(n: int, every: int) -> dict[str, str]:
    place = {"layer": "block index, from 0", "neuron": "index of the unit within the site"}
    optima = place | {
        "start": "index of the random start",
        "position": f"position among the {n}, after what begins a sequence",
        "token_id": "the nearest token: the largest cosine similarity of its embedding, among all but special tokens",
        "token": "that token, decoded alone",
        "cosine": "that similarity",
    }
    strings = place | {
        "source": "gradient: decoded after gradient ascent; random: random tokens of like frequency in their place; "
        "discrete: found by the search from a random string; discrete_from_text: from the text's best window; text: "
        "a window of the text",
        "rank": "among the unit's strings of this source, by mean; from 0",
        "text": "the string as text",
        "ids": "its token ids, separated by spaces",
        "mean": f"the unit's mean activation over the string's {n} tokens, run alone after what begins a sequence",
        "peak": "its highest activation at one of them",
        "peak_position": "at which, from 0",
        "is_typed": "the tokenizer makes the same ids of the text; if not, no one can type this string",
        "start": "which start it is from; −1 for the text's",
        "draw": "which draw of random tokens; −1 for others",
        "sequence": "of a window of the text: its sequence; −1 for others",
        "column": "of a window of the text: the column of its last token; −1 for others",
        "mean_in_text": "of a window that is among the best by its mean: its mean activation in its place in the text, "
        "where it has all of the tokens before it",
    }
    tensors = {
        "curves.ascent": "mean activation over positions by step, [units, starts, points]",
        "curves.points": f"the steps of these points: every {every}th and the last",
        "curves.search": "mean activation of the best string so far by step of the search, [units, starts, steps + 1]; "
        "the last start is the text's if experiment.from_text",
        "curves.layer": place["layer"],
        "curves.neuron": place["neuron"],
        "embeddings.start": "[units, starts, n, width] before the ascent",
        "embeddings.end": "[units, starts, n, width] after it",
        "embeddings.layer": place["layer"],
        "embeddings.neuron": place["neuron"],
    }
    named = {f"optima.{name}": text for name, text in optima.items()}
    return named | {f"strings.{name}": text for name, text in strings.items()} | tensors
