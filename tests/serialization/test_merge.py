"""Merging coordinates, and what a plan has prepared with it."""

from __future__ import annotations

import pytest
import torch
from random_voxels import random_voxels

from visionrnn.registry import SERIALIZERS
from visionrnn.serialization import Plan, Traversal, Voxels, merge_coords
from visionrnn.serialization.neighbours import OFFSETS


def test_merge_by_hand():
    coords = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 0]])
    merged = merge_coords(coords, (2, 2, 2), 3)
    assert merged.coords.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]
    assert merged.inverse.tolist() == [2, 0, 2, 1] and merged.counts == (2, 1, 0)
    assert merged.sorted_inverse.tolist() == [0, 1, 2, 2] and merged.sorted_rows[:2].tolist() == [1, 3] and not merged.cache


def random_coords(number: int, shape=(5, 7, 6), samples: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (number,), generator=generator) for size in (samples, *shape)], 1).int()


@pytest.mark.parametrize("number", [0, 1, 300])
def test_merge_against_a_dictionary(number):
    coords = random_coords(number)
    merged = merge_coords(coords, (5, 7, 6), 3)
    expected = sorted({(b, x, y, z) for b, z, y, x in coords.tolist()})
    assert merged.coords[:, [0, 3, 2, 1]].tolist() == [list(row) for row in expected]
    assert merged.coords.dtype == torch.int32
    assert torch.equal(merged.coords[merged.inverse], coords)
    assert torch.equal(merged.coords[merged.sorted_inverse], coords[merged.sorted_rows])
    assert merged.counts == tuple(sum(row[0] == sample for row in expected) for sample in range(3))


def test_rows_that_are_not_valid_are_left_out():
    coords, valid = random_coords(200), torch.rand(200, generator=torch.Generator().manual_seed(1)) < 0.7
    wild = torch.where(valid[:, None], coords, torch.tensor([0, -1, 99, 7], dtype=torch.int32))
    plan = Plan((Traversal("window", (3, 3, 3), True),), True)
    merged, expected = merge_coords(wild, (5, 7, 6), 3, plan, valid), merge_coords(coords[valid], (5, 7, 6), 3, plan)
    assert torch.equal(merged.coords, expected.coords) and merged.counts == expected.counts
    assert torch.equal(merged.inverse[valid], expected.inverse) and (merged.inverse[~valid] == len(merged.coords)).all()
    assert torch.equal(merged.sorted_rows.sort().values, valid.nonzero().flatten())
    for key in expected.cache:
        if key != "neighbours":
            assert all(torch.equal(*pair) for pair in zip(merged.cache[key], expected.cache[key], strict=True))
    assert torch.equal(merged.cache["neighbours"].table, expected.cache["neighbours"].table)


@pytest.mark.parametrize("number", [0, 1, 300])
def test_planned_orders_are_those_computed_later(number):
    traversals = tuple(Traversal(name, (3, 5, 2), shift) for name in SERIALIZERS for shift in (False, True))
    merged = merge_coords(random_coords(number), (5, 7, 6), 3, Plan(traversals))
    assert len(merged.cache) == len(traversals)
    later = Voxels(torch.zeros(len(merged.coords), 1), merged.coords, (5, 7, 6), merged.counts)
    for traversal in traversals:
        orders, places = merged.cache["traversal", traversal]
        assert torch.equal(orders, torch.stack(later.orders(*traversal)))
        assert torch.equal(places.gather(1, orders), torch.arange(len(merged.coords)).expand(2, -1))


@pytest.mark.parametrize("sample", [-1, 3])
def test_samples_beyond_the_batch_are_refused(sample):
    coords = random_coords(20)
    coords[7, 0] = sample
    with pytest.raises(ValueError, match=r"coords: expected the sample, their first column, in \[0, 3\)"):
        merge_coords(coords, (5, 7, 6), 3)
    valid = torch.arange(20) != 7
    assert sum(merge_coords(coords, (5, 7, 6), 3, valid=valid).counts) == len(coords[valid].unique(dim=0))


def test_a_serializer_that_gives_two_voxels_one_key_is_refused(monkeypatch):
    monkeypatch.setitem(SERIALIZERS._classes, "rows", lambda coords, *_: coords[:, 1:3].t().long())
    with pytest.raises(ValueError, match=r"serializer: expected a key of its own .* 2 orders of \['rows'\]"):
        merge_coords(random_coords(200), (5, 7, 6), 3, Plan((Traversal("rows", (1, 1, 1), False),)))


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("counts", [(60, 0, 45), (1,), (0,), (240,)])
def test_neighbours_against_a_dictionary(counts, shuffled):
    """Also on the border, where a step leads to the next line, plane or sample, and in any order of rows."""
    voxels = random_voxels(counts, (6, 5, 8))
    if not shuffled:
        merged = merge_coords(voxels.coords, (6, 5, 8), len(counts), Plan(neighbours=True))
        coords, neighbours = merged.coords, merged.cache["neighbours"]
    else:
        coords, neighbours = voxels.coords, voxels.neighbours()
    rows = {tuple(row): i for i, row in enumerate(coords.tolist())}
    for offset, table in zip(OFFSETS, neighbours.table.tolist(), strict=True):
        step_x, step_y, step_z = offset
        assert table == [rows.get((b, z + step_z, y + step_y, x + step_x), -1) for b, z, y, x in coords.tolist()]
    assert neighbours.counts == tuple((neighbours.table >= 0).sum(1).tolist())
