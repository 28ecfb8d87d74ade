"""Matrix products and sums over rows, each by PyTorch's fastest way on the device.

On a CPU, float32 products with weights use PyTorch's oneDNN instead of MKL, which PyTorch would choose, unless the
processor is Intel's: MKL is faster there, and oneDNN elsewhere (docs/benchmarks.md has numbers). Knows no model and no
text.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional

INTEL = "Intel" in str(torch.cpu.get_capabilities().get("cpu_name", ""))
ONEDNN = torch.backends.mkldnn.is_available() and not (INTEL and torch.backends.mkl.is_available())

CACHE = 2**20  # bytes of float32 that stay in a CPU's caches over several operations


def cache_sized_slices(count: int, each: int, device: torch.device) -> list[slice]:
    """Splits `count` rows or columns of `each` float32 numbers so that they fit a CPU's caches; no split on other
    devices."""
    step = max(16, CACHE // (4 * max(1, each)) // 16 * 16) if device.type == "cpu" else max(1, count)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


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
    scale, result = 2 * math.sqrt(2 / math.pi), torch.empty_like(x, memory_format=torch.contiguous_format)
    rows, out = x.reshape(-1, x.shape[-1]), result.view(-1, x.shape[-1])
    for some in cache_sized_slices(len(rows), rows.shape[1], x.device):
        part, to = rows[some], out[some]
        torch.mul(part, part, out=to).mul_(0.044715 * scale).add_(scale).mul_(part).sigmoid_().mul_(part)
    return result


def silu_times(gate: torch.Tensor, up: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """SiLU(gate)·up into `out`, which may be `up`; all of one shape. SiLU(x) = x·σ(x) (Elfwing et al., 2017)."""
    width = gate.shape[-1]
    rows, others, result = gate.reshape(-1, width), up.reshape(-1, width), out.view(-1, width)
    for some in cache_sized_slices(len(rows), width, gate.device):
        torch.mul(functional.silu(rows[some]), others[some], out=result[some])
    return out


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x / √(mean of x² + epsilon) · weight over the last axis, in float32 (Zhang and Sennrich, 2019). No gradients."""
    width, result = x.shape[-1], torch.empty_like(x, memory_format=torch.contiguous_format)
    rows, out = x.reshape(-1, width), result.view(-1, width)
    for some in cache_sized_slices(len(rows), width, x.device):
        part = rows[some]
        scale = torch.linalg.vector_norm(part, dim=-1, keepdim=True).square_().mul_(1 / width).add_(epsilon).rsqrt_()
        torch.mul(part, scale, out=out[some]).mul_(weight)
    return result


def product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """a `[m, k]` @ b `[k, n]`, in the full precision of its number format, also with `device.tf32`.

    The result is in `out` `[m, n]`, if that is given. It does not use oneDNN, which builds and keeps a kernel for each
    shape: k differs in every batch.
    """
    with whole_precision():
        return torch.mm(a, b, out=out)


@contextmanager
def whole_precision() -> Iterator[None]:
    """Within the context, no float32 product is rounded to TensorFloat-32 (`device.tf32`)."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def sum_rows(
    x: torch.Tensor, order: torch.Tensor, ends: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Sums of rows of x `[rows, columns]` float32, `[sums, columns]`: the product of a sparse matrix with x.

    `order` names rows, `weights` (1 if not given) what each is multiplied by, and sum i takes those from place
    `ends[i]` to `ends[i + 1]`. Costs little more than reading the rows.
    """
    # Without the checks of `torch.nn.functional`, which take longer than the sums of a small part; 0 is "sum"
    return torch.embedding_bag(x, order, ends, False, 0, False, weights, True)[0]
