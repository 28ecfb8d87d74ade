"""The ablations of a benchmark: sets of neurons of one layer edited in turn, by neurexp, a script and the peers.

Everything runs the same tokens: one batch. Knows neither rounds nor what is reported.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from neurexp.engine.edited_pass import SIDE_BY_SIDE, run_edited_pass
from neurexp.engine.edits import Edit, resolve
from neurexp.engine.passes import make_batch
from neurexp.engine.predictions import next_tokens
from neurexp.engine.reducers.base import predicting
from neurexp.engine.reducers.effects import Effects
from neurexp.engine.stream import Stream
from neurexp.models.fast import fast_forward
from neurexp.models.load import LanguageModel
from neurexp.models.sites import Site, blocks_of, find_sites, sites_of
from neurexp.models.spread import device_of
from neurexp.text.tokens import Tokens

log = logging.getLogger(__name__)

SITE = "NEURON"
SHARE = 16  # a set is one in so many neurons of a layer
TOLERANCE = 1e-4  # nats: the largest accepted difference of a token's loss

Ablate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # ids, neurons → the loss of each token but the last


class Ablations:
    """`sets` random sets of neurons, each set to zero in a layer, on the first sequences of a text."""

    def __init__(self, model: LanguageModel, tokens: Tokens, sequences: int, sets: int, seed: int = 0):
        """Raises LookupError if the model has no neurons that can be edited."""
        if SITE not in sites_of(model.network):
            raise LookupError(f"this model has no {SITE}")
        self._model, self.network = model, model.network
        self.depth = len(blocks_of(model.network))
        ids = np.where(tokens.valid, tokens.input_ids, 0)[:sequences].astype(np.int64)
        self.valid = torch.from_numpy(tokens.valid[:sequences])
        self.ids = torch.from_numpy(ids).to(model.device)
        self.counted = predicting(self.valid)[:, :-1]  # the predictions that count
        width = _width(self.site(0), model.network, self.ids)
        random = np.random.default_rng(seed)
        size = max(1, width // SHARE)
        self.sets = [np.sort(random.choice(width, size, replace=False)).tolist() for _ in range(sets)]

    def site(self, layer: int) -> Site:
        """Where the neurons of a layer are."""
        return find_sites(self.network, SITE, [layer])[0]

    # -- what is timed ---------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def forward(self) -> None:
        """Hugging Face's own forward with its head."""
        self.network(self.ids)

    @torch.inference_mode()
    def forward_of_blocks(self) -> None:
        """The same without the head."""
        self.network.base_model(self.ids)

    @torch.inference_mode()
    def by_hooks(self, layer: int) -> None:
        """What a script does: a hook for each set, a whole forward, and Hugging Face's own loss."""
        labels = self.ids.masked_fill(~self.valid.to(self.ids.device), -100)
        for neurons in self.sets:
            with _zero(self.site(layer), torch.tensor(neurons, device=self.ids.device)):
                self.network(self.ids, labels=labels)

    def ours(self, layer: int, sets: int, by_position: bool = False) -> Effects:
        """neurexp's edited pass of the first sets: the loss of each sequence, or of each token of it."""
        sequences, length = self.ids.shape
        groups = torch.ones(1, sequences, length, dtype=torch.bool)
        if by_position:
            groups = torch.eye(length, dtype=torch.bool)[:, None].expand(length, sequences, length)
        effects = Effects(groups, torch.arange(sequences), sets, 0)
        variants = [[Edit(SITE, layer, neurons)] for neurons in self.sets[:sets]]
        with self._fast():
            run_edited_pass(self.network, variants, self.ids, self.valid, effects, sequences)
        return effects

    def blocks_of_ours(self, layer: int) -> Callable[[], None]:
        """The blocks of neurexp's edited forwards of all sets, without their predictions. What is done once for a batch
        is done here."""
        with torch.inference_mode(), self._fast():
            batch = make_batch(self.ids.cpu(), self.valid, 0, device_of(self.network))
            stream = Stream(self.network, batch, {layer} - {0})
        together = max(1, SIDE_BY_SIDE // self.ids.numel())

        def work() -> None:
            with torch.inference_mode(), self._fast():
                for first in range(0, len(self.sets), together):
                    some = self.sets[first : first + together]
                    edits = [(slot, Edit(SITE, layer, neurons)) for slot, neurons in enumerate(some)]
                    changes = [change for slot, edit in edits for change in resolve(self.network, [edit], slot)]
                    stream.edited(layer, len(some), changes)

        return work

    def by(self, ablate: Ablate) -> None:
        """All sets, one at a time, by another library."""
        for neurons in self.sets:
            ablate(self.ids, torch.tensor(neurons, device=self.ids.device))

    def _fast(self):
        return fast_forward(self.network) if self._model.fast else nullcontext()

    # -- what must agree -------------------------------------------------------------------------------------------

    def our_losses(self, layer: int) -> torch.Tensor:
        """The losses of our unedited and edited models, `[1 + sets, predictions]`."""
        return self.ours(layer, len(self.sets), by_position=True).loss.transpose(1, 2)[:, :, :-1][:, self.counted]

    def difference(self, ablate: Ablate, ours: torch.Tensor) -> float:
        """The largest |their loss − our loss| of a token, over all sets."""
        theirs = [ablate(self.ids, torch.tensor(neurons, device=self.ids.device)) for neurons in self.sets]
        return float((torch.stack(theirs).cpu().double()[:, self.counted] - ours[1:]).abs().max())

    def with_hooks(self, layer: int) -> Ablate:
        """A script's ablation as `Ablate`."""

        @torch.inference_mode()
        def ablate(ids: torch.Tensor, neurons: torch.Tensor) -> torch.Tensor:
            with _zero(self.site(layer), neurons):
                return token_losses(self.network(ids).logits, ids)

        return ablate


def token_losses(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """−log p of each token but the first, `[sequences, length − 1]`, from logits `[sequences, length, vocabulary]`."""
    losses = cross_entropy(logits.flatten(0, 1).float(), next_tokens(ids).flatten(), reduction="none")
    return losses.view(ids.shape)[:, :-1]


def _zero(site: Site, neurons: torch.Tensor) -> ExitStack:
    """Within the context, the neurons are 0."""

    def zeroed(values: torch.Tensor) -> torch.Tensor:
        changed = values.clone()
        changed[..., neurons] = 0
        return changed

    context = ExitStack()
    context.callback(site.replace(zeroed).remove)
    return context


@torch.inference_mode()
def _width(site: Site, network: PreTrainedModel, ids: torch.Tensor) -> int:
    widths: list[int] = []
    handle = site.listen(lambda values: widths.append(values.shape[-1]))
    try:
        network.base_model(ids[:1, :1])
    finally:
        handle.remove()
    return widths[0]


def start_layers(depth: int) -> Sequence[int]:
    """The layers whose neurons are edited: the first, and those at a third, a half and two thirds of the model."""
    return sorted({0, depth // 3, depth // 2, 2 * depth // 3})
