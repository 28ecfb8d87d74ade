"""The kernels against float64 numpy, in the shapes that a pass or a forward gives them; gradients flow where wanted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.activations import ACT2FN

from neurexp.models import kernels
from neurexp.models.kernels import gelu_tanh, linear, product, rms_norm, silu_times, sum_rows

torch.set_num_threads(1)  # with matrices this small, threads do little but wait for one another

SHAPES = [(1, 1, 1), (1, 7, 5), (3, 16, 16), (5, 1, 9), (2, 33, 1), (130, 64, 257), (17, 768, 40)]  # rows, in, out


def numbers(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def close(found, expected, scale, rounding=1e-6):
    """`scale` is what the sums would be if nothing cancelled."""
    assert found.shape == expected.shape
    assert (np.abs(found.double().numpy() - expected) <= rounding * scale + 1e-30).all()


@pytest.fixture(params=["inference", "no_grad", "grad"])
def mode(request):
    """With gradients wanted and without: these are different kernels."""
    with {"inference": torch.inference_mode, "no_grad": torch.no_grad, "grad": torch.enable_grad}[request.param]():
        yield request.param


# linear and product


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("leading", [(), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_against_numpy(shape, leading, with_bias, mode):
    rows, inside, outside = shape
    x, weight = numbers(*leading, rows, inside), numbers(outside, inside, seed=1)
    bias = numbers(outside, seed=2) if with_bias else None
    found = linear(x, weight, bias)
    assert found.dtype is torch.float32
    exact_x, exact_weight = x.double().numpy(), weight.double().numpy()
    exact_bias = bias.double().numpy() if with_bias else np.zeros(outside)
    scale = np.abs(exact_x) @ np.abs(exact_weight).T + np.abs(exact_bias)
    close(found, exact_x @ exact_weight.T + exact_bias, scale)


def test_linear_of_one_row_without_any_other_axis(mode):
    x, weight = numbers(6), numbers(4, 6, seed=1)
    close(linear(x, weight), weight.double().numpy() @ x.double().numpy(), 10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product_against_numpy(shape, mode):
    m, k, n = shape
    a, b = numbers(m, k), numbers(k, n, seed=1)
    exact = a.double().numpy(), b.double().numpy()
    close(product(a, b), exact[0] @ exact[1], np.abs(exact[0]) @ np.abs(exact[1]))


@pytest.mark.parametrize("shape", [(0, 3, 2), (4, 0, 2), (0, 0, 2)], ids=str)
def test_a_product_of_nothing_is_zero(shape, mode):
    m, k, n = shape
    found = product(torch.ones(m, k), torch.ones(k, n))
    assert found.shape == (m, n)
    assert not found.any()


def test_matrices_as_they_lie(mode):
    """Transposed, cut out of a larger one, every other row: what is multiplied hangs on no layout."""
    a, b = numbers(12, 10), numbers(10, 14, seed=1)
    for left in (a, a.t().contiguous().t(), numbers(12, 20)[:, 5:15], numbers(24, 10)[::2]):
        for right in (b, b.t().contiguous().t(), numbers(10, 30, seed=2)[:, 3:17], numbers(20, 14, seed=3)[::2]):
            exact = left.double().numpy(), right.double().numpy()
            close(product(left, right), exact[0] @ exact[1], np.abs(exact[0]) @ np.abs(exact[1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16])
def test_other_formats_stay_what_they_are(dtype, mode):
    x, weight, bias = numbers(5, 16).to(dtype), numbers(3, 16, seed=1).to(dtype), numbers(3, seed=2).to(dtype)
    found = linear(x, weight, bias)
    assert found.dtype is dtype
    assert torch.equal(found, torch.nn.functional.linear(x, weight, bias))


def test_the_arguments_are_left_alone(mode):
    arguments = numbers(5, 16), numbers(3, 16, seed=1), numbers(3, seed=2)
    before = [tensor.clone() for tensor in arguments]
    linear(*arguments)
    product(arguments[0], arguments[1].t())
    assert all(map(torch.equal, arguments, before))


def test_it_is_onednn_that_multiplies_where_no_gradients_are_wanted(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch was built without oneDNN")
    monkeypatch.setattr(kernels, "ONEDNN", True)
    x, weight = numbers(5, 16), numbers(3, 16, seed=1)
    monkeypatch.setattr(kernels.functional, "linear", None)
    with torch.inference_mode():
        assert linear(x, weight).shape == (5, 3)
    with pytest.raises(TypeError):
        linear(x, weight)


def test_without_onednn_pytorchs_own_product_is_taken(monkeypatch):
    monkeypatch.setattr(kernels, "ONEDNN", False)
    x, weight, bias = numbers(5, 16), numbers(3, 16, seed=1), numbers(3, seed=2)
    with torch.inference_mode():
        assert torch.equal(linear(x, weight, bias), torch.nn.functional.linear(x, weight, bias))


def test_onednn_is_for_processors_that_are_not_intels():
    expected = torch.backends.mkldnn.is_available() and not (kernels.INTEL and torch.backends.mkl.is_available())
    assert expected is kernels.ONEDNN


@pytest.mark.parametrize("with_bias", [True, False])
def test_gradients_of_linear_are_those_of_pytorchs(with_bias):
    def gradients(function):
        leaves = [numbers(4, 5, 16), numbers(3, 16, seed=1), *([numbers(3, seed=2)] if with_bias else [])]
        for leaf in leaves:
            leaf.requires_grad_()
        (function(*leaves) ** 2).sum().backward()
        return [leaf.grad for leaf in leaves]

    found = gradients(linear)
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in found)
    assert all(map(torch.equal, found, gradients(torch.nn.functional.linear)))


def test_gradients_of_a_product():
    a, b = numbers(4, 6).requires_grad_(), numbers(6, 3, seed=1).requires_grad_()
    product(a, b).sum().backward()
    np.testing.assert_allclose(a.grad, b.detach().sum(1).expand(4, 6), rtol=1e-6)
    np.testing.assert_allclose(b.grad, a.detach().sum(0)[:, None].expand(6, 3), rtol=1e-6)


# gelu_tanh


def gelu_by_numpy(x):
    """x/2·(1 + tanh √(2/π)·(x + 0.044715 x³)) without what 1 + tanh loses: 1 + tanh u is 2 / (1 + e^−2u)."""
    x = x.double().numpy()
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_gelu_against_numpy(mode):
    x = torch.linspace(-12, 12, 4803).reshape(3, -1)
    expected, found = gelu_by_numpy(x), gelu_tanh(x)
    assert found.shape == x.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[x > -1], expected[x > -1], rtol=1e-5, atol=1e-30)


def test_gelu_without_gradients_keeps_its_digits_where_one_plus_tanh_cancels():
    x = torch.linspace(-9, -1, 801)
    with torch.inference_mode():
        np.testing.assert_allclose(gelu_tanh(x), gelu_by_numpy(x), rtol=3e-5)


def test_gelu_is_transformers_gelu_new_and_pytorchs(mode):
    x = numbers(50, 40) * 3
    for other in (ACT2FN["gelu_new"](x), torch.nn.functional.gelu(x, approximate="tanh")):
        close(gelu_tanh(x), other.double().numpy(), np.abs(x.numpy()) + 1)


def test_gelu_far_out_is_the_identity_and_zero(mode):
    x = torch.tensor([1e2, 1e10, 1e20, 3e38, -1e2, -1e10, -1e20, -3e38, 0.0, -0.0, 1e-38, -1e-38])
    np.testing.assert_allclose(
        gelu_tanh(x), [1e2, 1e10, 1e20, 3e38, 0, 0, 0, 0, 0, 0, 5e-39, -5e-39], rtol=1e-5, atol=0
    )
    assert gelu_tanh(torch.tensor([torch.inf, torch.nan])).isfinite().sum() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16])
def test_gelu_of_other_formats_is_pytorchs(dtype, mode):
    x = numbers(5, 16).to(dtype)
    assert torch.equal(gelu_tanh(x), torch.nn.functional.gelu(x, approximate="tanh"))


def test_gelu_leaves_its_argument_alone(mode):
    x = numbers(5, 16)
    before = x.clone()
    gelu_tanh(x)
    assert torch.equal(x, before)


def test_gradients_of_gelu_are_those_of_pytorchs():
    x = numbers(5, 16).requires_grad_()
    gelu_tanh(x).sum().backward()
    other = x.detach().clone().requires_grad_()
    torch.nn.functional.gelu(other, approximate="tanh").sum().backward()
    assert torch.equal(x.grad, other.grad)


# The gated MLP's product, and RMSNorm


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 7, 16), (700, 2048)], ids=str)
@pytest.mark.parametrize("into", ["another", "up"])
def test_silu_times_against_numpy(shape, into):
    gate, up = numbers(*shape) * 4, numbers(*shape, seed=1)
    exact = gate.double().numpy() / (1 + np.exp(-gate.double().numpy())) * up.double().numpy()
    before = gate.clone()
    out = up if into == "up" else torch.full(shape, torch.nan)
    found = silu_times(gate, up, out)
    assert found is out
    close(found, exact, np.abs(exact))
    assert torch.equal(gate, before)


def test_silu_times_takes_matrices_as_they_lie():
    gate, up = numbers(6, 20)[:, 3:13], numbers(10, 6, seed=1).t()
    found = silu_times(gate, up, torch.empty(6, 10))
    expected = silu_times(gate.contiguous(), up.contiguous(), torch.empty(6, 10)).double().numpy()
    close(found, expected, np.abs(expected))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 7, 16), (2000, 600)], ids=str)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_rms_norm_against_numpy(shape, scale):
    x, weight = numbers(*shape) * scale, numbers(shape[-1], seed=1)
    exact, before = x.double().numpy(), x.clone()
    expected = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6) * weight.double().numpy()
    with torch.inference_mode():
        close(rms_norm(x, weight, 1e-6), expected, np.abs(expected))
    assert torch.equal(x, before)


def test_rms_norm_of_zeros_is_zero_and_of_other_layouts_the_same():
    with torch.inference_mode():
        assert not rms_norm(torch.zeros(2, 4), torch.ones(4), 1e-6).any()
        x, weight = numbers(3, 4, 8).transpose(0, 1), numbers(8, seed=1)
        expected = rms_norm(x.contiguous(), weight, 1e-5).double().numpy()
        close(rms_norm(x, weight, 1e-5), expected, np.abs(expected))


# sum_rows


def summed_by_numpy(x, order, ends, weights=None):
    weights = np.ones(len(order)) if weights is None else weights.double().numpy()
    rows = x.double().numpy()
    found = np.zeros((len(ends) - 1, x.shape[1]))
    for index in range(len(ends) - 1):
        for place in range(int(ends[index]), int(ends[index + 1])):
            found[index] += weights[place] * rows[int(order[place])]
    return found


@settings(deadline=None)
@given(
    rows=st.integers(1, 30),
    columns=st.sampled_from([1, 3, 8, 16, 33, 64]),
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    weighted=st.booleans(),
    gradients=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_sums_of_rows_against_numpy(rows, columns, counts, weighted, gradients, seed):
    """A row may be named often or never, a sum may be of nothing, weights may be negative."""
    rng = np.random.default_rng(seed)
    x, total = numbers(rows, columns, seed=seed), sum(counts)
    order = torch.from_numpy(rng.integers(0, rows, total))
    ends = torch.tensor([0, *np.cumsum(counts)])
    weights = numbers(total, seed=seed + 1) if weighted else None
    with torch.set_grad_enabled(gradients):
        found = sum_rows(x, order, ends, weights)
    assert found.dtype is torch.float32
    scale = summed_by_numpy(x.abs(), order, ends, None if weights is None else weights.abs())
    close(found, summed_by_numpy(x, order, ends, weights), scale)


@settings(deadline=None)
@given(
    rows=st.integers(1, 30),
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    weighted=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_sums_that_are_exact_in_float32_are_exact(rows, counts, weighted, seed):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.integers(-63, 64, (rows, 5)).astype(np.float32) / 8)
    order, ends = torch.from_numpy(rng.integers(0, rows, sum(counts))), torch.tensor([0, *np.cumsum(counts)])
    weights = torch.from_numpy(rng.integers(-63, 64, sum(counts)).astype(np.float32) / 8) if weighted else None
    with torch.inference_mode():
        found = sum_rows(x, order, ends, weights)
    assert np.array_equal(found, summed_by_numpy(x, order, ends, weights))


@pytest.mark.parametrize("rows", [0, 4])
@pytest.mark.parametrize("sums", [0, 3])
@pytest.mark.parametrize("weights", [None, torch.empty(0)], ids=["plain", "weighted"])
def test_sums_of_no_rows_are_zero(rows, sums, weights, mode):
    found = sum_rows(torch.ones(rows, 6), torch.empty(0, dtype=torch.int64), torch.zeros(sums + 1).long(), weights)
    assert found.shape == (sums, 6)
    assert not found.any()


def test_a_row_that_is_not_named_may_be_anything(mode):
    x = torch.ones(3, 4)
    x[1] = torch.nan
    assert torch.equal(
        sum_rows(x, torch.tensor([0, 2, 2]), torch.tensor([0, 1, 3])), torch.tensor([[1.0], [2.0]]).expand(2, 4)
    )


def test_nan_and_infinity_come_through(mode):
    x = torch.ones(3, 2)
    x[1] = torch.tensor([torch.nan, torch.inf])
    for weights in (None, torch.full((3,), 2.0)):
        found = sum_rows(x, torch.arange(3), torch.tensor([0, 2, 3]), weights)
        assert found[0].isnan().tolist() == [True, False]
        assert found[0].isinf().tolist() == [False, True]
        assert found[1].isfinite().all()


def test_gradients_flow_through_sums_of_rows():
    order, ends = torch.tensor([3, 0, 0, 1]), torch.tensor([0, 1, 1, 4])
    x, weights = numbers(5, 6).requires_grad_(), numbers(4, seed=1).requires_grad_()
    of_sums = numbers(3, 6, seed=2)
    (sum_rows(x, order, ends, weights) * of_sums).sum().backward()
    matrix = np.zeros((3, 5))
    for place, of_sum in enumerate([0, 2, 2, 2]):
        matrix[of_sum, order[place]] += weights[place].item()
    np.testing.assert_allclose(x.grad, matrix.T @ of_sums.double().numpy(), rtol=1e-5, atol=1e-6)
    expected = [(x[order[place]] * of_sums[of_sum]).sum().item() for place, of_sum in enumerate([0, 2, 2, 2])]
    np.testing.assert_allclose(weights.grad, expected, rtol=1e-5)

    x.grad = None
    (sum_rows(x, order, ends) * of_sums).sum().backward()
    assert not x.grad[[2, 4]].any()
    np.testing.assert_allclose(x.grad[0], 2 * of_sums[2], rtol=1e-6)
    np.testing.assert_allclose(x.grad[3], of_sums[0], rtol=1e-6)
