"""Moments: what mean, standard deviation, skewness and kurtosis of every neuron need.

Does not know what the tokens are.
"""

import torch

from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer
from neurexp.models.kernels import cache_sized_slices
from neurexp.models.transfer import to_device

PILOT_TOKENS = 64  # of the first sequence: so many at least set the shifts, if it has them


class Moments(Reducer):
    """Sums of the powers of every neuron's activations.

    Let x be an activation and s the neuron's shift. The state is

    - `n` `[sites]` int64: the number of tokens,
    - `sums` `[sites, 4, neurons]` float64: Σ (x − s), Σ (x − s)², Σ (x − s)³ and Σ (x − s)⁴,
    - `positive` `[sites, neurons]` int64: how many x are greater than 0,
    - `shift` `[sites, neurons]` float32: the neuron's median over some tokens of the first sequence. It is a typical
      activation, so that a neuron that sits far from zero loses no digits, and one huge activation moves it little.

    `stats.moments.moments_of` makes the statistics from them. Only tokens of the covariate `counted` `[tokens]` bool
    are added up, all of them if there is no such covariate. Powers are taken in float32 and added up in it within a
    part of a batch.
    """

    by_site = True
    concurrent = True
    summed = ("n", "sums", "positive")
    calibrated = ("shift",)
    sums: torch.Tensor
    positive: torch.Tensor
    shift: torch.Tensor

    def __init__(self, sites: int, shift: torch.Tensor | None = None, device: torch.device | str = "cpu"):
        """`shift` is `[sites, neurons]`; if it is None, the first sequence sets it."""
        self._sites, self._device = sites, torch.device(device)
        self.n = torch.zeros(sites, dtype=torch.int64)
        self._total = torch.zeros(sites, device=self._device)  # finite as long as all activations are
        self._calibrated_sites = 0
        self.is_calibrated = shift is not None
        if shift is not None:
            self._allocate(shift.shape[1])
            self.shift = shift.to(self._device, torch.float32)

    def _allocate(self, neurons: int) -> None:
        with torch.inference_mode(False):  # ordinary tensors, so that states can be merged after the pass
            self.shift = torch.zeros(self._sites, neurons, device=self._device)
            self.sums = torch.zeros(self._sites, 4, neurons, dtype=torch.float64, device=self._device)
            self.positive = torch.zeros(self._sites, neurons, dtype=torch.int64, device=self._device)

    def calibrate(self, site: int, activations: torch.Tensor) -> None:
        if self._calibrated_sites == 0:
            self._allocate(activations.shape[1])
        self.shift[site] = activations[:: max(1, len(activations) // PILOT_TOKENS)].float().median(0).values
        self._calibrated_sites += 1
        self.is_calibrated = self._calibrated_sites == self._sites

    def check(self) -> None:
        bad = (~self._total.isfinite()).nonzero()
        if len(bad):
            raise NotFiniteError(int(bad[0]))

    def begin(self, batch: Batch) -> None:
        counted = batch.covariates.get("counted")
        left_out = None if counted is None or bool(counted.all()) else (~counted).nonzero().squeeze(1)
        batch.shared[self] = left_out if left_out is None else to_device(left_out, batch.device)

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        left_out, (tokens, neurons), device = batch.shared[self], activations.shape, activations.device
        if tokens == 0:
            return
        self.n[site] += tokens if left_out is None else tokens - len(left_out)
        slices = cache_sized_slices(tokens, 2 * neurons, device)  # of two arrays, in which everything is computed
        memory, powers_of_all = torch.empty(2, slices[0].stop, neurons, device=device)
        sums = torch.empty(len(slices), 5, neurons, device=device)
        for some, (above, *powers) in zip(slices, sums, strict=True):
            x, count = activations[some].float(), some.stop - some.start
            shifted, power = memory[:count], powers_of_all[:count]
            torch.sum(torch.gt(x, 0, out=power), 0, out=above)  # in float32, which counts exactly up to 2 ** 24
            torch.sub(x, self.shift[site], out=shifted)
            if left_out is not None:
                inside = left_out
                if len(slices) > 1:  # on a CPU: elsewhere a mask would wait for the device
                    inside = left_out[(left_out >= some.start) & (left_out < some.stop)] - some.start
                if len(inside):
                    shifted[inside] = 0
            torch.sum(shifted, 0, out=powers[0])
            torch.sum(torch.mul(shifted, shifted, out=power), 0, out=powers[1])
            torch.sum(shifted.mul_(power), 0, out=powers[2])
            torch.sum(power.mul_(power), 0, out=powers[3])
        positive = sums[:, 0].sum(0, dtype=torch.float64)
        self._total[site] += sums[:, 1].sum()
        if left_out is not None:
            others = activations[left_out].float()
            self._total[site] += others.sum()
            positive -= (others > 0).sum(0)
        self.positive[site] += positive.long()
        self.sums[site] += sums[:, 1:].sum(0, dtype=torch.float64)
