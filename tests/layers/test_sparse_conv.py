"""Sparse convolution against dense convolution, its gradients, its cache and its errors."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from visionrnn.errors import DataError
from visionrnn.layers import sparse_conv, sparse_rulebook
from visionrnn.layers.sparse_conv import (
    SparseConv3d,
    SparseConvTensor,
    SparseInverseConv3d,
    SparseSequential,
    SubMConv3d,
    strided_rulebook,
    submanifold_rulebook,
)

KERNELS = [1, 3, (3, 1, 1), (1, 3, 5)]
STRIDES = [1, 2, (2, 1, 1)]
PADDINGS = [0, 1, (0, 1, 1)]


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads; tests that are about threads set their number themselves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def voxels(shape=(5, 6, 7), batch_size=2, channels=4, density=0.3, seed=0, dtype=torch.float64):
    """A random sparse tensor, its rows in random order, and the occupancy [B, 1, z, y, x]."""
    generator = torch.Generator().manual_seed(seed)
    occupied = torch.rand(batch_size, *shape, generator=generator) < density
    coords = occupied.nonzero().int()
    coords = coords[torch.randperm(len(coords), generator=generator)]
    features = torch.randn(len(coords), channels, generator=generator, dtype=dtype)
    return SparseConvTensor(features, coords, shape, batch_size), occupied[:, None]


def dense_weight(layer):
    return layer.weight.permute(0, 4, 1, 2, 3)  # (out, kz, ky, kx, in) → (out, in, kz, ky, kx)


def seeded(layer_type, *args, **kwargs):
    torch.manual_seed(1)
    return layer_type(*args, **kwargs).double()


def test_dense_puts_each_voxel_in_its_cell():
    x, occupied = voxels()
    grid = x.dense()
    assert grid.shape == (2, 4, 5, 6, 7)
    batch, z, y, col = x.indices.long().unbind(1)
    assert torch.equal(grid[batch, :, z, y, col], x.features)
    assert not grid[~occupied.expand_as(grid)].any()
    assert torch.equal(x.dense(channels_first=False), grid.permute(0, 2, 3, 4, 1))


@pytest.mark.parametrize("dilation", [1, 2, (1, 2, 3)])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 9, 3)])
def test_submanifold_equals_masked_dense(shape, kernel, dilation):
    x, occupied = voxels(shape)
    layer = seeded(SubMConv3d, 4, 6, kernel, dilation=dilation)
    y = layer(x)
    padding = [k // 2 * d for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    expected = F.conv3d(x.dense(), dense_weight(layer), layer.bias, padding=padding, dilation=layer.dilation) * occupied
    assert y.indices is x.indices and y.spatial_shape == list(shape)
    torch.testing.assert_close(y.dense(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel,stride,padding", list(itertools.product(KERNELS, STRIDES, PADDINGS)))
def test_strided_equals_dense_at_reached_outputs(kernel, stride, padding):
    shape = (5, 6, 7)
    x, occupied = voxels(shape, density=0.08)
    layer = seeded(SparseConv3d, 4, 6, kernel, stride=stride, padding=padding)
    y = layer(x)
    reached = F.conv3d(occupied.double(), torch.ones(1, 1, *layer.kernel_size).double(), stride=stride, padding=padding) > 0
    expected = F.conv3d(x.dense(), dense_weight(layer), layer.bias, stride=stride, padding=padding) * reached
    assert torch.equal(y.indices, reached[:, 0].nonzero().int())  # ascending (batch, z, y, x)
    assert y.spatial_shape == list(expected.shape[2:])
    torch.testing.assert_close(y.dense(), expected, rtol=0, atol=1e-12)


def test_strided_with_dilation_equals_dense():
    x, occupied = voxels((9, 8, 7), density=0.1)
    layer = seeded(SparseConv3d, 4, 3, 3, stride=2, padding=1, dilation=2, bias=False)
    reached = F.conv3d(occupied.double(), torch.ones(1, 1, 3, 3, 3).double(), stride=2, padding=1, dilation=2) > 0
    expected = F.conv3d(x.dense(), dense_weight(layer), stride=2, padding=1, dilation=2)
    torch.testing.assert_close(layer(x).dense(), expected, rtol=0, atol=1e-12)
    assert len(layer(x).indices) == int(reached.sum())


@pytest.mark.parametrize("kind", ["submanifold", "strided"])
def test_gradients(kind):
    x, _ = voxels((3, 4, 3), channels=2)
    if kind == "submanifold":
        book = submanifold_rulebook(x.indices, x.spatial_shape, 3)
    else:
        book = strided_rulebook(x.indices, x.spatial_shape, 3, 2, 1)
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(3, 3, 3, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    features = x.features.requires_grad_()
    assert torch.autograd.gradcheck(lambda *tensors: sparse_conv.sparse_convolution(*tensors, book), (features, weight, bias))
    assert torch.autograd.gradcheck(lambda w: sparse_conv.sparse_convolution(features.detach(), w, None, book), (weight,))
    assert torch.autograd.gradcheck(lambda f: sparse_conv.sparse_convolution(f, weight.detach(), None, book), (features,))


def test_many_chunks_equal_one(monkeypatch):
    x, _ = voxels((4, 9, 9), channels=3)
    weight = torch.randn(5, 3, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for limit in (1 << 17, 40):
        monkeypatch.setattr(sparse_rulebook, "MAX_PAIRS", limit)
        features, kernel = x.features.clone().requires_grad_(), weight.clone().requires_grad_()
        book = submanifold_rulebook(x.indices, x.spatial_shape, 3)
        out = sparse_conv.sparse_convolution(features, kernel, None, book)
        out.square().sum().backward()
        results.append((len(book.chunks), out, features.grad, kernel.grad))
    assert results[0][0] == 1 and results[1][0] > 5
    for one, many in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(many, one, rtol=1e-12, atol=1e-12)


def test_thread_counts_give_equal_results():
    x, _ = voxels((8, 40, 40), channels=16, dtype=torch.float32)
    net = SparseSequential(SubMConv3d(16, 16, 3), nn.ReLU(), SparseConv3d(16, 16, 3, 2, 1))
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        net.zero_grad()
        y = net(SparseConvTensor(x.features, x.indices, x.spatial_shape, 2))
        y.features.square().mean().backward()
        results.append([y.features.detach(), *(p.grad.clone() for p in net.parameters())])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)


def test_run_twice_is_bit_equal():
    x, _ = voxels((8, 30, 30), channels=8, dtype=torch.float32)
    layer = SubMConv3d(8, 8, 3)
    runs = []
    for _ in range(2):
        layer.zero_grad()
        y = layer(SparseConvTensor(x.features, x.indices, x.spatial_shape, 2))
        y.features.square().sum().backward()
        runs.append((y.features.detach(), layer.weight.grad.clone()))
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])


def test_rows_may_come_in_any_order():
    x, _ = voxels()
    layer = seeded(SubMConv3d, 4, 4, 3)
    order = torch.randperm(len(x.indices), generator=torch.Generator().manual_seed(5))
    shuffled = SparseConvTensor(x.features[order], x.indices[order], x.spatial_shape, 2)
    torch.testing.assert_close(layer(shuffled).features, layer(x).features[order], rtol=0, atol=1e-12)


def test_rulebook_is_built_once_per_key(monkeypatch):
    built = []
    original = sparse_conv.submanifold_rulebook
    monkeypatch.setattr(sparse_conv, "submanifold_rulebook", lambda *args: built.append(args) or original(*args))
    x, _ = voxels()
    net = SparseSequential(*(SubMConv3d(4, 4, 3, indice_key="a") for _ in range(3)), SubMConv3d(4, 4, 1, indice_key="b")).double()
    net(x)
    assert len(built) == 2
    net(x.replace_feature(x.features * 2))
    assert len(built) == 2  # replace_feature keeps the cache
    net(SparseConvTensor(x.features, x.indices.clone(), x.spatial_shape, 2, x.cache))
    assert len(built) == 2  # equal coordinates, shared cache
    net(SparseConvTensor(x.features, x.indices, x.spatial_shape, 2))
    assert len(built) == 4


def test_layers_without_key_share_by_settings(monkeypatch):
    built = []
    original = sparse_conv.submanifold_rulebook
    monkeypatch.setattr(sparse_conv, "submanifold_rulebook", lambda *args: built.append(args) or original(*args))
    x, _ = voxels()
    net = SparseSequential(SubMConv3d(4, 4, 3), SubMConv3d(4, 4, 3), SparseConv3d(4, 4, 3, 2, 1), SubMConv3d(4, 4, 3)).double()
    net(x)
    assert len(built) == 2  # one for each set of voxels


def test_key_of_other_voxels_or_settings_is_refused():
    x, _ = voxels()
    SubMConv3d(4, 4, 3, indice_key="a").double()(x)
    with pytest.raises(ValueError, match=r"indice_key='a'.*settings"):
        SubMConv3d(4, 4, 1, indice_key="a").double()(x)
    other = SparseConvTensor(x.features[1:], x.indices[1:], x.spatial_shape, 2, x.cache)
    with pytest.raises(ValueError, match=r"indice_key='a'.*other voxels"):
        SubMConv3d(4, 4, 3, indice_key="a").double()(other)


def test_sample_without_voxels():
    x, _ = voxels(batch_size=3)
    keep = x.indices[:, 0] != 1
    x = SparseConvTensor(x.features[keep], x.indices[keep], x.spatial_shape, 3)
    net = SparseSequential(seeded(SubMConv3d, 4, 4, 3), seeded(SparseConv3d, 4, 4, 3, 2, 1))
    grid = net(x).dense()
    assert not grid[1].any()
    for sample in (0, 2):
        rows = x.indices[:, 0] == sample
        alone = SparseConvTensor(x.features[rows], x.indices[rows] - torch.tensor([sample, 0, 0, 0], dtype=torch.int32), x.spatial_shape, 1)
        torch.testing.assert_close(net(alone).dense()[0], grid[sample], rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [0, 1])
def test_no_voxel_and_one_voxel(count):
    coords = torch.tensor([[0, 4, 5, 6]], dtype=torch.int32)[:count]
    features = torch.ones(count, 4, dtype=torch.float64, requires_grad=True)
    net = SparseSequential(SubMConv3d(4, 4, 3), nn.ReLU(), nn.Linear(4, 3), SparseConv3d(3, 2, 3, 2, 1), SubMConv3d(2, 2, 3)).double()
    y = net(SparseConvTensor(features, coords, (5, 6, 7), 2))
    grid = y.dense()
    assert grid.shape == (2, 2, 3, 3, 4)
    grid.sum().backward()
    assert features.grad.shape == (count, 4)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    if count:
        layer = net[0]
        middle = F.linear(features, layer.weight[:, 1, 1, 1], layer.bias)
        torch.testing.assert_close(layer(SparseConvTensor(features, coords, (5, 6, 7), 2)).features, middle)
        assert y.indices.tolist() == [[0, 2, 2, 3]]  # output 3 along y, which would read it too, lies outside the grid
    else:
        assert y.features.shape == (0, 2)


def test_empty_batch_leaves_batch_norm_as_it_is():
    norm = nn.BatchNorm1d(4)
    net = SparseSequential(SubMConv3d(4, 4, 3), norm, nn.ReLU())
    y = net(SparseConvTensor(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32), (5, 6, 7), 1))
    y.features.sum().backward()
    assert y.features.shape == (0, 4) and not norm.running_mean.any() and torch.equal(norm.running_var, torch.ones(4))
    assert all(not p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("kernel,stride,padding", [(3, 2, 1), ((3, 1, 1), (2, 1, 1), 0), (2, 2, 0)])
def test_inverse_equals_dense_transpose_at_the_first_voxels(kernel, stride, padding):
    x, occupied = voxels((7, 6, 9), density=0.1)
    down = seeded(SparseConv3d, 4, 6, kernel, stride=stride, padding=padding, indice_key="down")
    up = seeded(SparseInverseConv3d, 6, 5, kernel, indice_key="down")
    middle = down(x)
    y = up(middle)
    assert y.indices is x.indices and y.spatial_shape == x.spatial_shape
    weight = up.weight.permute(4, 0, 1, 2, 3)  # (in, out, kz, ky, kx), as conv_transpose3d has it
    size = [(o - 1) * s - 2 * p + k for o, s, p, k in zip(middle.spatial_shape, down.stride, down.padding, down.kernel_size, strict=True)]
    rest = [full - part for full, part in zip(x.spatial_shape, size, strict=True)]
    expected = F.conv_transpose3d(middle.dense(), weight, up.bias, down.stride, down.padding, rest) * occupied
    torch.testing.assert_close(y.dense(), expected, rtol=0, atol=1e-12)
    y.features.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in (*down.parameters(), *up.parameters()))


def test_inverse_without_its_layer_is_refused():
    x, _ = voxels()
    with pytest.raises(ValueError, match="names no SparseConv3d"):
        SparseInverseConv3d(4, 4, 3, indice_key="down").double()(x)
    middle = SparseConv3d(4, 4, 3, 2, 1, indice_key="down").double()(x)
    with pytest.raises(ValueError, match=r"kernel_size=\(3, 3, 3\).*kernel_size=\(1, 1, 1\)"):
        SparseInverseConv3d(4, 4, 1, indice_key="down").double()(middle)
    with pytest.raises(ValueError, match="needs indice_key"):
        SparseInverseConv3d(4, 4, 3)


def test_sequential_takes_dicts_and_names():
    from collections import OrderedDict

    net = SparseSequential(OrderedDict(conv=SubMConv3d(4, 4, 3), act=nn.ReLU()))
    named = SparseSequential(conv=SubMConv3d(4, 4, 3), act=nn.ReLU())
    assert list(net.state_dict()) == list(named.state_dict()) == ["conv.weight", "conv.bias"]
    assert len(net) == 2 and isinstance(net[1], nn.ReLU)


def test_autocast_and_half_types():
    x, _ = voxels(channels=8, dtype=torch.float32)
    layer = SubMConv3d(8, 8, 3)
    exact = layer(x).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(SparseConvTensor(x.features, x.indices, x.spatial_shape, 2)).features
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert (y.float() - exact).norm() < 0.02 * exact.norm()


BAD = {
    "outside grid": (lambda c: c + torch.tensor([0, 0, 0, 7], dtype=c.dtype), r"lie outside the grid.*reach from"),
    "negative": (lambda c: c - torch.tensor([0, 1, 0, 0], dtype=c.dtype), r"lie outside the grid"),
    "batch": (lambda c: c + torch.tensor([2, 0, 0, 0], dtype=c.dtype), r"expected batch 0\.\.1"),
    "twice": (lambda c: torch.cat([c[1:], c[1:2]]), r"1 of \d+ voxel coordinates occur more than once"),
}


@pytest.mark.parametrize("layer_type", [SubMConv3d, SparseConv3d])
@pytest.mark.parametrize("fault", BAD)
def test_bad_coordinates(layer_type, fault):
    x, _ = voxels()
    change, message = BAD[fault]
    bad = SparseConvTensor(x.features, change(x.indices), x.spatial_shape, 2)
    with pytest.raises(DataError, match=message):
        layer_type(4, 4, 3).double()(bad)


def test_bad_tensors():
    x, _ = voxels()
    with pytest.raises(DataError, match=r"float32; expected int32 or int64"):
        SparseConvTensor(x.features, x.indices.float(), x.spatial_shape, 2)
    with pytest.raises(DataError, match=r"expected \[N, 4\]"):
        SparseConvTensor(x.features, x.indices[:, :3], x.spatial_shape, 2)
    with pytest.raises(DataError, match="one row per voxel coordinate"):
        SparseConvTensor(x.features[1:], x.indices, x.spatial_shape, 2)
    with pytest.raises(DataError, match="batch_size=0"):
        SparseConvTensor(x.features, x.indices, x.spatial_shape, 0)
    with pytest.raises(ValueError, match="spatial_shape"):
        SparseConvTensor(x.features, x.indices, (5, 6), 2)
    with pytest.raises(DataError, match="in_channels=5"):
        SubMConv3d(5, 4, 3).double()(x)
    with pytest.raises(DataError, match="expected one dtype"):
        SubMConv3d(4, 4, 3)(x)
    with pytest.raises(DataError, match="smaller than the kernel"):
        SparseConv3d(4, 4, 9).double()(x)


def test_bad_settings():
    with pytest.raises(ValueError, match="odd"):
        SubMConv3d(4, 4, 2)
    with pytest.raises(ValueError, match="stride"):
        SubMConv3d(4, 4, 3, stride=2)
    with pytest.raises(ValueError, match="groups"):
        SparseConv3d(4, 4, 3, groups=2)
    with pytest.raises(ValueError, match="kernel_size"):
        SparseConv3d(4, 4, (3, 3))
