"""How much each property explains of every neuron of a layer, from the sums of the pass. Knows no sentence."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neurexp.experiments.top_contexts.design import BY_TYPE, FIRST, SECOND, SIMPLE, Design
from neurexp.stats.association import Sums, permutation_p
from neurexp.stats.explained import Sketch, explained_by_columns, variance_of


@dataclass(frozen=True)
class Explained:
    """Of the neurons of one layer, property → `[neurons]`."""

    r: Mapping[str, np.ndarray]  # Pearson's; only of properties with one column
    p: Mapping[str, np.ndarray]
    ev: Mapping[str, np.ndarray]  # cross-validated explained variance
    ev_one_token: np.ndarray  # of being one given type


@dataclass(frozen=True)
class PropertySums:
    """The state of the reducer over a `Design`."""

    design: Design
    zz: np.ndarray  # [columns, columns]
    zx: np.ndarray  # [layers, columns, neurons]
    qxx: np.ndarray  # [layers, 2, neurons]
    shift: np.ndarray  # [layers, neurons]

    def of_half(self, layer: int, half: int, columns: slice) -> Sums:
        """Sums of some columns over the tokens of a half."""
        of_half = self.design.columns["half"].start + half
        n = np.full(columns.stop - columns.start, self.zz[of_half, of_half])
        zz = np.diagonal(self.zz)[columns]
        return Sums(
            n, self.zz[of_half, columns], zz, self.zx[layer, of_half], self.qxx[layer, half], self.zx[layer, columns]
        )

    def of_sample(self, layer: int, columns: slice) -> Sums:
        """Sums of some columns, which are not of one half, over the whole sample."""
        halves = self.design.columns["half"]
        x, xx = self.zx[layer, halves].sum(0), self.qxx[layer].sum(0)
        zz = np.diagonal(self.zz)
        n = np.full(columns.stop - columns.start, zz[halves].sum())
        return Sums(n, self.zz[halves, columns].sum(0), zz[columns], x, xx, self.zx[layer, columns])

    def sketch(self, layer: int, name: str) -> Sketch:
        """Which type a token is (`token`), or the one before it (`previous_token`)."""
        parts = []
        for half in (FIRST, SECOND):
            sums = self.of_half(layer, half, self.design.columns[f"{name}_{half}"])
            with np.errstate(invalid="ignore", divide="ignore"):
                parts.append(sums.zx - sums.z[:, None] * sums.x / sums.n[:, None])
        return Sketch(parts[0], parts[1], self.design.types[name].count)

    def variance(self, layer: int) -> np.ndarray:
        """Of each neuron over the sample, `[neurons]`; NaN where it does not vary."""
        whole = self.of_sample(layer, slice(0, 1))
        n = whole.n[0]
        return variance_of(Sums(n, whole.z, whole.zz, whole.x, whole.xx, whole.zx), self.shift[layer])

    def explained(self, layer: int, one_token: np.ndarray) -> Explained:
        """Everything about one layer.

        Args:
            layer: its place among the layers of the pass.
            one_token: `[neurons]` the type of each neuron that `ev_one_token` is about; −1 for none.
        """
        columns, shift = self.design.columns, self.shift[layer]
        first, second = (self.of_half(layer, half, columns[f"simple_{half}"]) for half in (FIRST, SECOND))
        r_simple, ev_simple = (first + second).pearson(shift), explained_by_columns(first, second, shift)
        r, p, ev = dict(zip(SIMPLE, r_simple, strict=True)), {}, dict(zip(SIMPLE, ev_simple, strict=True))
        for name in SIMPLE:
            p[name], *_ = permutation_p(r[name], self.of_sample(layer, columns[f"null_{name}"]).pearson(shift))
        variance = self.variance(layer)
        for name in BY_TYPE:
            ev[name], p[name] = self.sketch(layer, name).explained(variance)
        types = self.design.types["token"]
        known = np.maximum(one_token, 0)
        signs = np.where(one_token >= 0, types.of(known).T, 0)
        one = self.sketch(layer, "token").explained_by_one(signs, types.share[known], variance)
        return Explained(r, p, ev, one)
