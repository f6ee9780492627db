"""Patches and positions: one batch, lists of images of different sizes, other sizes than the model's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visionrnn.layers.patch_embed import GridPositions, PatchEmbed, resample_positions
from visionrnn.serialization.grids import Grids

SIZES = [(16, 24), (8, 8), (31, 17), (16, 24)]  # the third is no multiple of the patch


def embedding(stride: int | None = None, dynamic: bool = True) -> PatchEmbed:
    torch.manual_seed(0)
    return PatchEmbed((16, 24), 8, 3, 12, stride, dynamic=dynamic).double()


def images(sizes=SIZES) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(3, *size, dtype=torch.float64, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("stride", [None, 4])
def test_patches_are_a_convolution(stride):
    embed, x = embedding(stride), torch.stack(images([(16, 24)] * 2))
    torch.nn.init.normal_(embed.proj.bias)
    tokens, grids = embed(x)
    assert grids == Grids(((2, 3) if stride is None else (3, 5),))
    assert tokens.is_contiguous()
    torch.testing.assert_close(tokens, embed.proj(x).flatten(2).transpose(1, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [None, 4])
def test_list_equals_separate_images(stride):
    embed, given = embedding(stride), images()
    tokens, grids = embed(given)
    assert grids.packed
    assert grids.sizes == tuple(embed.grid_of(*image.shape[1:]) for image in given)
    separate = [embed(image.unsqueeze(0))[0] for image in given]
    torch.testing.assert_close(tokens, torch.cat(separate, 1), rtol=0, atol=1e-12)
    weight = torch.randn_like(tokens)
    inputs = [*given, *embed.parameters()]
    together = torch.autograd.grad((tokens * weight).sum(), inputs)
    apart = torch.autograd.grad((torch.cat(separate, 1) * weight).sum(), inputs)
    for found, expected in zip(together, apart, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_pixels_beyond_the_last_whole_patch_are_not_seen():
    embed, (image,) = embedding(), images([(31, 17)])
    tokens, grids = embed(image.unsqueeze(0))
    assert grids.sizes == ((3, 2),)
    assert torch.equal(tokens, embed(image[None, :, :24, :16])[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "expected at least one, got an empty list"),
        ([torch.zeros(3, 16, 16), torch.zeros(1, 3, 16, 16)], r"images\[1\]: expected \[3, H, W\], got \[1, 3, 16, 16\]"),
        ([torch.zeros(1, 16, 16)], r"images\[0\]: expected \[3, H, W\], got \[1, 16, 16\]"),
        ([torch.zeros(3, 16, 7)], "16 × 7 pixels: smaller than a patch of 8 × 8"),
        (torch.zeros(3, 16, 24), r"images: expected \[B, 3, H, W\], got \[3, 16, 24\]"),
        (torch.zeros(2, 1, 16, 24), r"images: expected \[B, 3, H, W\], got \[2, 1, 16, 24\]"),
        (torch.zeros(2, 3, 7, 24), "smaller than a patch"),
    ],
)
def test_wrong_images_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        embedding().float()(given)


@pytest.mark.parametrize("options", [dict(patch_size=0), dict(patch_size=(8, -8)), dict(patch_size=8, stride=0)], ids=str)
def test_empty_patches_are_refused(options):
    with pytest.raises(ValueError, match=r"patch_size=.*stride=.*at least 1 pixel"):
        PatchEmbed(**{"img_size": 16, "in_chans": 3, "dim": 4, **options})


def test_other_sizes_need_a_dynamic_model():
    with pytest.raises(ValueError, match=r"16 × 16 pixels: the model was built for 16 × 24.*dynamic_img_size"):
        embedding(dynamic=False)(torch.zeros(1, 3, 16, 16).double())
    with pytest.raises(ValueError, match=r"a list of images.*dynamic_img_size"):
        embedding(dynamic=False)(images([(16, 24)]))


def test_starting_values():
    weight = PatchEmbed(32, 8, 3, 96).proj.weight.detach()
    bound = (6 / (3 * 64 + 96)) ** 0.5  # Glorot and Bengio 2010, of the linear map of a patch
    assert 0.95 * bound < float(weight.abs().max()) <= bound


def test_positions_of_many_grids():
    positions = GridPositions((4, 3), 6).double()
    torch.nn.init.normal_(positions.embed)
    grids = Grids(((4, 3), (2, 5), (4, 3)), packed=True)
    parts = positions(grids).split(grids.lengths, 1)
    assert torch.equal(parts[0], positions.embed.flatten(1, 2))
    assert torch.equal(parts[0], parts[2])
    image = positions.embed.permute(0, 3, 1, 2)
    other = F.interpolate(image, (2, 5), mode="bicubic", align_corners=False)
    torch.testing.assert_close(parts[1], other.flatten(2).transpose(1, 2), rtol=0, atol=1e-12)
    assert resample_positions(positions.embed, (4, 3)) is positions.embed
    (found,) = torch.autograd.grad(positions(grids).square().sum(), positions.embed)
    (twice,) = torch.autograd.grad(2 * positions.embed.square().sum() + other.square().sum(), positions.embed)
    torch.testing.assert_close(found, twice)


def test_half_types_are_resampled_in_float32():
    embed = torch.randn(1, 4, 4, 6)
    out = resample_positions(embed.bfloat16(), (7, 5))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, resample_positions(embed.bfloat16().float(), (7, 5)).bfloat16(), rtol=0, atol=0)
