"""Orders, groups and the voxel container."""

from __future__ import annotations

import pytest
import torch
from random_voxels import random_voxels

from visionrnn.serialization import Route, Voxels, make_groups, take, window_keys

COUNTS = [(10,), (64, 48), (3, 0, 90, 16), (0,), (0, 5), (33, 1, 100, 0)]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("padding", ["exact", "duplicate"])
@pytest.mark.parametrize("size", [1, 16, 64])
def test_tokens_find_back_to_their_rows(counts, padding, size):
    """Through two orders: each scan sees its own order, and at the end every row has its own features, and its own gradient."""
    groups, number = make_groups(counts, size, padding), sum(counts)
    sample = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    orders = torch.stack([(sample + torch.rand(number) / 2).argsort() for _ in range(2)])
    route = Route.through(groups, orders, orders.argsort(dim=1))
    rows = torch.randn(number, 3, dtype=torch.float64, requires_grad=True)
    x = rows
    for order, step in zip(orders, route.steps(), strict=False):
        x = groups.cut(take(x, *step)).flatten(0, 1)
        assert torch.equal(x[groups.finds(torch.arange(number))], rows[order])
    x = take(x, *route.steps()[2])
    assert torch.equal(x, rows)
    cotangent = torch.randn_like(x)
    x.backward(cotangent)
    assert torch.equal(rows.grad, cotangent)


@pytest.mark.parametrize("counts", COUNTS)
def test_exact_groups_by_hand(counts):
    groups = make_groups(counts, 16)
    bounds, start = [], 0
    for count in counts:
        bounds += range(start, start + count, 16)
        start += count
    assert groups.cu_seqlens.tolist() == [*bounds, start]
    assert groups.max_seqlen == min(16, max(counts))


def test_duplicate_groups_by_hand():
    groups = make_groups((5, 2), 4, "duplicate")
    assert groups.index.tolist() == [0, 1, 2, 3, 4, 1, 2, 3, 5, 6, 5, 6]
    assert groups.inverse.tolist() == [0, 1, 2, 3, 4, 8, 9]


def test_keys_are_unique_and_keep_samples_and_windows_together():
    voxels = random_voxels((200, 150))
    for shift in (False, True):
        for keys in window_keys(voxels.coords, voxels.spatial_shape, (5, 7, 3), shift):
            assert len(keys.unique()) == len(keys)
            order = keys.argsort()
            assert (voxels.coords[order, 0].diff() >= 0).all()
            offset = torch.tensor([3 // 2, 7 // 2, 5 // 2]) if shift else torch.zeros(3, dtype=torch.int)
            window = (voxels.coords[order, 1:] + offset) // torch.tensor([3, 7, 5])
            runs = 1 + int((torch.cat([voxels.coords[order, :1], window], 1).diff(dim=0) != 0).any(1).sum())
            assert runs == len(torch.cat([voxels.coords[order, :1], window], 1).unique(dim=0))


def test_orders_and_groups_are_computed_once_per_coordinates():
    voxels = random_voxels((50, 60))
    changed = voxels.with_features(voxels.features * 2)
    assert changed.orders("window", (5, 5, 8), True)[0].data_ptr() == voxels.orders("window", (5, 5, 8), True)[0].data_ptr()
    assert changed.groups(16, "exact") is voxels.groups(16, "exact")
    assert not torch.equal(voxels.orders("window", (5, 5, 8), False)[0], voxels.orders("window", (5, 5, 8), True)[0])
    keys = window_keys(voxels.coords, voxels.spatial_shape, (5, 5, 8), True)
    assert torch.equal(keys.argsort(dim=1)[1], changed.orders("window", (5, 5, 8), True)[1])


def test_dense_has_every_feature_in_its_place():
    voxels = random_voxels((20, 0, 30))
    dense = voxels.dense()
    assert dense.shape == (3, 4, 8, 24, 20)
    b, z, y, x = voxels.coords.long().unbind(1)
    assert torch.equal(dense[b, :, z, y, x], voxels.features)
    assert int((dense != 0).any(1).sum()) == 50


def test_wrong_voxels_are_named():
    coords = torch.tensor([[0, 1, 2, 3]])
    with pytest.raises(ValueError, match=r"coords: expected int32 or int64 \[N, 4\]"):
        Voxels.from_coords(torch.zeros(1, 2), coords[:, :3], (4, 4, 4), 1)
    with pytest.raises(ValueError, match="one row per coordinate"):
        Voxels.from_coords(torch.zeros(2, 2), coords, (4, 4, 4), 1)
    with pytest.raises(ValueError, match="features are on meta, coords on cpu"):
        Voxels.from_coords(torch.zeros(1, 2, device="meta"), coords, (4, 4, 4), 1)
    with pytest.raises(ValueError, match=r"expected values in \[0, \[1, 4, 4, 3\]\)"):
        Voxels.from_coords(torch.zeros(1, 2), coords, (4, 4, 3), 1)
    with pytest.raises(ValueError, match="sample after sample"):
        Voxels.from_coords(torch.zeros(2, 2), torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]), (4, 4, 4), 2)
    with pytest.raises(ValueError, match="padding='zeros'"):
        make_groups((3,), 2, "zeros")
    with pytest.raises(ValueError, match="group size"):
        make_groups((3,), 0)
