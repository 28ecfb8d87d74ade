"""The data dictionary of an intervention: what each column, metric and table's column means. Texts only."""

from collections.abc import Sequence

from neurexp.experiments import promoted

WORDS = {
    "mean": "the mean over the text",
    "zero": "0",
    "peak": "the mode over random tokens of the text",
    "resample": "the value at a random token of the text, the same token for all neurons",
}


def columns_of(sets: Sequence[str], kinds: Sequence[str], draws: int, over: str) -> dict[str, str]:
    """Every definition.

    Args:
        sets: names of the sets of neurons.
        kinds: of replacement.
        draws: random sets in place of each.
        over: what intervals are over: sequences, or blocks of them.
    """
    texts = _of_neurons_and_layers(kinds)
    for name in sets:
        texts |= _of_set(name, kinds[0], draws)
    for name, words in (("sample", "random neurons of all layers"), ("found", "neurons of the sets")):
        texts |= {
            f"estimate_r_{name}": f"Pearson's r of delta_loss_estimate with exact effects, over {words}",
            f"estimate_rank_r_{name}": f"Spearman's rank correlation of the same, over {words}",
            f"estimate_slope_{name}": "exact effect per estimated one: the slope of the least-squares line through 0, "
            f"over {words}",
        }
    texts |= {f"effects.{name}": text for name, text in _of_effects(kinds, draws, over).items()}
    return texts | {f"direct.{name}": text for name, text in DIRECT.items()}


def _null(draws: int) -> str:
    return f"{draws} random sets of as many neurons of the same layers, matched in mean |activation| and output weights"


def _of_neurons_and_layers(kinds: Sequence[str]) -> dict[str, str]:
    first, *more = kinds
    return {
        "layer": "block index, from 0",
        "neuron": "index of the unit within the site",
        "mean": "mean activation over all tokens, model's own units",
        "mean_abs": "mean of the activation's magnitude |x| over all tokens",
        "output_norm": "norm of the neuron's output weights",
        "delta_loss_estimate": "first-order estimate of the change of the mean loss (nats per prediction) if the "
        f"neuron alone is replaced by {WORDS[first]}, at every token: gradient · (replacement − activation), summed "
        "over the tokens, divided by the number of predictions",
        **{f"delta_loss_estimate_{kind}": f"the same for a replacement by {WORDS[kind]}" for kind in more},
        "delta_loss": "exact change of the mean loss (nats per prediction) if the neuron alone is replaced by "
        f"{WORDS[first]}; missing where it was not tried",
        "found": "the neuron is in one of the sets",
        "estimate_abs_mean": "mean |delta_loss_estimate| over the layer's neurons",
        "estimate_largest": "largest delta_loss_estimate of the layer",
        "share_estimate_positive": "share of the layer's neurons with a positive delta_loss_estimate",
        "neurons_found": "neurons of the layer in one of the sets",
        "predictions": "number of predictions: tokens that are followed by a token of the same sequence",
        "loss_unedited": "mean loss of the model without edits, nats per prediction",
        "edited_models": "edited models that were run over the text, those with random neurons among them",
    }


def _of_set(name: str, kind: str, draws: int) -> dict[str, str]:
    """The metrics of one set: of its largest k, with the first kind of replacement."""
    return {
        f"delta_loss_{name}": "change of the mean loss on all predictions (nats per prediction) if the neurons of the "
        f"set {name}, the largest k of them, are replaced by {WORDS[kind]}",
        f"null_z_{name}": f"delta_loss_{name} minus the mean of the null, in the null's standard deviations; null: "
        f"{_null(draws)}",
        f"p_{name}": f"one-sided p of delta_loss_{name} by rank: (1 + draws with as large an effect) / (draws + 1); "
        "draws of the same neurons count once",
        f"kl_{name}": "mean KL divergence of the edited model's predictions from those without edits, nats",
        f"agreement_{name}": "share of predictions whose most probable token is the same with and without the edits",
        **{
            f"{column}_{name}_{place}": text
            for place, where in (
                ("next", f"the predictions whose next token begins one of {name}"),
                ("own", f"the predictions at tokens of {name}"),
            )
            for column, text in (
                ("delta_loss", f"delta_loss_{name} on {where}"),
                ("specific_delta_loss", f"delta_loss_{name}_{place} minus the change on all other predictions"),
                ("specific_null_z", f"as null_z_{name}, of specific_delta_loss_{name}_{place}"),
                ("specific_p", f"as p_{name}, of specific_delta_loss_{name}_{place}"),
            )
        },
        f"match_activation_ratio_{name}": "mean |activation| of the random neurons over that of the set, a ratio of "
        "geometric means",
        f"match_weights_ratio_{name}": "norm of output weights of the random neurons over that of the set, a ratio of "
        "geometric means",
        f"match_activation_difference_{name}": "log mean |activation| of the set minus that of the random neurons, in "
        "standard deviations over the layer's neurons; the mean over the set",
        f"match_weights_difference_{name}": f"as match_activation_difference_{name}, of the log norm of output weights",
        f"direct_{name}": "what a unit of activation adds directly to the logits of the tokens that begin one of "
        f"{name}, in standard deviations over the vocabulary from the vocabulary's mean; the mean over the set",
        f"direct_null_mean_{name}": f"the mean of direct_{name} over the random sets",
        f"direct_p_{name}": f"two-sided p by rank of direct_{name}'s distance from that mean, among the random sets",
    }


def _of_effects(kinds: Sequence[str], draws: int, over: str) -> dict[str, str]:
    interval = f"of the 95 % percentile bootstrap interval over {over}"
    effects = {
        "set": "the set of neurons; “SET: LAYER.NEURON” for one of its neurons alone",
        "k": "how many neurons are edited together: the first k of the set",
        "kind": "what their activations are replaced by: " + "; ".join(f"{kind}: {WORDS[kind]}" for kind in kinds),
        "tokens": "the group of predictions: all; “next: X”, those whose next token begins one of X; “own: X”, those "
        "made at tokens of X",
        "neurons": "the neurons that are edited, LAYER.NEURON each",
        "predictions": "number of predictions in the group",
        "loss_unedited": "mean loss of the model without edits on the group, nats per prediction",
        "delta_loss": "mean loss of the edited model − loss_unedited, nats per prediction",
        "delta_loss_low": f"lower end {interval}; missing if the text has one sequence",
        "delta_loss_high": f"upper end {interval}; missing if the text has one sequence",
        "null_mean": f"mean delta_loss of the null: {_null(draws)}; draws of the same neurons count once. For a neuron "
        "alone the null is single random neurons of its layer, each matched with one of the set's neurons there",
        "null_sd": "standard deviation of the null (ddof 1)",
        "null_low": "2.5 % quantile of the null",
        "null_high": "97.5 % quantile of the null",
        "null_z": "(delta_loss − null_mean) / null_sd",
        "p": "one-sided p by rank: (1 + draws with a delta_loss as large or larger) / (draws + 1), where draws of the "
        "same neurons count once; not corrected",
        "kl": "mean KL divergence of the edited model's predictions from those without edits on the group, nats",
        "agreement": "share of predictions whose most probable token is the same with and without the edits",
        "rank_change": "mean change of the next token's rank (1: the most probable); positive: more come before it",
    }
    for name in ("delta_loss", "delta_loss_low", "delta_loss_high"):
        end = "" if name == "delta_loss" else f": {effects[name]}"
        effects[f"specific_{name}"] = f"delta_loss on the group − delta_loss on all other predictions{end}"
    for name in ("null_mean", "null_sd", "null_low", "null_high", "null_z", "p"):
        effects[f"specific_{name}"] = f"as {name}, of specific_delta_loss"
    return effects


DIRECT = {"set": "the set that the neuron is of", **promoted.COLUMNS}
