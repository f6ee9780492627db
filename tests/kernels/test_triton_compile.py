"""torch.compile, autocast and opcheck of the custom ops that launch Triton's kernels; in the interpreter where there is no GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from triton_checks import DEVICE, cast, moved, packed, triton_forms, triton_samples

from visionrnn.kernels import launch
from visionrnn.testing import error

COMPILER = "aot_eager"  # traces forward and backward as every compiler does, without generating code


class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    """Keeps the arguments of the first call of every Triton op of ours."""

    def __init__(self):
        super().__init__()
        self.calls: dict[Any, tuple] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "visionrnn" and "triton" in func.name():
            self.calls.setdefault(func, args)
        return func(*args, **(kwargs or {}))


def inputs_of(sample, lengths: list[int], heads: int = 1) -> tuple[dict[str, Any], Tensor]:
    inputs, boundaries = packed(sample, lengths, heads=heads, key=3, value=4)
    return moved(cast(inputs, torch.float32)), boundaries.to(DEVICE)


def recorded(sample, inputs: dict[str, Any], **options: Any) -> dict[Any, tuple]:
    """Ops of forward and backward with arguments of the right sizes; the numbers are arbitrary, because nothing is computed."""
    with Recorder() as recorder, launch.recording():
        sample.gradients(inputs, backend="triton", **options)
    assert recorder.calls, "no op of ours was called"
    return recorder.calls


def differentiable(given: Any, wanted: bool) -> Any:
    """A copy: two arguments of an op may be one tensor."""
    if not isinstance(given, Tensor):
        return given
    return (
        torch.rand(given.shape, dtype=given.dtype, device=given.device).neg().requires_grad_(wanted)
        if given.is_floating_point()
        else given.clone()
    )


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


@triton_samples()
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_opcheck(sample, direction):
    """Nothing is computed: sizes, types, aliases and derivatives are what is checked here."""
    inputs, boundaries = inputs_of(sample, [5, 0, 2])
    if direction == "both":
        inputs |= {name: torch.stack([inputs[name], inputs[name]]) for name in sample.states}
    calls = recorded(sample, inputs, cu_seqlens=boundaries, direction=direction)
    with launch.recording():
        for op, args in calls.items():
            forward = not op.name().endswith("_backward")  # which has no derivative of its own
            torch.library.opcheck(op, tuple(differentiable(given, forward) for given in args), test_utils=CHECKS)


@triton_samples()
def test_no_steps(sample):
    inputs, boundaries = inputs_of(sample, [0])
    with launch.recording():
        for op, args in recorded(sample, inputs, cu_seqlens=boundaries).items():
            torch.library.opcheck(op, tuple(differentiable(given, False) for given in args), test_utils=CHECKS)


@triton_forms()
def test_compiles_without_a_break_for_any_length(sample):
    torch._dynamo.reset()
    compiled = torch.compile(sample.run, fullgraph=True, dynamic=True, backend=COMPILER)
    counter = torch._dynamo.utils.counters

    def results(run, length: int) -> list[Tensor]:
        inputs = moved(cast(sample.inputs(batch=2, length=length, heads=1, key=3, value=4), torch.float32))
        tensors = [given.requires_grad_() for given in inputs.values() if isinstance(given, Tensor)]
        out, _ = run(inputs, backend="triton")
        return [out, *torch.autograd.grad(out.abs().square().sum(), tensors, allow_unused=True, materialize_grads=True)]

    with launch.recording():  # traced with 7 steps; nothing is computed before
        results(compiled, 7)
    graphs = counter["stats"]["unique_graphs"]
    found = results(compiled, 11)  # not one of the other sizes, or the compiler takes them for the same
    assert counter["stats"]["unique_graphs"] == graphs, "another length was compiled again"
    for value, expected in zip(found, results(sample.run, 11), strict=True):
        assert error(value, expected) <= 1e-5


@triton_samples()
def test_autocast_keeps_gates_and_states_in_float32(sample):
    inputs, boundaries = inputs_of(sample, [4, 2])
    with torch.autocast(DEVICE, torch.bfloat16), launch.recording():
        out, states = sample.run(inputs, cu_seqlens=boundaries, backend="triton")
    assert all(value.dtype in (torch.float32, torch.complex64) for value in (out, *states))
