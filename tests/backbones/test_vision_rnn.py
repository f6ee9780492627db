"""VisionRNN: every registered operator along every traversal, lists of images, and what timm asks of a classifier."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from operators.test_operators import configs
from torch import nn

from visionrnn.backbones.grid_block import GridBlock
from visionrnn.backbones.vision_rnn import MLP_RATIOS, SIZES, VisionRNN, sized
from visionrnn.kernels import diagonal_scan
from visionrnn.operators.base import Operator
from visionrnn.registry import OPERATORS
from visionrnn.serialization.grid_scan import GridScan
from visionrnn.serialization.grids import Grids
from visionrnn.serialization.traversal2d import PATHS, Path, parse_traversal, path_order
from visionrnn.testing import error

WALKS = ["alternate", "snake", "column", "diagonal", "hilbert", "cross_scan", "mamba_nd"]
SHAPES = [(24, 40), (16, 16), (32, 8), (24, 40)]  # of the images of a list


def build(operator="mamba", traversal="alternate", dtype=torch.float64, noise=0.05, **options) -> VisionRNN:
    """A small model, its starting values moved a little, so that what starts at zero takes part."""
    torch.manual_seed(0)
    model = VisionRNN(
        **{"img_size": 32, "patch_size": 8, "num_classes": 5, "dim": 16, "depth": 2, **options}, operator=operator, traversal=traversal
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)
    return model.to(dtype)


def images(batch: int = 2, size=(32, 32), dtype=torch.float64, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def image_list(dtype=torch.float64) -> list[torch.Tensor]:
    return [image[:, :height, :width] for image, (height, width) in zip(images(4, (40, 40), dtype), SHAPES, strict=True)]


def gradient(model: nn.Module, scores: torch.Tensor) -> torch.Tensor:
    """Of all parameters, one after the other."""
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(scores.square().sum(), list(model.parameters()))])


# ---- operators and traversals


@pytest.mark.parametrize("name", list(OPERATORS))
@pytest.mark.parametrize("traversal", WALKS)
def test_every_operator_along_every_traversal(name, traversal):
    model = build(configs()[name], traversal, torch.float32, depth=len(parse_traversal(traversal)), mlp_ratio=2.0)
    out = model(images(dtype=torch.float32))
    assert out.shape == (2, 5) and out.isfinite().all()
    out.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("operator", ["mamba", "mlstm"])  # the second turns round by itself
@pytest.mark.parametrize("path", [Path(name, reverse) for name in PATHS for reverse in (False, True)], ids=str)
def test_a_patch_reaches_only_what_comes_later_on_the_path(operator, path):
    model, image = build(operator, str(path)).eval(), images(1, (32, 40))
    model.patch_embed.dynamic = True
    order = path_order(path, 4, 5)
    before = model.forward_features(image)[0, order]
    for rank in (0, 7, 19):
        row, column = divmod(int(order[rank]), 5)
        changed = image.clone()
        changed[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1
        change = (model.forward_features(changed)[0, order] - before).abs().amax(1)
        assert (change[:rank] < 1e-12).all() and (change[rank:] > 1e-9).all()


@pytest.mark.parametrize("operator", ["mamba", "mlstm", "bidirectional"])
def test_merged_paths_share_weights_and_are_averaged(operator):
    step = parse_traversal([["snake", "hilbert_reverse", "column"]])[0]
    torch.manual_seed(0)
    block = GridBlock(16, configs()[operator], GridScan(step), mlp_ratio=0).double()
    x, grids = torch.randn(2, 20, 16, dtype=torch.float64), Grids(((4, 5),))
    expected = torch.zeros_like(x)
    for path in step:
        order = path_order(path, 4, 5)
        expected[:, order] += block.mixer(block.norm1(x)[:, order]) / 3
    assert error(block(x, grids) - x, expected) < 1e-12


def test_an_operator_that_runs_backwards_itself_is_left_to_it():
    block = GridBlock(16, "mlstm", GridScan((Path("column", True),))).double()
    assert block.mixer.reverse and block.scan.step == (Path("column"),)
    forward = GridBlock(16, dict(type="mlstm", reverse=False), GridScan((Path("column", True),))).double()
    assert not forward.mixer.reverse and forward.scan.step == (Path("column", True),)
    forward.load_state_dict(block.state_dict())
    x, pack = torch.randn(1, 26, 16, dtype=torch.float64), Grids(((4, 5), (2, 3)), packed=True)
    assert error(block(x, pack), forward(x, pack)) < 1e-12
    in_groups = GridBlock(16, "mlstm", GridScan((Path("column", True),), group_size=7))  # where the groups lie depends on the start
    assert not in_groups.mixer.reverse and in_groups.scan.step == (Path("column", True),)


def test_operators_are_told_their_place():
    model = build("rwkv6", depth=3, noise=0)
    assert len({block.mixer.bonus[0, 0].item() for block in model.blocks}) == 3
    same = build(dict(type="rwkv6", depth=0.25), depth=3, noise=0)
    assert len({block.mixer.bonus[0, 0].item() for block in same.blocks}) == 1


def test_a_new_operator_is_found():
    class Average(Operator):
        """h_t = (h_{t-1} + W x_t) / 2."""

        def __init__(self, dim: int):
            super().__init__()
            self.proj = nn.Linear(dim, dim)

        def mix(self, x, state=None, cu_seqlens=None, max_seqlen=None):
            log_decay = torch.full_like(x, 0.5).log()
            h, last = diagonal_scan(self.proj(x) / 2, log_decay, return_final_state=True, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen)
            return h, {"h": last}

    OPERATORS.register("average")(Average)
    try:
        model = build("average", "cross_scan", dynamic_img_size=True)
        assert all(isinstance(block.mixer, Average) for block in model.blocks)
        assert error(model(image_list()), torch.cat([model(image[None]) for image in image_list()])) < 1e-12
    finally:
        del OPERATORS._classes["average"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (dict(operator="mambaa"), KeyError, "mambaa.*mamba.*rwkv6"),
        (dict(operator={"d_state": 4}), KeyError, "no 'type'"),
        (dict(operator=dict(type="mamba", states=4)), TypeError, "states.*d_state"),
        (dict(operator=dict(type="retnet", num_heads=3)), ValueError, "num_heads=3"),
        (dict(traversal="zigzag"), ValueError, "zigzag.*hilbert"),
        (dict(traversal=[]), ValueError, "at least one path"),
        (dict(depth=0), ValueError, "depth=0"),
        (dict(global_pool="max"), ValueError, "max.*avg"),
        (dict(drop_path_rate=1.0), ValueError, "drop_path"),
        (dict(mlp_ratio=-1.0), ValueError, "mlp_ratio"),
    ],
    ids=str,
)
def test_wrong_options(options, kind, message):
    with pytest.raises(kind, match=message):
        build(**options)


@pytest.mark.parametrize("operator", ["mamba", "rwkv6", "retnet", "mlstm", "ttt_linear", "gla", "deltanet", "mingru", "lightnet"])
def test_sizes(operator):
    for size, (least, most) in {"tiny": (5.2e6, 6.5e6), "small": (20e6, 24e6), "base": (79e6, 90e6)}.items():
        with torch.device("meta"):
            model = VisionRNN(**sized(operator, size))
        assert least < sum(parameter.numel() for parameter in model.parameters()) < most
    narrow = VisionRNN(32, 8, **{**sized(operator, "base"), "dim": 64, "depth": 1})  # as timm's users shrink an entry
    assert narrow(images(1, dtype=torch.float32)).shape == (1, 1000)
    assert {*MLP_RATIOS} <= {*OPERATORS}
    with pytest.raises(KeyError, match=str(sorted(SIZES)[0])):
        sized(operator, "huge")


# ---- images of different sizes


@pytest.mark.parametrize("operator", ["mamba", "rwkv6", "retnet", "mlstm", "ttt_linear"])
@pytest.mark.parametrize("traversal", ["alternate", "cross_scan"])
def test_a_list_of_images_is_run_as_separate_images_are(operator, traversal):
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        model = build(operator, traversal, dtype, dynamic_img_size=True)
        together, alone = model(image_list(dtype)), torch.cat([model(image[None]) for image in image_list(dtype)])
        assert together.shape == (4, 5) and error(together, alone) < bound
        assert error(gradient(model, together), gradient(model, alone)) < bound


def test_lists():
    model = build(dynamic_img_size=True)
    features = model.forward_features(image_list())
    assert [tuple(value.shape) for value in features] == [(15, 16), (4, 16), (4, 16), (15, 16)]
    assert error(model.forward_head(features), model(image_list())) == 0
    same = list(images(3))
    assert error(model(same), model(torch.stack(same))) < 1e-12
    with pytest.raises(ValueError, match="dynamic_img_size"):
        build()(image_list())
    with pytest.raises(ValueError, match="dynamic_img_size"):
        build()(images(1, (40, 32)))


def test_drop_path_drops_whole_images():
    model = build(drop_path_rate=0.99)
    assert [block.drop_path.rate for block in model.blocks] == [0.0, 0.99]
    block = model.blocks[1].train()
    torch.manual_seed(0)
    pack = Grids(((2, 3),) * 50, packed=True)
    x = torch.randn(1, 300, 16, dtype=torch.float64)
    kept = (block(x, pack) - x).abs().amax(2).view(50, 6) > 0
    assert 0 < kept.any(1).sum() < 10 and torch.equal(kept.any(1), kept.all(1))


# ---- what timm asks


def test_intermediates():
    model = build(depth=4, img_size=(32, 48)).eval()
    x = images(2, (32, 48))
    last, maps = model.forward_intermediates(x)
    assert error(last, model.forward_features(x)) == 0 and [tuple(value.shape) for value in maps] == [(2, 16, 4, 6)] * 4
    assert error(model.norm(maps[3].flatten(2).transpose(1, 2)), last) == 0
    tokens = model.forward_intermediates(x, indices=[1, -1], output_fmt="NLC", intermediates_only=True, norm=True, stop_early=True)
    assert len(tokens) == 2 and error(tokens[1], last) == 0 and error(tokens[0], model.norm(maps[1].flatten(2).transpose(1, 2))) == 0
    assert [info["reduction"] for info in model.feature_info] == [8] * 4 and {info["num_chs"] for info in model.feature_info} == {16}
    assert model.prune_intermediate_layers([0, 1]) == [0, 1] and len(model.blocks) == 2 and model.num_classes == 0
    assert error(model.forward_intermediates(x, [0, 1], intermediates_only=True)[1], maps[1]) == 0


def test_heads_and_channels():
    model = build(in_chans=1, num_classes=0, global_pool="")
    assert model(images(2, channels=1)).shape == (2, 16, 16)
    model.reset_classifier(7, "avg")
    assert model(images(2, channels=1)).shape == (2, 7) and model.get_classifier().weight.dtype == torch.float64
    assert model.forward_head(model.forward_features(images(2, channels=1)), pre_logits=True).shape == (2, 16)


def test_other_sizes_of_images():
    model = build(dynamic_img_size=True).eval()
    x = images(1, (48, 40))
    expected = model(x)
    model.set_input_size((48, 40))
    assert model.patch_embed.grid_size == (6, 5) and model.pos_embed.embed.shape == (1, 6, 5, 16)
    assert error(model(x), expected) < 1e-12


def test_parameters_are_grouped():
    model = build("rwkv6", depth=3)
    names = dict(model.named_parameters())
    assert {"pos_embed.embed", "blocks.0.mixer.decay", "blocks.2.mixer.bonus"} <= model.no_weight_decay() <= {*names}
    matcher = model.group_matcher()
    patterns = [matcher["stem"], *(pattern for pattern, _ in matcher["blocks"])]
    assert {name.split(".")[0] for name in names if not any(re.match(pattern, name) for pattern in patterns)} == {"head"}


def test_checkpointing_changes_no_gradient():
    model = build(depth=2, traversal="cross_scan").train()
    expected = gradient(model, model(images()))
    model.set_grad_checkpointing()
    assert error(gradient(model, model(images())), expected) == 0


@pytest.mark.parametrize("operator", ["mamba", "rwkv6", "retnet", "mlstm", "ttt_linear"])
def test_bfloat16(operator):
    model = build(operator, "cross_scan", torch.float32).eval()
    expected = model(images(dtype=torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images(dtype=torch.float32))
    assert error(out.float(), expected) < 0.03
    F.cross_entropy(out.float(), torch.tensor([0, 1])).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_compiled_and_exported():
    model = build("mamba", ["reverse", ["snake", "hilbert"]], torch.float32).eval()
    x, more = images(2, dtype=torch.float32), images(5, dtype=torch.float32)
    assert error(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x)) < 1e-5
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    assert error(exported.module()(more), model(more)) < 1e-5
