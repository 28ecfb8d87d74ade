"""A profile's statistics from its sums: every neuron's association with a covariate, null, interval, replication.

The arithmetic of `association` applied to the columns of a design matrix, a layer at a time. Knows no token and no
activation: only which columns of ΣZᵀZ and ΣZᵀX are the categories, the confounds, the null draws and the blocks.
"""

from dataclasses import dataclass

import numpy as np

from neurexp.stats import association
from neurexp.stats.association import Sums


@dataclass(frozen=True)
class ProfileSums:
    """What a `Gram` reducer left of a pass, and the design's columns.

    `categories` are the values that the columns `category` stand for, `centre` what the value columns are taken about.
    """

    zz: np.ndarray  # [K, K]
    zx: np.ndarray  # [layers, K, neurons]
    qxx: np.ndarray  # [layers, squared columns, neurons]
    shift: np.ndarray  # [layers, neurons]
    columns: dict[str, slice]
    squared_from: int
    categories: np.ndarray
    centre: float

    @property
    def tokens(self) -> int:
        """How many took part."""
        return round(np.diag(self.zz)[self.columns["category"]].sum())

    def _indicator_sums(self, layer: int, name: str) -> Sums:
        """Sums of the covariate and the neurons over the tokens of each indicator column `name`."""
        inside, value = self.columns[name], self.columns[f"{name}_value"]
        squares = slice(inside.start - self.squared_from, inside.stop - self.squared_from)
        within = self.zz[inside, value].diagonal()
        return Sums(
            np.diag(self.zz)[inside],
            within,
            np.diag(self.zz)[value],
            self.zx[layer, inside],
            self.qxx[layer, squares],
            self.zx[layer, value],
        )

    def blocks(self, layer: int, name: str) -> Sums:
        """By `type_block` or `sequence_block`, with a leading axis of blocks."""
        return self._indicator_sums(layer, name)

    def first_position(self, layer: int) -> Sums:
        """Over the tokens at position 0."""
        return self._indicator_sums(layer, "first").total()

    def skipped(self, layer: int) -> Sums:
        """Over the tokens at skipped positions, which take part in nothing else."""
        return self._indicator_sums(layer, "skipped").total()

    def first_half(self, layer: int) -> Sums:
        """Over the tokens of the first half of the sequences."""
        return self._indicator_sums(layer, "early").total()

    def of_columns(self, layer: int, over: Sums, *names: str) -> Sums:
        """Each column taken as a covariate, over the tokens that `over` covers; leading axis: columns.

        Of several names, whose columns are those of apart tokens, the sums are added.
        """
        parts, everything = [self.columns[name] for name in names], self.columns["category"]
        count = parts[0].stop - parts[0].start
        return Sums(
            np.full(count, over.n),
            np.sum([self.zz[everything, columns].sum(0) for columns in parts], axis=0),
            np.sum([np.diag(self.zz)[columns] for columns in parts], axis=0),
            np.broadcast_to(over.x, (count, len(over.x))),
            np.broadcast_to(over.xx, (count, len(over.xx))),
            np.sum([self.zx[layer, columns] for columns in parts], axis=0),
        )

    def partial(self, layer: int, xx: np.ndarray) -> np.ndarray:
        """The covariate's correlation with each neuron given frequency, position (in bins) and word beginning."""
        covariate = np.zeros(len(self.zz))
        covariate[self.columns["category"]] = self.categories - self.centre
        names = ("position", "log_frequency", "begins_word")  # the position bins span the intercept
        controls = np.concatenate([np.arange(len(self.zz))[self.columns[name]] for name in names])
        return association.partial_correlation(self.zz, self.zx[layer], xx, covariate, controls, self.shift[layer])


@dataclass(frozen=True)
class LayerProfile:
    """Of one layer, `[neurons]` each: see the data dictionary of the experiment that reports them."""

    r: np.ndarray
    low: np.ndarray
    high: np.ndarray
    r_frequency: np.ndarray
    r_partial: np.ndarray
    r_without_first: np.ndarray
    r_with_skipped: np.ndarray
    eta2: np.ndarray
    p: np.ndarray
    null_mean: np.ndarray
    null_sd: np.ndarray
    r_halves: tuple[np.ndarray, np.ndarray]
    excess_halves: tuple[np.ndarray, np.ndarray]  # r − null_mean in each half
    p_halves: tuple[np.ndarray, np.ndarray]
    largest_by_chance: float
    curve: np.ndarray  # [categories] mean over neurons and the tokens of a category


def profile_layer(sums: ProfileSums, layer: int) -> LayerProfile:
    """Every statistic of one layer."""
    shift = sums.shift[layer]
    by_sequence, by_type = sums.blocks(layer, "sequence_block"), sums.blocks(layer, "type_block")
    whole = by_sequence.total()
    r = whole.pearson(shift)

    early = sums.first_half(layer)
    late = whole - early
    null = sums.of_columns(layer, whole, "null_early", "null_late")
    null_early, null_late = sums.of_columns(layer, early, "null_early"), sums.of_columns(layer, late, "null_late")
    draws = null.pearson(shift)
    p, null_mean, null_sd = association.permutation_p(r, draws)
    r_halves = early.pearson(shift), late.pearson(shift)
    of_early = association.permutation_p(r_halves[0], null_early.pearson(shift))
    of_late = association.permutation_p(r_halves[1], null_late.pearson(shift))

    # Two dependencies: tokens of a type are alike, and so are neighbours in a text. The wider interval counts.
    bounds = []
    for blocks in (by_type, by_sequence):
        used = int((blocks.n > 0).sum())
        error = association.jackknife_error(blocks, shift)
        bounds.append(association.interval(r, error, max(used - 1, 1)))
    widths = np.stack([high - low for low, high in bounds])
    unknown = np.isnan(widths).any(0)
    wider = np.where(unknown, 0, widths.argmax(0))
    low, high = (np.where(unknown, np.nan, np.choose(wider, [bound[side] for bound in bounds])) for side in (0, 1))

    counts = np.diag(sums.zz)[sums.columns["category"]]
    category_sums = sums.zx[layer, sums.columns["category"]]
    with np.errstate(invalid="ignore", divide="ignore"):
        curve = (shift + category_sums / counts[:, None]).mean(1)
    return LayerProfile(
        r=r,
        low=low,
        high=high,
        r_frequency=sums.of_columns(layer, whole, "log_frequency").pearson(shift)[0],
        r_partial=sums.partial(layer, whole.xx),
        r_without_first=(whole - sums.first_position(layer)).pearson(shift),
        r_with_skipped=(whole + sums.skipped(layer)).pearson(shift),
        eta2=association.eta_squared(counts, category_sums, whole.xx, shift),
        p=p,
        null_mean=null_mean,
        null_sd=null_sd,
        r_halves=r_halves,
        excess_halves=(r_halves[0] - of_early[1], r_halves[1] - of_late[1]),
        p_halves=(of_early[0], of_late[0]),
        largest_by_chance=association.largest_by_chance(draws),
        curve=curve,
    )
