"""Attribution: a first-order estimate, for every neuron, of what the loss would be without it.

Knows neither models nor which neurons were found.
"""

from typing import Self

import torch

from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer, predicting
from neurexp.models.kernels import cache_sized_slices


class Attribution(Reducer):
    """Sums over tokens of each neuron's activation x and of the loss's gradient g at it (`engine.gradients`).

    The state, in float64 `[sites, neurons]`, is `x` = Σx, `magnitude` = Σ|x|, `g` = Σg and `gx` = Σgx; `tokens` and
    `predictions` (tokens whose next token is valid, too) are int64 counts. All sites must have equally many neurons.

    The estimate is attribution patching (Nanda, 2023; Syed et al., 2023), for a replacement of the neuron at every
    token by one number: the loss's Taylor expansion to the first order, about the activations as they are.
    """

    summed = ("x", "magnitude", "g", "gx", "tokens", "predictions")
    x: torch.Tensor
    magnitude: torch.Tensor
    g: torch.Tensor
    gx: torch.Tensor

    def __init__(self, sites: int, device: torch.device | str = "cpu"):
        self._device = torch.device(device)
        self.tokens, self.predictions = (torch.zeros((), dtype=torch.int64) for _ in range(2))
        self._allocate(sites, 0)  # until a site shows how many neurons it has

    def _allocate(self, sites: int, neurons: int) -> None:
        with torch.inference_mode(False):
            self.x, self.magnitude, self.g, self.gx = (
                torch.zeros(sites, neurons, dtype=torch.float64, device=self._device) for _ in range(4)
            )

    def begin(self, batch: Batch) -> None:
        self.tokens += batch.tokens
        self.predictions += int(predicting(batch.valid).sum())

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        """Raises TypeError: without gradients there is nothing to attribute."""
        raise TypeError("Attribution needs gradients: plan a GradientPass")

    def update_with_gradient(self, site: int, activations: torch.Tensor, gradients: torch.Tensor, batch: Batch) -> None:
        tokens, neurons = activations.shape
        if self.x.shape[1] == 0:
            self._allocate(len(self.x), neurons)
        for some in cache_sized_slices(tokens, 4 * neurons, activations.device):
            x, g = activations[some].double(), gradients[some].double()
            self.x[site] += x.sum(0)
            self.g[site] += g.sum(0)
            self.gx[site] += (g * x).sum(0)
            self.magnitude[site] += x.abs_().sum(0)

    def check(self) -> None:
        bad = (~(self.magnitude.sum(1) + self.gx.sum(1) + self.g.sum(1)).isfinite()).nonzero()
        if len(bad):
            raise NotFiniteError(int(bad[0]))

    def merge(self, other: Self) -> None:
        if other.x.shape[1] == 0:  # it saw nothing: there are more processes than sequences
            return
        if self.x.shape[1] == 0:
            self._allocate(len(self.x), other.x.shape[1])
        super().merge(other)

    @property
    def mean(self) -> torch.Tensor:
        """Each neuron's mean activation, `[sites, neurons]` float64."""
        return self.x / self.tokens.to(self.x.device)

    @property
    def mean_magnitude(self) -> torch.Tensor:
        """Each neuron's mean |activation|, `[sites, neurons]` float64."""
        return self.magnitude / self.tokens.to(self.x.device)

    def estimate(self, replacement: torch.Tensor | float = 0.0) -> torch.Tensor:
        """The estimated change of the mean loss per prediction if a neuron alone is replaced at every token.

        (replacement · Σg − Σgx) / predictions, in nats: positive where the model would predict worse.

        Args:
            replacement: a number for all neurons, or `[neurons]`, or `[sites, neurons]`; `mean` for example.

        Returns:
            `[sites, neurons]` float64.
        """
        if isinstance(replacement, torch.Tensor):
            replacement = replacement.to(self.g)
        return (replacement * self.g - self.gx) / self.predictions.to(self.g.device)
