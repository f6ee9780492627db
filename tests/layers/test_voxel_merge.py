"""Merging layers: rulebooks from known neighbours, the choice of the best, odd grids."""

from __future__ import annotations

import pytest
import torch
from random_voxels import random_voxels

from visionrnn.layers import sparse_rulebook
from visionrnn.layers.sparse_conv import sparse_convolution, submanifold_rulebook
from visionrnn.layers.voxel_merge import VoxelMerging, best_rows, expand, rulebook_of
from visionrnn.serialization import Voxels


def doubled(voxels: Voxels) -> Voxels:
    return voxels.with_features(voxels.features.double())


@pytest.mark.parametrize("limit", [1 << 17, 50])
def test_rulebook_from_neighbours_is_the_searched_one(monkeypatch, limit):
    """Output and gradients, in one chunk of pairs or many."""
    monkeypatch.setattr(sparse_rulebook, "MAX_PAIRS", limit)
    voxels = doubled(random_voxels((150, 0, 120), (6, 8, 7), 3))
    weight = torch.randn(5, 3, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for book in (rulebook_of(voxels), submanifold_rulebook(voxels.coords, voxels.spatial_shape, 3)):
        features, kernel = voxels.features.clone().requires_grad_(), weight.clone().requires_grad_()
        out = sparse_convolution(features, kernel, None, book)
        out.square().sum().backward()
        results.append((out.detach(), features.grad, kernel.grad))
        assert (len(book.chunks) == 1) == (limit > 1000)
    for ours, searched in zip(*results, strict=True):
        torch.testing.assert_close(ours, searched, rtol=1e-12, atol=1e-12)
    assert rulebook_of(voxels.with_features(voxels.features * 2)) is rulebook_of(voxels)
    inverse = rulebook_of(voxels).inverse
    torch.testing.assert_close(
        sparse_convolution(results[0][0] * 2, weight.permute(4, 1, 2, 3, 0).contiguous(), None, inverse),
        results[0][1],
        rtol=1e-12,
        atol=1e-12,
    )


def test_best_rows_by_hand():
    """Ties go to the earlier row; zero and negative zero are equal; a sample may be empty or have fewer voxels than asked for."""
    voxels = random_voxels((4, 0, 3))
    scores = torch.tensor([0.0, -1.0, -0.0, 2.0, -3.0, 5.0, -2.0])
    best = best_rows(scores, voxels, 3)
    assert best[0].tolist() == [3, 0, 2] and best[2].tolist() == [5, 6, 4]
    assert best_rows(scores[:4], random_voxels((4,)), 2).tolist() == [[3, 0]]


def test_best_rows_against_sorting():
    voxels = random_voxels((90, 200, 150))
    scores = torch.randn(440, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = 0
    for found, count in zip(best_rows(scores, voxels, 40), voxels.counts, strict=True):
        assert torch.equal(found, start + scores[start : start + count].argsort(descending=True)[:40])
        start += count


@pytest.mark.parametrize("scale", [(2, 2, 2), (1, 1, 2)])
@pytest.mark.parametrize("shape", [(7, 24, 20), (8, 15, 20), (8, 16, 21), (7, 15, 21)])
def test_odd_grids_are_right_and_the_published_keys_are_not(shape, scale):
    """Sums of features against a dictionary; the published code merges the last odd slice with another row, column or sample."""
    voxels = doubled(random_voxels((90, 70), shape, 8))
    merging = VoxelMerging(8, scale, descriptor=False).double()
    merging.norm = torch.nn.Identity()
    expected: dict[tuple, torch.Tensor] = {}
    for row, feature in zip(voxels.coords.tolist(), voxels.features, strict=True):
        place = (row[0], row[1] // scale[2], row[2] // scale[1], row[3] // scale[0])
        expected[place] = expected.get(place, 0) + feature
    right = []
    for floor_keys in (False, True):
        merging.floor_keys = floor_keys
        coarse, _ = merging(voxels)
        found = dict(zip(map(tuple, coarse.coords.tolist()), coarse.features, strict=True))
        right.append(found.keys() == expected.keys() and all(torch.allclose(found[place], expected[place]) for place in expected))
    divided = [size for size, factor in zip(shape, reversed(scale), strict=True) if factor > 1]
    assert right == [True, all(size % 2 == 0 for size in divided)]


def test_without_descriptor_there_is_nothing_but_the_norm():
    merging = VoxelMerging(4, (2, 2, 2), descriptor=False)
    assert [name for name, _ in merging.named_parameters()] == ["norm.weight", "norm.bias"]
    voxels = random_voxels((50,))
    coarse, inverse = merging(voxels)
    total = torch.zeros(len(coarse.coords), 4).index_add(0, inverse, voxels.features)
    assert torch.allclose(coarse.features, merging.norm(total), atol=1e-6)
    assert "neighbours" not in voxels.cache


def test_expand_gradients():
    fine, coarse = (torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (5, 3))
    inverse = torch.tensor([0, 2, 2, 1, 0, 1, 1])  # the last two were generated
    assert torch.autograd.gradcheck(lambda *pair: expand(*pair, inverse), (fine, coarse))
