"""An intervention's statistics: the effect of every trial with interval, null and p; the estimate beside exact effects.

Effects are changes of the mean loss per prediction, in nats: positive where the edited model predicts worse. Computes
tables and metrics from `InterventionData`; knows no figure and no sentence.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from neurexp.experiments.intervention.data import InterventionData
from neurexp.experiments.intervention.trials import alone_draws, different_draws
from neurexp.report.report import Table
from neurexp.stats.interventions import (
    bootstrap_intervals,
    in_null_units,
    mean_effects,
    null_band,
    null_moments,
    rank_p,
    specific_effects,
    specific_intervals,
)
from neurexp.stats.matching import balance, mean_ratios

FEWEST = 3  # neurons, for a correlation


@dataclass(frozen=True)
class Trial:
    """One trial of found neurons, and the trials of random ones that it is compared with."""

    set: str  # the set; "verbs: 15.276" for a neuron of it alone
    of: str  # the set that it is, or is from
    kind: str
    neurons: np.ndarray  # [k, 2]
    number: int
    null: np.ndarray  # numbers of the trials of random neurons, each set of neurons once

    @property
    def alone(self) -> bool:
        """A neuron of a set alone."""
        return self.set != self.of


@dataclass(frozen=True)
class Analysis:
    """All numbers of the report.

    Args:
        effects: a row for each trial of found neurons and group of predictions, with the columns of `effects.parquet`
            and `null_low`, `null_high`.
        trials: row by row, the trial that it is of.
        direct: a row for each found neuron and token that it promotes or suppresses.
    """

    effects: Table
    trials: list[Trial]
    neurons: Table
    layers: Table
    metrics: dict[str, float]
    direct: Table
    ratios: dict[str, np.ndarray]  # set → how many times the found neurons' features the random ones' are, `[f]`


def name_of(pair: np.ndarray) -> str:
    """A neuron in a name: layer.neuron."""
    return f"{pair[0]}.{pair[1]}"


def trials_of(data: InterventionData) -> Iterator[Trial]:
    """All trials of found neurons."""
    trials = data.trials
    for kind in trials.kinds:
        for name, pairs in trials.sets.items():
            null, drawn = trials.null(kind, name), data.drawn.sets[name]
            for index, k in enumerate(trials.ks[name]):
                different = null[different_draws(drawn[:, :k]), index]
                yield Trial(name, name, kind, pairs[:k], int(trials.found(kind, name)[index]), different)
            if trials.alone:
                random = alone_draws(drawn)
                for pair, number in zip(pairs, trials.alone_of(kind, name), strict=True):
                    there = np.flatnonzero(random[:, 0] == pair[0])  # random neurons of its layer
                    alone = trials.null_alone(kind, name)[there[different_draws(random[there][:, None])]]
                    yield Trial(f"{name}: {name_of(pair)}", name, kind, pair[None], int(number), alone)


def analyse(data: InterventionData) -> Analysis:
    """Computes everything."""
    inputs = data.loss[1:], data.loss[0], data.counts
    all_effects, all_specific = mean_effects(*inputs), specific_effects(*inputs)
    first = data.loss[1 : 1 + data.trials.detailed], data.loss[0], data.counts
    bounds = {
        "": bootstrap_intervals(*first, draws=data.options.bootstraps, seed=data.seed),
        "specific": specific_intervals(*first, draws=data.options.bootstraps, seed=data.seed),
    }
    trials = list(trials_of(data))
    blocks, owners = [], []
    for trial in trials:
        blocks.append(_rows(data, trial, all_effects, all_specific, bounds))
        owners += [trial] * len(data.groups)
    effects = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    neurons = _neurons(data, all_effects[:, 0])
    features = data.drawn.features
    ratios, metrics = {}, _metrics(data, effects, owners)
    layers_of = np.repeat(np.arange(len(data.layers)), data.measured.mean.shape[1])
    for name, pairs in data.trials.sets.items():
        places, drawn = data.flat(pairs), data.flat(data.drawn.sets[name])
        ratios[name] = mean_ratios(features, places, drawn)
        differences = balance(features, layers_of, places, drawn)
        for what, ratio, difference in zip(("activation", "weights"), ratios[name], differences, strict=False):
            metrics[f"match_{what}_ratio_{name}"] = float(ratio)
            metrics[f"match_{what}_difference_{name}"] = float(difference)
    metrics |= _estimate_metrics(data, all_effects[:, 0])
    metrics |= _direct_metrics(data)
    metrics = {name: value for name, value in metrics.items() if np.isfinite(value)}
    return Analysis(effects, owners, neurons, _layers(data, neurons), metrics, _direct(data), ratios)


def _rows(data: InterventionData, trial: Trial, effects: np.ndarray, specific: np.ndarray, bounds: dict) -> Table:
    """The rows of one trial, one for each group."""
    at, groups = trial.number - 1, len(data.groups)
    null, null_specific = effects[trial.null - 1], specific[trial.null - 1]
    counts = data.counts.sum(-1)
    details = data.details[[0, trial.number]].sum(-1) / np.maximum(counts, 1)  # [2, measures, groups]
    table: Table = {
        "set": np.repeat(trial.set, groups),
        "k": np.repeat(len(trial.neurons), groups),
        "kind": np.repeat(trial.kind, groups),
        "tokens": np.array([group.name for group in data.groups]),
        "neurons": np.repeat(" ".join(map(name_of, trial.neurons)), groups),
        "predictions": counts,
        "loss_unedited": data.loss[0].sum(-1) / np.maximum(counts, 1),
    }
    for prefix, own, others, (low, high) in (
        ("", effects[at], null, bounds[""]),
        ("specific_", specific[at], null_specific, bounds["specific"]),
    ):
        mean, deviation = null_moments(others)
        name = "specific_delta_loss" if prefix else "delta_loss"
        below, above = null_band(others)
        table |= {
            name: own,
            f"{name}_low": low[at],
            f"{name}_high": high[at],
            f"{prefix}null_mean": mean,
            f"{prefix}null_sd": deviation,
            f"{prefix}null_low": below,
            f"{prefix}null_high": above,
            f"{prefix}null_z": in_null_units(own, others),
            f"{prefix}p": rank_p(own, others),
        }
    return table | {
        "kl": details[1, 0],
        "agreement": details[1, 1],
        "rank_change": details[1, 2] - details[0, 2],
    }


def _neurons(data: InterventionData, effects: np.ndarray) -> Table:
    """A row for each neuron of each layer; `effects` `[trials]` are on all predictions."""
    measured, trials = data.measured, data.trials
    count, width = measured.mean.shape
    first, *more = trials.kinds
    table: Table = {
        "layer": np.repeat(data.layers, width),
        "neuron": np.tile(np.arange(width), count),
        "mean": measured.mean.ravel(),
        "mean_abs": measured.magnitude.ravel(),
    }
    if data.drawn.norms is not None:
        table["output_norm"] = data.drawn.norms.ravel()
    table["delta_loss_estimate"] = measured.estimates[first].ravel()
    table |= {f"delta_loss_estimate_{kind}": measured.estimates[kind].ravel() for kind in more}
    exact, found = np.full(count * width, np.nan), np.zeros(count * width, dtype=bool)
    exact[data.flat(data.drawn.sample)] = effects[trials.sampled - 1]
    for name, pairs in trials.sets.items():
        places = data.flat(pairs)
        found[places] = True
        if trials.alone:
            exact[data.flat(alone_draws(data.drawn.sets[name]))] = effects[trials.null_alone(first, name) - 1]
            exact[places] = effects[trials.alone_of(first, name) - 1]
    return table | {"delta_loss": exact, "found": found}


def _layers(data: InterventionData, neurons: Table) -> Table:
    width = data.measured.mean.shape[1]
    estimate, found = neurons["delta_loss_estimate"].reshape(-1, width), neurons["found"].reshape(-1, width)
    return {
        "layer": np.array(data.layers),
        "estimate_abs_mean": np.abs(estimate).mean(1),
        "estimate_largest": estimate.max(1),
        "share_estimate_positive": (estimate > 0).mean(1),
        "neurons_found": found.sum(1),
    }


def _metrics(data: InterventionData, effects: Table, owners: list[Trial]) -> dict[str, float]:
    counts = data.counts[0].sum()
    metrics = {
        "predictions": float(counts),
        "loss_unedited": float(data.loss[0, 0].sum() / max(1, counts)),
        "edited_models": float(data.trials.count),
    }
    for row, trial in enumerate(owners):
        if trial.alone or trial.kind != data.trials.kinds[0] or len(trial.neurons) != data.trials.ks[trial.of][-1]:
            continue
        tokens = effects["tokens"][row]
        place, _, category = tokens.partition(": ")
        if tokens == "all":
            metrics |= {
                f"delta_loss_{trial.of}": float(effects["delta_loss"][row]),
                f"null_z_{trial.of}": float(effects["null_z"][row]),
                f"p_{trial.of}": float(effects["p"][row]),
                f"kl_{trial.of}": float(effects["kl"][row]),
                f"agreement_{trial.of}": float(effects["agreement"][row]),
            }
        elif category == trial.of:
            metrics |= {
                f"{column}_{trial.of}_{place}": float(effects[column][row])
                for column in ("delta_loss", "specific_delta_loss", "specific_null_z", "specific_p")
            }
    return metrics


def _estimate_metrics(data: InterventionData, effects: np.ndarray) -> dict[str, float]:
    """The agreement of the estimate with exact ablations of single neurons: of the sample, and of the found ones."""
    kind, trials = data.trials.kinds[0], data.trials
    estimate = data.measured.estimates[kind].ravel()
    pairs = {"sample": (data.flat(data.drawn.sample), trials.sampled)}
    if trials.alone:
        places = [data.flat(one) for one in trials.sets.values()]
        numbers = [trials.alone_of(kind, name) for name in trials.sets]
        pairs["found"] = (np.concatenate(places), np.concatenate(numbers))
    metrics = {}
    for name, (places, numbers) in pairs.items():
        x, y = estimate[places], effects[numbers - 1]
        if len(x) >= FEWEST and np.ptp(x) > 0 and np.ptp(y) > 0:
            metrics[f"estimate_r_{name}"] = float(np.corrcoef(x, y)[0, 1])
            metrics[f"estimate_rank_r_{name}"] = float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
            # The slope of the line through 0: 1 if estimates are neither too large nor too small
            metrics[f"estimate_slope_{name}"] = float((x @ y) / (x @ x))
    return metrics


def _direct_metrics(data: InterventionData) -> dict[str, float]:
    """How much a set's neurons promote their own category directly, against random neurons; two-sided."""
    metrics: dict[str, float] = {}
    if data.direct is None:
        return metrics
    for name, groups in data.direct.on_category.items():
        if name in groups:
            own, drawn = float(groups[name].mean()), data.drawn.sets[name]
            null = data.direct.on_category_null[name][name].mean(1)[different_draws(drawn)]
            metrics[f"direct_{name}"] = own
            metrics[f"direct_null_mean_{name}"] = float(null.mean())
            away = np.abs(null - null.mean())
            metrics[f"direct_p_{name}"] = float(rank_p(np.array(abs(own - null.mean())), away))
    return metrics


def _direct(data: InterventionData) -> Table:
    if data.direct is None:
        return {}
    rows: dict[str, list] = {name: [] for name in ("set", "layer", "neuron", "sign", "rank", "id", "token", "effect")}
    for name, pairs in data.trials.sets.items():
        found = zip((1, -1), (data.direct.promoted, data.direct.suppressed), data.direct.effects[name], strict=True)
        for sign, ids, effects in found:
            for (layer, neuron), own_ids, own in zip(pairs.tolist(), ids[name], effects, strict=True):
                for rank, (one, effect) in enumerate(zip(own_ids.tolist(), own.tolist(), strict=True), 1):
                    values = (name, layer, neuron, sign, rank, one, data.direct.texts[one], effect)
                    for column, value in zip(rows, values, strict=True):
                        rows[column].append(value)
    return {column: np.array(values) for column, values in rows.items()}
