"""Variance components: how much of a neuron's variance belongs to each of two factors, and to neither. Float64.

The model is x = mean + type + position + rest, in which types and positions are drawn at random and add up. Group sizes
may be unequal, and the two factors may be confounded in part. The estimator is the analysis of variance's, by the
fitting of constants (Henderson's method 3; Henderson 1953, Biometrics 9; Searle, Casella and McCulloch 1992, *Variance
Components*, chapter 5): sums of squares of nested fits are set equal to what they are on average. Each component is
unbiased, and so may be a little below 0 where the true one is near 0. With one position it is the one-way random
effects analysis of variance, whose share of types is the intraclass correlation ICC(1). Knows no token and no model.
"""

from dataclasses import dataclass

import numpy as np

from neurexp.stats.chunks import in_neuron_chunks
from neurexp.stats.rounding import centred

RANK = 1e-9  # of the rows: a smaller eigenvalue of the normal equations is taken as 0


@dataclass(frozen=True)
class Components:
    """Variances of every neuron, `[neurons]`, in squared units of x; NaN where x does not vary."""

    type: np.ndarray
    position: np.ndarray  # 0 if there is one position only
    rest: np.ndarray

    @property
    def shares(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The shares of type, position and rest in their sum, `[neurons]` each; they add up to 1."""
        with np.errstate(invalid="ignore", divide="ignore"):
            whole = self.type + self.position + self.rest
            whole = np.where(whole > 0, whole, np.nan)
            return self.type / whole, self.position / whole, self.rest / whole


def variance_components(x: np.ndarray, types: np.ndarray, positions: np.ndarray) -> Components:
    """The components of x `[rows, neurons]`.

    Args:
        x: of any float type.
        types: `[rows]` integers from 0; some types have several rows.
        positions: `[rows]` integers from 0, such as numbers of bins.

    Raises:
        ValueError: no degrees of freedom are left for the rest (`degrees_left`): no type has rows enough.
    """
    return Components(*_components(x, types, positions))


def degrees_left(types: np.ndarray, positions: np.ndarray) -> int:
    """The degrees of freedom that types and positions leave for the rest, of which it needs one or more.

    Args:
        types, positions: as in `variance_components`.
    """
    table = _table(types, positions)
    return len(types) - len(table) - int((np.linalg.eigvalsh(_within_types(table)) > RANK * len(types)).sum())


@in_neuron_chunks
def _components(x: np.ndarray, types: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, (x, defined) = len(x), centred(x)
    table = _table(types, positions)
    types, positions = (np.unique(one, return_inverse=True)[1] for one in (types, positions))
    of_type, of_position = table.sum(1), table.sum(0)
    type_sums, position_sums = (_sums(x, groups) for groups in (types, positions))

    # What positions explain once types are fitted: normal equations of the positions within types
    within = _within_types(table)
    right = position_sums - table.T @ (type_sums / of_type[:, None])
    values, vectors = np.linalg.eigh(within)
    kept = values > RANK * rows
    position_rank = int(kept.sum())
    projected = vectors[:, kept].T @ right
    position_given_type = (projected**2 / values[kept][:, None]).sum(0)

    by_type = (type_sums**2 / of_type[:, None]).sum(0)
    by_position = (position_sums**2 / of_position[:, None]).sum(0)
    fitted = by_type + position_given_type
    free = rows - len(of_type) - position_rank
    if free < 1:
        raise ValueError("no type has rows enough: nothing is left for the variance within types")
    rest = np.maximum((x**2).sum(0) - fitted, 0) / free
    type_rank = len(of_type) + position_rank - len(of_position)
    type_weight = rows - (table**2 / of_position).sum()
    type_variance = (fitted - by_position - type_rank * rest) / type_weight
    position_weight = np.trace(within)
    if position_rank:
        position_variance = (position_given_type - position_rank * rest) / position_weight
    else:
        position_variance = np.zeros_like(rest)
    return tuple(np.where(defined, one, np.nan) for one in (type_variance, position_variance, rest))  # type: ignore[return-value]


def _table(types: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The number of rows of each type at each position, of those that occur, `[types, positions]`."""
    table = np.zeros((types.max() + 1, positions.max() + 1))
    np.add.at(table, (types, positions), 1)
    return table[table.sum(1) > 0][:, table.sum(0) > 0]


def _within_types(table: np.ndarray) -> np.ndarray:
    """The normal equations' matrix of the positions once types are fitted, `[positions, positions]`."""
    return np.diag(table.sum(0)) - table.T @ (table / table.sum(1, keepdims=True))


def _sums(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums of the rows of each group, `[groups, neurons]`; every group has a row."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return np.add.reduceat(x[order], starts, axis=0)
