"""A faster forward that computes what transformers' own does, up to rounding.

Inside a context `fast_forward` replaces parts of a model's blocks: `gpt_neo` has those of GPT-Neo, `gated` those of the
families with rotary positions, RMSNorm and a gated MLP. Afterwards it restores the originals, so a caller's model is
never left changed. `difference_from_eager` measures whether it may be used. For GPT-Neo it assumes right-padded batches
without a KV cache, as in every run of neurexp.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import torch
from transformers import PreTrainedModel

from neurexp.models.fast import gated, gpt_neo
from neurexp.models.spread import is_spread

__all__ = ["difference_from_eager", "fast_forward"]

BEYOND = 64  # tokens beyond the window that are compared
PLAIN = 192  # tokens that are compared where there is no window
SHORT = 1024  # of longer sequences one is compared, not two


@contextmanager
def fast_forward(model: PreTrainedModel) -> Iterator[None]:
    """Within the context, the blocks of `model` use faster kernels, if it has them and is on one device."""
    if is_spread(model):  # accelerate has its own `forward` in the modules, which fetches weights
        yield
        return
    with gpt_neo.fast_blocks(model), gated.fast_blocks(model):
        yield


def difference_from_eager(model: PreTrainedModel) -> float | None:
    """‖fast − eager‖ / ‖eager‖ of the hidden states after a block of each kind, on tokens beyond the window.

    None if the model has no fast forward. Only the blocks up to the first of each kind of attention are run: the others
    are the same code.
    """
    found = gpt_neo.kinds(model) or gated.kinds(model)
    if not found:
        return None
    kinds = [kind for _, kind, _ in found]
    last = found[max(kinds.index(kind) for kind in set(kinds))][0]
    config = model.config
    window = max(window for _, _, window in found)
    length = min(config.max_position_embeddings, window + BEYOND if window else PLAIN)
    count = 2 if length <= SHORT else 1
    ids = torch.arange(count * length, device=model.device).view(count, length).remainder(config.vocab_size)
    kept: list[torch.Tensor] = []

    class Stop(BaseException):
        """Ends the forward after the block that is compared."""

    def keep(module, arguments, output):
        kept.append((output[0] if isinstance(output, tuple) else output).float())
        raise Stop

    handle = last.register_forward_hook(keep)
    try:
        for context in (nullcontext(), fast_forward(model)):
            with torch.inference_mode(), context, suppress(Stop):
                model.base_model(ids, use_cache=False)
    finally:
        handle.remove()
    eager, fast = kept
    return float((fast - eager).norm() / eager.norm())
