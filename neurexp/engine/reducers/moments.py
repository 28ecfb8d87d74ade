"""Moments: what mean, standard deviation, skewness and kurtosis of every neuron need.

Does not know what the tokens are.
"""

import torch

from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer
from neurexp.models.kernels import cache_sized_slices

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
        batch.shared[self] = left_out if left_out is None else left_out.to(batch.device)

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        left_out, (tokens, neurons) = batch.shared[self], activations.shape
        self.n[site] += tokens if left_out is None else tokens - len(left_out)
        for some in cache_sized_slices(neurons, tokens, activations.device):
            x = activations[:, some].float()
            shifted = x - self.shift[site, some]
            positive = (x > 0).sum(0)
            self._total[site] += shifted.sum()
            if left_out is not None:
                shifted[left_out] = 0
                positive -= (x[left_out] > 0).sum(0)
            self.positive[site, some] += positive
            squared = shifted * shifted
            powers = shifted, squared, squared * shifted, squared * squared
            self.sums[site, :, some] += torch.stack([power.sum(0) for power in powers])
