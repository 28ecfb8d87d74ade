"""Where do rows of a third kind lie between the categories of a comparison, on the neurons that survive?

The position is 0 at category 0 and 1 at category 1, both as means over word types. The third kind had no part in
choosing these neurons or their direction. The types of the categories stand beside it, each between all others; they
did have a part. Knows no figure.
"""

from dataclasses import dataclass

import numpy as np

from neurexp.experiments.regression.data import RegressionData
from neurexp.report.report import Table
from neurexp.stats.positions import Position, median_position

DRAWS = 400  # of the bootstrap
MOST = 1000  # neurons, those with the largest |beta_least|
ALL = "all of them"  # in the column `word`
_Types = dict[str, np.ndarray]  # type → its rows, `[rows, neurons]`


@dataclass(frozen=True)
class _Row:
    comparison: str
    kind: str
    word: str
    rows: int
    position: Position


def positions_of(data: RegressionData, neurons: Table) -> tuple[Table, dict[str, float]]:
    """The table `positions` and its headline metrics; both empty if no neuron survives."""
    found = np.flatnonzero(neurons["survives"])
    found = found[np.argsort(-np.abs(neurons["beta_least"][found]), kind="stable")][:MOST]
    rows: list[_Row] = []
    metrics: dict[str, float] = {}
    for name, between in data.plan.between.items():
        if not len(found) or not {name, between.comparison} <= data.plan.comparisons.keys():
            continue
        x = _gathered(data, name, found, neurons)
        sides = [_by_type(data, name, x, label) for label in (0, 1)]
        rows += _listed(data, name, sides)
        x = _gathered(data, between.comparison, found, neurons)
        third, whole = _third(data, name, sides, _by_type(data, between.comparison, x, 1))
        rows += third
        ends = {"position": whole.median, "position_low": whole.low, "position_high": whole.high}
        metrics |= {f"{end}_{between.comparison}": value for end, value in ends.items()}
    columns: Table = {
        "comparison": np.array([one.comparison for one in rows], dtype=str),
        "kind": np.array([one.kind for one in rows], dtype=str),
        "word": np.array([one.word for one in rows], dtype=str),
        "rows": np.array([one.rows for one in rows], dtype=np.int64),
        "neurons": np.full(len(rows), len(found)),
        "position": np.array([one.position.median for one in rows]),
        "position_low": np.array([one.position.low for one in rows]),
        "position_high": np.array([one.position.high for one in rows]),
    }
    return (columns if rows else {}), metrics


def _gathered(data: RegressionData, name: str, found: np.ndarray, neurons: Table) -> np.ndarray:
    """A comparison's rows on the found neurons of all layers, `[rows, found]` float64."""
    x = np.empty((len(data.plan.comparisons[name].labels), len(found)))
    for layer in data.plan.layers:
        here = neurons["layer"][found] == layer
        if here.any():
            x[:, here] = data.rows(name, layer)[:, neurons["neuron"][found][here]]
    return x


def _by_type(data: RegressionData, name: str, x: np.ndarray, label: int) -> _Types:
    """The rows `x` of a comparison, by type, in one of its categories."""
    one = data.plan.comparisons[name]
    words = np.array(one.rows.words, dtype=str)
    chosen = one.labels == label
    return {str(word): x[chosen & (words == word)] for word in np.unique(words[chosen])}


def _means(types: _Types) -> np.ndarray:
    """The mean of each type, `[types, neurons]`."""
    return np.stack([rows.mean(0) for rows in types.values()])


def _listed(data: RegressionData, name: str, sides: list[_Types]) -> list[_Row]:
    """Each type of the comparison's categories, which are the two `sides`, between all others.

    The only type of a category has no place between others, and is left out.
    """
    one, seed = data.plan.comparisons[name], data.plan.inputs.seed
    rows = []
    for label, kind in enumerate((one.zero, one.one)):
        for word, own in sides[label].items() if len(sides[label]) > 1 else ():
            zero, other = (
                _means({key: value for key, value in side.items() if side is not sides[label] or key != word})
                for side in sides
            )
            rows.append(_Row(name, kind, word, len(own), median_position(zero, other, own, DRAWS, seed)))
    return rows


def _third(data: RegressionData, name: str, sides: list[_Types], types: _Types) -> tuple[list[_Row], Position]:
    """The third kind's `types`, each of its kinds of several types as a whole, and all of it, between the `sides`."""
    between, seed = data.plan.between[name], data.plan.inputs.seed
    zero, one = map(_means, sides)
    kind_of = {word: between.kinds.get(word, between.kind) for word in types}
    rows = [
        _Row(name, kind_of[word], word, len(own), median_position(zero, one, own, DRAWS, seed))
        for word, own in types.items()
    ]
    for kind in dict.fromkeys(kind_of.values()):
        own = {word: rows for word, rows in types.items() if kind_of[word] == kind}
        if len(own) > 1:
            position = median_position(zero, one, _means(own), DRAWS, seed)
            rows.append(_Row(name, kind, ALL, sum(map(len, own.values())), position))
    all_of_it = _means(types) if len(types) > 1 else next(iter(types.values()))
    return rows, median_position(zero, one, all_of_it, DRAWS, seed)
