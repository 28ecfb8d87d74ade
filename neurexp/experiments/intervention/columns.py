"""The data dictionary of an intervention: what each column, metric and table's column means. Texts only."""

from collections.abc import Sequence

WORDS = {
    "mean": "their mean over the text",
    "zero": "0",
    "peak": "their mode over random tokens of the text",
    "resample": "their values at a random token of the text, the same for all neurons of a layer",
}


def columns_of(sets: Sequence[str], kinds: Sequence[str], draws: int, over: str) -> dict[str, str]:
    """Every definition.

    Args:
        sets: names of the sets of neurons.
        kinds: of replacement.
        draws: random sets in place of each.
        over: what intervals are over: sequences, or blocks of them.
    """
    first, *more = kinds
    null = f"{draws} random sets of as many neurons of the same layers, matched in mean |activation| and output weights"
    interval = f"of the 95 % percentile bootstrap interval over {over}"
    texts = {
        "layer": "block index, from 0",
        "neuron": "index of the unit within the site",
        "mean": "mean activation over all tokens, model's own units",
        "mean_abs": "mean of the activation's magnitude |x| over all tokens",
        "output_norm": "norm of the neuron's output weights",
        "delta_loss_estimate": "first-order estimate of the change of the mean loss (nats per prediction) if "
        "the neuron "
        f"alone is replaced by {WORDS[first]} at every token: gradient · (replacement − activation), summed "
        "over the text",
        **{f"delta_loss_estimate_{kind}": f"the same, replaced by {WORDS[kind]}" for kind in more},
        "delta_loss": "exact change of the mean loss (nats per prediction) if the neuron alone is replaced by "
        f"{WORDS[first]}; missing where it was not tried",
        "found": "the neuron is in one of the sets",
        "estimate_abs_mean": "mean |delta_loss_estimate| over the layer's neurons",
        "estimate_largest": "largest delta_loss_estimate of the layer",
        "share_estimate_positive": "share of the layer's neurons with a positive delta_loss_estimate",
        "neurons_found": "neurons of the layer in one of the sets",
        "predictions": "predictions: tokens that are followed by a token of the same sequence",
        "loss_unedited": "mean loss of the model without edits, nats per prediction",
        "edited_models": "edited models that were run over the text, random ones included",
    }
    group = f"all its neurons (the largest k) are replaced by {WORDS[first]}"
    for name in sets:
        texts |= {
            f"delta_loss_{name}": f"change of the mean loss on all predictions, nats, if of the set {name} {group}",
            f"null_z_{name}": f"the same, minus the mean of the null, in its standard deviations (null: {null})",
            f"p_{name}": "one-sided p by rank among the null: (1 + random sets with as large an effect) / (draws + 1)",
            f"kl_{name}": "mean KL divergence of the edited model from the unedited one, nats",
            f"agreement_{name}": "share of predictions whose most probable token stays the same",
            f"delta_loss_{name}_own": f"delta_loss_{name} on the predictions whose next token begins one of {name}",
            f"specific_delta_loss_{name}": f"delta_loss_{name}_own minus the change on all other predictions",
            f"specific_null_z_{name}": "the same in units of the null, as null_z",
            f"specific_p_{name}": "its one-sided p by rank among the null",
            f"match_activation_ratio_{name}": "geometric mean of |activation| of the random neurons over that "
            "of the set",
            f"match_weights_ratio_{name}": "the same of the norm of output weights",
            f"match_activation_difference_{name}": "standardised mean difference of log mean |activation|, set "
            "− random",
            f"match_weights_difference_{name}": "the same of the log norm of output weights",
            f"direct_{name}": f"mean over the set of direct effect on tokens that begin one of {name}, in standard "
            "deviations over the vocabulary from its mean",
            f"direct_null_mean_{name}": "the same of random neurons",
            f"direct_p_{name}": "two-sided p by rank of the set's distance from that mean, among as many "
            "random neurons",
        }
    for name, words in (("sample", "random neurons of all layers"), ("found", "neurons of the sets")):
        texts |= {
            f"estimate_r_{name}": f"Pearson r of delta_loss_estimate with exact single ablations, over {words}",
            f"estimate_rank_r_{name}": f"Spearman's rank correlation of the same, over {words}",
            f"estimate_slope_{name}": f"exact over estimate: slope of the line through 0, over {words}",
        }
    effects = {
        "set": "the set of neurons; “SET: LAYER.NEURON” for one of its neurons alone",
        "k": "how many neurons are edited together: the first k of the set",
        "kind": "what their activations are replaced by: " + "; ".join(f"{kind}: {WORDS[kind]}" for kind in kinds),
        "tokens": "the group of predictions: all; “next: X”, those whose next token begins one of X; “own: X”, "
        "those made "
        "at tokens of X",
        "neurons": "the neurons that are edited, LAYER.NEURON",
        "predictions": "predictions in the group",
        "loss_unedited": "mean loss of the model without edits on the group, nats per prediction",
        "delta_loss": "mean loss of the edited model − loss_unedited, nats per prediction",
        "delta_loss_low": f"lower end {interval}",
        "delta_loss_high": f"upper end {interval}",
        "null_mean": f"mean delta_loss of the null: {null}; for a neuron alone, of single random neurons, each matched "
        "with one of the set's in turn",
        "null_sd": "standard deviation of the null (ddof 1)",
        "null_low": "2.5 % quantile of the null",
        "null_high": "97.5 % quantile of the null",
        "null_z": "(delta_loss − null_mean) / null_sd",
        "p": "one-sided p by rank: (1 + draws with a delta_loss as large or larger) / (draws + 1); not corrected",
        "kl": "mean KL divergence of the edited model from the unedited one on the group, nats",
        "agreement": "share of predictions whose most probable token stays the same",
        "rank_change": "mean change of the rank of the next token among all tokens",
    }
    for name in ("delta_loss", "delta_loss_low", "delta_loss_high"):
        effects[f"specific_{name}"] = "delta_loss on the group − delta_loss on all other predictions" + (
            "" if name == "delta_loss" else f": {effects[name]}"
        )
    for name in ("null_mean", "null_sd", "null_low", "null_high", "null_z", "p"):
        effects[f"specific_{name}"] = f"as {name}, of specific_delta_loss"
    direct = {
        "set": "the set that the neuron is of",
        "layer": "its layer",
        "neuron": "its index",
        "sign": "1: a token that the neuron promotes; −1: one that it suppresses, where its activation is positive",
        "rank": "1: the strongest",
        "id": "the token's id",
        "token": "the token",
        "effect": "logits per unit of activation through the final norm's weight and the unembedding, up to "
        "one positive "
        "factor for each token of a text (the norm's division is left out, and so is every later block)",
    }
    texts |= {f"effects.{name}": text for name, text in effects.items()}
    return texts | {f"direct.{name}": text for name, text in direct.items()}
