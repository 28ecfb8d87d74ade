"""The strongest neurons of a profile: those with the largest r of each sign, given the confounds and the context.

Knows no sentence and no figure.
"""

from dataclasses import dataclass

import numpy as np

from neurexp.experiments.profile.data import ProfileData
from neurexp.report.report import Table
from neurexp.stats.association import LEVEL

KEPT = 10  # neurons of each sign in the table
FEWEST = 5  # tokens: a value with fewer has no mean in the figure


@dataclass(frozen=True)
class Strongest:
    """The strongest neurons, those with a positive r first, then those with a negative one, each strongest first."""

    table: Table  # a row for each; empty columns if no neuron differs from the null
    values: np.ndarray  # [values] of the covariate that at least `FEWEST` tokens have
    tokens: np.ndarray  # [values] that have it
    means: np.ndarray  # [neurons, values] mean activation over these tokens, in standard deviations about the mean

    def of_sign(self, side: int) -> np.ndarray:
        """The rows with a positive (1) or negative (−1) r."""
        return np.flatnonzero(np.sign(self.table["r"]) == side)


def strongest(data: ProfileData, neurons: Table) -> Strongest:
    """Of the neurons with q < 0.05 over all layers, given the context: those with the largest |r| of each sign.

    Args:
        data: of the profile.
        neurons: the report's table.
    """
    name = data.covariate.name
    r = np.nan_to_num(neurons[f"r_{name}_given_context"])
    differs = neurons[f"q_{name}_given_context_all"] < LEVEL
    rows = np.concatenate([_of_sign(r, differs, side) for side in (1, -1)])
    columns = {
        "r": f"r_{name}_given_context", "low": f"r_{name}_given_context_low", "high": f"r_{name}_given_context_high",
        "q": f"q_{name}_given_context_all", f"r_{name}": f"r_{name}", "mean": "mean", "std": "std",
    }  # fmt: skip
    table = {"layer": neurons["layer"][rows], "neuron": neurons["neuron"][rows]}
    table |= {own: neurons[column][rows] for own, column in columns.items()}

    counts = data.plan.value_counts[data.categories]
    often = counts >= FEWEST
    category = data.sums.columns["category"]
    places = np.searchsorted(np.array(data.layers), table["layer"])
    sums = data.sums.zx[:, category][places, :, table["neuron"]][:, often]
    means = data.sums.shift[places, table["neuron"]][:, None] + sums / counts[often]
    means = (means - table["mean"][:, None]) / table["std"][:, None]
    return Strongest(table, data.categories[often], counts[often], means)


def _of_sign(r: np.ndarray, differs: np.ndarray, side: int) -> np.ndarray:
    chosen = np.flatnonzero(differs & (np.sign(r) == side))
    return chosen[np.argsort(-np.abs(r[chosen]), kind="stable")][:KEPT]
