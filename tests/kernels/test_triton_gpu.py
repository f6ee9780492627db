"""Triton's kernels on a GPU at the lengths of real inputs, where a race or a wrong offset would show; run where CUDA is present."""

from __future__ import annotations

import pytest
import torch
from triton_checks import cast, check, moved, packed, triton_samples

from visionrnn.kernels import launch
from visionrnn.testing import BOUNDS, error

GPU = torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not GPU, reason="no CUDA device: make test-gpu runs these where there is one")]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@triton_samples()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("length", "key", "value"), [(196, 96, 96), (1024, 64, 64), (4096, 32, 32), (2048, 128, 128)])
def test_lengths(sample, dtype, length, key, value):
    check(sample, sample.inputs(batch=1, length=length, heads=2, key=key, value=value), dtype)


@triton_samples()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_groups_as_lion_has_them(sample, dtype):
    """Four full groups of 1024 and a rest, in both directions, through an order."""
    inputs, boundaries = packed(sample, [1024, 1024, 1024, 1024, 77], heads=2, key=32, value=32)
    inputs |= {name: torch.stack([inputs[name], inputs[name].flip(0)]) for name in sample.states}
    order = torch.randperm(4173, generator=torch.Generator().manual_seed(3))
    check(sample, inputs, dtype, cu_seqlens=boundaries, index=order, direction="both")


@triton_samples()
def test_the_same_bits_every_time(sample):
    inputs = moved(cast(sample.inputs(batch=4, length=1024, heads=4, key=64, value=64), torch.bfloat16))
    first, *others = (sample.gradients(inputs, backend="triton") for _ in range(5))
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


@triton_samples()
def test_what_tuning_chooses_computes_the_same(sample, monkeypatch):
    monkeypatch.setattr(launch, "_fastest", {})  # other tests run what users run without tuning
    inputs = moved(cast(sample.inputs(batch=1, length=300, heads=2, key=64, value=64), torch.float32))
    first = sample.gradients(inputs, backend="triton")
    with launch.autotuning():
        for name, value in sample.gradients(inputs, backend="triton").items():
            assert error(value, first[name]) <= BOUNDS[torch.float32] * 1e-5, name
