"""The data dictionary of a regression: what each column of its tables means. Texts only."""

from neurexp.experiments.regression.data import RegressionPlan

_NEURONS = {
    "beta": "slope of the logistic regression of the label on the neuron, in log odds per standard deviation over "
    "these rows (ddof 0); positive: higher on category 1; ±inf where the neuron separates the categories",
    "beta_low": "lower end of Wald's 95 % interval of beta; missing where the neuron separates the categories",
    "beta_high": "upper end of the same interval",
    "intercept": "log odds of category 1 at the neuron's mean; missing where the neuron separates the categories",
    "chi2": "likelihood ratio χ² of the regression against the one without the neuron, 1 degree of freedom; where the "
    "neuron separates the categories, from the likelihood's limit",
    "p_lr": "p of chi2; it takes rows as independent, which occurrences of one word are not (see p_types)",
    "q_lr": "p_lr corrected by Benjamini-Hochberg, family: the layer",
    "significant": "p_lr < 0.05 / neurons of the layer",
    "wald": "beta / its standard error; 0, its limit, where the neuron separates the categories",
    "p_wald": "two-sided normal p of wald; it fails near separation (Hauck and Donner 1977) and is 1 at separation",
    "separation": "0: the categories overlap; 1: quasi-complete, they share a single value only; 2: complete, a "
    "threshold separates them",
    "accuracy": "share of these same rows that the regression predicts correctly, as the lectures have it",
    "accuracy_heldout": "share of the rows in the last experiment.heldout of the text that the regression on the text "
    "before predicts correctly (of the units, the verbs for example, where there are any); missing if one part lacks a "
    "category",
    "auroc_heldout": "AUROC on the same held-out rows in the direction of the fit: 0.5 by chance, and below it the "
    "direction does not hold",
    "accuracy_types": "accuracy on the rows of experiment.heldout of the word types (or blocks), fitted to the others",
    "auroc_types": "AUROC on the same rows of unseen types in the direction of the fit",
    "t": "Student's t with equal variances, positive: higher on category 1; it grows with the number of rows",
    "p_t": "two-sided p of t",
    "t_welch": "Welch's t, positive: higher on category 1",
    "p_welch": "two-sided p of t_welch",
    "p_types": "p of |r| of neuron and label among experiment.permutations shuffles of the labels over word types (all "
    "rows of a type keep one label; where there are blocks of types, all frames of a negation and their partners for "
    "example, the two labels of a block change places): "
    "(1 + exceedances) / (shuffles + 1)",
    "t_units": "paired t over units (what is held out together, the verbs of sentences): mean of a unit's rows of "
    "category 1 − mean of those of category 0",
    "p_units": "two-sided p of t_units; it takes the sentences around the units as given (see p_types)",
    "p_types_max": "p of |r| among the largest of any neuron of the layer in each of these shuffles: corrects for all "
    "neurons of the layer",
}
_LAYERS = {
    "rows": "number of rows of both categories",
    "share_significant": "share of neurons with significant",
    "share_significant_shuffled_rows": "share_significant with the labels shuffled among rows, mean over "
    "experiment.shuffles",
    "share_significant_shuffled_types": "share_significant with the labels shuffled over word types, mean over "
    "experiment.shuffles: what dependent rows alone give",
    "share_types": "share of neurons with p_types_max < 0.05",
    "share_positive": "share of neurons with significant and beta > 0",
    "separated": "number of neurons with separation > 0",
    "wald_misses": "number of neurons with significant, but p_wald ≥ 0.05 / neurons of the layer",
    "near_separation": "number of neurons with significant whose wald² is less than half of chi2: the two agree for "
    "small slopes, and Wald's falls behind near separation; separated neurons are among them",
    "unconverged": "number of neurons whose regression did not converge; their p_lr is too large, if anything",
    "accuracy_positive": "mean of accuracy (of the same rows, as the lectures have it) over the neurons with "
    "significant and beta > 0",
    "accuracy_significant": "mean of accuracy_heldout over the significant neurons",
    "auroc_significant": "mean of auroc_heldout over the significant neurons; selected on all rows, so too high",
    "auroc_types_significant": "mean of auroc_types over the significant neurons; selected on all rows, so too high",
    "r_beta_t": "correlation over neurons of beta and t; without separated neurons",
    "r_log_p": "correlation over neurons of −log10 p_lr and −log10 p_t",
}
_TOGETHER = {
    "beta_least": "the smaller |beta| of the comparisons {decisive}, with its sign; 0 if their signs differ",
    "in_all": "`significant` with the same sign of beta in {decisive}",
    "naive_in_all": "share of the neurons with significant_{naive} that have in_all, with the sign of beta_{naive}",
    "survives": "whether the neuron is one of the {what}: `significant` with the same sign of beta in {decisive}"
    "{over_types}",
    "survives_types": "survives, and p_types_max < 0.05 in each of these comparisons",
    "share_survives": "share of the layer's neurons with survives",
    "share_survives_types": "share of the layer's neurons with survives_types",
    "share_left": "share of the layer's neurons with significant_{naive} that survive with the sign of beta_{naive}: "
    "what is left of the lectures' share",
    "neurons_tested": "number of neurons of all layers of the run",
    "both_rules": "number of neurons with significant_{naive} and significant_{main}",
    "naive_only": "number of neurons with significant_{naive} only",
    "main_only": "number of neurons with significant_{main} only",
    "opposite_signs": "number of the neurons of both_rules whose beta_{naive} and beta_{main} have opposite signs; "
    "without separated neurons",
    "naive_survive": "share of the neurons with significant_{naive} that survive with the sign of beta_{naive}",
    "main_survive": "share of the neurons with significant_{main} that survive",
    "r_beta_rules": "correlation over all neurons of beta_{naive} and beta_{main}; without separated neurons",
    "survivors": "share of all neurons with survives",
    "number_survivors": "number of neurons with survives",
    "number_survivors_types": "number of neurons with survives_types",
    "number_survivors_positive": "number of neurons with survives and beta_least > 0",
    "positions.comparison": "the comparison whose categories are at 0 and at 1",
    "positions.kind": "a category of the comparison, or the third kind",
    "positions.word": "the type, or all of the kind",
    "positions.rows": "its number of rows",
    "positions.neurons": "number of the neurons with survives, at most 1000 with the largest |beta_least|",
    "positions.position": "(mean of its rows − mean of category 0) / (mean of category 1 − mean of category 0), median "
    "over these neurons; the categories as means over types, without the row's own type; the neurons were chosen on "
    "the categories' rows, not on the third kind's",
    "positions.position_low": "lower end of the 95 % bootstrap interval of position, over types of the categories and "
    "rows of the word (types, where it is all of the kind)",
    "positions.position_high": "upper end of the same interval",
    "rows.comparison": "the comparison",
    "rows.word": "the row's type: the word in lower case, or the token without spaces",
    "rows.label": "1 or 0",
    "rows.sequence": "index of its sequence: in tokens.safetensors, unless its comparison has sentences of its own",
    "rows.unit": "what is held out together with it: its sequence, or the verb of its sentence",
    "rows.start": "position of its first token",
    "rows.tokens": "its number of tokens",
    "rows.heldout": "whether it is in the held-out last part of the text, or one of the held-out units",
}
_METRICS = {
    "number_rows": "number of rows of both categories",
    "found": "share of all neurons with significant",
    "found_shuffled_rows": "mean over layers of share_significant_shuffled_rows",
    "found_shuffled_types": "mean over layers of share_significant_shuffled_types",
    "found_types": "mean over layers of share_types",
    "number_separated": "number of neurons with separation > 0, over all layers",
    "number_wald_misses": "sum of wald_misses over layers",
    "number_near_separation": "sum of near_separation over layers",
    "number_unconverged": "sum of unconverged over layers",
    "position": "position (positions.parquet) of all of these words or frames of category 1, median over neurons",
    "position_low": "lower end of its 95 % bootstrap interval over types",
    "position_high": "upper end of the same interval",
    "survivors_hold": "share of the neurons with survives that have p_lr < 0.05 and the same sign of beta here",
    "accuracy_median": "median of accuracy_heldout over all neurons",
}
_ENDS = {
    "layer": "layer of the surviving neuron with the largest |beta_least|, {sign}",
    "neuron": "index of that neuron",
    "beta": "its beta_least; missing if it is infinite",
    "auroc": "its auroc_heldout_{main}",
    "auroc_low": "lower end of the 95 % bootstrap interval over word types of {end}_auroc",
    "auroc_high": "upper end of the same interval",
}


def columns_of(plan: RegressionPlan) -> dict[str, str]:
    """The definition of every column, metric and row of a report."""
    verdict = plan.verdict
    words = {
        "decisive": " and ".join(verdict.decisive), "main": verdict.decisive[0], "naive": verdict.naive,
        "what": verdict.what,
        "over_types": ", and p_types_max < 0.05 in each of them" if verdict.over_types else "",
    }  # fmt: skip
    columns = {"layer": "block index, from 0", "neuron": "index of the unit within the site"}
    columns |= {name: text for name, (_, text) in plan.counts.items()}
    columns |= {name: text.format(**words) for name, text in _TOGETHER.items()}
    for end, sign in (("top", "beta_least > 0"), ("bottom", "beta_least < 0")):
        columns |= {f"{end}_{name}": text.format(**words, sign=sign, end=end) for name, text in _ENDS.items()}
    for name, one in plan.comparisons.items():
        what = f"; category 1: {one.one}, category 0: {one.zero}"
        columns |= {f"{column}_{name}": text + what for column, text in (_NEURONS | _LAYERS | _METRICS).items()}
    return columns
