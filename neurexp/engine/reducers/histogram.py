"""Histogram: how many activations of a site fall into each bin, per group of tokens.

Does not know what the groups mean.
"""

import math

import torch

from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer
from neurexp.models.kernels import cache_sized_slices
from neurexp.models.transfer import to_device

PILOT_TOKENS = 64  # of the first sequence: so many at least set the edges, if it has them


class Histogram(Reducer):
    """How many activations of a site fall into each bin, for each group of tokens, over all neurons together.

    `counts` is `[sites, groups, bins + 2]` int64: underflow first, overflow last. A bin is [edge, next edge). Its width
    is a power of two and its edges are multiples of it, so that x / width and its floor are exact in any binary float:
    the counts are exactly those that float64 would give. The covariate `group` `[tokens]` int64 holds 0 … groups − 1.
    """

    by_site = True
    concurrent = True
    summed = ("counts",)
    calibrated = ("width", "start")
    handles_not_finite = False

    def __init__(self, groups: int, sites: int, bins: int, device: torch.device | str = "cpu"):
        """The bulk of a site, as `set_edges` gets it, takes `bins` / 2 to `bins` bins; as many again are margin."""
        self.bins, self.groups, self._device = 2 * bins, groups, torch.device(device)
        self.width = torch.zeros(sites, dtype=torch.float64)  # 0: not set yet
        self.start = torch.zeros(sites, dtype=torch.int64)  # the first edge, in widths
        self.counts = torch.zeros(sites, groups, self.bins + 2, dtype=torch.int64, device=self._device)
        self.is_calibrated = False

    def set_edges(self, site: int, low: float, high: float) -> None:
        """Sets a site's edges so that [low, high] is its bulk."""
        # No narrower than 2⁻²² of the values: float32 has no finer steps there, and bin numbers stay exact in it
        least = max(abs(low), abs(high), 2.0**-100) * 2.0**-22
        width = 2.0 ** math.ceil(math.log2(max(2 * (high - low) / self.bins, least)))
        self.width[site], self.start[site] = width, math.floor((low + high) / 2 / width) - self.bins // 2
        self.is_calibrated = bool((self.width > 0).all())

    def calibrate(self, site: int, activations: torch.Tensor) -> None:
        """Sets the edges from the 0.1 % and 99.9 % quantiles over all neurons and 64 to 127 tokens of the sequence."""
        flat = activations[:: max(1, len(activations) // PILOT_TOKENS)].float().flatten()
        if not bool(flat.isfinite().all()):
            raise NotFiniteError(site)
        rank = max(1, math.ceil(0.001 * flat.numel()))
        # The largest of the smallest values, and the smallest of the largest: much faster than `kthvalue`
        low, high = (flat.topk(rank, largest=largest, sorted=False).values for largest in (False, True))
        self.set_edges(site, float(low.max()), float(high.min()))

    @property
    def edges(self) -> torch.Tensor:
        """`[sites, bins + 1]` float64."""
        return (self.start[:, None] + torch.arange(self.bins + 1)) * self.width[:, None]

    def begin(self, batch: Batch) -> None:
        group = batch.covariates["group"]
        stops = torch.bincount(group, minlength=self.groups).cumsum(0).tolist()
        batch.shared[self] = to_device(group.argsort(stable=True), batch.device), stops

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        start, inverse = float(int(self.start[site]) - 1), 1.0 / float(self.width[site])
        if activations.device.type == "cpu":
            self.counts[site] += self._count(activations, start, inverse, *batch.shared[self])
        else:
            self.counts[site] += self._count_on_device(activations, start, inverse, *batch.shared[self])

    def _number(
        self, values: torch.Tensor, start: float, inverse: float, first: int = 0, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The number of each value's bin, from `first` to `first` + bins + 1, as float32, in `out` if given.

        float32 holds every bin number exactly, and the width is a power of two, so the product is exact as well.
        """
        numbers = torch.mul(values.float(), inverse, out=out)
        return numbers.floor_().clamp_(start, start + self.bins + 1).sub_(start - first)

    def _count(
        self, values: torch.Tensor, start: float, inverse: float, order: torch.Tensor, stops: list[int]
    ) -> torch.Tensor:
        """How many values fall into each bin in each group, `[groups, bins + 2]`; `order` has the groups' tokens."""
        small = self.bins + 2 <= 256
        whole = torch.empty(values.shape, dtype=torch.int8 if small else torch.int32)
        slices = cache_sized_slices(len(values), values.shape[1], values.device)
        memory = torch.empty(slices[0].stop if slices else 0, values.shape[1])
        for some in slices:
            # PyTorch converts to int8 much faster than to uint8. Viewed as uint8, negative numbers come last
            part = values[some]
            numbers = self._number(part, start, inverse, -128 if small else 0, memory[: len(part)])
            if small:
                whole[some] = numbers
            else:  # NaN becomes a negative number, which bincount refuses; another reducer reports NaN
                whole[some] = numbers.to(torch.int32).clamp_(0, self.bins + 1)
        words = torch.int64 if small and whole.shape[1] % 8 == 0 else whole.dtype  # moving eight at once is faster
        whole = whole.view(words).index_select(0, order).view(torch.uint8 if small else torch.int32)
        counts, first = [], 0
        for stop in stops:
            counted = torch.bincount(whole[first:stop].flatten(), minlength=256 if small else self.bins + 2)
            counts.append((counted.roll(128) if small else counted)[: self.bins + 2])
            first = stop
        return torch.stack(counts)

    def _count_on_device(
        self, values: torch.Tensor, start: float, inverse: float, order: torch.Tensor, stops: list[int]
    ) -> torch.Tensor:
        """The same without `bincount`, which would wait for the device: `histc` counts in float32."""
        # No bin can exceed 2²⁴, up to which float32 counts exactly
        rows, counts, first = max(1, 2**24 // values.shape[1]), [], 0
        numbers = self._number(values, start, inverse).add_(0.5)[order]
        for stop in stops:
            parts = [numbers[at : min(at + rows, stop)] for at in range(first, stop, rows)]
            bins = self.bins + 2
            counted = [torch.histc(part, bins, 0, bins).long() for part in parts]
            counts.append(torch.stack(counted).sum(0) if counted else self.counts.new_zeros(bins))
            first = stop
        return torch.stack(counts)
