"""Every registered order, and what the curves promise."""

from __future__ import annotations

import pytest
import torch
from random_voxels import random_voxels

from visionrnn.registry import SERIALIZERS
from visionrnn.serialization import Traversal, window_keys
from visionrnn.serialization.curves import hilbert_keys, z_order_keys
from visionrnn.serialization.window3d import scene_keys

WINDOW = (5, 7, 3)


def full_grid(depth: int, height: int, width: int) -> torch.Tensor:
    return torch.cartesian_prod(torch.arange(1), torch.arange(depth), torch.arange(height), torch.arange(width))


@pytest.mark.parametrize("name", SERIALIZERS)
@pytest.mark.parametrize("shape", [(8, 24, 20), (1, 5, 33), (7, 3, 1)])
@pytest.mark.parametrize("shift", [False, True])
def test_keys_are_unique_and_keep_samples_together(name, shape, shift):
    voxels = random_voxels((20, 0, 15), shape) if shape == (7, 3, 1) else random_voxels((90, 0, 60), shape)
    keys = SERIALIZERS.get(name)(voxels.coords, voxels.spatial_shape, WINDOW, shift)
    assert keys.shape == (2, len(voxels.coords)) and keys.dtype == torch.int64 and (keys >= 0).all()
    for row, order in zip(keys, voxels.orders(name, WINDOW, shift), strict=True):
        assert len(row.unique()) == len(row)
        assert torch.equal(order, row.argsort())
        assert (voxels.coords[order, 0].diff() >= 0).all()


@pytest.mark.parametrize("name", SERIALIZERS)
def test_two_orders_differ_and_exchange_x_and_y(name):
    coords = full_grid(4, 8, 8)
    swapped = coords[:, [0, 1, 3, 2]]
    first, second = SERIALIZERS.get(name)(coords, (4, 8, 8), (4, 4, 4), False)
    assert not torch.equal(first.argsort(), second.argsort())
    assert torch.equal(second, SERIALIZERS.get(name)(swapped, (4, 8, 8), (4, 4, 4), False)[0])


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_hilbert_walks_from_neighbour_to_neighbour(size):
    coords = full_grid(size, size, size)
    for keys in hilbert_keys(coords, (size, size, size), WINDOW):
        if size > 1:
            assert sorted(keys.tolist()) == list(range(size**3))
        assert (coords[keys.argsort()].diff(dim=0).abs().sum(1) == 1).all()


def test_hilbert_by_hand():
    """The cube of two: x slowest, then y, then z, each half walked back and forth."""
    walk = full_grid(2, 2, 2)[hilbert_keys(full_grid(2, 2, 2), (2, 2, 2), WINDOW)[0].argsort()]
    assert walk[:, [3, 2, 1]].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 0, 0]]


def test_z_order_by_hand():
    coords = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [0, 2, 3, 1], [1, 0, 0, 0]])  # b, z, y, x
    keys = z_order_keys(coords, (4, 4, 4), WINDOW)
    assert keys.tolist() == [[4, 2, 1, 0b011_110, 64], [2, 4, 1, 0b101_110, 64]]  # bits x, y, z in turn; y, x, z in turn


def test_scene_is_one_window():
    coords = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2], [0, 2, 2, 1]])
    first, second = scene_keys(coords, (3, 3, 3), WINDOW, True)
    assert first.argsort().tolist() == [0, 1, 3, 2] and second.argsort().tolist() == [0, 2, 1, 3]
    assert torch.equal(first.argsort(), window_keys(coords, (3, 3, 3), (3, 3, 3))[0].argsort())


def test_window_must_have_three_sizes():
    with pytest.raises(ValueError, match=r"window: expected three sizes .* got \(5, 0, 3\)"):
        window_keys(torch.zeros(1, 4, dtype=torch.long), (4, 4, 4), (5, 0, 3))


def test_repeated_voxels_are_refused():
    voxels = random_voxels((5,))
    voxels.coords[1] = voxels.coords[0]
    with pytest.raises(ValueError, match="coords: 1 of 5 rows repeat another"):
        voxels.route(Traversal("window", WINDOW, False), 4, "exact")
