"""Losses of last hidden states in parts that fit a CPU's caches, where a model's head is one product with its weights.

The logits of some tokens are made for some ids of the vocabulary at a time, and their exponentials are added up at
once. A head that does more than the product goes through its own code (`models.head`). Knows no text and no edits.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from neurexp.models import kernels
from neurexp.models.fast.patches import Replacement, unseen
from neurexp.models.head import Head, token_losses

TOKENS, IDS = 512, 1024  # of a part: 2 MiB in float32
TRIED, LARGE = 4, 1000.0  # tokens whose logits are compared, and the largest of these logits


class Losses:
    """The losses of a model's predictions from its last hidden states, within the context of its `Head`. No gradients.

    Whether the head is one product is checked once, on random hidden states whose logits are large: a bias, a scale, a
    cap or anything else there shows.
    """

    def __init__(self, network: PreTrainedModel, head: Head):
        self._head = head
        self._weight = _weight_of(network, head)
        self.in_parts = self._weight is not None

    def __call__(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """−log p(target) in nats, `[tokens]`, of last hidden states `[tokens, width]`; as torch's `cross_entropy`.

        Args:
            hidden: `[tokens, width]`, behind the final norm, in the model's dtype.
            targets: `[tokens]` int64.
        """
        if self._weight is None or not len(hidden):
            return token_losses(self._head, hidden, targets)
        parts = zip(hidden.split(TOKENS), targets.split(TOKENS), strict=True)
        return torch.cat([losses_of_product(some, self._weight, own) for some, own in parts])


def _weight_of(network: PreTrainedModel, head: Head) -> torch.Tensor | None:
    """The weights `[vocabulary, width]` of a head that is one product and nothing else, on a CPU; None for others."""
    output: nn.Module | None = network.get_output_embeddings()
    if type(output) is not nn.Linear or output.bias is not None or not unseen(output):
        return None
    own = output.__dict__.get("forward")
    weight = output.weight
    if (own is not None and not isinstance(own, Replacement)) or weight.device.type != "cpu":
        return None
    if weight.dtype not in (torch.float32, torch.float64):
        return None
    tried = torch.randn(TRIED, weight.shape[1], dtype=weight.dtype, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tried *= LARGE / output(tried).abs().max()
        expected = output(tried)
        found = head(tried)
    return weight if found.shape == expected.shape and torch.equal(found, expected) else None


def losses_of_product(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """−log p(target) in nats, `[tokens]`, where the logits are hidden `[tokens, width]` @ weightᵀ `[width, ids]`.

    The sum of exponentials is taken relative to the largest logit so far, and made smaller where a larger one comes
    (Milakov and Gimelshein, 2018, “Online normalizer calculation for softmax”).
    """
    order = targets.argsort()
    edges = range(0, len(weight), IDS)
    ends = torch.searchsorted(targets[order], torch.tensor([*edges, len(weight)], device=targets.device)).tolist()
    largest = hidden.new_full((len(hidden), 1), -torch.inf)
    total, of_target = torch.zeros_like(largest), hidden.new_zeros(len(hidden))
    for number, first in enumerate(edges):
        logits = kernels.linear(hidden, weight[first : first + IDS])
        rows = order[ends[number] : ends[number + 1]]  # whose target is among these ids
        of_target[rows] = logits[rows, targets[rows] - first]
        larger = torch.maximum(largest, logits.amax(-1, keepdim=True))
        total *= (largest - larger).exp_()
        total += logits.sub_(larger).exp_().sum(-1, keepdim=True)
        largest = larger
    return (total.log_() + largest).squeeze(-1) - of_target
