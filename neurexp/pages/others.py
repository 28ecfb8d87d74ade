"""What other runs say of the same neurons: their statistic, its q, and its rank in the layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurexp.errors import UserError
from neurexp.models.numbering import number_alike
from neurexp.pages.subject import Subject
from neurexp.report.finished import FinishedRun

EFFECTS = "effects.parquet"
OF_EFFECTS = ("kind", "tokens", "delta_loss", "delta_loss_low", "delta_loss_high", "p")


@dataclass(frozen=True)
class OtherRun:
    """A run of the same model.

    Args:
        name: the experiment's name, with a number if several runs have it.
        title: the experiment, the model and the text.
        statistic: the column that summarises the run.
        q: the column of its q; "" if there is none.
        meanings: column → what it means.
        values, q_values, ranks: `[neurons]` in the subject's order: the statistic, its q, and its rank by magnitude in
            the layer, from 1; NaN where the run lacks the neuron.
        effects: `LAYER.NEURON` → the effects of ablating this neuron alone; None for a number that is missing.
    """

    name: str
    title: str
    statistic: str
    q: str
    meanings: dict[str, str]
    values: np.ndarray
    q_values: np.ndarray
    ranks: np.ndarray
    effects: dict[str, list[dict[str, Any]]]


def others_of(subject: Subject, site: str, model_hash: str, runs: Sequence[FinishedRun]) -> list[OtherRun]:
    """Reads what the runs say of the subject's neurons.

    Args:
        subject: whose neurons.
        site: of these neurons.
        model_hash: of the model that they are of.
        runs: of the same model.

    Raises:
        UserError: a run is of another model, or of sites whose neurons are numbered otherwise.
    """
    found: list[OtherRun] = []
    for run in runs:
        if run.facts.get("model_hash") != model_hash:
            raise UserError(
                f"{run.given}: is of another model than {subject.given} ({run.summary['setting']}); give runs of the "
                "same one"
            )
        own = next((one for one in sorted(run.sites, key=lambda one: one != site) if number_alike(one, site)), None)
        if own is None:
            raise UserError(
                f"{run.given}: its site {', '.join(run.sites)} has other neurons than {site}; give runs of {site}"
            )
        if run.summary["statistic"] not in run.neurons or "neuron" not in run.neurons:
            raise UserError(f"{run.given}: has no statistic of each neuron; leave it out")
        taken = {one.name for one in found}
        names = (f"{run.experiment}_{number}" if number > 1 else run.experiment for number in range(1, len(taken) + 2))
        found.append(_read(subject, next(name for name in names if name not in taken), run.at_site(own)))
    return found


def _read(subject: Subject, name: str, run: FinishedRun) -> OtherRun:
    statistic = run.summary["statistic"]
    q = _q_of(statistic, list(run.neurons))
    layer, neuron = run.neurons["layer"], run.neurons["neuron"]
    there = np.isin(layer, subject.layers) & (neuron < subject.width)
    rows = np.searchsorted(subject.layers, layer[there]) * subject.width + neuron[there]

    def aligned(values: np.ndarray) -> np.ndarray:
        placed = np.full(len(subject.layers) * subject.width, np.nan)
        placed[rows] = values[there]
        return placed

    values = aligned(run.neurons[statistic].astype(np.float64))
    return OtherRun(
        name=name,
        title=f"{run.experiment}, {run.summary['setting']}",
        statistic=statistic,
        q=q,
        meanings={one: run.columns.get(one, "") for one in (statistic, q) if one},
        values=values,
        q_values=aligned(run.neurons[q].astype(np.float64)) if q else np.full(len(values), np.nan),
        ranks=_ranks(values.reshape(len(subject.layers), -1)).ravel(),
        effects=_effects(run),
    )


def _q_of(statistic: str, columns: Sequence[str]) -> str:
    """The column of the statistic's own q, by name: q_size of r_size or of size. "" if there is none.

    Only an r or an explained variance may go by another beginning: q_context is no q of share_context.
    """
    kind, _, rest = statistic.partition("_")
    names = [f"q_{statistic}", *([f"q_{rest}"] if kind in ("r", "ev") and rest else [])]
    return next((one for one in names if one in columns), "")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks by magnitude in each row, 1 the largest; equal ones share the best rank."""
    ranks = np.full(values.shape, np.nan)
    for row, into in zip(np.abs(values), ranks, strict=True):
        there = np.isfinite(row)
        into[there] = 1 + there.sum() - np.searchsorted(np.sort(row[there]), row[there], "right")
    return ranks


def _finite(value: Any) -> float | None:
    """A number as JSON has it: None where it is missing, such as an interval from one sequence."""
    return float(value) if np.isfinite(value) else None


def _effects(run: FinishedRun) -> dict[str, list[dict[str, Any]]]:
    """The effects of the neurons that were ablated alone."""
    from neurexp.io.files import read_table

    if not (run.folder / EFFECTS).exists():
        return {}
    table, found = read_table(run.folder / EFFECTS), dict[str, list[dict[str, Any]]]()
    if not {"neurons", *OF_EFFECTS} <= set(table):
        return {}
    for row, names in enumerate(table["neurons"].tolist()):
        if " " not in names and "." in names:
            values = {column: table[column][row] for column in OF_EFFECTS}
            told = {key: value if isinstance(value, str) else _finite(value) for key, value in values.items()}
            # An ablation of the first of a set and of it alone is the same one; only the draws of its p differ
            same = ("kind", "tokens", "delta_loss")
            known = [[one[key] for key in same] for one in found.setdefault(names, [])]
            if [told[key] for key in same] not in known:
                found[names].append(told)
    return found
