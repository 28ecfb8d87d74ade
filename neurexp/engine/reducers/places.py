"""Where a batch's tokens are, which of them count, and what is around them: computed once for all sites."""

from functools import cached_property

import torch

from neurexp.engine.reducers.base import Batch
from neurexp.engine.reducers.candidates import Blocks, Part, parts_of
from neurexp.models.transfer import to_device

SCALE = 100  # the level of an activation as large as the place's own
MISSING = -128  # the level of a place without a token


class Places:
    """The valid tokens of a batch. A place is sequence · length + column."""

    def __init__(self, batch: Batch, length: int, before: int, after: int, with_documents: bool):
        """Raises ValueError if the sequences do not have the length that was told."""
        if batch.valid.shape[1] != length:
            raise ValueError(f"the sequences have {batch.valid.shape[1]} tokens, not {length}")
        flat = torch.arange(batch.valid.numel()) if batch.rows is None else batch.rows
        counted = batch.covariates.get("counted")
        counted = torch.ones(len(flat), dtype=torch.bool) if counted is None else counted
        self.first, self.last = batch.first * length, batch.first * length + batch.valid.numel() - 1
        self.blocks = Blocks(counted) if batch.device.type == "cpu" and len(flat) else None
        self.tokens = len(flat)
        kept = None if bool(counted.all()) else to_device(counted.nonzero().squeeze(1), batch.device)
        self.counted = kept  # which of the valid tokens; None: all
        self.place = to_device(self.first + flat, batch.device)  # [tokens], of each valid one
        self.document: torch.Tensor | None = None  # [tokens]
        self.parts: list[Part] | None = None  # by document, if they matter, on a CPU
        self._of_counted: torch.Tensor | None = None  # the document of each token that counts, on the CPU
        if with_documents:
            document = batch.covariates["document"]
            self.document, self._of_counted = to_device(document, batch.device), document[counted]
            if self.blocks is not None:
                self.parts = parts_of(document, counted)
        row = torch.full((batch.valid.numel() + 1,), -1)
        row[flat] = torch.arange(len(flat))
        around = torch.arange(-before, after + 1)
        column = flat[:, None] % length + around
        near = (flat[:, None] + around).where((column >= 0) & (column < length), batch.valid.numel())
        self._near = to_device(row[near], batch.device)  # [tokens, around]: which valid token is there, or −1

    @cached_property
    def counted_by_document(self) -> tuple[torch.Tensor, ...] | None:
        """The tokens of each document, if they matter, as indices among the tokens that count."""
        if self._of_counted is None:
            return None
        rows = to_device(self._of_counted.argsort(stable=True), self.place.device)
        return rows.split(self._of_counted.unique(return_counts=True)[1].tolist())

    def levels(self, activations: torch.Tensor, rows: torch.Tensor, neurons: torch.Tensor) -> torch.Tensor:
        """The levels around tokens, `[…, around]` int8; `rows` `[…]` are those of the tokens among the valid ones."""
        near = self._near[rows]
        x = activations[near.clamp(min=0), neurons[..., None]].float()
        value = activations[rows, neurons].float()[..., None]
        # 0 / 0 is 0
        share = (x / value.abs_()).mul_(SCALE).nan_to_num_(0.0, SCALE, -SCALE)
        return share.round_().clamp_(-SCALE, SCALE).masked_fill_(near < 0, MISSING).to(torch.int8)
