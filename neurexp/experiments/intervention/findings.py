"""An intervention's findings: the sentences that a person reads first, from the report's numbers. Computes nothing."""

import numpy as np

from neurexp.experiments.intervention.analysis import Analysis, name_of
from neurexp.experiments.intervention.columns import WORDS
from neurexp.experiments.intervention.data import InterventionData

LEVEL = 0.05
NAMED = 4  # neurons


def named(data: InterventionData, name: str) -> str:
    """A set in a title: its name and what its neurons are."""
    return f"{name} ({len(data.sets[name].layers)} neurons {data.sets[name].description})"


def findings_of(data: InterventionData, analysis: Analysis) -> list[str]:
    """A sentence or two on each set, on the estimate, and on what was not tested."""
    metrics, effects = analysis.metrics, analysis.effects
    kind = data.trials.kinds[0]
    over = "sequences" if data.blocks_are_sequences else "blocks of sequences"
    lines = []
    for name in data.sets:
        rows = np.flatnonzero(
            (effects["set"] == name) & (effects["kind"] == kind) & (effects["k"] == data.trials.ks[name][-1])
        )
        lines.append(_of_all(data, name, effects, int(rows[0]), over))
        lines += [
            _of_own(name, effects, int(row)) for row in rows if effects["tokens"][row] == data.own_groups.get(name)
        ]
        if data.trials.alone and (line := _alone(data, name, effects)):
            lines.append(line)
        if f"direct_{name}" in metrics:
            p = metrics.get(f"direct_p_{name}")
            lines.append(
                f"Direct path: the {name} neurons' output weights raise the tokens that begin one of {name} by "
                f"{metrics[f'direct_{name}']:+.2f} standard deviations over the vocabulary, random neurons' by "
                f"{metrics[f'direct_null_mean_{name}']:+.2f}" + (f" (two-sided p = {p:.2g})." if p is not None else ".")
            )
    lines.append(_match(data, analysis))
    lines += _estimate(metrics)
    lines.append(
        f"Loss without edits: {metrics['loss_unedited']:.3f} nats per prediction ({int(metrics['predictions']):,} "
        "predictions). Not tested: other texts, edits at single tokens, neurons of several runs together. No p is "
        "corrected for the number of sets, groups and k."
    )
    return lines


def _of_all(data: InterventionData, name: str, effects: dict, row: int, over: str) -> str:
    pairs = data.trials.sets[name]
    which = ", ".join(name_of(pair) for pair in pairs[:NAMED]) + (", …" if len(pairs) > NAMED else "")
    p, k = effects["p"][row], effects["k"][row]
    verdict = "more than such sets usually do" if p < LEVEL else "no more than random neurons do"
    units = "" if np.isnan(effects["null_z"][row]) else f", {effects['null_z'][row]:+.1f} SD"
    return (
        f"{name}: without {k} {'neurons' if k > 1 else 'neuron'} {data.sets[name].description} ({which}; replaced by "
        f"{WORDS[data.trials.kinds[0]]}) the loss changes by {_change(effects, row)} nats per prediction (95 % "
        "interval "
        f"over {over}), without {data.options.draws} matched random sets by {_null(effects, row)} (p = "
        f"{p:.2g}{units}): "
        f"{verdict}. The most probable token stays the same in {effects['agreement'][row]:.1%} of the predictions."
    )


def _of_own(name: str, effects: dict, row: int) -> str:
    p = effects["specific_p"][row]
    verdict = "specific to it" if p < LEVEL else "not specific to it beyond what random neurons do"
    return (
        f"{name}, on its own category: where the next token begins one of {name} ({effects['predictions'][row]:,} "
        f"predictions) the loss changes by {_change(effects, row, 'specific_')} beyond its change elsewhere, "
        "with random "
        f"sets by {_null(effects, row, 'specific_')} (p = {p:.2g}): {verdict}."
    )


def _change(effects: dict, row: int, prefix: str = "") -> str:
    value, low, high = (effects[f"{prefix}delta_loss{end}"][row] for end in ("", "_low", "_high"))
    return f"{value:+.4f}" + ("" if np.isnan(low) else f" ({low:+.4f} to {high:+.4f})")


def _null(effects: dict, row: int, prefix: str = "") -> str:
    return f"{effects[f'{prefix}null_mean'][row]:+.4f} ± {effects[f'{prefix}null_sd'][row]:.4f} (mean ± SD)"


def _alone(data: InterventionData, name: str, effects: dict) -> str:
    kind, own = data.trials.kinds[0], data.own_groups.get(name, "all")
    alone = np.char.startswith(effects["set"].astype(str), f"{name}: ")
    rows = np.flatnonzero(alone & (effects["kind"] == kind) & (effects["tokens"] == own))
    if len(rows) < 2:
        return ""
    row = rows[np.argmax(effects["delta_loss"][rows])]
    where = "on all predictions" if own == "all" else f"where the next token begins one of {name}"
    return (
        f"{name}, one at a time: neuron {effects['neurons'][row]} has the largest effect {where}, "
        f"{_change(effects, row)}, p = {effects['p'][row]:.2g} against single random neurons."
    )


def _match(data: InterventionData, analysis: Analysis) -> str:
    parts = []
    for name, ratios in analysis.ratios.items():
        text = f"{ratios[0]:.2f} times the mean |activation|"
        if len(ratios) > 1:
            text += f" and {ratios[1]:.2f} times the output weights"
        parts.append(f"{text} of {name}")
    more = "" if data.drawn.norms is not None else f" (the site {data.site} has no output weights to match)"
    return f"The random neurons have {'; '.join(parts)} (geometric means){more}."


def _estimate(metrics: dict[str, float]) -> list[str]:
    r = metrics.get("estimate_r_sample")
    if r is None:
        return []
    rank, slope = metrics["estimate_rank_r_sample"], metrics["estimate_slope_sample"]
    worth = "good" if r > 0.9 and rank > 0.7 else "rough" if r > 0.5 and rank > 0.4 else "poor"
    line = (
        f"The gradient's estimate for single neurons is {worth} here: r = {r:.2f} (by ranks {rank:.2f}) with exact "
        f"ablations of random neurons; exact effects are {slope:.2f} times the estimates"
    )
    found = metrics.get("estimate_r_found")
    return [line + ("." if found is None else f"; over the found neurons r = {found:.2f}.")]
