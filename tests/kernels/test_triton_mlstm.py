"""What is special about mLSTM's and symmetric retention's Triton kernels: tiles inside chunks, strong gates, mixed types, short chunks."""

from __future__ import annotations

import pytest
import torch
from recurrence_checks import extreme_inputs
from triton_checks import check, moved

from visionrnn.kernels.gated_linear import triton_mlstm_op
from visionrnn.testing import SAMPLES, error


@pytest.mark.parametrize("chunk", [64, 128])
def test_tiles_inside_a_chunk(chunk, monkeypatch):
    """Chunks of 64 steps in 2, of 128 in 4 tiles, and several tiles of keys and values."""
    monkeypatch.setattr(triton_mlstm_op, "chunk_of", lambda key, value: chunk)
    sample = SAMPLES["mlstm"]
    check(sample, sample.inputs(batch=1, length=70, heads=1, key=33, value=20), torch.float32)


def test_tiles_inside_a_chunk_of_symmetric_retention():
    """Of 40 steps: a tile and a part of one."""
    sample = SAMPLES["symmetric_retention"]
    inputs = sample.inputs(batch=1, length=70, heads=1, key=33, value=20)
    inputs = {name: value.detach() for name, value in inputs.items()}
    exact, found = (sample.call(**inputs, chunk_size=40, backend=name) for name in ("reference", "chunkwise"))
    assert error(found, exact) <= 1e-10
    single = moved({name: value.float() for name, value in inputs.items()})
    assert error(sample.call(**single, chunk_size=40, backend="triton").cpu(), exact) <= 2e-6


@pytest.mark.parametrize("name", ["mlstm", "mlstm_sigmoid"])
def test_gates_at_the_ends_of_what_is_allowed(name):
    """Sums of log forget gates are then thousands; a weight is a difference of two of them. Exact gradients of gates nearly vanish, and
    what is left of them is rounding of much larger ones."""
    sample = SAMPLES[name]
    inputs = extreme_inputs(sample, torch.float64, batch=1, length=70, heads=1, key=5, value=4)
    exact = sample.gradients(inputs, backend="reference")
    found = sample.gradients(moved({key: value.float() for key, value in inputs.items()}), backend="triton")
    found = {key: value.cpu() for key, value in found.items()}
    largest = max(float(value.abs().max()) for name, value in exact.items() if name.startswith("d "))
    for key in exact:
        if key in ("d input_gate", "d forget_gate"):
            assert float((found[key] - exact[key]).abs().max()) <= 2e-6 * largest, key
        else:
            assert error(found[key], exact[key]) <= 1e-5, key


def test_inputs_of_several_types_are_computed_in_the_widest():
    sample = SAMPLES["mlstm"]
    inputs = {name: value.detach().float() for name, value in sample.inputs(batch=1, length=9, heads=1, key=4, value=4).items()}
    mixed = inputs | {"q": inputs["q"].bfloat16(), "input_gate": inputs["input_gate"].bfloat16()}
    rounded = {name: value.double() for name, value in mixed.items()}
    found, exact = (sample.run(given, backend=backend)[0] for given, backend in ((moved(mixed), "triton"), (rounded, "reference")))
    assert found.dtype == torch.bfloat16
    assert error(found.cpu(), exact) <= torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("name", ["mlstm", "mlstm_sigmoid"])
def test_a_step_that_forgets_everything_costs_later_ones_nothing(name):
    """Sums of log forget gates behind it must still be exact."""
    sample = SAMPLES[name]
    inputs = sample.inputs(batch=1, length=40, heads=1, key=5, value=4)
    forget = inputs["forget_gate"].detach().clone()
    forget[:, 5] = -1e7
    check(sample, inputs | {"forget_gate": forget}, torch.float32)
