"""Matrix products and sums over rows, each by the fastest way that PyTorch has on the device at hand.

On a CPU float32 products go through oneDNN, which PyTorch brings: it takes the weights as they lie and reaches 93 to 97 %
of what two cores of a Zen 4 can multiply, where MKL, PyTorch's own choice, reaches 63 to 88 % (docs/benchmarks.md).
Knows no model and no statistic.
"""

import torch
from torch.nn import functional

ONEDNN = torch.backends.mkldnn.is_available()


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x `[…, in]` @ weightᵀ `[in, out]` + bias `[out]`; `torch.nn.functional.linear` where gradients are wanted."""
    plain = torch.is_grad_enabled() or not ONEDNN or x.device.type != "cpu" or x.numel() == 0
    if plain or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return functional.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a `[m, k]` @ b `[k, n]`."""
    return linear(a, b.t())


def sum_rows(x: torch.Tensor, order: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Sums of runs of rows of x `[rows, columns]` float32: those that `order` names up to each of `ends`, `[runs, columns]`.

    `ends` `[runs + 1]` begins with 0. Reads x once, which is all that it costs.
    """
    return functional.embedding_bag(order, x, ends, mode="sum", include_last_offset=True)
