"""Vision-LSTM: images of different sizes, paths, options; what the authors' code computes is in tests/parity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visionrnn.backbones.vil import V1, V2, ViL, ViLBlock, ViLLayer
from visionrnn.registry import BACKBONES
from visionrnn.serialization.grids import Grids
from visionrnn.serialization.traversal2d import Path, parse_traversal

VERSIONS = pytest.mark.parametrize("version", [V1, V2], ids=["v1", "v2"])
SIZES = [(32, 24), (8, 40), (19, 8), (32, 24), (24, 32)]


def model(version: dict, **options) -> ViL:
    torch.manual_seed(0)
    built = ViL(
        **{**version, "img_size": 32, "patch_size": 8, "num_classes": 5, "dim": 16, "depth": 4, "dynamic_img_size": True, **options}
    )
    return spread(built)


def spread(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module.double()


def images(dtype=torch.float64) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(3, *size, dtype=dtype) for size in SIZES]


@pytest.mark.parametrize("traversal", ["alternate", ["raster", "hilbert_reverse"]], ids=["alternate", "hilbert"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@VERSIONS
def test_list_equals_separate_images(version, dtype, traversal):
    net, given = model(version, traversal=traversal).to(dtype), images(dtype)
    bound = 1e-10 if dtype == torch.float64 else 1e-5
    together, apart = net(given), torch.cat([net(image.unsqueeze(0)) for image in given])
    assert (together - apart).abs().max() <= bound * apart.abs().max()
    features = net.forward_features(given)
    assert [len(tokens) for tokens in features] == [12, 5, 2, 12, 12]
    weight = torch.randn_like(together)
    gradients = (torch.autograd.grad((out * weight).sum(), list(net.parameters())) for out in (together, apart))
    for found, expected in zip(*gradients, strict=True):
        assert (found - expected).abs().max() <= 10 * bound * expected.abs().max()


@VERSIONS
def test_list_of_one_size_equals_a_batch(version):
    net = model(version)
    batch = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(net(list(batch)), net(batch), rtol=0, atol=1e-11)


def test_all_tokens_of_a_list_have_no_head():
    net = model(V2, global_pool="")
    with pytest.raises(ValueError, match="call forward_features"):
        net(images())


def layer(**options) -> ViLLayer:
    torch.manual_seed(0)
    return spread(ViLLayer(16, **options))


@pytest.mark.parametrize("conv", ["grid", "causal"])
def test_backwards_is_the_turned_image(conv):
    net, tokens = layer(conv=conv), torch.randn(2, 12, 16, dtype=torch.float64)
    grids = Grids(((4, 3),))
    back = net(tokens, grids, Path("raster", reverse=True))
    torch.testing.assert_close(back, net(tokens.flip(1), grids, Path("raster")).flip(1), rtol=0, atol=1e-11)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("conv", ["grid", "causal"])
def test_columns_are_rows_of_the_transposed_image(conv, reverse):
    net, tokens = layer(conv=conv), torch.randn(2, 12, 16, dtype=torch.float64)
    by_columns = net(tokens, Grids(((4, 3),)), Path("column", reverse))
    if conv == "grid":
        net.conv.weight.data = net.conv.weight.data.transpose(2, 3).contiguous()

    def transposed(x, rows, columns):
        return x.unflatten(1, (rows, columns)).transpose(1, 2).flatten(1, 2)

    by_rows = net(transposed(tokens, 4, 3), Grids(((3, 4),)), Path("raster", reverse))
    torch.testing.assert_close(by_columns, transposed(by_rows, 3, 4), rtol=0, atol=1e-11)


def test_merged_paths_are_averaged():
    torch.manual_seed(0)
    (step,) = parse_traversal("cross_scan")
    block = spread(ViLBlock(16, step, {}))
    tokens, grids = torch.randn(2, 12, 16, dtype=torch.float64), Grids(((4, 3),))
    branches = [block.layer(block.norm(tokens), grids, path) for path in step]
    torch.testing.assert_close(block(tokens, grids), tokens + torch.stack(branches).mean(0), rtol=0, atol=1e-12)


def test_rows_need_no_permutation(monkeypatch):
    import visionrnn.serialization.grids as grids

    monkeypatch.setattr(grids._Spread, "apply", lambda *arguments: pytest.fail("tokens were permuted"))
    monkeypatch.setattr(grids._Gather, "apply", lambda *arguments: pytest.fail("tokens were permuted"))
    for version in (V1, V2):
        model(version)(torch.randn(1, 3, 32, 32, dtype=torch.float64))


def test_every_token_after_both_directions_has_seen_the_image():
    net = model(V1, depth=2, global_pool="", num_classes=0)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    for token in (0, 7, 15):
        (gradient,) = torch.autograd.grad(net(x)[0, token].sum(), x)
        assert (gradient.unfold(2, 8, 8).unfold(3, 8, 8).abs().amax((0, 1, 4, 5)) > 0).all()


def test_drop_path_drops_whole_images():
    torch.manual_seed(0)
    block = spread(ViLBlock(16, (Path("raster"),), {}, drop_path=0.5)).train()
    sizes = ((4, 3), (2, 2)) * 20
    grids = Grids(sizes, packed=True)
    tokens = torch.randn(1, sum(grids.lengths), 16, dtype=torch.float64)
    changes = [bool((part != 0).any()) for part in (block(tokens, grids) - tokens)[0].split(grids.lengths)]
    assert 5 < sum(changes) < 35
    whole = torch.randn(40, 12, 16, dtype=torch.float64)
    changed = (block(whole, Grids(((4, 3),))) - whole).abs().amax(2) > 0
    assert torch.equal(changed.all(1), changed.any(1))
    assert all(one.drop_path.rate == 0.2 for one in model(V2, drop_path_rate=0.2).blocks)  # the same for all layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(norms="all"), "norms='all'; expected one of"),
        (dict(init="xavier"), "init='xavier'; expected one of"),
        (dict(global_pool="max"), "global_pool='max'"),
        (dict(layer=dict(conv="2d")), "conv='2d'; expected one of"),
        (dict(layer=dict(conv_kernel=4)), "kernel=4: expected an odd"),
        (dict(traversal="spiral"), "spiral"),
        (dict(dim=10, layer=dict(num_heads=3)), "num_heads=3"),
        (dict(depth=0), "depth=0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        ViL(**{"img_size": 16, "patch_size": 8, "dim": 16, "depth": 1, **options})


def test_options_of_the_layers():
    net = model(V2, layer=dict(conv_kernel=5, expand=1, qkv_block=8, num_heads=8, bias=False), norm_bias=False, in_chans=1, stride=4)
    assert net.blocks[0].layer.conv.weight.shape == (16, 1, 5, 5)
    assert net.blocks[0].layer.qkv_weight.shape == (3, 2, 8, 8)
    assert not [name for name, _ in net.blocks.named_parameters() if name.endswith("bias") and "conv" not in name and "gates" not in name]
    assert net(torch.randn(2, 1, 32, 24, dtype=torch.float64)).shape == (2, 5)
    assert isinstance(BACKBONES.build(dict(type="vil", img_size=16, patch_size=8, dim=16, depth=1)), ViL)


@pytest.mark.parametrize(("version", "traversal"), [(V1, "reverse"), (V2, "reverse"), (V2, [["raster", "hilbert"]])])
def test_compiled(version, traversal):
    net = model(version, depth=1, traversal=traversal).float().eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(compiled, net(x), rtol=1e-4, atol=1e-5)


@VERSIONS
def test_exported(version):
    net = model(version, depth=1, traversal="reverse", dynamic_img_size=False).float().eval()
    x = torch.randn(3, 3, 32, 32)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(net, (x,), dynamic_shapes={"images": {0: batch}})
    with torch.no_grad():
        for given in (x, torch.randn(5, 3, 32, 32)):
            torch.testing.assert_close(program.module()(given), net(given), rtol=1e-4, atol=1e-5)


@VERSIONS
def test_autocast_stays_near(version):
    net, x = model(version).float().eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        exact = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(x)
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()
