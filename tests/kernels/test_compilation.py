"""torch.compile, torch.export, autocast and opcheck of the native custom ops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recurrence_checks import cast, packed_inputs, samples, scattered
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from visionrnn.kernels import diagonal_scan
from visionrnn.testing import error

COMPILER = "aot_eager"  # traces forward and backward as every compiler does, without generating code


class Recorder(TorchDispatchMode):
    """Keeps the arguments of the first call of every op of ours."""

    def __init__(self):
        super().__init__()
        self.calls: dict[Any, tuple] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "visionrnn":
            self.calls.setdefault(func, args)
        return func(*args, **(kwargs or {}))


def recorded(function, *args, **kwargs) -> dict[Any, tuple]:
    with Recorder() as recorder:
        function(*args, **kwargs)
    return recorder.calls


def tensors_of(inputs: dict[str, Any]) -> dict[str, Tensor]:
    return {name: given for name, given in inputs.items() if isinstance(given, Tensor)}


def fresh(given: Any, differentiable: bool) -> Any:
    if not isinstance(given, Tensor):
        return given
    return given.detach().requires_grad_(differentiable and (given.is_floating_point() or given.is_complex()))


@samples("native")
@pytest.mark.parametrize(("lengths", "transposed"), [([33], False), ([33], True), ([0], False), ([5, 0, 30], False)], ids=str)
def test_opcheck(sample, lengths, transposed):
    inputs, boundaries, _ = packed_inputs(sample, lengths, torch.float32)
    inputs = scattered(inputs) if transposed else inputs
    calls = recorded(sample.gradients, inputs, backend="native", cu_seqlens=boundaries)
    assert calls, "no op of ours was called"
    for op, args in calls.items():
        forward = not op.name().endswith("_backward")  # which has no derivative of its own
        fresh = [
            given.detach().requires_grad_(forward and given.is_floating_point()) if isinstance(given, Tensor) else given for given in args
        ]
        torch.library.opcheck(op, tuple(fresh))


@samples("native")
def test_compiles_without_a_break_for_any_length(sample):
    torch._dynamo.reset()
    compiled = torch.compile(sample.run, fullgraph=True, dynamic=True, backend=COMPILER)
    for length in (20, 33):
        inputs = sample.inputs(length=length, dtype=torch.float32)
        out, _ = compiled(inputs)
        want, _ = sample.run(inputs)
        assert error(out, want) <= 1e-6
        tensors = [given for given in tensors_of(inputs).values() if given.requires_grad]
        how = dict(allow_unused=True, materialize_grads=True)
        got, expected = (torch.autograd.grad((value * value.conj()).real.sum(), tensors, **how) for value in (out, want))
        for found, gradient in zip(got, expected, strict=True):
            assert error(found, gradient) <= 1e-5


@samples("native")
def test_exports_with_a_dynamic_length(sample):
    lengths = [9, 0, 20]
    inputs, boundaries, _ = packed_inputs(sample, lengths, torch.float32)
    inputs = cast(inputs, torch.float32)
    steps = torch.export.Dim("steps", min=2, max=100_000)

    class Module(nn.Module):
        def forward(self, inputs: dict[str, Tensor], boundaries: Tensor) -> Tensor:
            return sample.run({**others, **inputs}, cu_seqlens=boundaries)[0]

    tensors = tensors_of(inputs)
    others = {name: given for name, given in inputs.items() if name not in tensors}

    def axes(name: str, given: Tensor) -> dict | None:
        if name not in sample.timed:
            return None
        rows = given.shape[1] // sum(lengths)
        return {1: steps if rows == 1 else rows * steps}

    program = torch.export.export(Module(), (tensors, boundaries), dynamic_shapes=({n: axes(n, t) for n, t in tensors.items()}, None))
    other, bounds, _ = packed_inputs(sample, [2, 40, 1], torch.float32)
    other = tensors_of(cast(other, torch.float32))
    assert error(program.module()(other, bounds), sample.run({**others, **other}, cu_seqlens=bounds)[0]) <= 1e-6


@samples("native")
def test_autocast_keeps_gates_and_states_in_float32(sample):
    inputs = cast(sample.inputs(length=20), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        calls = recorded(sample.run, inputs)
        out, states = sample.run(inputs)
    assert all(value.dtype in (torch.float32, torch.complex64) for value in (out, *states))
    for args in calls.values():
        assert all(given.dtype in (torch.float32, torch.int64) for given in args if isinstance(given, Tensor))


def test_wrong_boundaries_are_refused_in_compiled_code():
    torch._dynamo.reset()
    scan = torch.compile(lambda x, bounds: diagonal_scan(x, -x, cu_seqlens=bounds), fullgraph=True, backend=COMPILER)
    x = torch.rand(1, 9, 4)
    assert torch.equal(scan(x, torch.tensor([0, 4, 9])), diagonal_scan(x, -x, cu_seqlens=torch.tensor([0, 4, 9])))
    with pytest.raises(ValueError, match="cu_seqlens: expected 0 ≤ … ≤ 9"):
        scan(x, torch.tensor([0, 400, 9]))
