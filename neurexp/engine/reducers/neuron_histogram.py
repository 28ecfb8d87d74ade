"""NeuronHistogram: how many activations of each neuron fall into each bin, of some of the sequences.

Does not know what the tokens are.
"""

import torch

from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer
from neurexp.models.kernels import cache_sized_slices
from neurexp.models.transfer import to_device

PILOT_TOKENS = 64  # of the first sequence: so many at least set the edges, if it has them
LEFT_OUT = 50  # of so many pilot tokens one at each end is not part of the bulk


class NeuronHistogram(Reducer):
    """How many activations of each neuron fall into each bin, over the tokens of every `every`-th sequence.

    `counts` is `[sites, neurons, bins + 2]` int64: underflow first, overflow last. A neuron's bins begin at `start`
    `[sites, neurons]` float32 and are `width` `[sites, neurons]` float32 wide; a bin is [edge, next edge). The width is
    a power of two and the edges are multiples of it, so that x / width and its floor are exact in any binary float:
    the counts are exactly those that float64 would give. Sequences are counted in the whole text, from 0. Only tokens
    of the covariate `counted` `[tokens]` bool are counted, all of them if there is no such covariate.
    """

    by_site = True
    concurrent = True
    summed = ("counts",)
    calibrated = ("start", "width")
    handles_not_finite = False
    counts: torch.Tensor
    start: torch.Tensor
    width: torch.Tensor

    def __init__(self, sites: int, bins: int, every: int = 1, device: torch.device | str = "cpu"):
        """The bulk of a neuron's activations takes a third to two thirds of its `bins`; the others are margin."""
        self.bins, self.every, self._sites, self._device = bins, every, sites, torch.device(device)
        self._calibrated_sites = 0
        self.is_calibrated = False

    def calibrate(self, site: int, activations: torch.Tensor) -> None:
        """Sets the edges from all but 2 % of 64 to 127 tokens of the sequence at each end."""
        pilot = activations[:: max(1, len(activations) // PILOT_TOKENS)].float().sort(0).values
        if not bool(pilot.isfinite().all()):
            raise NotFiniteError(site)
        if self._calibrated_sites == 0:
            shape = self._sites, activations.shape[1]
            with torch.inference_mode(False):  # ordinary tensors, so that states can be merged after the pass
                self.start, self.width = torch.zeros(2, *shape, device=self._device)
                self.counts = torch.zeros(*shape, self.bins + 2, dtype=torch.int64, device=self._device)
        out = len(pilot) // LEFT_OUT
        low, high = pilot[out].double(), pilot[-1 - out].double()
        # No narrower than 2⁻²² of the values: float32 has no finer steps there, and bin numbers stay exact in it
        least = torch.maximum(low.abs(), high.abs()).clamp(min=2.0**-100) * 2.0**-22
        width = torch.exp2(torch.maximum(1.5 * (high - low) / self.bins, least).log2().ceil())
        self.width[site] = width.float()
        self.start[site] = (((low + high) / 2 / width).floor() - self.bins // 2).mul(width).float()
        self._calibrated_sites += 1
        self.is_calibrated = self._calibrated_sites == self._sites

    def begin(self, batch: Batch) -> None:
        sequences, length = batch.valid.shape
        chosen = ((torch.arange(sequences) + batch.first) % self.every == 0).repeat_interleave(length)
        chosen = chosen if batch.rows is None else chosen[batch.rows]
        counted = batch.covariates.get("counted")
        chosen = chosen if counted is None else chosen & counted
        rows = None if bool(chosen.all()) else to_device(chosen.nonzero().squeeze(1), batch.device)
        batch.shared[self] = rows

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        rows = batch.shared[self]
        if rows is not None:
            if len(rows) == 0:
                return
            activations = activations[rows]
        tokens, neurons = activations.shape
        for some in cache_sized_slices(neurons, tokens, activations.device):
            width = self.width[site, some]
            numbers = (activations[:, some].float() * (1 / width)).floor_().sub_(self.start[site, some] / width - 1)
            # NaN becomes any number here; another reducer reports it
            numbers = numbers.clamp_(0, self.bins + 1).to(torch.int32).clamp_(0, self.bins + 1)
            numbers += torch.arange(numbers.shape[1], dtype=torch.int32, device=numbers.device) * (self.bins + 2)
            counts = self.counts[site, some]
            if numbers.device.type == "cpu":
                counts += torch.bincount(numbers.flatten(), minlength=counts.numel()).view(counts.shape)
            else:  # `bincount` would wait for the device
                flat = numbers.flatten().long()
                counts.view(-1).scatter_add_(0, flat, torch.ones_like(flat))
