"""mmdet3d's sparse encoder on our layers: trains on a CPU, equals a dense network, keeps spconv's parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("mmdet3d", reason="mmdet3d is not installed")

from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope

from visionrnn.integrations.mmdet3d import sparse
from visionrnn.layers.sparse_conv import SparseConvTensor, SparseModule

SHAPE = [21, 24, 20]
ENCODERS = {
    "second": dict(encoder_channels=((8,), (8, 16), (16, 16)), encoder_paddings=((1,), (1, 1), ((0, 1, 1), 1))),
    "centerpoint": dict(
        encoder_channels=((8, 8, 16), (16, 16)),
        encoder_paddings=((0, 0, [0, 1, 1]), (0, 0)),
        block_type="basicblock",
    ),
}


@pytest.fixture(autouse=True)
def mmdet3d_scope():
    """Whatever scope an earlier test's runner left."""
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads; tests that are about threads set their number themselves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build_encoder(name="second"):
    from mmdet3d.registry import MODELS

    torch.manual_seed(0)
    options = dict(ENCODERS[name], base_channels=8, output_channels=16)
    return MODELS.build(dict(type="SparseEncoder", in_channels=4, sparse_shape=SHAPE, order=("conv", "norm", "act"), **options))


def voxels(count=300, batch_size=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    cells = torch.randperm(batch_size * SHAPE[0] * SHAPE[1] * SHAPE[2], generator=generator)[:count]
    coords = []
    for size in reversed(SHAPE):
        coords.append(cells % size)
        cells = cells // size
    return torch.randn(count, 4, generator=generator, dtype=dtype), torch.stack([cells, *reversed(coords)], 1)


def dense_pass(module, grid, occupied):
    """The encoder's layers on a dense grid [B, C, z, y, x] with its occupancy [B, 1, z, y, x], absent voxels kept at zero."""
    if isinstance(module, nn.Sequential):
        for child in module:
            grid, occupied = dense_pass(child, grid, occupied)
        return grid, occupied
    if isinstance(module, sparse.SubMConv3d | sparse.SparseConv3d):
        weight = module.weight.permute(0, 4, 1, 2, 3)
        if isinstance(module, sparse.SubMConv3d):
            return F.conv3d(grid, weight, module.bias, padding=[k // 2 for k in module.kernel_size]) * occupied, occupied
        ones = torch.ones(1, 1, *module.kernel_size, dtype=grid.dtype)
        reached = (F.conv3d(occupied, ones, stride=module.stride, padding=module.padding) > 0).to(grid.dtype)
        return F.conv3d(grid, weight, module.bias, module.stride, module.padding) * reached, reached
    where = occupied[:, 0] > 0
    out = torch.zeros_like(grid)
    out.permute(0, 2, 3, 4, 1)[where] = module(grid.permute(0, 2, 3, 4, 1)[where])
    return out, occupied


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_trains_with_two_threads(name):
    encoder = build_encoder(name)
    features, coords = voxels()
    features.requires_grad_()
    torch.set_num_threads(2)
    out = encoder(features, coords, 2)
    out.square().sum().backward()
    assert out.ndim == 4 and len(out) == 2 and out.any()
    assert features.grad.isfinite().all() and features.grad.any()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key


def test_unet_trains():
    from mmdet3d.registry import MODELS

    torch.manual_seed(0)
    unet = MODELS.build(
        dict(
            type="SparseUNet",
            in_channels=4,
            sparse_shape=SHAPE,
            base_channels=8,
            output_channels=16,
            encoder_channels=((8,), (16, 16), (16, 16)),
            encoder_paddings=((1,), (1, 1), (1, 1)),
            decoder_channels=((16, 16, 16), (16, 16, 8), (8, 8, 8)),
            decoder_paddings=((1, 0), (1, 0), (0, 1)),
        )
    )
    features, coords = voxels()
    out = unet(features, coords, 2)
    assert out["seg_features"].shape == (300, 8)
    (out["seg_features"].square().sum() + out["spatial_features"].square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in unet.parameters())


def test_encoder_equals_dense_network():
    encoder = build_encoder().double()
    features, coords = voxels(dtype=torch.float64)
    grids = []
    for kind in ("sparse", "dense"):
        encoder.zero_grad()
        if kind == "sparse":
            out = encoder(features, coords, 2)
        else:
            grid = SparseConvTensor(features, coords.int(), SHAPE, 2).dense()
            occupied = SparseConvTensor(torch.ones_like(features[:, :1]), coords.int(), SHAPE, 2).dense()
            for stage in (encoder.conv_input, encoder.encoder_layers, encoder.conv_out):
                grid, occupied = dense_pass(stage, grid, occupied)
            out = grid.flatten(1, 2)
        out.square().sum().backward()
        grids.append([out.detach(), *(p.grad.clone() for p in encoder.parameters())])
    for ours, dense in zip(*grids, strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-9, atol=1e-9)


def test_sample_without_voxels():
    encoder = build_encoder().eval()
    features, coords = voxels()
    keep = coords[:, 0] == 1
    out = encoder(features[keep], coords[keep], 2)
    alone = encoder(features[keep], coords[keep] - torch.tensor([1, 0, 0, 0]), 1)
    assert not out[0].any()
    torch.testing.assert_close(out[1], alone[0], rtol=1e-5, atol=1e-6)


def test_install_is_idempotent_and_used_by_the_registry():
    sparse.install()
    sparse.install()
    assert ROOT.get("SubMConv3d") is sparse.SubMConv3d and ROOT.get("SparseConv3d") is sparse.SparseConv3d
    convolutions = [m for m in build_encoder().modules() if isinstance(m, SparseModule) and hasattr(m, "weight")]
    assert len(convolutions) == 7 and all(isinstance(m, sparse.SubMConv3d | sparse.SparseConv3d) for m in convolutions)


def test_weights_of_the_older_layout_load():
    source, target = build_encoder("second"), build_encoder("second")
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    state = {k: v.permute(1, 2, 3, 4, 0).contiguous() if v.ndim == 5 else v for k, v in source.state_dict().items()}
    shapes = {k: v.shape for k, v in state.items()}
    target.load_state_dict(state)
    assert {k: v.shape for k, v in state.items()} == shapes  # the caller's dict is not written to
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key


def spconv():
    return pytest.importorskip("spconv.pytorch", reason="spconv is not installed")


@pytest.mark.parametrize(
    "name,args", [("SubMConv3d", (4, 8, 3)), ("SparseConv3d", (4, 8, (3, 1, 1), (2, 1, 1))), ("SparseConv3d", (4, 8, 3, 2, 1))]
)
def test_spconv_has_the_same_parameters_and_result(name, args):
    """spconv's forward on a CPU, which knows no bias, is right with one thread."""
    package = spconv()
    ours, theirs = getattr(sparse, name)(*args), getattr(package, name)(*args)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    ours, theirs = getattr(sparse, name)(*args, bias=False), getattr(package, name)(*args, bias=False, algo=package.ConvAlgo.Native)
    theirs.load_state_dict(ours.state_dict())
    features, coords = voxels()
    with torch.no_grad():
        expected = theirs(package.SparseConvTensor(features, coords.int(), SHAPE, 2))
    out = ours(SparseConvTensor(features, coords.int(), SHAPE, 2))
    assert out.spatial_shape == list(expected.spatial_shape)
    assert {tuple(row) for row in out.indices.tolist()} == {tuple(row) for row in expected.indices.tolist()}
    torch.testing.assert_close(out.dense(), expected.dense(), rtol=1e-4, atol=1e-5)


def test_state_dict_of_an_encoder_of_spconv_is_ours():
    package = spconv()
    encoder = build_encoder()
    ours = {k: tuple(v.shape) for k, v in encoder.state_dict().items()}
    for path, module in list(encoder.named_modules()):
        if isinstance(module, sparse.SubMConv3d | sparse.SparseConv3d):
            theirs = getattr(package, type(module).__name__)(
                module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding, bias=module.bias is not None
            )
            parent, _, child = path.rpartition(".")
            encoder.get_submodule(parent)._modules[child] = theirs
    assert {k: tuple(v.shape) for k, v in encoder.state_dict().items()} == ours


def test_spconv_is_used_where_it_may_and_shares_parameters(monkeypatch):
    """The way to spconv and back, taken on a CPU with one thread in place of CUDA."""
    package = spconv()
    encoder = build_encoder().eval()
    features, coords = voxels()
    expected = encoder(features, coords, 2).detach()
    keys = list(encoder.state_dict())
    calls = []
    for module in encoder.modules():
        if isinstance(module, sparse._Dispatch):
            twin = module._twin()
            twin.algo = package.ConvAlgo.Native
            twin.register_forward_hook(lambda *_: calls.append(1))
            assert twin.weight is module.weight
    monkeypatch.setattr(sparse, "uses_spconv", lambda features: True)
    with torch.no_grad():
        out = encoder(features, coords, 2)
    assert len(calls) == 7 and list(encoder.state_dict()) == keys
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_spconv_is_never_used_on_a_cpu():
    assert sparse.uses_spconv(torch.zeros(1)) is False
    package = spconv()
    features, coords = voxels()
    out = sparse.SubMConv3d(4, 8, 3)(package.SparseConvTensor(features, coords.int(), SHAPE, 2))
    assert isinstance(out, SparseConvTensor) and out.features.shape == (300, 8)
