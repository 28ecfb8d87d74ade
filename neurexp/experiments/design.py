"""The design of a profile: which covariates of its token each activation is related to, as columns of a matrix.

A profile asks how activations depend on a whole-number property of the token *type* (its length, say). Beside that
property the design holds what confounds it (frequency, position, whether the token begins a word), shuffled copies of
it for the null, and indicators of blocks of tokens for the jackknife; one `Gram` reducer sums it all in one pass.
Knows no activations.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from neurexp.text.tokens import UNDEFINED, Tokens
from neurexp.text.vocabulary import balanced_blocks, log_frequency, shuffled_within_bands


@dataclass
class Design:
    """Columns of the design matrix, and how to fill them for a batch of tokens.

    Args:
        tokens: the text.
        values: `[vocabulary]` the property of each type, `UNDEFINED` (−1) for types without one; such tokens have a row
            of zeros and so take part in nothing.
        reference_counts: `[vocabulary]` occurrences in the text that frequencies are taken from.
        begins_word: `[vocabulary]` bool.
        draws: shuffled copies of the property.
        blocks: at most so many blocks of types, and of sequences.
        skip_positions: tokens at positions below it take part in nothing but the columns `skipped`.
        seed: of the shuffles.
        device: where batches lie.
    """

    tokens: Tokens
    values: np.ndarray
    reference_counts: np.ndarray
    begins_word: np.ndarray
    draws: int
    blocks: int
    skip_positions: int
    seed: int
    device: torch.device
    columns: dict[str, slice] = field(init=False)

    def __post_init__(self) -> None:
        counted = self.tokens.valid.copy()
        counted[:, : self.skip_positions] = False
        self.counts = np.bincount(self.tokens.input_ids[counted], minlength=len(self.values))  # [vocabulary]
        self.counts[self.values == UNDEFINED] = 0
        present = self.counts > 0
        self.categories = np.unique(self.values[present])  # the values that occur, ascending
        self.centre = float((self.counts * self.values).sum() / max(1, self.counts.sum()))
        frequency = log_frequency(self.reference_counts)
        frequency = frequency - (self.counts * frequency).sum() / max(1, self.counts.sum())
        of_category = (self.values[:, None] == self.categories) & present[:, None]
        has_value = self.values != UNDEFINED
        centred = np.where(has_value, self.values - self.centre, 0.0)
        shuffled = shuffled_within_bands(centred, self.counts, self.draws, self.seed).T
        type_block = np.eye(self.blocks)[balanced_blocks(self.counts, self.blocks)] * present[:, None]
        by_type = {
            "category": of_category,
            "log_frequency": frequency[:, None],
            "begins_word": self.begins_word[:, None],
            "null": shuffled,
            "type_block_value": type_block * centred[:, None],
            "type_block": type_block,
        }
        rows = len(self.tokens.valid)
        self.sequence_blocks = min(self.blocks, rows)
        self._block_of_sequence = torch.arange(rows, device=self.device) * self.sequence_blocks // rows
        self._half = rows / 2
        # Indicators whose squares of x are wanted come next to each other: type and sequence blocks, first position,
        # first half, skipped positions
        widths = {name: part.shape[1] for name, part in by_type.items()}
        widths |= {"sequence_block": self.sequence_blocks, "first": 1, "early": 1, "skipped": 1, "skipped_value": 1}
        widths |= {"sequence_block_value": self.sequence_blocks, "first_value": 1, "early_value": 1}
        widths |= {"null_first_half": self.draws, "position": _position_bins(self.tokens)}
        edges = np.cumsum([0, *widths.values()])
        self.columns = {name: slice(int(a), int(b)) for name, a, b in zip(widths, edges, edges[1:], strict=False)}
        self.squared = slice(self.columns["type_block"].start, self.columns["skipped"].stop)
        self.width = int(edges[-1])
        table = np.concatenate(list(by_type.values()), axis=1) * present[:, None]
        self._table = torch.from_numpy(table.astype(np.float32)).to(self.device)
        self._has_value = torch.from_numpy(has_value).to(self.device)
        self._centred = torch.from_numpy(centred.astype(np.float32)).to(self.device)

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, sequences: torch.Tensor) -> torch.Tensor:
        """The design matrix `[tokens, width]` float32 of a batch, from each token's id, position and sequence."""
        has_value, skipped = self._has_value[ids], positions < self.skip_positions
        counted, left_out = ((has_value & some).float()[:, None] for some in (~skipped, skipped))
        value = self._centred[ids][:, None]
        blocks = torch.nn.functional.one_hot(self._block_of_sequence[sequences], self.sequence_blocks).float()
        bins = torch.nn.functional.one_hot(_position_bin(positions), _width(self.columns["position"])).float()
        first = (positions == 0).float()[:, None]
        early = (sequences < self._half).float()[:, None]
        by_type = self._table[ids]
        null = by_type[:, self.columns["null"]]
        indicators = torch.cat([blocks, first, early], dim=1) * counted
        outside = [left_out, left_out * value]
        within = [indicators * value, null * early * counted, bins * counted]
        return torch.cat([by_type * counted, indicators, *outside, *within], dim=1)


def _position_bin(positions: torch.Tensor) -> torch.Tensor:
    """0 is a bin of its own, then 1, 2–3, 4–7, …: position 0 is an outlier, and no point on a line."""
    return torch.where(positions > 0, positions.clamp(min=1).float().log2().floor().long() + 1, 0)


def _position_bins(tokens: Tokens) -> int:
    return int(_position_bin(torch.tensor([tokens.valid.shape[1] - 1])).item()) + 1


def _width(columns: slice) -> int:
    return columns.stop - columns.start
