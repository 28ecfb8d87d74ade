"""An intervention's findings: the sentences that a person reads first, from the report's numbers. Computes nothing."""

import numpy as np

from neurexp.experiments.intervention.analysis import Analysis, name_of
from neurexp.experiments.intervention.columns import WORDS
from neurexp.experiments.intervention.data import InterventionData
from neurexp.report.report import Table
from neurexp.stats.association import LEVEL

NAMED = 4  # neurons


def named(data: InterventionData, name: str) -> str:
    """A set in a title: its name and what its neurons are."""
    count = len(data.sets[name].layers)
    return f"{name} ({count} {_neurons(count)} {data.sets[name].description})"


def findings_of(data: InterventionData, analysis: Analysis) -> list[str]:
    """A sentence or two on each set, on the direct path, on the estimate, and on what was not tested."""
    metrics, effects = analysis.metrics, analysis.effects
    lines = []
    for name in data.sets:
        rows = np.flatnonzero(
            (effects["set"] == name)
            & (effects["kind"] == data.trials.kinds[0])
            & (effects["k"] == data.trials.ks[name][-1])
        )
        lines.append(_of_all(data, name, effects, int(rows[0])))
        apart = [int(row) for row in rows if effects["tokens"][row].partition(": ")[2] == name]
        lines += [_of_own(data, name, effects, row) for row in apart]
        if not apart and len(rows) > 1:
            lines.append(_by_group(name, effects, rows[1:]))
        lines += _alone(data, name, effects)
        lines += _direct(data, name, metrics)
    if data.direct is None:
        lines.append(f"The direct path to the logits was not read: {data.why_no_direct}.")
    lines.append(_match(data, analysis))
    lines += data.notes
    lines += _estimate(metrics)
    lines.append(
        f"The model without edits has a loss of {metrics['loss_unedited']:.3f} nats per prediction "
        f"({int(metrics['predictions']):,} predictions). {_intervals(data)} No p is corrected for the number of sets, "
        "groups of predictions and k. Not tested: other texts, and edits at single tokens."
    )
    return lines


def _neurons(count: int) -> str:
    return "neuron" if count == 1 else "neurons"


def _of_all(data: InterventionData, name: str, effects: Table, row: int) -> str:
    k, found = int(effects["k"][row]), data.sets[name]
    which = ", ".join(map(name_of, data.trials.sets[name][: min(k, NAMED)])) + (", …" if k > NAMED else "")
    of = f"the first of {found.found:,}" + (f" with {found.criterion}" if found.criterion else "")
    of = f" ({of})" if found.found > k else ""
    p, draws = effects["p"][row], data.options.draws
    verdict = (
        ": more than random neurons do"
        if p < LEVEL
        else ": not shown to be more than random neurons do"
        if p >= LEVEL
        else ""
    )
    units = effects["null_z"][row]
    return (
        f"{name}: {k} {_neurons(k)} {found.description}: layer.neuron {which}{of}. With "
        f"{'their values' if k > 1 else 'its value'} replaced by {WORDS[data.trials.kinds[0]]}, the loss changes by "
        f"{_change(effects, row)} nats per prediction. With {draws} matched random sets in their place it changes by "
        f"{_null(effects, row)} (mean ± SD; p = {p:.2g}{'' if np.isnan(units) else f', {units:+.1f} SD'}){verdict}. "
        f"The most probable token stays the same in {effects['agreement'][row]:.1%} of the predictions."
    )


def _of_own(data: InterventionData, name: str, effects: Table, row: int) -> str:
    (description,) = (group.description for group in data.groups if group.name == effects["tokens"][row])
    start = f"{name}, on the {effects['predictions'][row]:,} {description}"
    p = effects["specific_p"][row]
    if np.isnan(p):
        return f"{start} are all predictions, so there are no others to compare them with."
    verdict = "the effect is specific to them" if p < LEVEL else "not shown to be specific to them"
    return (
        f"{start}. There the loss changes by {_change(effects, row)}; less the change on all other predictions that is "
        f"{_change(effects, row, 'specific_')}. With random sets it is {_null(effects, row, 'specific_')} "
        f"(p = {p:.2g}): {verdict}."
    )


def _by_group(name: str, effects: Table, rows: np.ndarray) -> str:
    """The specific effects of a set that is of no category."""
    parts = [
        f"{effects['tokens'][row]} {effects['specific_delta_loss'][row]:+.4f} (p = {effects['specific_p'][row]:.2g})"
        for row in rows
    ]
    return f"{name}, by group of predictions, less the change on all others: {'; '.join(parts)}."


def _change(effects: Table, row: int, prefix: str = "") -> str:
    value, low, high = (effects[f"{prefix}delta_loss{end}"][row] for end in ("", "_low", "_high"))
    return f"{value:+.4f}" + ("" if np.isnan(low) else f" ({low:+.4f} to {high:+.4f})")


def _null(effects: Table, row: int, prefix: str = "") -> str:
    return f"{effects[f'{prefix}null_mean'][row]:+.4f} ± {effects[f'{prefix}null_sd'][row]:.4f}"


def _alone(data: InterventionData, name: str, effects: Table) -> list[str]:
    own = data.own_groups.get(name, "all")
    alone = np.char.startswith(effects["set"].astype(str), f"{name}: ")
    rows = np.flatnonzero(alone & (effects["kind"] == data.trials.kinds[0]) & (effects["tokens"] == own))
    if len(rows) < 2:
        return []
    row = rows[np.argmax(effects["delta_loss"][rows])]
    where = "on all predictions" if own == "all" else "on these predictions"
    layer, neuron = str(effects["neurons"][row]).split(".")
    return [
        f"{name}, one at a time: of {len(rows)} neurons, neuron {neuron} of layer {layer} has the largest effect "
        f"{where}, {_change(effects, int(row))}; p = {effects['p'][row]:.2g} against single random neurons of "
        "its layer, "
        "not corrected for the choice of the largest."
    ]


def _direct(data: InterventionData, name: str, metrics: dict[str, float]) -> list[str]:
    if f"direct_{name}" not in metrics:
        return []
    own, null, p = (metrics[f"direct_{one}{name}"] for one in ("", "null_mean_", "p_"))
    return [
        f"{name}, direct path: a unit of activation changes the logits of its own next tokens by {own:+.2f} standard "
        f"deviations over the vocabulary, one of random neurons by {null:+.2f} (two-sided p = {p:.2g}). What later "
        "blocks make of the neurons is left out."
    ]


def _match(data: InterventionData, analysis: Analysis) -> str:
    parts = []
    for name, ratios in analysis.ratios.items():
        text = f"{ratios[0]:.2f} times the mean |activation|"
        if len(ratios) > 1:
            text += f" and {ratios[1]:.2f} times the norm of the output weights"
        parts.append(f"{text} of the neurons of {name}")
    more = "" if data.drawn.norms is not None else f" (the site {data.site} has no output weights to match)"
    return f"The random neurons have {'; '.join(parts)} (geometric means){more}."


def _estimate(metrics: dict[str, float]) -> list[str]:
    r = metrics.get("estimate_r_sample")
    if r is None:
        return []
    rank, slope = metrics["estimate_rank_r_sample"], metrics["estimate_slope_sample"]
    worth = "good" if r > 0.9 and rank > 0.7 and 0.5 < slope < 2 else "rough" if r > 0.5 and rank > 0.4 else "poor"
    line = (
        f"The gradient's estimate for single neurons is {worth} here: its r with exact ablations of random neurons is "
        f"{r:.2f} ({rank:.2f} by ranks), and exact effects are {slope:.2f} times the estimates"
    )
    found = metrics.get("estimate_r_found")
    return [line + ("." if found is None else f"; over the neurons of the sets r is {found:.2f}.")]


def _intervals(data: InterventionData) -> str:
    blocks = data.counts.shape[1]
    if blocks < 2:
        return "There are no intervals: the text has one sequence (dataset.tokens, dataset.sequence_length)."
    over = "sequences" if data.blocks_are_sequences else f"{blocks} blocks of consecutive sequences"
    return f"In brackets: 95 % bootstrap intervals over {over}."
