"""Mamba's mixer around its scans: the fused kernels against plain PyTorch; in the interpreter where there is no GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from triton_checks import DEVICE

from visionrnn.kernels import launch, rows
from visionrnn.kernels.rows import Direction, MixerInputs, reference
from visionrnn.testing import BOUNDS, error

CHECKS = ("test_schema", "test_faketensor")
LENGTHS = [1, 17, 0, 40, 1, 0]
SIZES = {"small": (12, 3, 5, 3), "kitti": (128, 4, 16, 4), "wide": (136, 9, 17, 2)}  # channels, rank, states, taps


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direction(channels: int, rank: int, states: int, taps: int, seed: int, bias: bool = True) -> Direction:
    draws = iter(range(seed, seed + 7))
    shapes = ((channels, taps), (channels,), (rank + 2 * states, channels), (channels, rank), (channels,), (channels, states), (channels,))
    values = [numbers(*shape, seed=next(draws)) * shape[-1] ** -0.5 for shape in shapes]
    return Direction(values[0], values[1] if bias else None, *values[2:])


def boundaries() -> Tensor:
    return torch.tensor([0, *LENGTHS]).cumsum(0)


def to(value, dtype: torch.dtype, device: str = DEVICE):
    if isinstance(value, tuple):
        return Direction(*(to(part, dtype, device) for part in value))
    return value if value is None else value.to(device, dtype if value.is_floating_point() else None)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(
    ("size", "dtype"), [("small", torch.float32), ("kitti", torch.float32), ("wide", torch.float32), ("kitti", torch.bfloat16)]
)
def test_inputs(size, dtype, indexed):
    """Parameters stay in float32 under half types, as under autocast."""
    channels, number = SIZES[size][0], sum(LENGTHS)
    uz = numbers(number, 2 * channels).to(dtype).double()
    ahead, back = (direction(*SIZES[size], seed=seed, bias=seed == 10 or size != "small") for seed in (10, 10 if size == "small" else 20))
    ahead, back = (to(to(part, torch.float32, "cpu"), torch.float64, "cpu") for part in (ahead, back))
    index = torch.randperm(number, generator=torch.Generator().manual_seed(1)) if indexed else None
    exact = reference.mixer_inputs(uz, ahead, back, boundaries(), index)
    single = reference.mixer_inputs(uz.float(), to(ahead, torch.float32, "cpu"), to(back, torch.float32, "cpu"), boundaries(), index)
    moved = None if index is None else index.to(DEVICE)
    found = rows.mixer_inputs(to(uz, dtype), to(ahead, torch.float32), to(back, torch.float32), boundaries().to(DEVICE), moved)
    for name, value, like, want in zip(MixerInputs._fields, found, single, exact, strict=True):
        unit = 0 if dtype == torch.float32 else torch.finfo(dtype).eps
        assert value.shape == want.shape
        assert error(value.cpu(), want) <= BOUNDS[dtype] * max(error(like, want), unit) + 1e-6, name
    small = exact.delta < 1e-4 * exact.delta.max()
    if dtype == torch.float32 and small.any():  # small steps are small decays: they keep their relative precision
        assert ((found.delta.cpu().double() - exact.delta).abs()[small] <= 1e-5 * exact.delta[small]).all()


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("width", "channels", "dtype"), [(6, 12, torch.float32), (64, 128, torch.float32), (40, 136, torch.bfloat16)])
def test_output(width, channels, dtype, norm, indexed):
    number = 41
    y, uz, x = (
        numbers(*shape, seed=i).to(dtype).double()
        for i, shape in enumerate([(2, number, channels), (number, 2 * channels), (number, width)])
    )
    weight, gain, shift = (numbers(*shape, seed=9).float().double() for shape in [(width, channels), (width,), (width,)])
    gain, shift = (gain, shift) if norm else (None, None)
    index = torch.randperm(number, generator=torch.Generator().manual_seed(1)) if indexed else None
    exact = reference.mixer_output(y, uz, weight, x, gain, shift, index, 1e-5)
    single = reference.mixer_output(*(to(value, torch.float32, "cpu") for value in (y, uz, weight, x, gain, shift)), index, 1e-5)
    halves, others = (to(value, dtype) for value in (y, uz)), (to(value, torch.float32) for value in (weight, x, gain, shift))
    found = rows.mixer_output(*halves, *others, None if index is None else index.to(DEVICE), 1e-5)
    unit = 0 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert found.dtype == torch.float32
    assert error(found.cpu(), exact) <= BOUNDS[dtype] * max(error(single, exact), unit) + 1e-6


def test_no_rows():
    part = to(direction(12, 3, 5, 3, seed=1), torch.float32)
    found = rows.mixer_inputs(torch.zeros(0, 24, device=DEVICE), part, part, torch.zeros(1, dtype=torch.long, device=DEVICE))
    assert found.c.shape == (2, 0, 12) and found.B.shape == (2, 0, 5)
    empty = rows.mixer_output(
        found.c, torch.zeros(0, 24, device=DEVICE), torch.zeros(6, 12, device=DEVICE), torch.zeros(0, 6, device=DEVICE)
    )
    assert empty.shape == (0, 6)


def test_one_launch_each():
    part = to(direction(12, 3, 5, 3, seed=1), torch.float32)
    uz, bounds = torch.zeros(9, 24, device=DEVICE), torch.tensor([0, 4, 9], device=DEVICE)
    with launch.recording() as launches:
        found = rows.mixer_inputs(uz, part, part, bounds)
        rows.mixer_output(found.c, uz, torch.zeros(6, 12, device=DEVICE), torch.zeros(9, 6, device=DEVICE))
    assert [stated.kernel.rpartition(".")[2] for stated in launches] == ["mixer_inputs", "mixer_output"]


def test_opcheck():
    part = to(direction(12, 3, 5, 3, seed=1), torch.float32)
    uz, bounds = torch.zeros(9, 24, device=DEVICE), torch.tensor([0, 4, 9], device=DEVICE)
    with launch.recording():  # nothing is computed: sizes, types and aliases are what is checked
        torch.library.opcheck(torch.ops.visionrnn.triton_mixer_inputs, (uz, *part, *part, bounds, None), test_utils=CHECKS)
        given = torch.zeros(2, 9, 12, device=DEVICE), uz, torch.zeros(6, 12, device=DEVICE), torch.zeros(9, 6, device=DEVICE)
        torch.library.opcheck(torch.ops.visionrnn.triton_mixer_output, (*given, None, None, None, 1e-5), test_utils=CHECKS)


def test_wrong_use():
    part = to(direction(12, 3, 5, 3, seed=1), torch.float32)
    uz, bounds = torch.zeros(9, 24, device=DEVICE), torch.tensor([0, 9], device=DEVICE)
    y, weight, x = (torch.zeros(*shape, device=DEVICE) for shape in [(2, 9, 12), (6, 12), (9, 6)])
    with pytest.raises(ValueError, match=r"uz: expected \[N, 24\]"):
        rows.mixer_inputs(uz[:, :22], part, part, bounds)
    with pytest.raises(ValueError, match=r"uz: expected \[N, 24\]"):
        rows.mixer_inputs(torch.zeros(9, 25, device=DEVICE), part, part, bounds)
    with pytest.raises(ValueError, match=r"uz: expected \[N, 24\]"):
        rows.mixer_inputs(uz[0], part, part, bounds)
    with pytest.raises(ValueError, match="back: expected parameters of the same shapes"):
        rows.mixer_inputs(uz, part, part._replace(conv_bias=None), bounds)
    with pytest.raises(ValueError, match="no backward"):
        rows.mixer_inputs(uz.requires_grad_(), part, part, bounds)
    with pytest.raises(ValueError, match=r"expected y \[directions, N, D\]"):
        rows.mixer_output(y, uz.detach()[:8], weight, x)
    with pytest.raises(ValueError, match="expected at most 256 channels, got 300"):
        rows.mixer_output(y, uz.detach(), torch.zeros(300, 12, device=DEVICE), torch.zeros(9, 300, device=DEVICE))
