"""What only gated linear attention's Triton kernels have: longer chunks, decays that forget everything, inputs of several types."""

from __future__ import annotations

import pytest
import torch
from triton_checks import DEVICE, check, moved

from visionrnn.kernels import gated_linear_attention, launch, mlstm, state_space_dual, symmetric_retention
from visionrnn.kernels.gated_linear import triton_op
from visionrnn.testing import SAMPLES, error


@pytest.mark.parametrize("chunk", [64, 128, 256])
@pytest.mark.parametrize("name", ["linear_attention", "simple_gla_with_bonus", "rwkv6"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.slow)], ids=str)
def test_chunks_of_several_tiles(name, chunk, dtype, monkeypatch):
    monkeypatch.setattr(triton_op, "CHUNK", chunk)
    sample = SAMPLES[name]
    check(sample, sample.inputs(batch=1, length=140, heads=1, key=8, value=12), dtype)


@pytest.mark.parametrize("name", ["simple_gla", "gla", "rwkv6"])
def test_small_decays_beside_ones_that_forget_everything(name):
    """No sum over them may cost the others their digits, and no factor may overflow."""
    sample = SAMPLES[name]
    inputs = sample.inputs(batch=1, length=40, heads=1, key=5, value=7)
    generator = torch.Generator().manual_seed(1)
    choice = torch.randint(3, inputs["log_decay"].shape, generator=generator)
    check(sample, inputs | {"log_decay": torch.tensor([-50.0, 0.0, -1e-3], dtype=torch.float64)[choice]}, torch.float32)


def test_inputs_of_several_types():
    inputs = moved(SAMPLES["gla"].inputs(batch=1, length=20, heads=1, dtype=torch.float32))
    mixed = inputs | {"q": inputs["q"].bfloat16()}
    o, state = gated_linear_attention(**mixed, return_final_state=True, backend="triton")
    expected = gated_linear_attention(**(inputs | {"q": mixed["q"].float()}), backend="reference")
    assert o.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert error(o.float(), expected) <= torch.finfo(torch.bfloat16).eps


def test_each_direction_may_forget_at_its_own_pace():
    """log_decay [2, H] beside inputs [2, B, T, H, ...]."""
    inputs = moved(SAMPLES["retention"].inputs(batch=1, length=20, heads=2, dtype=torch.float32))
    inputs = {name: torch.stack([value, 2 * value]) for name, value in inputs.items()}
    both, apart = (gated_linear_attention(**inputs, direction="both", backend=name) for name in ("triton", "reference"))
    assert error(both, apart) <= 1e-5


@pytest.mark.parametrize(("shape", "word"), [((3,), "log_decay"), ((2, 3), "log_decay")])
def test_wrong_decays_are_refused(shape, word):
    inputs = moved(SAMPLES["retention"].inputs(batch=1, length=4, heads=2, dtype=torch.float32))
    with pytest.raises(ValueError, match=word):
        gated_linear_attention(**(inputs | {"log_decay": torch.zeros(shape, device=DEVICE)}), backend="triton")


def test_complex_keys_count_twice():
    q = torch.zeros(1, 3, 1, 200, device=DEVICE)
    decay = torch.zeros(1, 3, 1, 200, dtype=torch.complex64, device=DEVICE)
    with pytest.raises(ValueError, match="widths up to 256"):
        gated_linear_attention(q, q, q, decay, backend="triton")


@pytest.mark.parametrize("function", [gated_linear_attention, mlstm, symmetric_retention], ids=lambda function: function.__name__)
@pytest.mark.parametrize(("query", "width"), [(0.01, 1), (40.0, 64)], ids=["states", "scores"])
def test_states_and_scores_may_outgrow_float16(function, query, width):
    """64 times 40 times 40, as a state before the second chunk and as a product of two rows, is no number of float16."""
    gates = {mlstm: (torch.zeros(1, 66, 1), torch.full((1, 66, 1), 20.0)), symmetric_retention: (torch.zeros(1),)}.get(function, ())
    q, k, v = (torch.full((1, 66, 1, n), value, dtype=torch.float16) for n, value in ((width, query), (width, 40.0), (2, 40.0 / width)))
    arguments = [value.to(DEVICE) for value in (q, k, v, *gates)]
    found, exact = (function(*arguments, scale=1e-3, backend=name) for name in ("triton", "reference"))
    assert bool(torch.isfinite(exact).all())
    assert error(found, exact) <= 2e-3


def test_gradients_are_dense_as_the_compiler_expects():
    """Axes of one element may have any stride; those of gradients have the one of a tensor without gaps."""
    inputs = moved(SAMPLES["simple_gla"].inputs(batch=1, length=6, heads=2, key=3, value=4, dtype=torch.float32))
    gaps = {name: torch.stack([value, value], 1)[:, 0] for name, value in inputs.items()}
    assert all(value.is_contiguous() and value.stride() != inputs[name].stride() for name, value in gaps.items())
    given = [torch.zeros(1, 6, 2, 4, device=DEVICE), gaps["initial_state"], *(gaps[name] for name in ("q", "k", "v", "log_decay"))]
    kept = torch.zeros(1, 2, 3, 4, device=DEVICE)
    with launch.recording():
        arguments = (*given, None, kept, None, None, 1.0, 0, False)
        torch.library.opcheck(triton_op._gated_linear_backward, arguments, test_utils=("test_schema", "test_faketensor"))


def test_no_batch():
    x, dt, B = torch.zeros(0, 5, 2, 3, device=DEVICE), torch.zeros(0, 5, 2, device=DEVICE), torch.zeros(0, 5, 1, 4, device=DEVICE)
    A = torch.full((2,), -1.0, device=DEVICE)
    assert state_space_dual(x, dt, A, B, B, A, backend="triton").shape == x.shape
    assert state_space_dual(x, dt, A, B, B, A, direction="both", merge="stack", backend="triton").shape == (2, *x.shape)
