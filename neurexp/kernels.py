"""Matrix products and sums over rows, each by the fastest way that PyTorch has on the device at hand.

On a CPU float32 products go through oneDNN, which PyTorch brings, in place of MKL, its own choice: on processors that
are not Intel's it multiplies faster (docs/benchmarks.md has by how much). Knows no model and no statistic.
"""

import math

import torch
from torch.nn import functional

ONEDNN = torch.backends.mkldnn.is_available()


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x `[…, in]` @ weightᵀ `[in, out]` + bias `[out]`; `torch.nn.functional.linear` where gradients are wanted."""
    plain = torch.is_grad_enabled() or not ONEDNN or x.device.type != "cpu" or x.numel() == 0
    if plain or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return functional.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """GELU by its tanh approximation (Hendrycks and Gimpel, 2016), which transformers calls `gelu_new`.

    On a CPU by x·σ(2u), u = √(2/π)·(x + 0.044715 x³), the same function: PyTorch's logistic function is fast, its tanh
    is not.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32:
        return functional.gelu(x, approximate="tanh")
    scale = 2 * math.sqrt(2 / math.pi)
    return torch.mul(x, x).mul_(0.044715 * scale).add_(scale).mul_(x).sigmoid_().mul_(x)


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a `[m, k]` @ b `[k, n]`."""
    return linear(a, b.t())


def sum_rows(
    x: torch.Tensor, order: torch.Tensor, ends: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Sums of rows of x `[rows, columns]` float32, `[sums, columns]`: the product of a sparse matrix with x.

    `order` names rows, `weights` (1 if not given) what each is multiplied by, and sum i takes those from place
    `ends[i]` to `ends[i + 1]`. Costs little more than reading the rows.
    """
    return functional.embedding_bag(order, x, ends, mode="sum", include_last_offset=True, per_sample_weights=weights)
