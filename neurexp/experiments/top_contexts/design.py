"""The design of the properties: what a sample of the tokens is related to, as columns of a matrix.

One `Gram` reducer sums it all in the experiment's pass. The sample has two halves, in which properties are fitted
apart. Knows no activations.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from neurexp.engine.reducers.gram import Cells
from neurexp.text import properties
from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import begins_word, log_frequency, shuffled_within_bands, token_lengths

OF_TYPES: tuple[str, ...] = ("length", "log_frequency", "word_beginning", "capital", "digit", "punctuation")
OF_PLACES: tuple[str, ...] = ("position", "first")
SIMPLE: tuple[str, ...] = (*OF_TYPES, *OF_PLACES)  # properties that have one column each
BY_TYPE: tuple[str, ...] = ("token", "previous_token")  # which type a token is, or the one before it
PROPERTIES: tuple[str, ...] = (*SIMPLE, *BY_TYPE)
PROJECTIONS = 128  # on random signs, of which type a token is
RUN = 8  # consecutive sequences of the sample
FIRST, SECOND = 0, 1  # the halves


def values_of_types(tokenizer: PreTrainedTokenizerBase, reference_counts: np.ndarray) -> np.ndarray:
    """The properties `OF_TYPES` of every type, `[vocabulary, properties]` float64.

    Args:
        tokenizer: of the text.
        reference_counts: `[vocabulary]` occurrences in the text that frequencies are taken from.
    """
    found = {
        "length": token_lengths(tokenizer),
        "log_frequency": log_frequency(reference_counts),
        "word_beginning": begins_word(tokenizer),
        "capital": properties.capital(tokenizer),
        "digit": properties.digit(tokenizer),
        "punctuation": properties.punctuation(tokenizer),
    }
    return np.column_stack([found[name] for name in OF_TYPES]).astype(np.float64)


def sampled_sequences(sequences: int, length: int, tokens: int) -> np.ndarray:
    """Which sequences are in the sample: all of them, or runs of `RUN` or so at even distances, `[sequences]` bool.

    Both halves of the text have one sequence of the sample at least. There are at most `tokens` tokens in it, as long
    as two sequences have no more.
    """
    wanted, chosen = max(1, tokens // length // 2), np.zeros(sequences, dtype=bool)
    middle = _middle(sequences)
    for start, stop in ((0, middle), (middle, sequences)):
        rows = min(wanted, stop - start)
        runs = max(1, rows // RUN)
        for run in range(runs):
            begin = start + (stop - start) * run // runs
            chosen[begin : begin + rows // runs] = True
    return chosen


def _middle(sequences: int) -> int:
    """The first sequence of the second half."""
    return (sequences + 1) // 2


@dataclass
class Design:
    """Columns of the design matrix, and how to fill them for a batch of tokens.

    The columns, in this order (`columns`):

    - `half`: indicators of the two halves of the sample;
    - `simple_0`, `simple_1`: the properties `SIMPLE` of the tokens of a half, about their means;
    - `token_0`, `token_1`: sign · √w / n for tokens of a type in a half, where w is the type's share of the sample and
      n its number of tokens in the half, with a random sign for each of the `PROJECTIONS`; 0 for types that are not in
      both halves;
    - `previous_token_0`, `previous_token_1`: the same for the type of the token before; 0 where there is none;
    - `null_LENGTH…`: for each property of `SIMPLE` its draws over the whole sample.

    Args:
        tokens: the text.
        counted: `[sequences, length]` bool, the tokens that take part at all.
        values: `[vocabulary, properties]` of `values_of_types`.
        size: at most so many tokens are in the sample.
        draws: of each property's null. Properties of a type are dealt out anew among types of the same octave of
            count, log frequency among all types. Positions are shifted circularly within each sequence.
        seed: of signs and draws.
    """

    tokens: Tokens
    counted: np.ndarray
    values: np.ndarray
    size: int
    draws: int
    seed: int
    columns: dict[str, slice] = field(init=False)

    def __post_init__(self) -> None:
        sequences, length = self.tokens.valid.shape
        self.rows = sampled_sequences(sequences, length, self.size)
        self._middle = _middle(sequences)
        used = self.counted & self.rows[:, None]
        self.sample = int(used.sum())
        half = np.broadcast_to((np.arange(sequences) >= self._middle)[:, None], used.shape)
        ids, vocabulary = self.tokens.input_ids, len(self.values)
        before = np.full(ids.shape, -1)
        before[:, 1:] = np.where(self.tokens.valid[:, :-1], ids[:, :-1], -1)
        self.counts = self._counts(ids[used], half[used])  # [2, vocabulary]
        follows = used & (before >= 0)
        self._previous_counts = self._counts(before[follows], half[follows])
        self._before = before
        self.types = {
            "token": _Signs(self.counts, self.sample, self.seed),
            "previous_token": _Signs(self._previous_counts, self.sample, self.seed + 1),
        }
        present = self.counts.sum(0)
        types = np.flatnonzero(present)
        self._row = np.full(vocabulary, len(types))
        self._row[types] = np.arange(len(types))
        share = present / max(1, self.sample)
        centred = self.values - share @ self.values
        self._simple = _with_zeros(centred[types])
        null = []
        for index, name in enumerate(OF_TYPES):
            counts = (present > 0).astype(np.int64) if name == "log_frequency" else present
            drawn = shuffled_within_bands(centred[:, index], counts, self.draws, self.seed + index)
            null.append(drawn[:, types].T)
        self._null = _with_zeros(np.concatenate(null, axis=1))
        _, places = np.nonzero(used)
        log_places = _of_places(np.arange(length))
        self._places = log_places - log_places[places].mean(0) if len(places) else log_places
        self._lengths = self.tokens.valid.sum(1)
        most = np.maximum(self._lengths, 2)
        random = np.random.default_rng([self.seed, 7])
        self._offsets = random.integers(1, most[:, None], (sequences, self.draws), dtype=np.int32)

        widths = {"half": 2, "simple_0": len(SIMPLE), "simple_1": len(SIMPLE)}
        widths |= {f"{name}_{one}": PROJECTIONS for name in BY_TYPE for one in (FIRST, SECOND)}
        widths |= {f"null_{name}": self.draws for name in SIMPLE}
        edges = np.cumsum([0, *widths.values()])
        self.columns = {name: slice(int(a), int(b)) for name, a, b in zip(widths, edges, edges[1:], strict=False)}
        self.squared = self.columns["half"]
        self.width = int(edges[-1])

    def _counts(self, ids: np.ndarray, half: np.ndarray) -> np.ndarray:
        vocabulary = len(self.values)
        return np.bincount(ids + vocabulary * half, minlength=2 * vocabulary).reshape(2, vocabulary)

    def __call__(self, positions: torch.Tensor, sequences: torch.Tensor) -> list[Cells]:
        """The design matrix of a batch `[tokens, width]`, from each token's position and sequence, on the CPU.

        It is empty for a batch without a token of the sample. Sequences are padded on the right: a position is a
        column. Tokens of one type in one half share all but their place, and so do tokens after one type.
        """
        sequence, position = sequences.numpy(), positions.numpy()
        used = self.counted[sequence, position] & self.rows[sequence]
        if not used.any():
            return []
        half = (sequence >= self._middle).astype(np.int64)
        own, before = self.tokens.input_ids[sequence, position], self._before[sequence, position]
        return [
            self._by_own_type(own, half, used),
            self._by_previous_type(before, half, used & (before >= 0)),
            self._by_place(sequence, position, half, used),
        ]

    def _by_own_type(self, ids: np.ndarray, half: np.ndarray, used: np.ndarray) -> Cells:
        cell, ids, half, used = _cells(ids, half, used)
        row, parts = np.where(used, self._row[ids], len(self._simple) - 1), {}
        for one in np.unique(half[used]):
            inside = (used & (half == one))[:, None]
            parts[self.columns["half"].start + one] = inside
            parts[self.columns[f"simple_{one}"].start] = self._simple[row] * inside
            parts[self.columns[f"token_{one}"].start] = self.types["token"].columns(ids, one) * inside
        parts[self.columns[f"null_{OF_TYPES[0]}"].start] = self._null[row]
        return _joined(cell, parts)

    def _by_previous_type(self, ids: np.ndarray, half: np.ndarray, used: np.ndarray) -> Cells:
        cell, ids, half, used = _cells(np.where(used, ids, 0), half, used)
        parts = {}
        for one in np.unique(half):
            inside = (used & (half == one))[:, None]
            signs = self.types["previous_token"].columns(ids, one)
            parts[self.columns[f"previous_token_{one}"].start] = signs * inside
        return _joined(cell, parts)

    def _by_place(self, sequence: np.ndarray, position: np.ndarray, half: np.ndarray, used: np.ndarray) -> Cells:
        parts = {}
        for one in np.unique(half[used]):
            inside = (used & (half == one))[:, None]
            parts[self.columns[f"simple_{one}"].start + len(OF_TYPES)] = self._places[position] * inside
        shifted = (position[:, None] + self._offsets[sequence]) % np.maximum(self._lengths[sequence], 1)[:, None]
        for index, name in enumerate(OF_PLACES):
            parts[self.columns[f"null_{name}"].start] = self._places[shifted, index] * used[:, None]
        return _joined(np.arange(len(position)), parts)


class _Signs:
    """Random signs of the types that are in both halves, and what makes columns of them."""

    def __init__(self, counts: np.ndarray, sample: int, seed: int):
        """`counts` is `[2, vocabulary]`, and `sample` the number of tokens of the whole sample."""
        shared = np.flatnonzero(counts.all(0))
        self.count = len(shared)
        self._row = np.full(counts.shape[1], len(shared))
        self._row[shared] = np.arange(len(shared))
        signs = np.random.default_rng([seed, 11]).integers(0, 2, (len(shared), PROJECTIONS), dtype=np.int8) * 2 - 1
        self._signs = np.concatenate([signs, np.zeros((1, PROJECTIONS), np.int8)])
        self.share = counts.sum(0) / max(1, sample)  # [vocabulary]
        self._scale = np.sqrt(self.share) / np.maximum(counts, 1)  # [2, vocabulary]

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The signs of types `[n]`, `[n, PROJECTIONS]` int8; 0 for a type that is not in both halves."""
        return self._signs[self._row[ids]]

    def columns(self, ids: np.ndarray, half: int) -> np.ndarray:
        return self.of(ids) * self._scale[half, ids, None].astype(np.float32)


def _cells(ids: np.ndarray, half: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, ...]:
    """The cell of each token: those of one type and half share one, and all that are not used. Then each cell's type,
    half, and whether it is used."""
    keys = np.where(used, ids.astype(np.int64) * 2 + half, -1)
    _, example, cell = np.unique(keys, return_index=True, return_inverse=True)
    return cell, ids[example], half[example], used[example]


def _joined(cell: np.ndarray, parts: dict[int, np.ndarray]) -> Cells:
    """Cells from first column → `[cells, columns]`."""
    ordered = sorted(parts.items())
    columns = np.concatenate([start + np.arange(part.shape[1]) for start, part in ordered])
    design = np.concatenate([part for _, part in ordered], axis=1, dtype=np.float32)
    return Cells(torch.from_numpy(cell), torch.from_numpy(design), torch.from_numpy(columns))


def _of_places(positions: np.ndarray) -> np.ndarray:
    """The properties `OF_PLACES`, `[positions, properties]`."""
    return np.column_stack([np.log2(1 + positions), positions == 0]).astype(np.float64)


def _with_zeros(table: np.ndarray) -> np.ndarray:
    """Float32, with a row of zeros at the end."""
    return np.concatenate([table, np.zeros((1, table.shape[1]))]).astype(np.float32)
