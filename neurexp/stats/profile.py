"""The statistics of a profile, one layer at a time: every neuron's association with a covariate of the tokens.

Applies `association` to the sums ΣZᵀZ and ΣZᵀX of a design matrix Z, whose columns are the covariate's categories, the
confounds, the context, the draws of the null and blocks of tokens. Knows no token and no activation.
"""

from dataclasses import dataclass

import numpy as np

from neurexp.stats import association
from neurexp.stats.association import Sums

CONFOUNDS = ("position", "log_frequency", "begins_word")  # columns; the position bins span the intercept


@dataclass(frozen=True)
class ProfileSums:
    """Sums over the tokens of a text, and the meaning of the design's columns."""

    zz: np.ndarray  # [K, K] ΣZᵀZ
    zx: np.ndarray  # [layers, K, neurons] ΣZᵀX
    qxx: np.ndarray  # [layers, squared columns, neurons] ΣX² over the tokens of each of the last columns
    shift: np.ndarray  # [layers, neurons] what was subtracted from X
    columns: dict[str, slice]  # name → columns of Z
    squared_from: int  # the first column that has a row in qxx
    categories: np.ndarray  # the covariate's value for each of the columns `category`
    centre: float  # what was subtracted from the covariate in the columns of values

    @property
    def tokens(self) -> int:
        """The number of tokens in the analysis."""
        return round(np.diag(self.zz)[self.columns["category"]].sum())

    def by_indicator(self, layer: int, name: str) -> Sums:
        """The sums over the tokens of each of several indicator columns; the first axis is that of the columns.

        Args:
            layer: its place in the arrays.
            name: of the columns: `type_block` (blocks of token types), `sequence_block` (blocks of sequences), `early`
                (the first half of the sequences), `first` (position 0) or `skipped` (skipped positions).
        """
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

    def with_columns(self, layer: int, over: Sums, *names: str) -> Sums:
        """The sums with each column of `names` as the covariate; the first axis is that of the columns.

        Args:
            layer: its place in the arrays.
            over: the neurons' sums over the tokens in which the columns are not 0.
            names: of columns. Several names have the same number of columns and no token in common; they are added.
        """
        chosen, categories = [self.columns[name] for name in names], self.columns["category"]
        return Sums(
            np.full(1, over.n),  # one row for all columns: what they have in common is computed once
            np.sum([self.zz[categories, columns].sum(0) for columns in chosen], axis=0),
            np.sum([np.diag(self.zz)[columns] for columns in chosen], axis=0),
            over.x[None],
            over.xx[None],
            np.sum([self.zx[layer, columns] for columns in chosen], axis=0),
        )

    def partial(self, layer: int, xx: np.ndarray) -> np.ndarray:
        """Each neuron's partial correlation with the covariate, given frequency, position (in bins) and word beginning.

        Args:
            layer: its place in the arrays.
            xx: ΣX² `[neurons]` over all tokens.
        """
        return self._given(layer, xx, self._covariate(), CONFOUNDS)

    def given_context(self, layer: int, xx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same given the tokens before it too: r `[neurons]`, and the same of the null's draws `[draws, neurons]`.

        The draws (`null_in_context`) are those of what the confounds leave of the covariate.

        Args:
            layer: its place in the arrays.
            xx: ΣX² `[neurons]` over all tokens.
        """
        null = np.eye(len(self.zz))[:, self.columns["null_in_context"]]
        weights = np.column_stack([self._covariate(), null])
        r = self._given(layer, xx, weights, (*CONFOUNDS, "context"))
        return r[0], r[1:]

    def _covariate(self) -> np.ndarray:
        """Weights `[K]` of the columns that give the covariate."""
        weights = np.zeros(len(self.zz))
        weights[self.columns["category"]] = self.categories - self.centre
        return weights

    def _given(self, layer: int, xx: np.ndarray, weights: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        controls = np.concatenate([np.arange(len(self.zz))[self.columns[name]] for name in names])
        return association.partial_correlation(self.zz, self.zx[layer], xx, weights, controls, self.shift[layer])


@dataclass(frozen=True)
class LayerProfile:
    """The statistics of one layer, `[neurons]` unless stated. The columns of a profile define each of them."""

    r: np.ndarray
    low: np.ndarray
    high: np.ndarray
    r_frequency: np.ndarray
    r_partial: np.ndarray
    r_given_context: np.ndarray
    bounds_given_context: tuple[np.ndarray, np.ndarray]  # the ends of its interval
    p_given_context: np.ndarray
    r_without_first: np.ndarray
    r_with_skipped: np.ndarray
    eta2: np.ndarray
    p: np.ndarray
    p_without_parts: np.ndarray  # [parts, neurons] p without each part of the null's draws
    null_mean: np.ndarray
    null_sd: np.ndarray
    r_halves: tuple[np.ndarray, np.ndarray]
    excess_halves: tuple[np.ndarray, np.ndarray]  # r − null_mean in each half
    p_halves: tuple[np.ndarray, np.ndarray]
    largest_by_chance: float
    curve: np.ndarray  # [categories] mean activation over the neurons and the tokens of a category


def profile_layer(sums: ProfileSums, layer: int) -> LayerProfile:
    """Computes every statistic of one layer."""
    shift = sums.shift[layer]
    by_sequence, by_type = sums.by_indicator(layer, "sequence_block"), sums.by_indicator(layer, "type_block")
    whole = by_sequence.total()
    r = whole.pearson(shift)

    early = sums.by_indicator(layer, "early").total()
    late = whole - early
    null = sums.with_columns(layer, whole, "null_early", "null_late")
    null_early, null_late = sums.with_columns(layer, early, "null_early"), sums.with_columns(layer, late, "null_late")
    draws = null.pearson(shift)
    p, null_mean, null_sd = association.permutation_p(r, draws)
    r_halves = early.pearson(shift), late.pearson(shift)
    early_p = association.permutation_p(r_halves[0], null_early.pearson(shift))
    late_p = association.permutation_p(r_halves[1], null_late.pearson(shift))

    in_context, null_in_context = sums.given_context(layer, whole.xx)
    p_in_context, _, spread_in_context = association.permutation_p(in_context, null_in_context)

    # Tokens of one type are alike, and so are tokens of one sequence: the wider of the two intervals is reported
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
        r_frequency=sums.with_columns(layer, whole, "log_frequency").pearson(shift)[0],
        r_partial=sums.partial(layer, whole.xx),
        r_given_context=in_context,
        bounds_given_context=association.interval_from_null(in_context, spread_in_context, len(null_in_context)),
        p_given_context=p_in_context,
        r_without_first=(whole - sums.by_indicator(layer, "first").total()).pearson(shift),
        r_with_skipped=(whole + sums.by_indicator(layer, "skipped").total()).pearson(shift),
        eta2=association.eta_squared(counts, category_sums, whole.xx, shift),
        p=p,
        p_without_parts=association.p_without_parts(r, draws),
        null_mean=null_mean,
        null_sd=null_sd,
        r_halves=r_halves,
        excess_halves=(r_halves[0] - early_p[1], r_halves[1] - late_p[1]),
        p_halves=(early_p[0], late_p[0]),
        largest_by_chance=association.largest_by_chance(draws),
        curve=curve,
    )
