"""Effects: sums over tokens of what edited models predict, by variant, group of tokens and block of sequences.

Does not know what the groups or the variants mean.
"""

import torch

from neurexp.engine.reducers.base import Batch, Reducer

MEASURES = ("kl", "agrees", "rank")  # beside the loss, for detailed variants (`engine.predictions.measures_of`)


class Effects(Reducer):
    """Sums over predictions, for the unedited model (index 0) and each variant (from 1). The state is

    - `loss` `[1 + variants, groups, blocks]` float64: Σ −log p(next token), in nats,
    - `details` `[1 + detailed, 3, groups, blocks]` float64: Σ of `MEASURES` of the first variants,
    - `counts` `[groups, blocks]` int64: predictions.

    A block is a run of consecutive sequences, so that the state does not grow with the text.
    """

    summed = ("loss", "details", "counts")

    def __init__(self, groups: torch.Tensor, blocks: torch.Tensor, variants: int, detailed: int):
        """`groups` `[groups, sequences, length]` bool says which predictions are in a group; `blocks` `[sequences]`
        int64 the block of each sequence. The first `detailed` variants get all measures."""
        self.variants, self.detailed, self.shape = variants, detailed, tuple(groups.shape[1:])
        self._groups, self._blocks = groups, blocks
        count, size = len(groups), int(blocks.max()) + 1
        self.loss = torch.zeros(1 + variants, count, size, dtype=torch.float64)
        self.details = torch.zeros(1 + detailed, len(MEASURES), count, size, dtype=torch.float64)
        self.counts = torch.zeros(count, size, dtype=torch.int64)

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        """Never called: an edited pass hands on predictions, not activations."""
        raise NotImplementedError("Effects takes predictions")

    def count(self, first: int, counted: torch.Tensor) -> None:
        """Counts the predictions of a batch: `counted` `[sequences, length]` bool, `first` its first sequence."""
        here = slice(first, first + len(counted))
        self.counts.index_add_(1, self._blocks[here], (self._groups[:, here] & counted).sum(-1))

    def add(self, variant: int, values: torch.Tensor, first: int) -> None:
        """Adds a batch's values of one variant (0: the unedited model): `[measures, sequences, length]` float32, the
        loss first, 0 where there is no prediction. The measures after the loss may be missing."""
        here = slice(first, first + values.shape[1])
        groups = self._groups[:, here].double()
        sums = torch.einsum("mst,gst->mgs", values.cpu().double(), groups)
        self.loss[variant].index_add_(-1, self._blocks[here], sums[0])
        if len(values) > 1:
            self.details[variant].index_add_(-1, self._blocks[here], sums[1:])
