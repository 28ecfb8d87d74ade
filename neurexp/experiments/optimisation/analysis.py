"""An optimisation's numbers: one row for each unit. Knows no sentence and no figure."""

from dataclasses import dataclass

import numpy as np

from neurexp.experiments.optimisation.data import OptimisationData
from neurexp.experiments.optimisation.strings import DISCRETE, FROM_TEXT, GRADIENT, RANDOM, SOURCES, TEXT
from neurexp.report.report import Table
from neurexp.stats.optima import compare_repeats, mean_cosine, p_by_rank, similarity

DRAWS = 999  # of random directions, for similarities and repeats
WAYS = {"gradient": (GRADIENT,), "discrete": (DISCRETE, FROM_TEXT), "data": (TEXT,)}  # of finding a string
NONE = "none"  # no way alone has the highest value
ROUNDING = 1e-6  # share of a value: the same string has values that differ by less, in another batch


@dataclass(frozen=True)
class Analysis:
    """What a report needs."""

    neurons: Table
    layers: Table
    metrics: dict[str, float]
    optima: Table
    strings: Table


def analyse(data: OptimisationData) -> Analysis:
    """Computes every number."""
    rows = [_of_unit(data, unit) for unit in range(len(data.plan.units))]
    neurons = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    numbers = [name for name, values in neurons.items() if values.dtype.kind == "f"]
    layers: Table = {"layer": np.array(data.plan.layers)}
    layers["units"] = np.array([int((neurons["layer"] == layer).sum()) for layer in data.plan.layers])
    metrics: dict[str, float] = {"units_all": float(len(rows))}
    for name in numbers:
        own = [_mean(neurons[name][neurons["layer"] == layer]) for layer in data.plan.layers]
        layers[name] = np.array(own)
        if np.isfinite(neurons[name]).any():
            metrics[f"{name}_mean"] = _mean(neurons[name])
    for way in (*WAYS, NONE):
        metrics[f"share_best_{way}"] = float((neurons["best_way"] == way).mean())
    return Analysis(neurons, layers, metrics, _optima(data), _strings(data))


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _of_unit(data: OptimisationData, unit: int) -> dict[str, float | int | str]:
    layer, neuron = data.plan.units[unit]
    row: dict[str, float | int | str] = {"layer": layer, "neuron": neuron}
    row |= {name: float(getattr(data, name)[unit]) for name in ("text_mean", "text_sd", "text_maximum")}
    row["text_window"] = float(data.windows_best[unit])
    return row | _of_ascent(data, unit) | _of_strings(data, unit)


def _of_ascent(data: OptimisationData, unit: int) -> dict[str, float | int | str]:
    start, end = (one[unit].reshape(len(one[unit]), -1) for one in (data.start, data.end))
    seed, curves, vocabulary = data.plan.inputs.seed, data.curves[unit], len(data.plan.allowed)
    again = compare_repeats(data.ids[unit], data.direction_ids, vocabulary, DRAWS, seed)
    optima = similarity(end, DRAWS, seed)
    norms = [np.linalg.norm(one[unit].astype(np.float64), axis=-1).mean() for one in (data.start, data.end)]
    return {
        "start_activation": float(curves[:, 0].mean()),
        "embedding_activation": float(curves[:, -1].mean()),
        "embedding_best": float(curves[:, -1].max()),
        "norm_ratio": float(norms[1] / norms[0]),
        "distinct": again.distinct,
        "decoded": int(data.ids[unit].size),
        "repeats": again.repeated,
        "repeats_null": again.expected,
        "p_repeats": again.p,
        "repeats_uniform": again.uniform,
        "cosine_decoded": float(data.cosine[unit].mean()),
        "cosine_decoded_null": float(data.direction_cosine.mean()),
        "cosine_optima": optima.value,
        "cosine_optima_low": optima.low,
        "cosine_optima_high": optima.high,
        "cosine_starts": mean_cosine(start),
        "cosine_null_low": optima.null_low,
        "cosine_null_high": optima.null_high,
        "p_cosine_optima": optima.p,
        "cosine_displacements": mean_cosine(end - start),
    }


def _of_strings(data: OptimisationData, unit: int) -> dict[str, float | int | str]:
    means, peaks = data.values.mean(1, dtype=np.float64), data.values.max(1)
    gradient, random = data.rows(unit, GRADIENT), data.rows(unit, RANDOM)
    starts = len(gradient)
    drawn = means[random].reshape(-1, starts)
    own = float(means[gradient].mean())
    row: dict[str, float | int | str] = {
        "gradient_mean": own,
        "random_mean": float(drawn.mean()),
        "random_sd": float(drawn.mean(1).std(ddof=1)),
        "p_gradient": p_by_rank(own, drawn.mean(1)),
        "random_best": float(drawn.max(1).mean()),
        "p_gradient_best": p_by_rank(float(means[gradient].max()), drawn.max(1)),
        "random_peak": float(peaks[random].reshape(-1, starts).max(1).mean()),
    }
    rise = float(data.curves[unit][:, -1].mean()) - row["random_mean"]  # type: ignore[operator]
    beyond = rise > ROUNDING * abs(row["random_mean"])  # type: ignore[arg-type]
    row["kept"] = (own - row["random_mean"]) / rise if beyond else float("nan")  # type: ignore[operator]
    best, best_peak = {}, {}
    for source in SOURCES:
        rows = data.rows(unit, source)
        if source == RANDOM:
            continue
        row[f"{source}_best"] = float(means[rows].max()) if len(rows) else float("nan")
        row[f"{source}_peak"] = float(peaks[rows].max()) if len(rows) else float("nan")
        texts = rows[data.are_texts[rows]]
        row[f"{source}_best_typed"] = float(means[texts].max()) if len(texts) else float("nan")
    for way, sources in WAYS.items():
        rows = data.rows(unit, *sources)
        if len(rows):
            best[way], best_peak[way] = float(means[rows].max()), float(peaks[rows].max())
    row["tried"] = int(data.tried[unit])
    row["best_way"], row["best_way_peak"] = _highest(best), _highest(best_peak)
    return row


def _highest(best: dict[str, float]) -> str:
    """The way with the highest value, NONE if several have it."""
    first = max(best, key=lambda way: best[way])
    nearly = best[first] - ROUNDING * abs(best[first])
    return NONE if sum(value >= nearly for value in best.values()) > 1 else first


def _optima(data: OptimisationData) -> Table:
    units, starts, n = data.ids.shape
    layers, neurons = (np.array(one) for one in zip(*data.plan.units, strict=True))
    ids = data.ids.ravel()
    return {
        "layer": np.repeat(layers, starts * n),
        "neuron": np.repeat(neurons, starts * n),
        "start": np.tile(np.repeat(np.arange(starts), n), units),
        "position": np.tile(np.arange(n), units * starts),
        "token_id": ids.astype(np.int32),
        "token": np.array([data.tokens[one] for one in ids], dtype=object),
        "cosine": data.cosine.ravel(),
    }


def _strings(data: OptimisationData) -> Table:
    """Every string, by unit, source and mean activation."""
    strings, means = data.strings, data.values.mean(1, dtype=np.float64).astype(np.float32)
    unit, source = np.array(strings.unit), np.array([SOURCES.index(one) for one in strings.source])
    order = np.lexsort((np.arange(len(unit)), -means, source, unit))
    rank = np.zeros(len(order), dtype=np.int32)
    for at in range(1, len(order)):
        same = unit[order[at]] == unit[order[at - 1]] and source[order[at]] == source[order[at - 1]]
        rank[at] = rank[at - 1] + 1 if same else 0
    units = np.array(data.plan.units)[unit[order]]
    places = np.array(strings.place)[order]
    length = data.plan.tokens.valid.shape[1]
    context = [data.windows[one].get(place, float("nan")) for one, place in zip(unit[order], places, strict=True)]
    return {
        "layer": units[:, 0],
        "neuron": units[:, 1],
        "source": np.array(strings.source, dtype=object)[order],
        "rank": rank,
        "text": np.array(data.texts, dtype=object)[order],
        "ids": np.array([" ".join(map(str, strings.ids[one])) for one in order], dtype=object),
        "mean": means[order],
        "peak": data.values.max(1)[order],
        "peak_position": data.values.argmax(1)[order].astype(np.int32),
        "is_typed": data.are_texts[order],
        "start": np.array(strings.start, dtype=np.int32)[order],
        "draw": np.array(strings.draw, dtype=np.int32)[order],
        "sequence": np.where(places >= 0, places // length, -1),
        "column": np.where(places >= 0, places % length, -1),
        "mean_in_text": np.array(context, dtype=np.float32),
    }
