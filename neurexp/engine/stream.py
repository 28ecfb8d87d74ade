"""The shortcut of the edited pass: a batch runs once without edits, and edited models run from their first edit on.

What a block puts out goes to the blocks above it alone, so an edit in layer l changes nothing below l. `Stream` keeps
the residual stream where edits begin. Whether a model is so is checked, not believed. Knows no predictions.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from neurexp.engine.changes import Change, Place, changing, in_this_thread
from neurexp.engine.passes import inputs_of
from neurexp.engine.reducers.base import Batch
from neurexp.errors import one_line
from neurexp.models.fast.patches import replaced
from neurexp.models.sites import blocks_of

log = logging.getLogger(__name__)

# Largest accepted ‖from a block − whole‖ / ‖whole‖ of last hidden states: the rounding of each number format
AGREEMENT = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 2e-2, torch.float16: 2e-3}


class Stream:
    """One batch through the model without edits.

    `hidden` are its last hidden states, `[sequences, length, width]`. Kept beside them are the outputs of the blocks
    below `starts`, as large as `hidden` each.
    """

    def __init__(self, network: PreTrainedModel, batch: Batch, starts: Collection[int]):
        """`starts` are the blocks that edited models may begin at, from 1 to the last; all others run whole."""
        self._network, self._batch, self._inputs = network, batch, inputs_of(batch)
        self._blocks = blocks_of(network)
        self._kept: dict[int, Any] = {}
        handles = [self._keep(start) for start in starts]
        try:
            self.hidden = self._forward(self._inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._network.base_model(**inputs, use_cache=False)[0].to(self._batch.device)

    def _keep(self, start: int) -> Any:
        def after(module: nn.Module, arguments: tuple, output: Any) -> None:
            self._kept[start] = output

        return self._blocks[start - 1].register_forward_hook(after)

    def agrees(self) -> bool:
        """Whether the model from each of `starts` on computes what the whole model does; a warning is logged if not.

        It does not if an architecture keeps more between blocks than the residual stream, or if another hook changes
        what a block puts out. Another text runs first: a block that reads what an earlier one has left behind then
        finds that of the other text.
        """
        if not self._kept:
            return True
        vocabulary = self._network.config.get_text_config().vocab_size
        self._forward(self._inputs | {"input_ids": (self._inputs["input_ids"] + 1) % vocabulary})
        compared = self._batch.valid.to(self.hidden.device)[..., None] & self.hidden.isfinite()
        whole = self.hidden[compared].float()
        for start in sorted(self._kept, reverse=True):  # so that the other text is the last that ran below it
            try:
                short = self.edited(start, 1)[0]
                wrong = float((short[compared].float() - whole).norm() / whole.norm()) if len(whole) else 0.0
                reason = f"differs from the whole model by {wrong:.1e}"
            except Exception as error:  # whatever a block raises that lacks what it reads
                wrong, reason = torch.inf, f"fails ({one_line(error)})"
            if not wrong <= AGREEMENT.get(self.hidden.dtype, 1e-5):
                log.warning("From block %d on the model %s: every edited model runs whole", start, reason)
                return False
        return True

    def edited(self, start: int, variants: int, changes: Sequence[Change] = ()) -> torch.Tensor:
        """The last hidden states of edited models side by side, `[variants, sequences, length, width]`.

        Args:
            start: the first block that is changed; the number of blocks if none is.
            variants: how many models.
            changes: of all of them; each says which model it is of.
        """
        sequences, length = self._batch.valid.shape
        if start >= len(self._blocks):
            return self.hidden.expand(variants, *self.hidden.shape)
        place = Place((sequences, length), self._batch.first, self._batch.valid, variants)
        inputs = {name: values.repeat(variants, 1) for name, values in self._inputs.items()}
        with self._skipped(start, variants), changing(self._network, changes, in_this_thread(place)):
            return self._forward(inputs).unflatten(0, (variants, sequences))

    @contextmanager
    def _skipped(self, start: int, variants: int) -> Iterator[None]:
        """Within the context, the blocks below `start` put out what they put out without edits."""
        if start not in self._kept:
            yield
            return
        kept = self._kept[start]
        stream = kept[0] if isinstance(kept, tuple) else kept
        stream = stream if variants == 1 else stream.repeat(variants, *[1] * (stream.dim() - 1))
        # The rest of a tuple is attention weights and the like, None unless asked for
        output = (stream, *[None] * (len(kept) - 1)) if isinstance(kept, tuple) else stream

        def put_out(*arguments: Any, **named: Any) -> Any:
            return output

        with replaced([(block, "forward", put_out) for block in self._blocks[:start]]):
            yield
