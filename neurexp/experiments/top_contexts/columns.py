"""The data dictionary of top contexts: what each column, metric, tensor and table's column means. Texts only."""

from neurexp.experiments import promoted
from neurexp.experiments.top_contexts.data import LEAST_IN_HALF, Options
from neurexp.experiments.top_contexts.design import BY_TYPE, OF_TYPES, PROJECTIONS, PROPERTIES, SIMPLE
from neurexp.experiments.top_contexts.labels import LABELS, NONE
from neurexp.stats.concentration import LARGEST_SHARE, LEAST_TYPES, MOST_ITEMS, SMALLEST_P

MEANINGS = {
    "length": "the token's length in characters",
    "log_frequency": "log2 of the token's smoothed frequency",
    "word_beginning": "whether the token begins with a space and a letter or digit",
    "capital": "whether the token begins with a capital, after a space or without one",
    "digit": "whether the token has a digit",
    "punctuation": "whether the token has punctuation or a symbol, and no letter or digit",
    "position": "log2 of 1 + the token's position in its sequence",
    "first": "whether the token is at position 0",
    "token": "which type the token is",
    "previous_token": "which type the token before it is",
}


def columns_of(options: Options) -> dict[str, str]:
    """Every definition."""
    k, texts = options.k, {}
    over = "over the tokens that count (no special tokens, no padding, no skipped positions)"
    texts |= {
        "layer": "block index, from 0",
        "neuron": "index of the unit within the site",
        "mean": f"mean activation {over}; model's own units",
        "std": "standard deviation over the same tokens, of the population (ddof 0)",
        "skewness": "mean of ((x − mean) / std)³ over the same tokens; missing where std is 0",
        "kurtosis": "mean of ((x − mean) / std)⁴ − 3 over the same tokens: 0 for a normal distribution, larger for "
        "heavy tails; missing where std is 0",
        "share_positive": "share of the same tokens with an activation above 0",
        "minimum": "lowest activation at a token that counts",
        "maximum": "highest activation at a token that counts",
    }
    texts |= {
        f"q{share:02d}": f"{share} % quantile of the activation over the tokens of {_every(options.histogram)}"
        ", from the neuron's histogram; only with experiment.histogram"
        for share in (5, 25, 50, 75, 95)
    }
    texts |= {
        f"{name}_median": f"median of {name} over the layer's neurons"
        for name in ("mean", "std", "skewness", "kurtosis", "share_positive")
    }
    texts |= {f"{name}_median_all": f"median of {name} over all neurons" for name in ("kurtosis", "share_positive")}
    for end, which in (("top", "highest"), ("bottom", "lowest")):
        texts |= _of_end(end, f"the {min(k, MOST_ITEMS)} tokens with the {which} activations")
    for name in PROPERTIES:
        texts |= _of_property(name)
    texts |= {
        "ev_one_token": "ev_token if only the type top_token is told from all others, from the same projections; "
        "missing without a top_token; layers: the mean over neurons",
        "property": "the simplest property that tells enough of the neuron: the one of "
        f"{', '.join(SIMPLE)} with the largest ev, among those with ev ≥ 0.05 and q < 0.05, if it is at least half of "
        "ev_token and of ev_previous_token; else one_token, if ev_one_token is at least 0.05 and half of ev_token; "
        "else token or previous_token, if its ev ≥ 0.05 and q < 0.05; else none. Missing, as all ev and shares of "
        f"labels, where a half of the sample has fewer than {LEAST_IN_HALF} tokens",
        "ev_property": "its explained variance; missing for none",
        "tokens": "tokens run, special ones and skipped positions included",
        "neurons_constant": "number of neurons with one activation at all tokens that count; their property is none",
        "tokens_counted": "tokens that count: no special tokens, no skipped positions",
        "tokens_sampled": "those of them that the explained variance is of (experiment.property_tokens, at most)",
        "types_sampled": "number of different tokens among these",
        "share_explained": f"1 − share_{NONE}",
    }
    for label in LABELS:
        texts[f"labelled_{label}"] = f"share of the layer's neurons with the property {label}"
        texts[f"share_{label}"] = f"share of all neurons with the property {label}"
    return texts | {f"{file}.{name}": text for file, rows in _files(options).items() for name, text in rows.items()}


def _every(step: int) -> str:
    return "every sequence" if step <= 1 else f"one of every {step} sequences"


def _of_end(end: str, which: str) -> dict[str, str]:
    null = "expected if each token is a random one of the text of like frequency: of the same octave (1, 2–3, 4–7, … "
    null += f"occurrences), joined with the next lower ones until it has {LEAST_TYPES} types and none with more than "
    null += f"{LARGEST_SHARE:.0%} of its occurrences; no place is taken twice"
    which += f" that tell something ({end}_contexts)"
    return {
        f"{end}_contexts": f"number of contexts that {end}_share is of, at most {MOST_ITEMS}. If several are equal to "
        "the last one that is kept, these are left out, unless they are three or more of one type: tokens that were "
        "not kept may be equal to them, and the order of the text chose. "
        "A neuron that is constant has none. Where it is 0, all of its columns are missing",
        f"{end}_without_contexts": f"number of neurons with {end}_contexts = 0: the tokens at that end are the first "
        "ones of the text among equals",
        f"{end}_tied": f"number of neurons of which contexts are left out of {end}_contexts, or fewer were kept",
        f"{end}_token": f"the commonest token among {which}; of equally common ones the one nearest to the end",
        f"{end}_share": f"its share of {which}; layers: the mean over neurons",
        f"{end}_entropy": f"entropy of the types of {which}, bits; layers: the mean over neurons",
        f"{end}_share_null": f"{end}_share {null}; layers: the mean over neurons",
        f"{end}_entropy_null": f"{end}_entropy {null}; layers: the mean over neurons",
        f"p_{end}_share": f"exact probability of a share as large as {end}_share or larger, of such random tokens; "
        f"{SMALLEST_P:.0e} where it is smaller",
        f"q_{end}_share": f"p_{end}_share corrected for all neurons of all layers that have one (Benjamini-Hochberg)",
        f"{end}_concentrated": f"share of the layer's neurons with q_{end}_share < 0.05",
        f"share_concentrated_{end}": f"share of all neurons with q_{end}_share < 0.05",
        f"{end}_share_mean": f"mean of {end}_share over all neurons",
        f"{end}_share_null_mean": f"mean of {end}_share_null over all neurons",
        f"{end}_entropy_mean": f"mean of {end}_entropy over all neurons",
        f"{end}_entropy_null_mean": f"mean of {end}_entropy_null over all neurons",
    }


def _of_property(name: str) -> dict[str, str]:
    meaning = MEANINGS[name]
    null = "positions are shifted circularly within each sequence"
    if name in OF_TYPES:
        null = "values are dealt out anew among token types of the same octave of count"
    if name == "log_frequency":
        null = "values are dealt out anew among all token types"
    drift = ""
    if name in OF_TYPES:
        drift = "; too small for a neuron that follows a drift which neighbouring tokens share, unlike ev"
    if name in BY_TYPE:
        text = {
            f"p_{name}": f"two-sided p of ev_{name}, against products of different projections, which have the mean "
            "0 and the spread of shuffled types, by Student's t",
            f"ev_{name}": f"explained variance, cross-validated: {meaning}. Σ over types of share · (mean in one half "
            "of the sample − mean of all) · (the same in the other half), over the neuron's variance, from "
            f"{PROJECTIONS} projections on random signs. Noise does not add up in it, and it may be negative. A type "
            "that is in one half only adds nothing, so in a short text it is too small; layers: the mean over neurons",
        }
    else:
        text = {
            f"r_{name}": f"Pearson's r of the activation with {meaning}, over the sample; missing if undefined",
            f"p_{name}": f"two-sided p of r_{name} against draws in which {null}, by Student's t; 1 if undefined"
            f"{drift}",
            f"ev_{name}": f"explained variance, cross-validated: {meaning}. The product of the slopes that two halves "
            "of the sample give, times the property's variance, over the neuron's variance. Noise does not add up in "
            "it, and it may be negative; missing if undefined; layers: the mean over neurons",
        }
    return text | {
        f"q_{name}": f"p_{name} corrected for all neurons of all layers (Benjamini-Hochberg)",
        f"explained_{name}": f"share of the layer's neurons with ev_{name} ≥ 0.05 and q_{name} < 0.05",
        f"share_explained_by_{name}": f"share of all neurons with ev_{name} ≥ 0.05 and q_{name} < 0.05",
        f"ev_{name}_mean": f"mean of ev_{name} over all neurons",
    }


def _files(options: Options) -> dict[str, dict[str, str]]:
    contexts = {
        "layer": "the neuron's layer",
        "neuron": "its index",
        "end": "top: one of its highest activations; bottom: one of its lowest",
        "rank": "0: the highest, or the lowest; equal ones in the order of the text",
        "value": "the activation, model's own units",
        "sequence": "the sequence of the text, from 0",
        "position": "the token's place in the sequence, from 0",
        "token_id": "the token's id",
        "token": "the token, decoded alone",
    }
    around = options.before + 1 + options.after
    return {
        "contexts": contexts,
        "direct": promoted.COLUMNS,
        "vocabulary": {
            "token_id": "the token's id",
            "token": "the token, decoded alone",
            "bytes": "the bytes that the token adds within a text, in hexadecimal",
        },
        "windows": {
            "levels": f"activations of the neuron around each of its contexts, `[layers, 2, neurons, {options.k}, "
            f"{around}]`: 100 · activation / |activation of the context|, rounded, from {options.before} tokens before "
            f"it to {options.after} after; limited to ±100; −128: no token there",
            "layers": "block index of each row",
        },
        "context_tokens": {
            "sequences": "the sequences of the text that have a context, ascending",
            "input_ids": "their token ids, `[sequences, length]`",
            "valid": "which of these are no padding",
        },
        "neuron_histograms": {
            "counts": f"tokens of {_every(options.histogram)} in each bin of each neuron, `[layers, neurons, "
            f"{options.bins} + 2]`: underflow first, overflow last",
            "start": "where the first bin begins, `[layers, neurons]`",
            "width": "of the bins, `[layers, neurons]`",
            "layers": "block index of each row",
        },
        "winners": {
            "layer": "the neuron's layer",
            "neuron": "its index",
            "token_id": "a token that won batches: it had the neuron's highest activation in them",
            "token": "the token, decoded alone",
            "wins": f"number of the {options.batches} random batches that it won",
            "win_share": "their share of all batches",
            "places": "number of places of the text from which it won",
            "occurrences": "how often the token occurs in the text",
            "occurrence_share": "its share of the tokens that count",
        },
    }
