"""Operations of the ops that launch Triton's kernels: those that the same recurrence counts on a CPU."""

from __future__ import annotations

import pytest
import torch
from recurrence_checks import cast
from triton_checks import covered

from visionrnn.analysis import OperationCount
from visionrnn.analysis.planned import KITTI, Scene, lion_layer
from visionrnn.kernels import available_backends, launch
from visionrnn.testing import SAMPLES

BOTH_WAYS = [sample for sample in SAMPLES.values() if covered(sample) and "native" in available_backends(sample.family, sample.kernel)]


def count(sample, inputs, **options) -> int:
    with torch.no_grad(), launch.recording(), OperationCount() as operations:
        sample.run(inputs, **options)
    assert not operations.not_counted
    return operations.of()


@pytest.mark.parametrize("sample", BOTH_WAYS, ids=[sample.name for sample in BOTH_WAYS])
def test_as_many_as_on_a_cpu(sample):
    inputs = cast(sample.inputs(batch=2, length=32, heads=2, key=8, value=8), torch.float32)
    once = count(sample, inputs, backend="triton")
    assert once == pytest.approx(count(sample, inputs, backend="native"), rel=0.02)
    inputs = {name: value for name, value in inputs.items() if name not in sample.states}
    states = cast(sample.inputs(batch=4, length=1, heads=2, key=8, value=8), torch.float32)
    inputs |= {name: states[name].unflatten(0, (2, 2)) for name in sample.states}
    assert count(sample, inputs, backend="triton", direction="both", merge="stack") == 2 * once


def test_a_layer_of_lion():
    """Fused or not, the same products, convolutions and scans."""
    which, found = Scene("few", 300, KITTI.shape, 16), {}
    for backend in ("triton", "native"):
        case = lion_layer("mamba", which)
        torch.manual_seed(0)
        with torch.no_grad(), launch.recording(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("visionrnn.analysis.planned.operator", lambda name, scene, backend=backend: {"type": name, "backend": backend})
            run = case.call("fp32")
            with OperationCount() as operations:
                run()
        found[backend] = operations.of()
        assert not operations.not_counted
    assert found["triton"] == pytest.approx(found["native"], rel=1e-3)
