"""The design of a profile: which covariates of its token each activation is related to, as columns of a matrix.

Beside the covariate in question the design holds what confounds it (frequency, position, whether the token begins a
word; the tokens before it), draws of its null, and indicators of blocks of tokens for the jackknife; one `Gram` reducer
sums it all in one pass. Knows no activations.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from neurexp.engine.reducers.gram import Cells
from neurexp.experiments.profile.context import Context
from neurexp.experiments.profile.covariate import MOST_VALUES, UNDEFINED, Covariate
from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import balanced_blocks, log_frequency, shuffled_within_bands

USUAL, FIRST, SKIPPED = range(3)  # the stage of a token in its sequence
CHUNK = 100_000  # tokens whose confounds are in memory at the same time


@dataclass
class Design:
    """Columns of the design matrix, and how to fill them for a batch of tokens.

    Args:
        tokens: the text.
        covariate: tokens without a value take part in nothing but the columns `group`.
        reference_counts: `[vocabulary]` occurrences in the text that frequencies are taken from.
        begins_word: `[vocabulary]` bool.
        draws: of the covariate's null.
        blocks: at most so many blocks of types, and of sequences.
        skip_positions: tokens at positions below it take part in nothing but the columns `skipped` and `group`.
        seed: of the null's draws. For partial r the draws are of what the confounds leave of the covariate
            (`null_in_context`; Freedman and Lane 1983, Journal of Business & Economic Statistics 1), because draws of
            the covariate itself would not depend on the confounds, as the covariate does.
        group_of_value: `[largest value + 2]` the group of each value; the last is that of tokens without a value.
        groups: how many groups there are, the last of them that of the tokens at skipped positions, if any are skipped.
    """

    tokens: Tokens
    covariate: Covariate
    reference_counts: np.ndarray
    begins_word: np.ndarray
    draws: int
    blocks: int
    skip_positions: int
    seed: int
    group_of_value: np.ndarray
    groups: int
    columns: dict[str, slice] = field(init=False)

    def __post_init__(self) -> None:
        values = self.covariate.of_tokens(self.tokens)
        counted = values != UNDEFINED
        counted[:, : self.skip_positions] = False
        ids, seen = self.tokens.input_ids[counted], values[counted]
        self.counts = np.bincount(ids, minlength=len(self.reference_counts))  # [vocabulary]
        present = self.counts > 0
        self.categories = np.unique(seen)  # the values that occur, ascending
        if len(self.categories) > MOST_VALUES:
            raise ValueError(
                f"{self.covariate.name} has {len(self.categories)} different values; bin them into {MOST_VALUES} or "
                "fewer"
            )
        self.centre = float(seen.mean()) if len(seen) else 0.0
        frequency = log_frequency(self.reference_counts)
        frequency = frequency - (self.counts * frequency).sum() / max(1, self.counts.sum())
        # Tables of the types that occur; all others share the row of zeros that comes last
        types = np.flatnonzero(present)
        self._row = np.full(len(present), len(types))
        self._row[types] = np.arange(len(types))
        type_block = np.eye(self.blocks)[balanced_blocks(self.counts, self.blocks)[types]]
        by_type = {"log_frequency": frequency[types, None], "begins_word": self.begins_word[types, None]}
        self._tables = {name: _with_zeros(part) for name, part in {**by_type, "type_block": type_block}.items()}
        begins = self.begins_word - (self.counts * self.begins_word).sum() / max(1, self.counts.sum())
        of_type = np.where(present[:, None], np.column_stack([frequency, begins]), 0.0).astype(np.float32)
        self._context = Context(self.tokens, values, counted, self.centre, of_type)
        if self.covariate.by_type:
            centred = np.where(self.covariate.values != UNDEFINED, self.covariate.values - self.centre, 0.0)
            shuffled = shuffled_within_bands(centred, self.counts, self.draws, self.seed)
            self._null = _with_zeros(shuffled[:, types].T)
            left = np.zeros(len(present))
            of_types = np.column_stack([np.ones(len(types)), frequency[types], self.begins_word[types]])
            left[types] = _left_by(of_types, centred[types], self.counts[types])
            shuffled = shuffled_within_bands(left, self.counts, self.draws, self.seed)
            self._null_in_context = _with_zeros(shuffled[:, types].T)
        else:
            self._place = (np.cumsum(counted) - 1).reshape(counted.shape)  # of each counted token along the text
            self._offsets = _offsets(len(seen), self.tokens.valid.shape[1], self.draws, self.seed)
            self._series = {"null": (seen - self.centre).astype(np.float32)}
            self._series["null_in_context"] = self._left_by_controls(counted, seen - self.centre).astype(np.float32)

        rows = len(self.tokens.valid)
        self.sequence_blocks = min(self.blocks, rows)
        self._half = rows / 2
        # Indicators whose squares of x are wanted come next to each other, from `type_block` to `group`
        widths = {"category": len(self.categories), "log_frequency": 1, "begins_word": 1}
        widths |= {"type_block_value": self.blocks, "type_block": self.blocks}
        widths |= {"sequence_block": self.sequence_blocks, "first": 1, "early": 1, "skipped": 1, "group": self.groups}
        widths |= {"skipped_value": 1, "sequence_block_value": self.sequence_blocks, "first_value": 1, "early_value": 1}
        widths |= {"null_early": self.draws, "null_late": self.draws, "position": _position_bins(self.tokens)}
        widths |= {"context": self._context.width, "null_in_context": self.draws}
        edges = np.cumsum([0, *widths.values()])
        self.columns = {name: slice(int(a), int(b)) for name, a, b in zip(widths, edges, edges[1:], strict=False)}
        self.squared = slice(self.columns["type_block"].start, self.columns["group"].stop)
        self.width = int(edges[-1])

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, sequences: torch.Tensor) -> list[Cells]:
        """The design matrix of a batch `[tokens, width]`, from each token's id, position and sequence, on the CPU.

        Tokens of one type and value in one block of sequences have all their covariates in common, but for their
        position, their context, and a null that shifts the values along the text.
        """
        id_of, position, sequence = ids.numpy(), positions.numpy(), sequences.numpy()
        value = self.values_of(id_of, position, sequence)
        block, early = sequence * self.sequence_blocks // len(self.tokens.valid), sequence < self._half
        stage = np.where(position < self.skip_positions, SKIPPED, np.where(position == 0, FIRST, USUAL))
        keys = ((block * 2 + early) * 3 + stage) * len(self.reference_counts) + id_of
        if not self.covariate.by_type:
            keys = keys * len(self.group_of_value) + value + 1
        _, example, cell = np.unique(keys, return_index=True, return_inverse=True)
        by_cell = self._of_cells(id_of[example], value[example], block[example], early[example], stage[example])
        counted = (stage != SKIPPED) & (value != UNDEFINED)
        return [Cells(torch.from_numpy(cell), *by_cell), self._by_token(position, sequence, counted, early)]

    def values_of(self, ids: np.ndarray, positions: np.ndarray, sequences: np.ndarray) -> np.ndarray:
        """The covariate of tokens `[tokens]`. Packed sequences are padded on the right: a position is a column."""
        return self.covariate.values[ids] if self.covariate.by_type else self.covariate.values[sequences, positions]

    def _by_token(self, position: np.ndarray, sequence: np.ndarray, counted: np.ndarray, early: np.ndarray) -> Cells:
        """The covariates that tokens of one type do not share: position, context, and a null along the text."""
        parts = {"position": np.eye(_position_bins(self.tokens), dtype=np.float32)[_position_bin(position)]}
        parts["context"] = self._context(sequence, position)
        if not self.covariate.by_type:
            place = np.where(counted, self._place[sequence, position], 0)[:, None]
            draws, in_context = (
                series[(place + self._offsets) % len(series)] if len(series) else np.zeros((len(place), self.draws))
                for series in self._series.values()
            )
            parts |= {"null_early": draws * early[:, None], "null_late": draws * ~early[:, None]}
            parts["null_in_context"] = in_context
        parts = {name: values for name, values in parts.items() if not name.startswith("null") or values.any()}
        names = sorted(parts, key=lambda name: self.columns[name].start)
        design = np.concatenate([parts[name] for name in names], axis=1) * counted[:, None]
        columns = np.concatenate([np.arange(self.columns[name].start, self.columns[name].stop) for name in names])
        return Cells(torch.arange(len(position)), torch.from_numpy(design), torch.from_numpy(columns))

    def _left_by_controls(self, counted: np.ndarray, series: np.ndarray) -> np.ndarray:
        """What regression on the confounds leaves of a series `[counted tokens]`."""
        places = np.nonzero(counted)
        ids = self.tokens.input_ids[places]
        chunks = [slice(start, start + CHUNK) for start in range(0, len(series), CHUNK)]

        def controls(chunk: slice) -> np.ndarray:
            sequence, position, row = places[0][chunk], places[1][chunk], self._row[ids[chunk]]
            bins = np.eye(_position_bins(self.tokens))[_position_bin(position)]
            own = [self._tables[name][row] for name in ("log_frequency", "begins_word")]
            return np.concatenate([bins, *own, self._context(sequence, position)], axis=1, dtype=np.float64)

        within = sum(part.T @ part for part in map(controls, chunks))
        with_series = sum(controls(chunk).T @ series[chunk] for chunk in chunks)
        weights = np.linalg.lstsq(within, with_series, rcond=1e-10)[0] if len(series) else []
        return np.concatenate([series[:0], *(series[chunk] - controls(chunk) @ weights for chunk in chunks)])

    def _of_cells(self, ids, value, block, early, stage) -> tuple[torch.Tensor, torch.Tensor]:
        """The covariates of cells `[cells, columns given]`, and which columns are given: the others are all zero."""
        has_value, skipped = value != UNDEFINED, stage == SKIPPED
        centred = np.where(has_value, value - self.centre, 0.0)
        counted, row = has_value & ~skipped, self._row[ids]
        type_block = self._tables["type_block"][row]
        parts: dict[int, np.ndarray] = {}  # first column → [cells, columns]

        def put(name: str, values: np.ndarray, offset: int = 0) -> None:
            values = values if values.ndim == 2 else values[:, None]
            parts[self.columns[name].start + offset] = values.astype(np.float32)

        put("category", (value[:, None] == self.categories) * counted[:, None])
        put("log_frequency", self._tables["log_frequency"][row] * counted[:, None])
        put("begins_word", self._tables["begins_word"][row] * counted[:, None])
        put("type_block_value", type_block * (centred * counted)[:, None])
        put("type_block", type_block * counted[:, None])
        for one in np.unique(block):
            inside = counted & (block == one)
            put("sequence_block", inside, one)
            put("sequence_block_value", inside * centred, one)
        for name, inside in (
            ("first", counted & (stage == FIRST)),
            ("early", counted & early),
            ("skipped", has_value & skipped),
        ):
            if inside.any():
                put(name, inside)
                put(f"{name}_value", inside * centred)
        put("group", np.eye(self.groups)[np.where(skipped, self.groups - 1, self.group_of_value[value])])
        for name, inside in (("null_early", counted & early), ("null_late", counted & ~early)):
            if self.covariate.by_type and inside.any():
                put(name, self._null[row] * inside[:, None])
        if self.covariate.by_type:
            put("null_in_context", self._null_in_context[row] * counted[:, None])
        columns = [start + np.arange(values.shape[1]) for start, values in sorted(parts.items())]
        values = [values for _, values in sorted(parts.items())]
        return torch.from_numpy(np.concatenate(values, axis=1)), torch.from_numpy(np.concatenate(columns))


def _left_by(columns: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What weighted regression on the columns leaves of values."""
    root = np.sqrt(weights)
    return values - columns @ np.linalg.lstsq(columns * root[:, None], values * root, rcond=1e-10)[0]


def _offsets(count: int, length: int, draws: int, seed: int) -> np.ndarray:
    """`[draws]` random shifts of a series of `count` values, none of them near 0 or near `count`.

    A circular shift keeps the series' autocorrelation and breaks its relation to the activations. Shifts of less than a
    sequence, or than a quarter of the text where that is less, would keep part of the relation.
    """
    least = max(1, min(length, count // 4))
    return np.random.default_rng(seed).integers(least, max(least, count - least) + 1, draws)


def _with_zeros(table: np.ndarray) -> np.ndarray:
    return np.concatenate([table, np.zeros((1, table.shape[1]))]).astype(np.float32)


def _position_bin(positions: np.ndarray) -> np.ndarray:
    """0 is a bin of its own, then 1, 2–3, 4–7, …: position 0 is an outlier, and no point on a line."""
    return np.where(positions > 0, np.floor(np.log2(np.maximum(positions, 1))).astype(np.int64) + 1, 0)


def _position_bins(tokens: Tokens) -> int:
    return int(_position_bin(np.array([tokens.valid.shape[1] - 1]))[0]) + 1
