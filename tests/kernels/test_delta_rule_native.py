"""C++ delta rules and TTT-Linear: sizes around lanes and panels, many steps per token, odd mini-batches, threads, memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from recurrence_checks import cast, check_agreement, same_bits_on_threads

from visionrnn.kernels import native
from visionrnn.testing import SAMPLES

NAMES = ("delta_rule", "kda", "delta_product", "generalized_delta_rule", "ttt_linear", "ttt_linear_fla")
pytestmark = pytest.mark.skipif(not native.is_built(), reason="the native library is not built")
SAMPLES_HERE = [SAMPLES[name] for name in NAMES]
EVERY = pytest.mark.parametrize("sample", SAMPLES_HERE, ids=lambda sample: sample.name)


@EVERY
@pytest.mark.parametrize(("key", "value"), [(5, 1), (16, 33), (40, 24), (65, 16)])
def test_widths_around_lanes_and_panels(sample, key, value):
    check_agreement(sample, "native", torch.float32, batch=1, length=70, heads=2, key=key, value=value)


@pytest.mark.parametrize("steps", [3, 4, 5, 9])
def test_several_steps_per_token(steps):
    sample = SAMPLES["delta_product"]
    inputs = sample.inputs(batch=1, length=6 * steps, heads=2, key=6, value=5, dtype=torch.float32)  # with 12 * steps rows of k
    inputs |= {name: inputs[name][:, :12].detach().requires_grad_() for name in ("q", "log_decay")}
    got, want = (replace(sample, options={"steps": steps}).gradients(inputs, backend=backend) for backend in ("native", "reference"))
    for name, value in got.items():
        torch.testing.assert_close(value, want[name], rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("size", [1, 5, 70])
@pytest.mark.parametrize("name", ["ttt_linear", "ttt_linear_fla"])
def test_mini_batches_of_any_size(name, size):
    sample = SAMPLES[name]
    inputs = cast(sample.inputs(batch=1, length=83, heads=2, key=9, value=9), torch.float32)
    inputs = {key: value.requires_grad_() for key, value in inputs.items()}
    inputs["token_scale"] = (1 / torch.arange(1.0, size + 1)).requires_grad_()
    sample = replace(sample, options={**sample.options, "mini_batch_size": size})
    got, want = (sample.gradients(inputs, backend=backend) for backend in ("native", "reference"))
    for key, value in got.items():
        torch.testing.assert_close(value, want[key], rtol=1e-4, atol=1e-4 * float(want[key].detach().abs().max()), msg=key)


@EVERY
def test_same_bits_again_and_with_any_number_of_threads(sample):
    inputs = sample.inputs(batch=3, length=75, heads=3, key=20, value=12, dtype=torch.float32)
    same_bits_on_threads(lambda: sample.gradients(inputs, backend="native"), (1, 2, 3, 1))


@EVERY
def test_saved_memory_is_a_few_times_the_inputs(sample):
    """A state per step would be 32 times as large as one row per step."""
    inputs = sample.inputs(batch=1, length=2048, heads=1, key=32, value=32, dtype=torch.float32)
    saved = 0

    def count(tensor):
        nonlocal saved
        saved += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        sample.run(inputs, backend="native")
    assert saved <= 12 * max(1, sample.options.get("steps", 1)) * 2048 * 32
