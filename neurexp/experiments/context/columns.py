"""The data dictionary of context: what each column, metric and table's column means. Texts only: knows no number."""

from collections.abc import Mapping

from neurexp.experiments.context.data import BINS, PARTS, Comparison


def columns_of(comparisons: Mapping[str, Comparison]) -> dict[str, str]:
    """Every definition, by name; each can be read alone.

    Args:
        comparisons: the name of each comparison → what it compares.
    """
    columns = _of_all() | _of_shares()
    for name, one in comparisons.items():
        columns |= _of_comparison(name, one)
    return columns


def _of_all() -> dict[str, str]:
    half = "variance components of half of the types: every other one in the order of their ids"
    return {
        "layer": "block index, from 0",
        "neuron": "index of the unit within the site",
        "mean": "mean over the occurrences of repeated types; model's own units",
        "std": "standard deviation over the occurrences of repeated types (ddof 0); model's own units",
        "share_type": "share of the variance that the token's type explains: variance components of the random model "
        "mean + type + position + rest by Henderson's method 3, over experiment.types types with up to "
        "experiment.occurrences occurrences each. Unbiased components: a share may be a little below 0. Every type "
        "counts the same, however frequent. Missing for a neuron that does not vary",
        "share_position": "share of the variance that the token's position explains, by the variance components of "
        f"share_type. A position is one of {BINS} bins with equal numbers of the text's tokens; position 0 is left out",
        "share_context": "share of the variance that neither the token's type nor its position explains: "
        "1 − share_type − share_position. What is left is the context's",
        "share_context_first_half": f"share_context by the {half}",
        "share_context_second_half": "share_context by the other half of the types",
        "share_context_replication": "correlation over neurons of share_context_first_half and _second_half",
        "share_context_replication_overall": "correlation of share_context_first_half and _second_half over the "
        "neurons of all layers",
        "first_distance": "how far the mean at position 0 lies from `mean`, in units of `std`: root mean square over "
        "neurons",
        "words_used": "nouns of our list that are single tokens with and without their leading space",
        "tokens_compared": "tokens of the text that are compared with the same tokens alone, each of another type",
        "types_repeated": "token types of the variance components",
        "tokens_repeated": "occurrences of the token types of the variance components",
        "neurons_compared": "neurons of all layers",
        "words.word": "a noun of our list",
        "words.left_out": "why the noun is left out; empty if it is used",
        "sample.text": "the text of a token that is compared with the same token alone",
        "sample.id": "the token's id",
        "sample.sequence": "the token's sequence in tokens.safetensors",
        "sample.position": "the token's column in its sequence",
    }


def _of_shares() -> dict[str, str]:
    """Over neurons, and of the neurons with the least and the most context."""
    columns: dict[str, str] = {}
    for part in PARTS:
        columns |= {
            f"share_{part}_mean": f"mean of share_{part} over neurons",
            f"share_{part}_overall": f"median of share_{part} over the neurons of all layers",
        } | _quartile_columns(f"share_{part}")
    for end, what in (("least", "smallest"), ("most", "largest")):
        neuron = f"the neuron with the {what} share_context_first_half"
        columns |= {
            f"{end}_context_layer": f"layer of {neuron}",
            f"{end}_context_neuron": f"index within its layer of {neuron}",
            f"{end}_context_share": f"share_context_second_half, on which it was not chosen, of {neuron}",
        }
    return columns


def _of_comparison(name: str, one: Comparison) -> dict[str, str]:
    columns = {
        f"r_{name}": f"Pearson's r over tokens between x, {one.x_is}, and y, {one.y_is}",
        f"r_{name}_low": f"lower end of the 95 % interval of r_{name}: jackknife over tokens, each of another "
        "type, of Fisher's z",
        f"r_{name}_high": f"upper end of the 95 % interval of r_{name}",
        f"slope_{name}": f"slope of the regression of y on x, with the x and y of r_{name}",
        f"p_{name}": f"p of |r_{name}| among experiment.permutations shuffles of which x belongs to which y: (1 + "
        "exceedances) / (shuffles + 1)",
        f"q_{name}": f"p_{name} corrected by Benjamini-Hochberg, family: the layer",
        f"r_{name}_overall": f"median of r_{name} over the neurons of all layers",
        f"slope_{name}_median": f"median of slope_{name} over neurons",
        f"share_significant_{name}": f"share of the layer's neurons with q_{name} < 0.05",
        f"share_significant_{name}_overall": f"share of the neurons of all layers with q_{name} < 0.05",
        f"pooled_r_{name}": "r over all neurons and tokens of the layer together, as the lecture reports it",
        f"pooled_r_{name}_centred": "r over all neurons and tokens of the layer together, after each neuron's own mean "
        f"is subtracted from its x and its y (those of r_{name})",
        f"pooled_r_{name}_shuffled": f"mean of pooled_r_{name} over all shuffles of which x belongs to which y "
        "(exact): what the neurons' means alone give",
        f"distance_{name}": "(mean of y − mean of x) / standard deviation of y, root mean square over neurons, with "
        f"the x and y of r_{name}",
    } | _quartile_columns(f"r_{name}")
    for kind in ("", "_centred", "_shuffled"):
        columns[f"pooled_r_{name}{kind}_overall"] = f"mean of pooled_r_{name}{kind} over layers"
    return columns


def _quartile_columns(name: str) -> dict[str, str]:
    names = (("median", "median"), ("q25", "lower quartile"), ("q75", "upper quartile"))
    return {f"{name}_{end}": f"{what} of {name} over neurons" for end, what in names}
