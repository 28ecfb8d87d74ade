"""The analysis of a profile: the tables of neurons and of layers, and the metrics, from the sums of its pass.

The arithmetic is in `stats`, the meaning of each column in `columns`. Knows no sentence and no figure.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from neurexp.console.progress import over
from neurexp.experiments.profile.data import SKIPPED, SPECIAL, ProfileData
from neurexp.experiments.profile.strongest import Strongest, strongest
from neurexp.report.report import Table, by_layer
from neurexp.stats import association, summary
from neurexp.stats.groups import EQUAL, HIGH, LOW, Summary, overlap
from neurexp.stats.profile import LayerProfile, profile_layer


@dataclass(frozen=True)
class Analysis:
    """The tables and metrics of a profile."""

    neurons: Table
    layers: Table
    metrics: dict[str, Any]
    strongest: Strongest
    curves: np.ndarray  # [layers, values that occur] mean activation over the tokens of a value and all neurons


def analyse(data: ProfileData) -> Analysis:
    """Every statistic of every layer."""
    detail = f"{len(data.layers)} layers of {data.sums.zx.shape[-1]:,} neurons"
    profiles = [profile_layer(data.sums, index) for index in over(range(len(data.layers)), "Analysis", detail)]
    neurons = _neuron_table(data, profiles)
    layers = _layer_table(data, profiles, neurons)
    curves = np.stack([one.curve for one in profiles])
    metrics = _metrics(data, layers, neurons) | _error_of_share(data, profiles)
    return Analysis(neurons, layers, metrics, strongest(data, neurons), curves)


def _error_of_share(data: ProfileData, profiles: list[LayerProfile]) -> dict[str, float]:
    """How much the share of significant neurons would vary with other draws of the null: all neurons share the draws,
    so their number does not make the share steadier."""
    p = np.stack([profile.p_without_parts for profile in profiles], axis=1)  # [parts, layers, neurons]
    by_yekutieli = data.options.correction == "by"
    shares = [(association.q_values(one, by_yekutieli) < association.LEVEL).mean() for one in p]
    return {"share_significant_all_error": association.jackknife_spread(np.array(shares))}


def _neuron_table(data: ProfileData, profiles: list[LayerProfile]) -> Table:
    name, (low, _, high) = data.covariate.name, data.covariate.groups
    everything, by_group = _everything(data), [data.groups.summary(group) for group in (LOW, EQUAL, HIGH)]
    count = everything.mean.shape[1]
    by_yekutieli = data.options.correction == "by"
    p = np.stack([profile.p for profile in profiles])
    table = {
        "layer": np.repeat(data.layers, count),
        "neuron": np.tile(np.arange(count), len(data.layers)),
        "mean": everything.mean.ravel(),
        "std": everything.std.ravel(),
        "mean_abs": everything.mean_abs.ravel(),
    }
    table |= {f"mean_{one}": group.mean.ravel() for one, group in zip(data.covariate.groups, by_group, strict=True)}
    with np.errstate(invalid="ignore", divide="ignore"):
        table[data.covariate.difference] = (table[f"mean_{high}"] - table[f"mean_{low}"]) / table["std"]

    def column(statistic: str) -> np.ndarray:
        return np.concatenate([getattr(profile, statistic) for profile in profiles])

    table[f"eta2_{name}"] = column("eta2")
    table[f"r_{name}"] = column("r")
    table[f"r_{name}_low"], table[f"r_{name}_high"] = column("low"), column("high")
    table["r_frequency"] = column("r_frequency")
    table[f"r_{name}_partial"] = column("r_partial")
    table[f"r_{name}_given_context"] = column("r_given_context")
    for side, end in enumerate(("low", "high")):
        bounds = [profile.bounds_given_context[side] for profile in profiles]
        table[f"r_{name}_given_context_{end}"] = np.concatenate(bounds)
    table[f"r_{name}_without_first"] = column("r_without_first")
    if data.options.skip_positions:
        table[f"r_{name}_with_skipped"] = column("r_with_skipped")
    table[f"r_{name}_first_half"] = np.concatenate([profile.r_halves[0] for profile in profiles])
    table[f"r_{name}_second_half"] = np.concatenate([profile.r_halves[1] for profile in profiles])
    table["null_mean"], table["null_sd"] = column("null_mean"), column("null_sd")
    table[f"p_{name}"] = p.ravel()
    table[f"q_{name}"] = np.concatenate([association.q_values(row, by_yekutieli) for row in p])
    table[f"q_{name}_all"] = association.q_values(p, by_yekutieli).ravel()
    in_context = np.stack([profile.p_given_context for profile in profiles])
    table[f"p_{name}_given_context"] = in_context.ravel()
    table[f"q_{name}_given_context"] = np.concatenate([association.q_values(row, by_yekutieli) for row in in_context])
    table[f"q_{name}_given_context_all"] = association.q_values(in_context, by_yekutieli).ravel()
    with np.errstate(invalid="ignore", divide="ignore"):
        survival = table[f"r_{name}_partial"] / table[f"r_{name}"]
    table["survival"] = np.where(table[f"q_{name}"] < association.LEVEL, survival, np.nan)
    return table


def _everything(data: ProfileData) -> Summary:
    """Over all tokens but those at skipped positions."""
    return data.groups.summary(LOW, EQUAL, HIGH, SPECIAL)


def _layer_table(data: ProfileData, profiles: list[LayerProfile], neurons: Table) -> Table:
    everything, histogram, sums = _everything(data), data.histogram, data.sums
    names, (low, _, high) = data.covariate.groups, data.covariate.groups
    table: Table = {"layer": np.array(data.layers)}
    table["mean"], table["std"], table["mean_abs"] = everything.per_layer()
    for group, name in enumerate((*names, "special")):
        of_group = data.groups.summary(group)
        table[f"mean_{name}"], table[f"std_{name}"], table[f"mean_abs_{name}"] = of_group.per_layer()
    with np.errstate(invalid="ignore", divide="ignore"):
        table[data.covariate.difference] = (table[f"mean_{high}"] - table[f"mean_{low}"]) / table["std"]
    table[f"overlap_{high}_{low}"] = overlap(histogram[:, LOW], histogram[:, HIGH])
    for group, name in enumerate(names):
        table[f"second_peak_{name}"] = association.second_peak(histogram[:, group, 1:-1])
    table["constant_neurons"] = (~association.varies(everything.std**2, everything.mean)).sum(1)
    table["special_distance"] = _distance(data.groups.summary(SPECIAL).mean, everything)
    if data.options.skip_positions:
        table["skipped_distance"] = _distance(data.groups.summary(SKIPPED).mean, everything)
    first = [sums.by_indicator(index, "first").total() for index in range(len(data.layers))]
    with np.errstate(invalid="ignore", divide="ignore"):
        of_first = np.stack([sums.shift[index] + one.x / one.n for index, one in enumerate(first)])
    table["first_distance"] = _distance(of_first, everything)

    table |= by_layer(data.layers, [_summarise(profile) for profile in profiles])
    if data.options.skip_positions:
        table["r_median_with_skipped"] = np.array([summary.median(profile.r_with_skipped) for profile in profiles])
    significant = neurons[f"q_{data.covariate.name}"].reshape(len(data.layers), -1) < association.LEVEL
    # The test is about the null's mean, and so is the direction of what it found
    above = _above_null(data, neurons).reshape(len(data.layers), -1)
    table["share_significant"] = significant.mean(1)
    in_context = neurons[f"q_{data.covariate.name}_given_context"].reshape(len(data.layers), -1)
    table["share_significant_given_context"] = (in_context < association.LEVEL).mean(1)
    table["share_significant_positive"] = (significant & above).mean(1)
    table["share_significant_negative"] = (significant & ~above).mean(1)
    table["r_detectable"] = np.array(
        [summary.median(association.smallest_detectable(one.null_sd, data.options.permutations)) for one in profiles]
    )
    return table


def _metrics(data: ProfileData, layers: Table, neurons: Table) -> dict[str, float]:
    name, split, counts = data.covariate.name, data.plan.split, data.plan.design.counts
    r, in_context = neurons[f"r_{name}"], neurons[f"q_{name}_given_context_all"]
    significant = neurons[f"q_{name}_all"] < association.LEVEL
    metrics = {
        "tokens": int(data.groups.count.sum()),
        "tokens_special": data.plan.special,
        f"{name}_min": int(data.categories[0]),
        f"{name}_max": int(data.categories[-1]),
        f"{name}_median": split.median,
        **{f"share_{group}": share for group, share in zip(data.covariate.groups, split.shares, strict=True)},
        "types": int((counts > 0).sum()),
        "types_effective": float(counts.sum() ** 2 / (counts.astype(float) ** 2).sum()),
        "r_median_all": summary.median(r),
        "r_abs_median": summary.median(np.abs(r)),
        "r_partial_abs_median": summary.median(np.abs(neurons[f"r_{name}_partial"])),
        "r_given_context_abs_median": summary.median(np.abs(neurons[f"r_{name}_given_context"])),
        "share_significant_all": float(significant.mean()),
        "share_significant_given_context_all": float((in_context < association.LEVEL).mean()),
        "share_significant_all_positive": float((significant & _above_null(data, neurons)).mean()),
        "survival_overall": summary.slope(r, neurons[f"r_{name}_partial"]),
        "replication_r_overall": summary.correlation(neurons[f"r_{name}_first_half"], neurons[f"r_{name}_second_half"]),
        "r_detectable_median": summary.median(layers["r_detectable"]),
        "first_layer_above_others": summary.median(layers["r_median"][:1]) - summary.median(layers["r_median"][1:]),
        "last_layers_contraction": _contraction(layers["r_std"]),
    }
    for column in (data.covariate.difference, "r_median"):
        strongest = summary.largest(layers[column])
        if strongest is not None:
            metrics[f"{column}_strongest"] = float(layers[column][strongest])
            metrics[f"{column}_strongest_layer"] = data.layers[strongest]
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _above_null(data: ProfileData, neurons: Table) -> np.ndarray:
    return neurons[f"r_{data.covariate.name}"] > neurons["null_mean"]


def _distance(means: np.ndarray, everything: Summary) -> np.ndarray:
    """How far `means` lie from the mean of all tokens, in each neuron's standard deviations: their RMS, `[layers]`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (means - everything.mean) / everything.std
    return np.array([np.sqrt(summary.mean(row**2)) for row in z])


def _summarise(profile: LayerProfile) -> dict[str, float]:
    """The row of `layers.parquet` that follows from one layer's neurons."""
    r, (early, late) = profile.r, profile.r_halves
    defined = np.isfinite(r)
    quantiles = np.quantile(r[defined], (0.05, 0.25, 0.5, 0.75, 0.95)) if defined.any() else np.full(5, np.nan)
    q_early, p_late = association.q_values(profile.p_halves[0]), profile.p_halves[1]
    found = q_early < association.LEVEL
    excess_early, excess_late = profile.excess_halves
    kept = found & (p_late < association.LEVEL) & (np.sign(excess_early) == np.sign(excess_late))
    both = np.isfinite(early) & np.isfinite(late)
    return {
        "r_mean": summary.mean(r),
        "r_std": float(r[defined].std()) if defined.any() else np.nan,
        **dict(zip(("r_q05", "r_q25", "r_median", "r_q75", "r_q95"), map(float, quantiles), strict=True)),
        "share_positive": float((r > 0).mean()),
        "share_negative": float((r < 0).mean()),
        "r_frequency_median": summary.median(profile.r_frequency),
        "r_partial_median": summary.median(profile.r_partial),
        "r_given_context_median": summary.median(profile.r_given_context),
        "r_median_without_first": summary.median(profile.r_without_first),
        "survival": summary.slope(r, profile.r_partial),
        "eta2_median": summary.median(profile.eta2),
        "null_sd_median": summary.median(profile.null_sd),
        "r_largest_by_chance": profile.largest_by_chance,
        "replication_r": summary.correlation(early, late),
        "replication_sign": float((np.sign(early) == np.sign(late))[both].mean()) if both.any() else np.nan,
        "found_first_half": float(found.mean()) if both.any() else np.nan,
        "replicated": float(kept.sum() / found.sum()) if found.any() and both.any() else np.nan,
    }


def _contraction(spread: np.ndarray) -> float:
    """1 − (spread of r in the last quarter of the layers) / (in the middle half), by medians over layers."""
    count = len(spread)
    quarter = max(1, count // 4)
    middle, last = summary.median(spread[quarter : count - quarter]), summary.median(spread[count - quarter :])
    return 1 - last / middle if middle > 0 else float("nan")
