"""Which neurons an intervention is about: those that a finished run found, by rank, or those that the user names.

Reads a run's table of neurons by the names of its columns. Knows no model and no edit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from neurexp.errors import UserError, closest, one_line
from neurexp.experiments.options.base import given
from neurexp.experiments.options.chosen_neurons import check_choice, check_named
from neurexp.io.files import read_table
from neurexp.models.numbering import number_alike
from neurexp.report.finished import FinishedRun
from neurexp.report.report import SITE, Table
from neurexp.stats.association import LEVEL
from neurexp.stats.rounding import varies

PLACES = ("layer", "neuron", "head", SITE)  # columns that say where a neuron is, and nothing about it


@dataclass(frozen=True)
class FoundNeurons:
    """A set of neurons, the first of them the most extreme.

    Args:
        layers: `[n]` int64 block indices.
        neurons: `[n]` int64 indices within the site.
        scores: `[n]` float64, the column's values; NaN for neurons that the user names.
        column: of the run's table; empty for neurons that the user names.
        description: as it stands after “neurons”: “that prefer verbs most (cohens_d)”.
        criterion: the test that all of them pass, such as `q_length_all < 0.05`; empty if none was asked for.
        found: how many there are in all, of which these are the first.
    """

    layers: np.ndarray
    neurons: np.ndarray
    scores: np.ndarray
    column: str
    description: str
    criterion: str
    found: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int]], description: str) -> Self:
        """Neurons that an experiment of your own chooses.

        Args:
            pairs: layer and neuron of each, the most important first.
            description: as it stands after “neurons”.
        """
        places = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        scores = np.full(len(places), np.nan)
        return cls(places[:, 0], places[:, 1], scores, "", description, "", len(places))

    @property
    def pairs(self) -> np.ndarray:
        """Layer and neuron of each, `[n, 2]`."""
        return np.stack([self.layers, self.neurons], axis=1)

    def first(self, count: int) -> Self:
        """The first so many of them."""
        cut = {name: getattr(self, name)[:count] for name in ("layers", "neurons", "scores")}
        return replace(self, **cut)


def neurons_found(
    run: FinishedRun,
    by: str | None = None,
    count: int | None = None,
    direction: str = "auto",
    site: str | None = None,
    significant: bool = True,
) -> dict[str, FoundNeurons]:
    """The neurons that a finished run found, the most extreme first; sets without a neuron are left out.

    Args:
        run: of any experiment that has a table of neurons.
        by: the column that they are ranked by; the run's own statistic if not given. An AUROC counts from 0.5.
        count: of each set; all that were found if not given.
        direction: `positive`: the highest values; `negative`: the lowest; `both`: a set of each; `largest`: one set,
            by magnitude; `auto`: `both` if the column has negative values, else `largest`.
        site: which site's neurons, for a run of several.
        significant: only neurons that pass the run's own test of the column, corrected for all its neurons, where the
            run has one. Dead neurons, whose activation never varies, and neurons without a value are never chosen.

    Returns:
        Name → neurons. A set is named after what its neurons prefer: a category, or a group of tokens such as
        `longer`; `positive`, `negative` and `largest` where the column does not say.

    Raises:
        UserError: no such column, site or direction, no neuron found, or fewer than `count`.
    """
    run = run.at_site(site)
    table, column = run.neurons, run.summary["statistic"] if by is None else by
    values = _values(run, column)
    check_choice(direction, count)
    centred = values - (0.5 if column.startswith("auroc") else 0.0)
    known, dead = np.isfinite(centred), _dead(table)
    criterion, passes = _test_of(run, column) if significant else ("", np.ones(len(values), dtype=bool))
    chosen = known & ~dead & passes
    if direction == "auto":
        direction = "both" if (centred[known] < 0).any() else "largest"
    sets = {}
    for side in _sides(run, column, direction):
        rank = np.abs(centred) if side.sign == 0 else side.sign * centred
        members = chosen & ((side.sign == 0) | (rank > 0))
        if criterion and column == run.summary["statistic"] and "null_mean" in table and side.sign:
            # The test of a profile is about the null's mean, so what it found lies beyond that mean too
            members &= side.sign * (values - table["null_mean"]) > 0
        found = int(members.sum())
        if found and count is not None and count > found:
            others = int((known & dead).sum())
            raise UserError(
                f"experiment.count={count}: {found} neurons {side.words}{f' pass {criterion}' if criterion else ''} in "
                f"that run{f' (dead ones, which never vary, left out: {others})' if others else ''}; give {found} or "
                "fewer, or null for all of them"
            )
        if found:
            places = np.flatnonzero(members)
            places = places[np.argsort(-rank[places], kind="stable")][:count]
            layers, neurons = (table[name].astype(np.int64)[places] for name in ("layer", "neuron"))
            sets[side.name] = FoundNeurons(layers, neurons, values[places], column, side.words, criterion, found)
    if not sets:
        what = {"positive": "positive ", "negative": "negative "}.get(direction, "")
        why = f" passes {criterion}" if criterion else ", and varies"
        how = "experiment.significant=false for the most extreme ones all the same, or " if criterion else ""
        raise UserError(f"{run.given}: no neuron with a {what}{column}{why}; give {how}another experiment.by=COLUMN")
    return sets


def neurons_given(value: Any, layers: int, run: FinishedRun | None = None) -> FoundNeurons:
    """The neurons that the user names. Whether each layer is so wide is for the model to say.

    Args:
        value: `experiment.neurons`: (layer, neuron) pairs.
        layers: of the model.
        run: a finished run whose table says which neurons are dead.

    Raises:
        UserError: not such pairs, a neuron named twice, no such layer, or a dead neuron.
    """
    check_named(value)
    shown = given("neurons", value)
    for layer, neuron in value:
        if layer >= layers:
            raise UserError(f"{shown}: there is no layer {layer}; the model has layers 0 to {layers - 1}")
        if run is not None and _is_dead(run, layer, neuron):
            raise UserError(f"{shown}: neuron {neuron} of layer {layer} is dead, it never varies in {run.place}")
    pairs = [tuple(pair) for pair in value]
    places = np.array(pairs, dtype=np.int64)
    scores = np.full(len(pairs), np.nan)
    return FoundNeurons(places[:, 0], places[:, 1], scores, "", "named in experiment.neurons", "", len(pairs))


def sites_alike(run: FinishedRun, site: str) -> list[str]:
    """The run's sites whose units are numbered as those of `site`, that site itself first."""
    return sorted((one for one in run.sites if number_alike(one, site)), key=lambda one: one != site)


def site_of(run: FinishedRun, site: str, wanted: str | None) -> str | None:
    """The site of the run whose units are those of `site`; None: the run does not say its sites.

    Args:
        run: a finished run.
        site: `experiment.site`.
        wanted: `experiment.run_site`.

    Raises:
        UserError: the run has no such site.
    """
    same = sites_alike(run, site)
    if wanted is not None:
        run.at_site(wanted)  # raises UserError if the run has no such site
        if wanted not in same:
            raise UserError(
                f"experiment.run_site={wanted}: its units are not those of experiment.site={site}; give "
                f"experiment.site={wanted}"
            )
        return wanted
    if run.sites and not same:
        raise UserError(
            f"experiment.site={site}: {run.given} found units of {', '.join(run.sites)}; give "
            f"experiment.site={run.sites[0]}"
        )
    return same[0] if same else None


def _values(run: FinishedRun, column: str) -> np.ndarray:
    """A column of numbers of the neurons' table, float64."""
    numeric = [name for name, values in run.neurons.items() if values.dtype.kind in "iuf" and name not in PLACES]
    if column in numeric:
        return run.neurons[column].astype(np.float64)
    if column in run.neurons:
        raise UserError(
            f"experiment.by={column}: a column without numbers to rank neurons by{closest(column, numeric)}"
        )
    raise UserError(
        f"experiment.by={column}: {run.given} has no such column of neurons{closest(column, numeric)} (its columns.md "
        "says what there is)"
    )


def _dead(table: Table) -> np.ndarray:
    """The neurons that never vary beyond rounding, `[neurons]` bool; none where the table does not say."""
    if not {"mean", "std"} <= table.keys():
        return np.zeros(len(table["neuron"]), dtype=bool)
    return ~varies(table["std"].astype(np.float64) ** 2, table["mean"].astype(np.float64))


def _is_dead(run: FinishedRun, layer: int, neuron: int) -> bool:
    rows = (run.neurons["layer"] == layer) & (run.neurons["neuron"] == neuron)
    return bool(rows.any() and _dead(run.neurons)[rows].all())


def _test_of(run: FinishedRun, column: str) -> tuple[str, np.ndarray]:
    """The run's test of a column, in words, and the neurons that pass it: all of them where the run has no test."""
    for name in (column, run.summary["statistic"]):
        for q in (f"q_{name.removeprefix('r_')}_all", f"q_{name.removeprefix('r_')}"):
            if q in run.neurons:
                return f"{q} < {LEVEL:g}", run.neurons[q].astype(np.float64) < LEVEL
    for name in ("significant_bonferroni_all", "significant_bonferroni"):
        if name in run.neurons:
            return name, run.neurons[name].astype(np.float64) == 1  # with a gap, in a run of several sites, no bool
    return "", np.ones(len(run.neurons["neuron"]), dtype=bool)


@dataclass(frozen=True)
class _Side:
    """High values of a column (sign 1), low ones (−1), or large ones (0)."""

    sign: int
    name: str
    words: str  # after “neurons”


def _sides(run: FinishedRun, column: str, direction: str) -> list[_Side]:
    """The sides of a column that a direction asks for, the high one first."""
    if direction == "largest":
        return [_Side(0, "largest", f"with the largest {column} in magnitude")]
    sides = []
    for sign, own, end, (name, preferred) in zip(
        (1, -1), ("positive", "negative"), ("highest", "lowest"), reversed(_preferred(run, column)), strict=True
    ):
        if direction in (own, "both"):
            words = f"that prefer {preferred} most ({column})" if preferred else f"with the {end} {column}"
            sides.append(_Side(sign, name, words))
    return sides


def _preferred(run: FinishedRun, column: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """For low and for high values of a column: the name of the set, and what its neurons prefer, in words or empty.

    Of a contrast of two categories: cohens_d, t and AUROC are positive where category 1 is higher. Of a profile: r and
    the standardised difference are positive where the tokens above the median are higher.
    """
    table, statistic = run.neurons, run.summary["statistic"]
    is_of_two = {"mean_0", "mean_1"} <= table.keys() and "mean_2" not in table
    if is_of_two and column.startswith(("cohens_d", "t_welch", "t_paired", "auroc")) and (names := _categories(run)):
        return (names[0], names[0]), (names[1], names[1])
    groups = [name.removeprefix("mean_") for name in table if name.startswith("mean_")]
    for low in groups:
        for high in groups:
            difference = f"d_{high}_{low}"
            if difference in table and (column in (difference, statistic) or column.startswith(f"{statistic}_")):
                return (low, f"{low} tokens"), (high, f"{high} tokens")
    return ("negative", ""), ("positive", "")


def _categories(run: FinishedRun) -> tuple[str, str] | None:
    """The names of a contrast's categories 0 and 1, from its table of words."""
    for file in sorted(run.folder.glob("words*.parquet")):  # one for each site
        try:
            words = read_table(file)
            first, second = (str(words["category"][words["label"] == label][0]) for label in (0, 1))
        except (OSError, ValueError, LookupError) as error:
            raise UserError(f"{run.given}: its {file.name} cannot be read ({one_line(error)})") from error
        return first, second
    return None
