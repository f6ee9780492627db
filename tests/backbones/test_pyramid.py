"""PyramidRNN: maps of exact sizes, groups that stay inside images, lists of images, and what timm asks of a backbone."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from operators.test_operators import configs
from torch import nn

from visionrnn.backbones.grid_block import GridBlock
from visionrnn.backbones.pyramid import TINY, PyramidRNN, Stage, sized
from visionrnn.layers.patch_merge import PatchMerging
from visionrnn.registry import OPERATORS
from visionrnn.serialization.grid_scan import GridScan
from visionrnn.serialization.grids import Grids
from visionrnn.serialization.traversal2d import Path, windowed_order
from visionrnn.testing import BOUNDS, error

STAGES = [dict(dim=16, depth=2, window=(4, 3), group_size=10), dict(dim=24, depth=2, window=3, group_size=7)]
SHAPES = [(24, 40), (17, 19), (32, 8), (24, 40)]


def build(operator="mamba", dtype=torch.float64, **options) -> PyramidRNN:
    """A small model, its starting values moved a little, so that what starts at zero takes part."""
    torch.manual_seed(0)
    model = PyramidRNN(**{"img_size": 32, "num_classes": 5, "stages": STAGES, **options}, operator=operator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.to(dtype)


def images(batch: int = 2, size=(32, 32), dtype=torch.float64) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def image_list(dtype=torch.float64) -> list[torch.Tensor]:
    return [image[:, :height, :width] for image, (height, width) in zip(images(4, (40, 40), dtype), SHAPES, strict=True)]


def gradient(model: nn.Module, scores: torch.Tensor) -> torch.Tensor:
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(scores.square().sum(), list(model.parameters()))])


@pytest.mark.parametrize("name", list(OPERATORS))
@pytest.mark.parametrize("traversal", ["mamba_nd", "cross_scan"])
def test_every_operator(name, traversal):
    model = build(configs()[name], torch.float32, traversal=traversal)
    out = model(images(size=(36, 29), dtype=torch.float32))
    assert out.shape == (2, 5) and out.isfinite().all()
    out.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, key


def test_the_tiny_one():
    for operator in ("mamba", "rwkv6", "retnet", "mlstm", "ttt_linear"):
        with torch.device("meta"):
            model = PyramidRNN(**sized(operator))
        assert 12e6 < sum(parameter.numel() for parameter in model.parameters()) < 14e6
    assert [(info["num_chs"], info["reduction"]) for info in model.feature_info] == [(64, 4), (128, 8), (256, 16), (512, 32)]
    model = PyramidRNN(**sized("mamba"), num_classes=3).eval()
    with torch.inference_mode():
        features, maps = model.forward_intermediates(images(1, (224, 192), torch.float32))
    assert [tuple(value.shape[1:]) for value in maps] == [(64, 56, 48), (128, 28, 24), (256, 14, 12), (512, 7, 6)]
    assert features.shape == (1, 7, 6, 512) and all(value.isfinite().all() for value in maps)
    with pytest.raises(KeyError, match="tiny"):
        sized("mamba", "huge")


def test_blocks_follow_the_traversal_and_every_other_one_shifts():
    model = build(stages=TINY, traversal="mamba_nd")
    scans = [block.scan for block in model.modules() if isinstance(block, GridBlock)]
    assert [str(scan.step[0]) for scan in scans] == ["raster", "reverse", "column", "column_reverse"] * 3
    assert [scan.shift for scan in scans] == [False, True] * 6 and {(scan.window, scan.group_size) for scan in scans} == {((14, 14), 784)}
    assert len({block.drop_path.rate for block in build(stages=TINY, drop_path_rate=0.1).modules() if isinstance(block, GridBlock)}) == 12


def test_a_token_reaches_only_what_comes_later_in_its_group():
    path, window, size = Path("snake", True), (3, 4), 6
    torch.manual_seed(0)
    block = GridBlock(16, "mamba", GridScan((path,), window, True, size)).double()
    grids = Grids(((5, 7), (4, 2)), packed=True)
    x = torch.randn(1, 43, 16, dtype=torch.float64)
    groups = [*windowed_order(path, 5, 7, window, True).split(size), *(windowed_order(path, 4, 2, window, True) + 35).split(size)]
    assert [len(group) for group in groups] == [6, 6, 6, 6, 6, 5, 6, 2]
    before = block(x, grids)
    for group in groups:
        for rank in (0, len(group) - 1):
            changed = x.clone()
            changed[0, group[rank]] += torch.randn(16, dtype=torch.float64)
            reached = ((block(changed, grids) - before).abs().amax(2)[0] > 1e-12).nonzero().squeeze(1)
            assert torch.equal(reached, group[rank:].sort().values)


# ---- merging


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 3), (1, 1), (7, 5)])
def test_merging_rounds_up(size):
    torch.manual_seed(0)
    merge, x = PatchMerging(3, 8).double(), torch.randn(2, size[0] * size[1], 3, dtype=torch.float64)
    out, grids = merge(x, Grids((size,)))
    rows, columns = (size[0] + 1) // 2, (size[1] + 1) // 2
    assert grids == Grids(((rows, columns),)) and out.shape == (2, rows * columns, 8)
    image = torch.zeros(2, 2 * rows, 2 * columns, 3, dtype=torch.float64)
    image[:, : size[0], : size[1]] = x.unflatten(1, size)
    parts = torch.cat([image[:, i::2, j::2] for i in range(2) for j in range(2)], -1)
    assert error(out, merge.reduction(merge.norm(parts)).flatten(1, 2)) < 1e-12


def test_merging_packs():
    torch.manual_seed(0)
    merge, sizes = PatchMerging(3, 8).double(), ((5, 4), (1, 3), (2, 2))
    x = torch.randn(1, 27, 3, dtype=torch.float64, requires_grad=True)
    out, grids = merge(x, Grids(sizes, packed=True))
    alone = [merge(part, Grids((size,)))[0] for part, size in zip(x.split([20, 3, 4], 1), sizes, strict=True)]
    assert grids == Grids(((3, 2), (1, 2), (1, 1)), packed=True) and error(out, torch.cat(alone, 1)) < 1e-12
    wanted = torch.autograd.grad(torch.cat(alone, 1).square().sum(), x)[0]
    assert error(torch.autograd.grad(out.square().sum(), x)[0], wanted) < 1e-12


# ---- images of different sizes


@pytest.mark.parametrize("operator", ["mamba", "rwkv6", "retnet", "mlstm", "ttt_linear"])
@pytest.mark.parametrize("traversal", ["mamba_nd", "cross_scan"])
def test_a_list_of_images_is_run_as_separate_images_are(operator, traversal):
    def run(model, dtype):
        together, alone = model(image_list(dtype)), torch.cat([model(image[None]) for image in image_list(dtype)])
        return (together, gradient(model, together)), (alone, gradient(model, alone))

    single = build(operator, torch.float32, traversal=traversal)
    exact = copy.deepcopy(single).double()
    packed, separate = run(exact, torch.float64)
    assert packed[0].shape == (4, 5) and all(error(*values) < 1e-10 for values in zip(packed, separate, strict=True))
    for out, other, true in zip(*run(single, torch.float32), separate, strict=True):
        assert error(out, true) <= BOUNDS[torch.float32] * error(other, true) + 1e-6


def test_lists():
    model = build()
    features = model.forward_features(image_list())
    assert [tuple(value.shape) for value in features] == [(3, 5, 24), (2, 2, 24), (4, 1, 24), (3, 5, 24)]
    assert error(model.forward_head(features), model(image_list())) == 0
    same = list(images(3))
    assert error(model(same), model(torch.stack(same))) < 1e-12


def test_an_empty_batch():
    model = build()
    scores = model(images(0))
    assert scores.shape == (0, 5)
    scores.sum().backward()
    assert not model.patch_embed.proj.weight.grad.any()


def test_fixed_sizes_can_be_asked_for():
    model = build(dynamic_img_size=False)
    for wrong in (images(1, (40, 32)), image_list()):
        with pytest.raises(ValueError, match="dynamic_img_size"):
            model(wrong)
    model.set_input_size((40, 32))
    assert model(images(1, (40, 32))).shape == (1, 5) and model.patch_embed.grid_size == (10, 8)
    with pytest.raises(ValueError, match="patch_size=8"):
        model.set_input_size(patch_size=8)


# ---- what timm asks


@pytest.mark.parametrize("size", [(32, 32), (36, 28), (45, 31), (4, 4)])
def test_maps(size):
    model = build(stages=[*STAGES, dict(dim=8, depth=1, window=2, group_size=3)]).eval()
    x = images(2, size)
    last, maps = model.forward_intermediates(x, norm=True)
    for i, (value, info) in enumerate(zip(maps, model.feature_info, strict=True)):
        rows, columns = (-(-(extent // 4) // 2**i) for extent in size)
        assert value.shape == (2, info["num_chs"], rows, columns) and info["reduction"] == 4 << i and value.is_contiguous()
        assert isinstance(model.get_submodule(info["module"]), nn.Module)
    assert error(last, model.forward_features(x)) == 0 and error(maps[2].permute(0, 2, 3, 1), last) == 0
    assert error(model.forward_intermediates(x, [0, -1], output_fmt="NHWC", intermediates_only=True)[0].permute(0, 3, 1, 2), maps[0]) == 0
    assert model.prune_intermediate_layers([1]) == [1] and len(model.stages) == 2 and model.num_classes == 0
    assert error(model.forward_intermediates(x, [1], intermediates_only=True)[0], maps[1]) == 0


def test_intermediates_stop_early_and_refuse_what_is_not_there():
    model = build().eval()
    features, maps = model.forward_intermediates(images(), [0], stop_early=True)
    assert features.shape == (2, 8, 8, 16) and len(maps) == 1
    with pytest.raises(ValueError, match="indices"):
        model.forward_intermediates(images(), [2])
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(images(), output_fmt="NLC")
    with pytest.raises(ValueError, match="forward_features"):
        model.forward_intermediates(image_list())


def test_heads_and_channels():
    model = build(in_chans=1, num_classes=0)
    x = images()[:, :1]
    assert model(x).shape == (2, 24)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, 4, 4, 24) and model.output_fmt == "NHWC"
    model.reset_classifier(7, "avg")
    assert model(x).shape == (2, 7) and model.get_classifier().out_features == 7


def test_parameters_are_grouped():
    model = build("rwkv6")
    names = dict(model.named_parameters())
    assert {"stages.1.blocks.0.mixer.decay"} <= model.no_weight_decay() <= {*names}
    for coarse in (False, True):
        matcher = model.group_matcher(coarse)
        blocks = [(matcher["blocks"], None)] if coarse else matcher["blocks"]
        patterns = [matcher["stem"], *(pattern for pattern, _ in blocks)]
        left = {name.split(".")[0] for name in names if not any(re.match(pattern, name) for pattern in patterns)}
        assert left == ({"head", "norm"} if coarse else {"head"})


def test_checkpointing_changes_no_gradient():
    model = build(traversal="cross_scan").train()
    expected = gradient(model, model(images()))
    model.set_grad_checkpointing()
    assert error(gradient(model, model(images())), expected) == 0
    assert error(gradient(model, model(image_list())), gradient(model.eval(), model(image_list()))) == 0


def test_bfloat16():
    model = build(dtype=torch.float32).eval()
    expected = model(images(dtype=torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images(dtype=torch.float32))
    assert error(out.float(), expected) < 0.03


def test_compiled_and_exported():
    model = build(
        dtype=torch.float32, stages=[{**stage, "depth": 1} for stage in STAGES], traversal=["snake", ["reverse", "column"]]
    ).eval()
    x, more = images(2, dtype=torch.float32), images(5, dtype=torch.float32)
    assert error(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x)) < 1e-5
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    assert error(exported.module()(more), model(more)) < 1e-5


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (dict(stages=[]), ValueError, "at least one"),
        (dict(stages=[dict(dim=16, depth=0)]), ValueError, "at least 1.*depth=0"),
        (dict(stages=[dict(dim=16, depth=1, window=(4, 0))]), ValueError, "at least 1"),
        (dict(stages=[dict(dim=16, depth=1, group_size=0)]), ValueError, "at least 1"),
        (dict(stages=[dict(dim=16, depths=1)]), TypeError, "depths"),
        (dict(operator="nothing"), KeyError, "nothing.*mamba"),
        (dict(traversal="zigzag"), ValueError, "zigzag"),
    ],
    ids=str,
)
def test_wrong_options(options, kind, message):
    with pytest.raises(kind, match=message):
        build(**options)


def test_stages_as_they_are_written():
    assert Stage(8, 1, 7).window == (7, 7) and Stage(**STAGES[0]) == Stage(16, 2, (4, 3), 10)
