"""Wrong use of Triton's kernels is refused before anything is launched, in words that name the argument."""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from recurrence_checks import scattered
from torch import Tensor
from triton_checks import DEVICE, cast, covered, moved, packed, triton_forms, triton_samples

from visionrnn.kernels import delta_rule, diagonal_scan, dispatch, launch
from visionrnn.testing import BOUNDS, SAMPLES, error

BOUNDED = ("gated_linear", "delta_rule", "nonlinear")  # families with a width that a kernel holds at once


@contextmanager
def nothing_launched():
    with mock.patch.object(launch, "_run", side_effect=AssertionError("launched")):
        yield


def single(sample, **sizes: int):
    return moved(cast(sample.inputs(**{"batch": 1, "length": 5, "heads": 2, "key": 3, "value": 4, **sizes}), torch.float32))


@triton_samples()
@pytest.mark.parametrize("fault", ["shape", "dtype", "device", "double"])
def test_wrong_arguments_are_named(sample, fault):
    inputs = single(sample)
    for name, given in inputs.items():
        free = fault == "shape" and name == "v" and not sample.states  # any width of v is a right one where no state has it
        if not isinstance(given, Tensor) or free:
            continue
        wrong = {
            "shape": given[..., :-1],
            "dtype": given.long() if not given.is_complex() else given.real.long(),
            "device": given.to("meta"),
            "double": given.to(torch.complex128 if given.is_complex() else torch.float64),
        }
        with nothing_launched(), pytest.raises(ValueError) as caught:
            sample.run({**inputs, name: wrong[fault]}, backend="triton")
        if fault not in ("shape", "double") and name not in sample.states:
            told = str(caught.value)  # the first argument's device is that of the call
            assert name in told or (fault == "device" and "on meta" in told), f"{name}: {told}"


@triton_samples()
def test_double_precision_is_refused(sample):
    inputs = moved(sample.inputs(length=3))
    with nothing_launched(), pytest.raises(ValueError, match=r"backend='triton' computes in torch.float32 on cuda, got torch.float64"):
        sample.run(inputs, backend="triton")


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if sample.family in BOUNDED and covered(sample)])
def test_widths_over_the_limit(name, monkeypatch):
    """By name they are refused; "auto" takes another back end."""
    sample = SAMPLES[name]
    inputs = single(sample, length=2, heads=1, key=257, value=257)
    with nothing_launched(), pytest.raises(ValueError, match=r"widths? .*256, got \d+"):
        sample.run(inputs, backend="triton")
    monkeypatch.setitem(dispatch.PREFERENCE, DEVICE, ("triton", "chunkwise"))
    out, _ = sample.run(inputs)
    assert out.isfinite().all()


def test_steps_over_the_limit(monkeypatch):
    """As widths."""
    q, many, beta = torch.rand(1, 2, 1, 4), torch.rand(1, 66, 1, 4), torch.rand(1, 66, 1)
    given = moved({"q": q, "k": many, "v": many, "beta": beta})
    with nothing_launched(), pytest.raises(ValueError, match="up to 32 steps per token, got 33"):
        delta_rule(**given, steps=33, backend="triton")
    monkeypatch.setitem(dispatch.PREFERENCE, DEVICE, ("triton", "chunkwise"))
    with nothing_launched():
        assert delta_rule(**given, steps=33).isfinite().all()


@triton_samples()
@pytest.mark.parametrize("boundaries", [[0, 5], [1, 9], [0, 6, 4, 9]], ids=str)
def test_wrong_boundaries_are_named(sample, boundaries):
    with nothing_launched(), pytest.raises(ValueError, match="cu_seqlens: expected 0 ≤ … ≤ 9"):
        sample.run(single(sample, length=9), cu_seqlens=torch.tensor(boundaries), backend="triton")


@triton_samples()
def test_wrong_indices_are_named(sample):
    inputs = single(sample, length=6)
    rows = torch.arange(6, device=DEVICE)
    wrong = {"short": rows[:5], "float": rows.float(), "matrix": rows[None], "elsewhere": rows.to("meta")}
    if DEVICE == "cpu":  # where looking at the numbers does not wait for a device
        wrong |= {"twice": rows // 2, "outside": rows + 1, "negative": rows - 1}
    for index in wrong.values():
        with nothing_launched(), pytest.raises(ValueError, match="index: expected"):
            sample.run(inputs, index=index, backend="triton")


@triton_samples()
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"direction": "backward"}, "direction='backward'; expected one of"),
        ({"direction": "both", "merge": "mean"}, "merge='mean'; expected one of"),
        ({"direction": "forward", "reverse": True}, "reverse=True contradicts direction='forward'"),
        ({"direction": "both", "reverse": True}, "reverse=True contradicts direction='both'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_wrong_directions_are_named(sample, options, told):
    with nothing_launched(), pytest.raises(ValueError, match=told):
        sample.run(single(sample), backend="triton", **options)


@triton_samples()
def test_three_directions_are_refused(sample):
    inputs = single(sample)
    inputs[sample.timed[0]] = inputs[sample.timed[0]].expand(3, *inputs[sample.timed[0]].shape)
    with nothing_launched(), pytest.raises(ValueError, match="expected"):
        sample.run(inputs, direction="both", backend="triton")


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if not covered(sample)])
def test_what_has_no_kernel_is_refused(name):
    with pytest.raises(ValueError, match=r"backend='triton'; expected 'auto' or one of \["):
        SAMPLES[name].run(single(SAMPLES[name]), backend="triton")


def test_other_devices_are_refused():
    x = torch.rand(1, 4, 3, device="meta")
    with pytest.raises(ValueError, match=r"backend='triton' computes in torch.float32 on cuda, got torch.float32 on meta"):
        diagonal_scan(x, x, backend="triton")


@triton_forms()
def test_memory_layout_does_not_matter(sample):
    """Tensors with gaps are made dense before a launch, so that no kernel needs strides; torch around it may add in another order."""
    inputs = single(sample, length=7)
    want = sample.gradients(inputs, backend="triton")
    for name, value in sample.gradients(scattered(inputs), backend="triton").items():
        assert error(value, want[name]) <= 1e-6, name


@triton_samples()
def test_types_may_differ(sample):
    """As under autocast: values in a half type, gates and constants in float32. The output has the type of the first argument."""
    inputs = cast(sample.inputs(batch=1, length=9, heads=1, key=8, value=8), torch.float32)
    first = sample.timed[0]
    if inputs[first].is_complex():
        return
    inputs[first] = inputs[first].bfloat16()
    exact = sample.gradients(cast(inputs, torch.float64), backend="reference")["out"]
    out = sample.gradients(moved(inputs), backend="triton")["out"]
    like, _ = sample.run(moved(inputs), backend="reference")
    assert out.dtype == like.dtype
    assert error(out.cpu(), exact) <= BOUNDS[torch.bfloat16] * torch.finfo(torch.bfloat16).eps


@triton_samples()
def test_both_directions_need_a_state_each(sample):
    if not sample.states:
        return
    inputs, boundaries = packed(sample, [3, 2], heads=1, key=3, value=4)
    with nothing_launched(), pytest.raises(ValueError, match="expected"):
        sample.run(moved(cast(inputs, torch.float32)), direction="both", cu_seqlens=boundaries.to(DEVICE), backend="triton")
