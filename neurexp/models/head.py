"""The head of a causal model: logits from its last hidden states, by the model's own code.

What a family does there (a bias, a scale, a soft cap) is in the forward of its model with the head. `Head` runs that
forward, and hands it the given hidden states in place of the blocks' work. Knows neither text nor sites.
"""

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from neurexp.errors import UserError
from neurexp.models.fast.patches import replaced
from neurexp.models.sites import family_of
from neurexp.models.spread import device_of

BUDGET = {"cpu": 64 * 2**20}  # bytes of float32 logits at once
BUDGET_OF_OTHERS = 512 * 2**20  # on other devices, where small pieces cost time
LEAST = 16  # tokens of a piece


@dataclass
class _Given(MoeModelOutputWithPast):
    """What the model without its head puts out: the given hidden states, and None for all else that a head may read."""

    cross_attentions: Any = None


class _Own(threading.local):
    """Each thread's own call of the head: the hidden states that it gives, and how often the network asked for them."""

    hidden: torch.Tensor | None = None
    asked = 0


class _Patched:
    """A model whose forwards give the hidden states of `own` to the head, while at least one context is open.

    Contexts of several threads need not be nested: the first to open patches the model, and the last to close restores
    it.
    """

    def __init__(self) -> None:
        self.own, self._open, self._patches = _Own(), 0, ExitStack()

    def enter(self, network: PreTrainedModel) -> None:
        with _lock:
            if self._open == 0:
                modules: list[nn.Module] = [network.base_model]
                for name in family_of(network).blocks.split(".")[:-1]:
                    modules.append(modules[-1].get_submodule(name))
                before = [module.__dict__.get("forward") or module.forward for module in modules]
                changes = [
                    (module, "forward", partial(self._give, old)) for module, old in zip(modules, before, strict=True)
                ]
                self._patches.enter_context(replaced(changes))
            self._open += 1

    def leave(self) -> None:
        with _lock:
            self._open -= 1
            if self._open == 0:
                self._patches.close()

    def _give(self, forward: Any, /, *given: Any, **named: Any) -> Any:
        if self.own.hidden is None:
            return forward(*given, **named)
        self.own.asked += 1
        return _Given(last_hidden_state=self.own.hidden)  # type: ignore[arg-type]


_lock = threading.RLock()  # `family_of` may run the model once
_patched: WeakKeyDictionary[nn.Module, _Patched] = WeakKeyDictionary()  # by the model without its head


class Head:
    """Logits from last hidden states, within a context.

        hidden = network.base_model(ids, use_cache=False)[0]
        with Head(network) as head:
            logits = head(hidden.flatten(0, 1))

    Within the context the modules that may put out the last hidden states (the model without its head, and those in it
    that hold the list of blocks: OPT's head calls its decoder) have another `forward`. It gives the head's hidden
    states to the head's own calls, and leaves all other calls as they are, those of other threads among them. So it
    does not matter whether the context is inside of `fast_forward`.
    """

    def __init__(self, network: PreTrainedModel):
        """`network` is a causal Hugging Face model with its head. Raises UserError if it has none."""
        if network.base_model is network:
            raise UserError(
                f"model.name: {type(network).__name__} has no head that predicts tokens; give the model with its head, "
                "AutoModelForCausalLM's"
            )
        self._network = network
        with _lock:
            self._patched = _patched.setdefault(network.base_model, _Patched())
        self._own = self._patched.own
        self._vocabulary = int(network.config.get_text_config().vocab_size)

    def __enter__(self) -> "Head":
        self._patched.enter(self._network)
        return self

    def __exit__(self, *error: Any) -> None:
        self._patched.leave()

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits of some tokens; with gradients where they are enabled.

        Args:
            hidden: `[tokens, width]`, behind the final norm, in the model's dtype.

        Returns:
            `[tokens, vocabulary]` float32, or float64 if the model's are.

        Raises:
            UserError: the network's forward does not take its hidden states from where they are given.
        """
        ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        self._own.hidden, self._own.asked = hidden[None], 0
        try:
            logits = self._network(input_ids=ids, use_cache=False).logits
        finally:
            self._own.hidden = None
        if self._own.asked != 1:
            raise UserError(
                f"model.name: the head of {type(self._network).__name__} does not read the hidden states of the module "
                f"with the blocks, {family_of(self._network).blocks}, so its predictions cannot be measured; give a "
                "model of a known family, or the path of its blocks (model.blocks=)"
            )
        return logits[0] if logits.dtype == torch.float64 else logits[0].float()

    def pieces(self, tokens: int, budget: int | None = None) -> list[slice]:
        """Slices of `tokens` whose float32 logits take `budget` bytes or less each, but hold 16 tokens or more.

        The default is 64 MB on a CPU, and 512 MB on other devices.
        """
        if budget is None:
            budget = BUDGET.get(device_of(self._network).type, BUDGET_OF_OTHERS)
        step = max(LEAST, budget // (4 * self._vocabulary))
        return [slice(start, min(start + step, tokens)) for start in range(0, tokens, step)]


def token_losses(head: Head, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each token, −log p(target) in nats, made in pieces.

    Where gradients are enabled, the logits of all pieces are kept for the backward: give one piece at a time.

    Args:
        head: of the model, within its context.
        hidden: `[tokens, width]`, the last hidden states of the tokens that predict.
        targets: `[tokens]` int64, the ids that should be predicted.

    Returns:
        `[tokens]` float32, or float64 if the model's logits are.
    """
    losses = []
    for piece in head.pieces(len(hidden)):
        logits = head(hidden[piece])
        losses.append(logits.logsumexp(-1) - logits.gather(-1, targets[piece, None]).squeeze(-1))
    return torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)
