"""The analysis of top contexts: the tables of neurons and layers, and the metrics, from what the pass kept.

The arithmetic is in `stats` and in `explained`, the meaning of each column in `columns`. Knows no sentence and no
figure.
"""

from dataclasses import dataclass

import numpy as np

from neurexp.console.progress import Progress
from neurexp.experiments.top_contexts.data import ENDS, TopContextsData
from neurexp.experiments.top_contexts.design import BY_TYPE, PROPERTIES, SIMPLE
from neurexp.experiments.top_contexts.labels import LABELS, LEAST, NONE, labels_of
from neurexp.report.report import Table
from neurexp.stats import summary
from neurexp.stats.association import LEVEL, q_values
from neurexp.stats.concentration import MOST_ITEMS, Concentration, Pool, concentration
from neurexp.stats.concentration import NONE as NO_TOKEN
from neurexp.stats.explained import noise_of_sketch
from neurexp.stats.quantiles import quantiles_of_histogram

QUANTILES = (5, 25, 50, 75, 95)  # per cent


@dataclass(frozen=True)
class Analysis:
    """The tables and metrics."""

    neurons: Table
    layers: Table
    metrics: dict[str, float]
    noise: float  # the median standard error that the random signs give ev_token


def analyse(data: TopContextsData) -> Analysis:
    """Every statistic of every layer."""
    layers, neurons, k = len(data.layers), data.neurons, data.options.k
    # Seconds are about proportional to these
    sizes = {"concentration": 1.0 * layers * neurons * k / 50, "properties": 1.0 * layers * 3000}
    with Progress("Analysis", sum(sizes.values()), f"{layers} layers of {neurons:,} neurons") as bar:
        pool = Pool.of(np.bincount(data.plan.tokens.input_ids[data.plan.counted], minlength=len(data.texts)))
        ids = np.where(data.telling, data.ids, NO_TOKEN)
        ids = ids.transpose(1, 0, 2, 3).reshape(-1, k)[:, :MOST_ITEMS]  # ends, layers, neurons
        found = concentration(ids, pool, bar.part(sizes["concentration"]))
        ends = {end: _part(found, index, len(ENDS)) for index, end in enumerate(ENDS)}
        properties, explained_by_one, noise = _properties(data, ends["top"], bar.part(sizes["properties"]))
    table = _neuron_table(data, ends, properties, explained_by_one)
    by_layer = _layer_table(data, table)
    return Analysis(table, by_layer, _metrics(data, table, by_layer), noise)


def _part(found: Concentration, index: int, parts: int) -> Concentration:
    return Concentration(*(np.split(getattr(found, name), parts)[index] for name in Concentration.__dataclass_fields__))


def _properties(data: TopContextsData, top: Concentration, progress) -> tuple[Table, np.ndarray, float]:
    """The columns of the properties, `ev_one_token`, and the noise of `ev_token`."""
    commonest, layers = top.commonest.reshape(len(data.layers), -1), range(len(data.layers))
    rows, noise = [], []
    for layer in layers:
        rows.append(data.sums.explained(layer, commonest[layer]))
        noise.append(noise_of_sketch(data.sums.sketch(layer, "token"), data.sums.variance(layer)))
        progress(1 / len(layers))
    table: Table = {}
    for name in PROPERTIES:
        if name in SIMPLE:
            table[f"r_{name}"] = np.concatenate([row.r[name] for row in rows])
        table[f"p_{name}"] = np.concatenate([row.p[name] for row in rows])
        table[f"q_{name}"] = q_values(table[f"p_{name}"])
        table[f"ev_{name}"] = np.concatenate([row.ev[name] for row in rows])
    one_token = np.where(commonest.ravel() == NO_TOKEN, np.nan, np.concatenate([row.ev_one_token for row in rows]))
    if not data.cross_validated:
        one_token[:] = np.nan
        for name in PROPERTIES:
            table[f"ev_{name}"][:] = np.nan
        for name in BY_TYPE:  # the p of the explained variance
            table[f"p_{name}"][:] = table[f"q_{name}"][:] = np.nan
    return table, one_token, summary.median(np.concatenate(noise))


def _neuron_table(
    data: TopContextsData, ends: dict[str, Concentration], properties: Table, ev_one_token: np.ndarray
) -> Table:
    layers, neurons = len(data.layers), data.neurons
    table: Table = {
        "layer": np.repeat(data.layers, neurons),
        "neuron": np.tile(np.arange(neurons), layers),
        **{name: values.ravel() for name, values in vars(data.moments).items()},
        "minimum": data.values[:, 1, :, 0].astype(np.float64).ravel(),
        "maximum": data.values[:, 0, :, 0].astype(np.float64).ravel(),
    }
    if data.histogram:
        shape = data.histogram["start"], data.histogram["width"], data.values[:, 1, :, 0], data.values[:, 0, :, 0]
        found = quantiles_of_histogram(data.histogram["counts"], *shape, np.array(QUANTILES) / 100)
        table |= {f"q{share:02d}": found[..., index].ravel() for index, share in enumerate(QUANTILES)}
    known = np.append(data.texts, np.array([""], dtype=object))  # of −1: no token
    for end, found in ends.items():
        table |= {
            f"{end}_contexts": data.telling[:, ENDS.index(end), :, :MOST_ITEMS].sum(-1).ravel(),
            f"{end}_token": known[found.commonest.astype(np.int64)],
            f"{end}_share": found.share,
            f"{end}_entropy": found.entropy,
            f"{end}_share_null": found.share_null,
            f"{end}_entropy_null": found.entropy_null,
            f"p_{end}_share": found.p,
            f"q_{end}_share": _q_values(found.p),
        }
    table |= properties
    table["ev_one_token"] = ev_one_token
    ev, q = ({name: properties[f"{kind}_{name}"] for name in PROPERTIES} for kind in ("ev", "q"))
    label, explained = labels_of(ev, q, ev_one_token)
    named = np.array(LABELS, dtype=object)[label]
    if not data.cross_validated:
        named[:] = ""
    return table | {"property": named, "ev_property": explained}


def _q_values(p: np.ndarray) -> np.ndarray:
    """Over those that are not missing."""
    q, known = np.full(p.shape, np.nan), np.isfinite(p)
    if known.any():
        q[known] = q_values(p[known])
    return q


def is_explained(neurons: Table, name: str) -> np.ndarray:
    """Whether a property explains `LEAST` or more of a neuron, significantly: `[neurons]` bool."""
    with np.errstate(invalid="ignore"):
        return (neurons[f"ev_{name}"] >= LEAST) & (neurons[f"q_{name}"] < LEVEL)


def _layer_table(data: TopContextsData, neurons: Table) -> Table:
    def rows(values: np.ndarray) -> np.ndarray:
        return values.reshape(len(data.layers), -1)

    def means(values: np.ndarray) -> np.ndarray:
        return np.array([summary.mean(row) for row in rows(values)])

    table: Table = {"layer": np.array(data.layers)}
    for name in ("mean", "std", "skewness", "kurtosis", "share_positive"):
        table[f"{name}_median"] = np.array([summary.median(row) for row in rows(neurons[name])])
    for end in ENDS:
        for name in ("share", "share_null", "entropy", "entropy_null"):
            table[f"{end}_{name}"] = means(neurons[f"{end}_{name}"])
        table[f"{end}_concentrated"] = means(neurons[f"q_{end}_share"] < LEVEL)
    for name in PROPERTIES:
        table[f"ev_{name}"] = means(neurons[f"ev_{name}"])
        found = is_explained(neurons, name).astype(np.float64)
        table[f"explained_{name}"] = means(found if data.cross_validated else np.full_like(found, np.nan))
    table["ev_one_token"] = means(neurons["ev_one_token"])
    for label in LABELS:
        labelled = (neurons["property"] == label).astype(np.float64)
        table[f"labelled_{label}"] = means(labelled if data.cross_validated else np.full_like(labelled, np.nan))
    return table


def _metrics(data: TopContextsData, neurons: Table, layers: Table) -> dict[str, float]:
    counts = data.plan.design.counts.sum(0)
    metrics: dict[str, float] = {
        "tokens": data.plan.tokens.count,
        "tokens_counted": data.tokens,
        "tokens_sampled": data.plan.design.sample,
        "types_sampled": int((counts > 0).sum()),
        "neurons_constant": int(data.constant.sum()),
        **{f"ev_{name}_mean": summary.mean(neurons[f"ev_{name}"]) for name in PROPERTIES},
        "share_positive_median_all": summary.median(neurons["share_positive"]),
        "kurtosis_median_all": summary.median(neurons["kurtosis"]),
    }
    if data.cross_validated:
        metrics |= {f"share_{label}": float((neurons["property"] == label).mean()) for label in LABELS}
        metrics |= {f"share_explained_by_{name}": float(is_explained(neurons, name).mean()) for name in PROPERTIES}
        metrics["share_explained"] = 1 - metrics[f"share_{NONE}"]
    for end in ENDS:
        metrics[f"{end}_without_contexts"] = int((neurons[f"{end}_contexts"] == 0).sum())
        metrics[f"{end}_tied"] = int((neurons[f"{end}_contexts"] < min(data.kept, MOST_ITEMS)).sum())
        metrics[f"{end}_share_mean"] = summary.mean(neurons[f"{end}_share"])
        metrics[f"{end}_share_null_mean"] = summary.mean(neurons[f"{end}_share_null"])
        metrics[f"{end}_entropy_mean"] = summary.mean(neurons[f"{end}_entropy"])
        metrics[f"{end}_entropy_null_mean"] = summary.mean(neurons[f"{end}_entropy_null"])
        metrics[f"share_concentrated_{end}"] = float((neurons[f"q_{end}_share"] < LEVEL).mean())
    return {name: value for name, value in metrics.items() if np.isfinite(value)}
