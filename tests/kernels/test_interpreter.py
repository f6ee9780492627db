"""Triton's interpreter with its repairs, against NumPy and torch: bfloat16 arithmetic, casts, scans."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from visionrnn.kernels import launch

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from visionrnn.kernels import interpreter  # noqa: E402

pytestmark = pytest.mark.skipif(not launch.is_interpreted(), reason="Triton compiles for a GPU here, so that its interpreter is not used")
interpreter.install()
SPECIAL = [0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan"), 3.3895e38, 1e-40, 1 + 2**-8, 1 + 2**-8 + 2**-20, 1 + 3 * 2**-8]


def numbers(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def same(found: Tensor, expected: Tensor) -> bool:
    return found.dtype == expected.dtype and torch.equal(found.nan_to_num(12345.0), expected.nan_to_num(12345.0))


def test_bfloat16_as_bits():
    """To the nearest, ties to even, as torch rounds."""
    values = torch.cat([torch.tensor(SPECIAL), torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 1e3])
    bits = interpreter.narrow(values.numpy())
    rounded = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    assert same(rounded, values.bfloat16())
    assert same(torch.from_numpy(interpreter.widen(bits)), values.bfloat16().float())
    assert interpreter.narrow(np.float32(1.0)).shape == ()


@triton.jit
def arithmetic(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, a + b)
    tl.store(out + N + i, a - b)
    tl.store(out + 2 * N + i, a * b)
    tl.store(out + 3 * N + i, -a)
    tl.store(out + 4 * N + i, tl.abs(a))
    tl.store(out + 5 * N + i, tl.where(a < b, a, b))
    tl.store(out + 6 * N + i, tl.maximum(a, b))


def test_bfloat16_arithmetic():
    a, b = numbers(64), numbers(64, seed=1)
    out = torch.zeros(7, 64, dtype=torch.bfloat16)
    arithmetic[(1,)](a, b, out, N=64)
    for found, expected in zip(out, (a + b, a - b, a * b, -a, a.abs(), torch.minimum(a, b), torch.maximum(a, b)), strict=True):
        assert same(found, expected)


@triton.jit
def casts(x, narrow, whole, from_whole, N: tl.constexpr):
    i = tl.arange(0, N)
    value = tl.load(x + i)
    tl.store(narrow + i, value.to(tl.bfloat16))
    tl.store(whole + i, value.to(tl.bfloat16).to(tl.int32))
    tl.store(from_whole + i, value.to(tl.int32).to(tl.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_casts_round(dtype):
    x = (numbers(64, dtype=torch.float32) * 1000).to(dtype)
    narrow, whole = torch.zeros(64, dtype=torch.bfloat16), torch.zeros(64, dtype=torch.int32)
    from_whole = torch.zeros(64, dtype=torch.bfloat16)
    casts[(1,)](x, narrow, whole, from_whole, N=64)
    assert same(narrow, x.bfloat16())
    assert same(whole, x.bfloat16().int())
    assert same(from_whole, x.int().bfloat16())


@triton.jit
def products(a, b, out, total, highest, where, N: tl.constexpr):
    i, j = tl.arange(0, N), tl.arange(0, N)
    at = i[:, None] * N + j[None, :]
    x, y = tl.load(a + at), tl.load(b + at)
    tl.store(out + at, tl.dot(x, y))
    tl.store(total + j, tl.sum(x, 0))
    tl.store(highest + j, tl.max(x, 0))
    tl.store(where + j, tl.argmax(x, 0).to(tl.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_products_and_reductions(dtype):
    a, b = numbers(16, 16, dtype=dtype), numbers(16, 16, dtype=dtype, seed=1)
    out, total, highest = torch.zeros(16, 16), torch.zeros(16, dtype=dtype), torch.zeros(16, dtype=dtype)
    where = torch.zeros(16, dtype=torch.int32)
    products[(1,)](a, b, out, total, highest, where, N=16)
    exact = a.double() @ b.double()
    assert (out - exact).abs().max() <= 2e-6 * exact.abs().max()  # products of half types are exact in float32
    assert (total - a.double().sum(0)).abs().max() <= 8 * torch.finfo(dtype).eps * a.double().abs().sum(0).max()
    assert same(highest, a.max(0).values)
    assert torch.equal(where.long(), a.float().argmax(0))


@triton.jit
def _later(decay, x, later_decay, later_x):
    return decay * later_decay, later_decay * x + later_x


@triton.jit
def scans(decay, x, out, out_decay, total, T: tl.constexpr, D: tl.constexpr, AXIS: tl.constexpr, BACK: tl.constexpr):
    at = tl.arange(0, T)[:, None] * D + tl.arange(0, D)[None, :]
    a, b = tl.load(decay + at), tl.load(x + at)
    tl.store(total + at, tl.cumsum(b, AXIS, reverse=BACK))
    a, b = tl.associative_scan((a, b), AXIS, _later, reverse=BACK)
    tl.store(out + at, b)
    tl.store(out_decay + at, a)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_scans(axis, reverse):
    decay, x = numbers(8, 4, dtype=torch.float32).sigmoid(), numbers(8, 4, dtype=torch.float32, seed=1)
    out, out_decay, total = (torch.zeros(8, 4) for _ in range(3))
    scans[(1,)](decay, x, out, out_decay, total, T=8, D=4, AXIS=axis, BACK=reverse)
    a, b = (value.double().movedim(axis, 0).flip(0) if reverse else value.double().movedim(axis, 0) for value in (decay, x))
    state, product, states, decays = torch.zeros_like(b[0]), torch.ones_like(a[0]), [], []
    for i in range(len(a)):
        state, product = a[i] * state + b[i], a[i] * product
        states.append(state)
        decays.append(product)

    def back(value: Tensor) -> Tensor:
        return (value.flip(0) if reverse else value).movedim(0, axis)

    for found, expected in ((out, torch.stack(states)), (out_decay, torch.stack(decays)), (total, b.cumsum(0))):
        assert (found - back(expected)).abs().max() <= 1e-6


@triton.jit
def cumulative(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.cumsum(tl.load(x + i), 0))


def test_cumulative_sum_in_bfloat16():
    """Rounded at the end, where Triton sums in float32, or along the way."""
    x = numbers(64).abs()
    out = torch.zeros(64, dtype=torch.bfloat16)
    cumulative[(1,)](x, out, N=64)
    exact = x.double().cumsum(0)
    assert ((out.double() - exact).abs() <= 64 * 2**-9 * exact).all()


def test_installed_once():
    before = interpreter.interpreter.InterpreterBuilder.binary_op
    interpreter.install()
    assert interpreter.interpreter.InterpreterBuilder.binary_op is before
