"""Diagonal recurrences: every back end against the loop, packed and reversed against separate runs, gradients."""

from __future__ import annotations

import pytest
import torch

from visionrnn.kernels import available_backends, diagonal_scan, selective_scan
from visionrnn.testing import BOUNDS, diagonal_inputs, error, selective_inputs

BACKENDS = available_backends("diagonal")
FAST = [name for name in BACKENDS if name != "reference"]
FUNCTIONS = {
    "diagonal_scan": lambda dtype, length, batch=2: (diagonal_scan, diagonal_inputs(batch, length, 5, dtype), {}),
    "selective_scan": lambda dtype, length, batch=2: (
        selective_scan,
        selective_inputs(batch, length, 6, 3, 2, dtype),
        {"delta_softplus": True},
    ),
}
EVERY_FUNCTION = pytest.mark.parametrize("function", sorted(FUNCTIONS))
TIME_INPUTS = ("x", "log_decay", "u", "delta", "B", "C", "z")


def run(function, inputs, **options):
    """Outputs, final state and all gradients of a fixed scalar of both."""
    inputs = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    out, state = function(**inputs, return_final_state=True, **options)
    loss = (out * out).sum() + (state * state).sum()
    gradients = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
    return {"out": out, "state": state, **{f"d {name}": grad for name, grad in zip(inputs, gradients, strict=True)}}


@EVERY_FUNCTION
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("length", [0, 1, 63, 200])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_agrees_with_reference(function, backend, length, dtype):
    call, inputs, options = FUNCTIONS[function](torch.float64, length)
    exact = run(call, inputs, backend="reference", **options)
    inputs = {name: value.to(dtype) for name, value in inputs.items()}
    reference = run(call, inputs, backend="reference", **options)
    for name, value in run(call, inputs, backend=backend, **options).items():
        bound = 1e-12 if dtype == torch.float64 else BOUNDS[dtype] * error(reference[name], exact[name]) + 1e-6
        assert error(value, exact[name]) <= bound, name


@EVERY_FUNCTION
@pytest.mark.parametrize("backend", BACKENDS)
def test_reverse_is_flip_scan_flip(function, backend):
    call, inputs, options = FUNCTIONS[function](torch.float64, 21)
    flipped = {name: value.flip(1) if name in TIME_INPUTS else value for name, value in inputs.items()}
    got = run(call, inputs, backend=backend, reverse=True, **options)
    want = run(call, flipped, backend=backend, **options)
    for name, value in got.items():
        timed = name == "out" or name.removeprefix("d ") in TIME_INPUTS
        assert error(value, want[name].flip(1) if timed else want[name]) <= 1e-12, name


@EVERY_FUNCTION
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("max_seqlen", [None, 30])
def test_packed_equals_separate(function, backend, reverse, max_seqlen):
    lengths = [1, 17, 0, 30, 4]
    call, inputs, options = FUNCTIONS[function](torch.float64, sum(lengths), batch=1)
    states = torch.randn(len(lengths), *inputs["initial_state"].shape[1:], dtype=torch.float64)
    boundaries = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    options = {"backend": backend, "reverse": reverse, **options}
    packed = run(call, {**inputs, "initial_state": states}, cu_seqlens=boundaries, max_seqlen=max_seqlen, **options)
    parts = []
    for i in range(len(lengths)):
        part = {name: value[:, boundaries[i] : boundaries[i + 1]] if name in TIME_INPUTS else value for name, value in inputs.items()}
        parts.append(run(call, {**part, "initial_state": states[i : i + 1]}, **options))
    for name, value in packed.items():
        pieces = [part[name] for part in parts]
        if name == "out" or name.removeprefix("d ") in TIME_INPUTS:
            want = torch.cat(pieces, 1)
        else:
            want = torch.cat(pieces) if name in ("state", "d initial_state") else sum(pieces)
        assert error(value, want) <= 1e-12, name


@EVERY_FUNCTION
@pytest.mark.parametrize("backend", BACKENDS)
def test_split_run_equals_whole(function, backend):
    call, inputs, options = FUNCTIONS[function](torch.float64, 50)
    options["backend"] = backend
    whole, state = call(**inputs, return_final_state=True, **options)
    first, second = (
        {name: value[:, part] if name in TIME_INPUTS else value for name, value in inputs.items()} for part in (slice(19), slice(19, None))
    )
    out_1, carried = call(**first, return_final_state=True, **options)
    out_2, last = call(**{**second, "initial_state": carried}, return_final_state=True, **options)
    assert error(torch.cat([out_1, out_2], 1), whole) <= 1e-13
    assert error(last, state) <= 1e-13


@EVERY_FUNCTION
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(function, backend):
    call, inputs, options = FUNCTIONS[function](torch.float64, 4)
    names = list(inputs)

    def wrapped(*values):
        return call(**dict(zip(names, values, strict=True)), return_final_state=True, backend=backend, **options)

    assert torch.autograd.gradcheck(wrapped, tuple(inputs.values()))


@pytest.mark.parametrize("backend", FAST)
def test_saved_memory_is_linear_and_small(backend):
    """[B, T, D, N] is never kept: what autograd saves stays below a quarter of it."""
    inputs = selective_inputs(1, 2048, 16, 16, 1, torch.float32)
    saved = 0

    def count(tensor):
        nonlocal saved
        saved += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        selective_scan(**inputs, delta_softplus=True, backend=backend)
    assert saved < 2048 * 16 * 16 / 4 + 12 * 2048 * 16


def test_three_dimensional_projections_are_one_group():
    inputs = selective_inputs(2, 9, 4, 3)
    flat = {**inputs, "B": inputs["B"][:, :, 0], "C": inputs["C"][:, :, 0]}
    assert torch.equal(selective_scan(**flat), selective_scan(**inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": torch.zeros(2, 8, 4)}, r"delta: expected shape \[2, 9, 4\], got \[2, 8, 4\]"),
        ({"A": torch.zeros(5, 3)}, r"A: expected \[4, N\], got \[5, 3\]"),
        ({"B": torch.zeros(2, 9, 1, 2)}, r"B: expected shape \[2, 9, 1, 3\], got \[2, 9, 1, 2\]"),
        ({"D": torch.zeros(4, dtype=torch.float64)}, r"D: expected torch.float32 on cpu, got torch.float64 on cpu"),
        ({"B": torch.zeros(2, 9, 3, 3), "C": torch.zeros(2, 9, 3, 3)}, "3 groups do not divide 4 channels"),
        ({"initial_state": torch.zeros(1, 4, 3)}, r"initial_state: expected shape \[2, 4, 3\], got \[1, 4, 3\]"),
        ({"cu_seqlens": torch.tensor([0, 9])}, "cu_seqlens goes with batch size 1"),
        ({"backend": "cuda"}, r"backend='cuda'; expected 'auto' or one of \['chunkwise', 'reference'\]"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    inputs = selective_inputs(2, 9, 4, 3, dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**inputs, **change})


@pytest.mark.parametrize("boundaries", [[0, 5], [1, 9], [0, 6, 4, 9]])
def test_wrong_boundaries_are_named(boundaries):
    inputs = diagonal_inputs(1, 9, 4)
    with pytest.raises(ValueError, match="cu_seqlens: expected 0 ≤ … ≤ 9"):
        diagonal_scan(inputs["x"], inputs["log_decay"], cu_seqlens=torch.tensor(boundaries))
