"""Depthwise convolution over token grids: against torch's on images, rotated filters, packs of different sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visionrnn.layers.grid_conv import GridConv
from visionrnn.serialization.grids import Grids

SIZES = ((5, 3), (1, 7), (4, 4), (1, 1), (6, 2))


def convolution(kernel: int = 3, **options) -> GridConv:
    torch.manual_seed(0)
    return GridConv(6, kernel, **options).double()


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_equals_a_convolution_of_the_image(kernel):
    conv = convolution(kernel)
    tokens = torch.randn(2, 20, 6, dtype=torch.float64)
    image = tokens.transpose(1, 2).unflatten(2, (4, 5))
    expected = F.conv2d(image, conv.weight, conv.bias, padding=kernel // 2, groups=6).flatten(2).transpose(1, 2)
    torch.testing.assert_close(conv(tokens, Grids(((4, 5),))), expected, rtol=0, atol=1e-12)
    conv.activation = "silu"
    with torch.no_grad():
        torch.testing.assert_close(conv(tokens, Grids(((4, 5),))), F.silu(expected), rtol=0, atol=1e-12)


def test_rotated_filters_are_the_other_direction():
    conv, grids = convolution(activation="silu"), Grids(((4, 5),))
    tokens = torch.randn(2, 20, 6, dtype=torch.float64)
    torch.testing.assert_close(conv(tokens, grids, rotated=True), conv(tokens.flip(1), grids).flip(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("sizes", [SIZES, ((3, 4),) * 3, ((2, 2),)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_pack_equals_separate_images(sizes, rotated, kernel):
    conv, grids = convolution(kernel, activation="silu"), Grids(sizes, packed=True)
    tokens = torch.randn(1, sum(grids.lengths), 6, dtype=torch.float64, requires_grad=True)
    packed = conv(tokens, grids, rotated=rotated)
    parts = zip(tokens.split(grids.lengths, 1), sizes, strict=True)
    separate = torch.cat([conv(part, Grids((size,)), rotated=rotated) for part, size in parts], 1)
    torch.testing.assert_close(packed, separate, rtol=0, atol=1e-12)
    weight, inputs = torch.randn_like(packed), [tokens, conv.weight, conv.bias]
    together, apart = (torch.autograd.grad((out * weight).sum(), inputs) for out in (packed, separate))
    for found, expected in zip(together, apart, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_result_is_laid_out_as_tokens():
    conv, tokens = convolution().float(), torch.randn(2, 20, 6)
    assert conv(tokens, Grids(((4, 5),))).is_contiguous()
    assert torch.equal(conv(tokens, Grids(((4, 5),))), conv(tokens.transpose(1, 2).contiguous().transpose(1, 2), Grids(((4, 5),))))


def test_the_pack_is_one_convolution(monkeypatch):
    calls, run = [], F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *arguments: calls.append(1) or run(*arguments))
    grids = Grids(SIZES, packed=True)
    convolution()(torch.randn(1, sum(grids.lengths), 6, dtype=torch.float64), grids)
    assert len(calls) == 1


@pytest.mark.parametrize(("options", "message"), [(dict(kernel=4), "kernel=4: expected an odd"), (dict(activation="relu"), "'relu'")])
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        GridConv(6, **options)


def test_compiled():
    conv, tokens = convolution(activation="silu").float(), torch.randn(2, 20, 6)
    compiled = torch.compile(lambda x: conv(x, Grids(((4, 5),)), rotated=True), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens), conv(tokens, Grids(((4, 5),)), rotated=True))


def test_activation_keeps_its_input_only():
    conv, tokens = GridConv(8, activation="silu"), torch.randn(2, 12, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        out = conv(tokens, Grids(((3, 4),)))
    assert not [value for value in kept if value.numel() == tokens.numel() and value.data_ptr() != tokens.data_ptr()]
    again = conv._activated(tokens, Grids(((3, 4),)), False)
    assert torch.equal(out, again)
    (grad,), (plain,) = (torch.autograd.grad(value.square().sum(), tokens) for value in (out, again))
    assert torch.equal(grad, plain)
