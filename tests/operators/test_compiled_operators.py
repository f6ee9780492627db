"""Operators under torch.compile and torch.export: no graph break, any length."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import visionrnn.operators  # noqa: F401
from visionrnn.kernels import native
from visionrnn.registry import OPERATORS

pytestmark = pytest.mark.skipif(not native.is_built(), reason=f"every length would be traced step by step: {native.HOW_TO_BUILD}")

WRAPPERS = {"bidirectional": {"mixer": "mamba"}, "mom": {"mixer": "gla"}}
TRACED_STEP_BY_STEP = {"titans", "ttt_mlp"}  # they have no native op: every length is a graph of its own, and tracing takes a minute
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in TRACED_STEP_BY_STEP else []) for name in sorted(OPERATORS)]


def operator(name: str) -> nn.Module:
    torch.manual_seed(0)
    return OPERATORS.build({"type": name, **WRAPPERS.get(name, {})}, dim=16)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_a_break(name):
    torch._dynamo.reset()
    module = operator(name)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (20, 33):
        x = torch.randn(2, length, 16, requires_grad=True)
        want = module(x)
        got = compiled(x)
        assert torch.allclose(got, want, atol=1e-5)
        gradient = torch.autograd.grad(got.square().sum(), x)[0]
        assert torch.allclose(gradient, torch.autograd.grad(want.square().sum(), x)[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_exports_packed_with_a_dynamic_length(name):
    module = operator(name).eval()
    x, boundaries = torch.randn(1, 29, 16), torch.tensor([0, 9, 9, 29])
    steps = torch.export.Dim("steps", min=2, max=100_000)
    program = torch.export.export(module, (x, boundaries, 64), dynamic_shapes=({1: steps}, None, None))
    x, boundaries = torch.randn(1, 43, 16), torch.tensor([0, 2, 42, 43])
    with torch.no_grad():
        assert torch.allclose(program.module()(x, boundaries, 64), module(x, boundaries, 64), atol=1e-5)


FIRST_CALL = """
import torch, visionrnn.operators
from visionrnn.registry import OPERATORS
torch.manual_seed(0)
module, x = OPERATORS.build("mamba", dim=16), torch.randn(2, 20, 16)
got = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")(x)
print(torch.allclose(got, module(x), atol=1e-5))
"""


def test_compiles_before_anything_was_called():
    done = subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.slow
def test_compiles_with_the_default_compiler():
    torch._dynamo.reset()
    module = operator("mamba")
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    for length in (20, 33):
        x = torch.randn(2, length, 16, requires_grad=True)
        got, want = compiled(x), module(x)
        assert torch.allclose(got, want, atol=1e-5)
        gradient = torch.autograd.grad(got.square().sum(), x)[0]
        assert torch.allclose(gradient, torch.autograd.grad(want.square().sum(), x)[0], atol=1e-4, rtol=1e-3)
