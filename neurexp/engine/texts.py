"""Texts and long sequences as rows that fit a model, and the activations of these rows.

Knows no site and no experiment.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neurexp.errors import UserError
from neurexp.models.load import LanguageModel, positions_of
from neurexp.text.tokenizer import encode, first_tokens


@dataclass(frozen=True)
class Rows:
    """Rows of tokens for a model.

    Args:
        input_ids: `[rows, length]` int64.
        valid: `[rows, length]` bool, False where a row is padded; None if all are tokens.
        source: `[rows]` int64, the text (or the sequence) that each row is of.
        start: `[rows]` int64, the index in it of the row's first token, the tokens before every row (BOS) left out.
        fresh: `[rows, length]` bool: tokens that no earlier row has, and the first row's BOS.
    """

    input_ids: torch.Tensor
    valid: torch.Tensor | None
    source: torch.Tensor
    start: torch.Tensor
    fresh: torch.Tensor


class Activations(dict[str, torch.Tensor]):
    """What `capture` returns: `{"MLP_0": [rows, length, neurons], …}`, and which token each place is.

    A text within the model's positions is one row; a longer one has several. Padding is NaN.
    """

    def __init__(self, kept: dict[str, torch.Tensor], rows: Rows, tokenizer: PreTrainedTokenizerBase | None):
        super().__init__(kept)
        self.input_ids, self.source, self.start, self.fresh = rows.input_ids, rows.source, rows.start, rows.fresh
        everywhere = torch.ones_like(rows.input_ids, dtype=torch.bool)
        self.valid = everywhere if rows.valid is None else rows.valid
        self._tokenizer = tokenizer

    def __missing__(self, name: str) -> torch.Tensor:
        raise UserError(f"{name}: was not captured (there are {', '.join(self)})")

    def __repr__(self) -> str:
        shapes = {name: list(values.shape) for name, values in self.items()}
        return f"<activations: {shapes}>"

    @property
    def tokens(self) -> list[list[str]]:
        """The tokens of each row as text, pads left out: `tokens[row][place]` fits `activations[row, place]` where pads
        are on the right.

        Raises:
            UserError: the model came without its tokenizer.
        """
        return [self._texts(row[known]) for row, known in zip(self.input_ids, self.valid, strict=True)]

    def of(self, index: int) -> dict[str, torch.Tensor]:
        """The activations of one text, `{"MLP_0": [tokens, neurons], …}`: its rows joined, each token once, no pads.

        Where rows overlap (`stride`), a token is taken from the earliest row; later rows have it as context only.
        """
        return {name: values[self._places(index)] for name, values in self.items()}

    def tokens_of(self, index: int) -> list[str]:
        """The tokens of one text, in the order of `of`."""
        return self._texts(self.input_ids[self._places(index)])

    def _places(self, index: int) -> torch.Tensor:
        if not (self.source == index).any():
            raise IndexError(f"there is no text {index}; there are {int(self.source.max()) + 1}")
        return self.fresh & self.valid & (self.source == index)[:, None]

    def _texts(self, ids: torch.Tensor) -> list[str]:
        if self._tokenizer is None:
            raise UserError("tokens: a model of transformers has no tokenizer here; give one of neurexp.load_model")
        return [str(self._tokenizer.decode([one])) for one in ids.tolist()]


def as_texts(given: Any) -> list[str] | None:
    """The texts of a str, or of a list, an array or a series of them; None for anything else."""
    if isinstance(given, str):
        return [given]
    listed = given.tolist() if hasattr(given, "tolist") and not isinstance(given, torch.Tensor) else given
    if isinstance(listed, list | tuple) and listed and all(isinstance(one, str) for one in listed):
        return list(listed)
    return None


def rows_of_texts(model: Any, texts: Sequence[str], stride: int | None) -> Rows:
    """Each text as the model's own tokenizer reads it, as one row, or as several if it is longer than the positions.

    Every row begins with BOS where the model's sequences do. A special token that a text spells out is plain text.

    Raises:
        UserError: the model came without its tokenizer, or a text has no token.
        ValueError: `stride` does not fit.
    """
    if not isinstance(model, LanguageModel):
        raise UserError("capture: texts need a model of neurexp.load_model, which has its tokenizer; or give token ids")
    prefix = first_tokens(model.tokenizer) if model.begins_with_bos else []
    ids = encode(model.tokenizer, list(texts))["input_ids"]
    for index, one in enumerate(ids):
        if not one and not prefix:
            raise UserError(f"capture: text {index} ({texts[index]!r:.40}) has no token; leave it out")
    return _rows([torch.tensor(one, dtype=torch.long) for one in ids], prefix, model.network, stride, "text")


def rows_of_ids(network: PreTrainedModel, ids: torch.Tensor, valid: torch.Tensor | None, stride: int | None) -> Rows:
    """Sequences as rows: as they are, or cut where they are longer than the model's positions.

    Raises:
        ValueError: `stride` does not fit.
    """
    if stride is None and ids.shape[1] <= (positions_of(network) or ids.shape[1]):
        here = torch.arange(len(ids))
        return Rows(ids, valid, here, torch.zeros_like(here), torch.ones_like(ids, dtype=torch.bool))
    rows = _rows(list(ids), [], network, stride, "sequence")
    if valid is None:
        return rows
    masks = _rows([one.long() for one in valid], [], network, stride, None)
    known = masks.input_ids.bool() & (masks.valid if masks.valid is not None else True)
    kept = known.any(1) | (rows.start == 0)  # a row of pads says nothing
    return Rows(rows.input_ids[kept], known[kept], rows.source[kept], rows.start[kept], rows.fresh[kept])


def _rows(
    sequences: Sequence[torch.Tensor], prefix: list[int], network: PreTrainedModel, stride: int | None, what: str | None
) -> Rows:
    """`what` is what a warning calls a sequence; None: no warning."""
    longest = max(map(len, sequences))
    room = (positions_of(network) or longest + len(prefix)) - len(prefix)
    step = room if stride is None else stride
    if not isinstance(step, int) or isinstance(step, bool) or not 1 <= step <= room:
        raise ValueError(f"stride is {stride!r}; give a whole number of tokens from 1 to {room}")
    begin = torch.tensor(prefix, dtype=torch.long)
    ids, sources, starts, fresh = [], [], [], []
    for index, sequence in enumerate(sequences):
        start = end = 0
        while start == 0 or end < len(sequence):
            piece = sequence[start : start + room]
            ids.append(torch.cat([begin, piece]))
            new = torch.arange(start, start + len(piece)) >= end
            fresh.append(torch.cat([torch.full((len(begin),), start == 0), new]))
            sources.append(index)
            starts.append(start)
            start, end = start + step, start + len(piece)
            if not len(sequence):
                break
    cut = sum(len(one) > room for one in sequences)
    if cut and stride is None and what is not None:
        warnings.warn(
            f"capture: {cut} of {len(sequences)} {what}s had more tokens than the model has positions "
            f"({room + len(prefix)}), and became several rows ({len(ids)} in all); a token sees only those before it "
            f"in its row (stride={room // 2} lets rows overlap by half)",
            stacklevel=4,
        )
    length = max(map(len, ids))
    padded = torch.zeros(len(ids), length, dtype=torch.long)
    valid, new = (torch.zeros(len(ids), length, dtype=torch.bool) for _ in range(2))
    for row, (one, first) in enumerate(zip(ids, fresh, strict=True)):
        padded[row, : len(one)] = one
        valid[row, : len(one)] = True
        new[row, : len(one)] = first
    return Rows(padded, None if bool(valid.all()) else valid, torch.tensor(sources), torch.tensor(starts), new)
