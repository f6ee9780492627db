"""Every form of every recurrence that Triton kernels cover: the same checks for all, in the interpreter where there is no GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from triton_checks import cast, check, moved, packed, triton_cases, triton_forms, triton_samples

from visionrnn.kernels import launch
from visionrnn.testing import BOUNDS, error

HALF = torch.bfloat16


@triton_cases("length", 1, 15, 64, 65, 100, composed=65)
def test_agrees_with_reference(sample, length):
    heads = 2 if length < 64 else 1  # a program for each, which the interpreter runs one after the other
    check(sample, sample.inputs(batch=1, length=length, heads=heads, key=9, value=5), torch.float32)


@triton_cases("length", 1, 15, 64, 65, 100, composed=15)
def test_agrees_in_a_half_type(sample, length):
    check(sample, sample.inputs(batch=1, length=length, heads=1, key=8, value=12), HALF)


@triton_cases("reverse", False, True, composed=True)
def test_packed(sample, reverse):
    """With empty sequences and some of one step."""
    inputs, boundaries = packed(sample, [0, 1, 17, 0, 30, 1, 0], heads=1, key=5, value=7)
    check(sample, inputs, torch.float32, cu_seqlens=boundaries, reverse=reverse)


@triton_cases("merge", "sum", "stack", composed="sum")
def test_both_directions_of_the_same_inputs(sample, merge):
    inputs = sample.inputs(batch=2, length=19, heads=1, key=5, value=7)
    inputs |= {name: torch.stack([inputs[name], inputs[name].flip(0)]) for name in sample.states}
    check(sample, inputs, torch.float32, direction="both", merge=merge)


@triton_forms()
def test_both_directions_of_their_own_inputs(sample):
    ahead, back = (sample.inputs(batch=2, length=19, heads=1, key=5, value=7, seed=seed) for seed in range(2))
    inputs = {name: torch.stack([value, back[name]]) if isinstance(value, Tensor) else value for name, value in ahead.items()}
    check(sample, inputs, torch.float32, direction="both", merge="stack")


@triton_cases("direction", "forward", "both", composed="both", slow=("forward",))
def test_reads_and_writes_through_an_index(sample, direction):
    inputs, boundaries = packed(sample, [1, 17, 0, 12], heads=1, key=5, value=7)
    if direction == "both":
        inputs |= {name: torch.stack([inputs[name], inputs[name].flip(0)]) for name in sample.states}
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    check(sample, inputs, torch.float32, cu_seqlens=boundaries, index=order, direction=direction)


@triton_forms()
def test_without_states(sample):
    """None is given where the function may do without, zeros otherwise; none is asked for."""
    inputs = {name: value for name, value in sample.inputs(batch=2, length=7, heads=1, key=5, value=7).items() if name != "initial_state"}
    inputs |= {name: torch.zeros_like(inputs[name]) for name in sample.states if name in inputs}

    def results(dtype: torch.dtype, backend: str) -> list[Tensor]:
        given = {name: value.requires_grad_() if isinstance(value, Tensor) else value for name, value in moved(cast(inputs, dtype)).items()}
        out = sample.call(**given, **sample.options, backend=backend)
        wanted = [value for name, value in given.items() if isinstance(value, Tensor) and name not in sample.states]
        return [out, *torch.autograd.grad(out.abs().square().sum(), wanted, allow_unused=True, materialize_grads=True)]

    exact, single = (results(dtype, "reference") for dtype in (torch.float64, torch.float32))
    for found, like, value in zip(results(torch.float32, "triton"), single, exact, strict=True):
        assert error(found, value) <= BOUNDS[torch.float32] * error(like, value) + 1e-6


@triton_samples(stateful=True)
def test_no_steps_hand_the_state_on(sample):
    inputs = moved(sample.inputs(batch=2, length=0, heads=1, key=4, value=4, dtype=torch.float32))
    out, states = sample.run(inputs, backend="triton")
    assert out.shape[1] == 0
    for name, state in zip(sample.states, states, strict=True):
        assert error(state.cpu(), inputs[name].cpu()) == 0, name


@triton_forms()
def test_gradients_are_the_same_bits_every_time(sample):
    inputs = moved(sample.inputs(batch=1, length=33, heads=1, key=8, value=8, dtype=torch.float32))
    first, second = (sample.gradients(inputs, backend="triton") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@triton_samples()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("key", "value"), [(16, 16), (33, 20), (64, 80), (100, 130)])
def test_widths(sample, dtype, key, value):
    check(sample, sample.inputs(batch=1, length=70, heads=1, key=key, value=value), dtype)


@pytest.mark.slow
@triton_samples()
@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_configuration(sample, number, monkeypatch):
    """Not only the first, which the other tests run."""
    monkeypatch.setattr(launch, "_chosen", lambda stated: stated.candidates[min(number, len(stated.candidates) - 1)])
    check(sample, sample.inputs(batch=1, length=70, heads=1, key=20, value=36), torch.float32)


@pytest.mark.slow
@triton_samples()
def test_widest(sample):
    check(sample, sample.inputs(batch=1, length=20, heads=1, key=256, value=256), torch.float32)
