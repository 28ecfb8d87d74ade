"""The design of a profile: which covariates of its token each activation is related to, as columns of a matrix.

A profile asks how activations depend on a whole-number property of the token *type* (its length, say). Beside that
property the design holds what confounds it (frequency, position, whether the token begins a word), shuffled copies of
it for the null, and indicators of blocks of tokens for the jackknife; one `Gram` reducer sums it all in one pass.
Knows no activations.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from neurexp.engine.reducers.gram import Cells
from neurexp.text.tokens import UNDEFINED, Tokens
from neurexp.text.vocabulary import balanced_blocks, log_frequency, shuffled_within_bands

USUAL, FIRST, SKIPPED = range(3)  # the stage of a token in its sequence


@dataclass
class Design:
    """Columns of the design matrix, and how to fill them for a batch of tokens.

    Args:
        tokens: the text.
        values: `[vocabulary]` the property of each type, `UNDEFINED` (−1) for types without one; such tokens take part
            in nothing but the columns `group`.
        reference_counts: `[vocabulary]` occurrences in the text that frequencies are taken from.
        begins_word: `[vocabulary]` bool.
        draws: shuffled copies of the property.
        blocks: at most so many blocks of types, and of sequences.
        skip_positions: tokens at positions below it take part in nothing but the columns `skipped` and `group`.
        seed: of the shuffles.
        group: `[vocabulary]` the group of each type.
        groups: how many groups there are, the last of them that of the tokens at skipped positions, if any are skipped.
    """

    tokens: Tokens
    values: np.ndarray
    reference_counts: np.ndarray
    begins_word: np.ndarray
    draws: int
    blocks: int
    skip_positions: int
    seed: int
    group: np.ndarray
    groups: int
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
        self._has_value = self.values != UNDEFINED
        self._centred = np.where(self._has_value, self.values - self.centre, 0.0)
        # Tables of the types that occur; all others share the row of zeros that comes last
        types = np.flatnonzero(present)
        self._row = np.full(len(present), len(types))
        self._row[types] = np.arange(len(types))
        type_block = np.eye(self.blocks)[balanced_blocks(self.counts, self.blocks)[types]]
        by_type = {
            "category": self.values[types, None] == self.categories,
            "log_frequency": frequency[types, None],
            "begins_word": self.begins_word[types, None],
            "type_block_value": type_block * self._centred[types, None],
            "type_block": type_block,
        }
        self._table = _with_zeros(np.concatenate(list(by_type.values()), axis=1))
        shuffled = shuffled_within_bands(self._centred, self.counts, self.draws, self.seed)
        self._null = _with_zeros(shuffled[:, types].T)

        rows = len(self.tokens.valid)
        self.sequence_blocks = min(self.blocks, rows)
        self._half = rows / 2
        # Indicators whose squares of x are wanted come next to each other, from `type_block` to `group`
        widths = {name: part.shape[1] for name, part in by_type.items()}
        widths |= {"sequence_block": self.sequence_blocks, "first": 1, "early": 1, "skipped": 1, "group": self.groups}
        widths |= {"skipped_value": 1, "sequence_block_value": self.sequence_blocks, "first_value": 1, "early_value": 1}
        widths |= {"null_early": self.draws, "null_late": self.draws, "position": _position_bins(self.tokens)}
        edges = np.cumsum([0, *widths.values()])
        self.columns = {name: slice(int(a), int(b)) for name, a, b in zip(widths, edges, edges[1:], strict=False)}
        self.squared = slice(self.columns["type_block"].start, self.columns["group"].stop)
        self.width = int(edges[-1])

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, sequences: torch.Tensor) -> list[Cells]:
        """The design matrix of a batch `[tokens, width]`, from each token's id, position and sequence, on the CPU.

        Tokens of one type in one block of sequences have all their covariates in common, but for their position.
        """
        id_of, position, sequence = ids.numpy(), positions.numpy(), sequences.numpy()
        block, early = sequence * self.sequence_blocks // len(self.tokens.valid), sequence < self._half
        stage = np.where(position < self.skip_positions, SKIPPED, np.where(position == 0, FIRST, USUAL))
        keys = ((block * 2 + early) * 3 + stage) * len(self.values) + id_of
        _, example, cell = np.unique(keys, return_index=True, return_inverse=True)
        by_cell = self._of_cells(id_of[example], block[example], early[example], stage[example])

        counted = (stage != SKIPPED) & self._has_value[id_of]
        bins = np.where(counted, _position_bin(position), 0)
        occurring, bin_of_token = np.unique(bins * 2 + counted, return_inverse=True)
        position_columns = np.arange(self.columns["position"].start, self.columns["position"].stop)
        of_bins = np.zeros((len(occurring), len(position_columns)), np.float32)
        of_bins[np.arange(len(occurring)), occurring // 2] = occurring % 2
        by_position = Cells(
            torch.from_numpy(bin_of_token), torch.from_numpy(of_bins), torch.from_numpy(position_columns)
        )
        return [Cells(torch.from_numpy(cell), *by_cell), by_position]

    def _of_cells(self, ids, block, early, stage) -> tuple[torch.Tensor, torch.Tensor]:
        """The covariates of cells `[cells, columns given]`, and which columns are given: the others are all zero."""
        value = self._centred[ids]
        has_value, skipped = self._has_value[ids], stage == SKIPPED
        counted = has_value & ~skipped
        parts: dict[int, np.ndarray] = {}  # first column → [cells, columns]

        def put(name: str, values: np.ndarray, offset: int = 0) -> None:
            values = values if values.ndim == 2 else values[:, None]
            parts[self.columns[name].start + offset] = values.astype(np.float32)

        put("category", self._table[self._row[ids]] * counted[:, None])  # and those that follow it, to `type_block`
        for one in np.unique(block):
            inside = counted & (block == one)
            put("sequence_block", inside, one)
            put("sequence_block_value", inside * value, one)
        for name, inside in (
            ("first", counted & (stage == FIRST)),
            ("early", counted & early),
            ("skipped", has_value & skipped),
        ):
            if inside.any():
                put(name, inside)
                put(f"{name}_value", inside * value)
        put("group", np.eye(self.groups)[np.where(skipped, self.groups - 1, self.group[ids])])
        for name, inside in (("null_early", counted & early), ("null_late", counted & ~early)):
            if inside.any():
                put(name, self._null[self._row[ids]] * inside[:, None])
        columns = [start + np.arange(values.shape[1]) for start, values in sorted(parts.items())]
        values = [values for _, values in sorted(parts.items())]
        return torch.from_numpy(np.concatenate(values, axis=1)), torch.from_numpy(np.concatenate(columns))


def _with_zeros(table: np.ndarray) -> np.ndarray:
    return np.concatenate([table, np.zeros((1, table.shape[1]))]).astype(np.float32)


def _position_bin(positions: np.ndarray) -> np.ndarray:
    """0 is a bin of its own, then 1, 2–3, 4–7, …: position 0 is an outlier, and no point on a line."""
    return np.where(positions > 0, np.floor(np.log2(np.maximum(positions, 1))).astype(np.int64) + 1, 0)


def _position_bins(tokens: Tokens) -> int:
    return int(_position_bin(np.array([tokens.valid.shape[1] - 1]))[0]) + 1
