"""LION: sizes, independence of samples, odd grids, empty input, padding, voxel encoder."""

from __future__ import annotations

import weakref

import pytest
import torch
from random_voxels import random_voxels

from visionrnn.backbones.lion import LION, LIONLayer, PositionEmbedding, Scan, Stage
from visionrnn.backbones.lion_sparse import SparseLION
from visionrnn.datasets.voxelize import DynamicVFE, voxel_coords
from visionrnn.layers.drop_path import DropPath
from visionrnn.layers.voxel_merge import VoxelMerging
from visionrnn.registry import SERIALIZERS
from visionrnn.serialization import Voxels

STAGES = [Stage((5, 5, 8), 16), Stage((5, 5, 4), 16)]


def small_lion(**options) -> LION:
    torch.manual_seed(0)
    return LION(8, dict(type="mamba", d_state=4), STAGES, out_group_size=16, **options).double()


def doubled(voxels: Voxels) -> Voxels:
    return voxels.with_features(voxels.features.double())


@pytest.mark.parametrize("shape", [(16, 24, 20), (15, 23, 21), (9, 5, 7)])
def test_height_is_quartered_and_every_voxel_kept_in_its_column(shape):
    voxels = doubled(random_voxels((80, 60), shape, 8))
    model = small_lion(generate_ratio=0.0).eval()
    out, intermediates = model.forward_intermediates(voxels)
    assert out.spatial_shape == (-(-shape[0] // 4), *shape[1:])
    assert [v.spatial_shape[0] for v in intermediates] == [-(-shape[0] // 2), -(-shape[0] // 4)]
    expected = torch.cat([voxels.coords[:, :1], voxels.coords[:, 1:2] // 4, voxels.coords[:, 2:]], 1).unique(dim=0)
    assert torch.equal(out.coords.unique(dim=0), expected)
    assert out.features.isfinite().all()


@pytest.mark.parametrize("padding", ["exact", "duplicate"])
@pytest.mark.parametrize("counts", [(80, 60), (70, 0, 5), (0, 40), (90, 1)])
def test_samples_do_not_see_each_other(padding, counts):
    """A batch gives what its samples give alone, also when one of them is empty."""
    voxels = doubled(random_voxels(counts, (8, 24, 20), 8))
    model = small_lion(padding=padding).eval()
    together = model(voxels)
    assert together.counts == tuple(int((together.coords[:, 0] == i).sum()) for i in range(len(counts)))
    for sample in range(len(counts)):
        mask = voxels.coords[:, 0] == sample
        coords = voxels.coords[mask].clone()
        coords[:, 0] = 0
        alone = model(Voxels.from_coords(voxels.features[mask], coords, voxels.spatial_shape, 1))
        rows = together.coords[:, 0] == sample
        assert torch.equal(alone.coords[:, 1:], together.coords[rows, 1:])
        assert torch.allclose(alone.features, together.features[rows], atol=1e-10)


def test_no_voxels_at_all():
    voxels = doubled(random_voxels((0, 0), (8, 24, 20), 8))
    model = small_lion(drop_path=0.2).train()
    out = model(voxels)
    assert out.features.shape == (0, 8) and out.counts == (0, 0)
    out.features.sum().backward()


def test_training_step_reaches_every_parameter():
    voxels = doubled(random_voxels((80, 60), (16, 24, 20), 8))
    model = small_lion(drop_path=0.1).train()
    out = model(voxels)
    (out.features * torch.randn_like(out.features)).sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert not missing


def test_positions_in_half_precision_leave_the_features_whole():
    model, seen = small_lion(generate_ratio=0.0).float().eval(), []
    model.stages[0].encoder[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].features.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(random_voxels((80,), (8, 24, 20), 8))
    assert seen == [torch.float32]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_places_are_computed_in_full_precision(dtype):
    """A half type would round the places themselves, of which there may be hundreds along an axis."""
    coords = torch.tensor([[0, 0, 0, 257], [0, 3, 399, 351]], dtype=torch.int32)
    embedding, seen = PositionEmbedding(8).to(dtype).eval(), []
    embedding.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embedding(Voxels.from_coords(torch.zeros(2, 8, dtype=dtype), coords, (4, 400, 352), 1))
    exact = (coords[:, [3, 2, 1]] / torch.tensor([352, 400, 4]) - 0.5) * 2 * 3.1415
    torch.testing.assert_close(seen[0], exact.to(dtype))


def test_what_is_passed_is_not_kept():
    """Of the voxels on the way, with their neighbours and orders, none lives longer than it is needed."""
    model, alive = small_lion().eval(), []
    for merge in model.merges:
        merge.register_forward_hook(lambda module, inputs, output: alive.append(weakref.ref(output[0].coords)))
    model.out_layer.register_forward_pre_hook(lambda *_: alive.append([reference() is None for reference in alive]))
    with torch.no_grad():
        model(doubled(random_voxels((80, 60), (8, 24, 20), 8)))
    assert alive[-1] == [True, False]


def test_input_is_left_as_it_was():
    voxels = doubled(random_voxels((80,), (8, 24, 20), 8))
    before = voxels.features.clone()
    small_lion().eval()(voxels)
    assert torch.equal(voxels.features, before)


@pytest.mark.parametrize("operator", ["mamba", "rwkv"])
def test_checkpointing_changes_no_result_and_no_gradient(operator):
    """With drop path: the second computation drops the same groups."""
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = LION(8, operator, STAGES, 16, drop_path=0.3, checkpointing=checkpointing).double().train()
        voxels = doubled(random_voxels((80, 60), (16, 24, 20), 8))
        features = voxels.features.requires_grad_()
        torch.manual_seed(1)
        calls: list[int] = []
        model.out_layer.blocks[0].register_forward_hook(lambda *_, calls=calls: calls.append(1))
        out = model(voxels).features
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        assert len(calls) == 1 + checkpointing
        results.append([out.detach(), features.grad, *(parameter.grad for parameter in model.parameters())])
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)
    with torch.no_grad():
        model(voxels)
    assert len(calls) == 3  # without gradients nothing is computed twice


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("padding", ["exact", "duplicate"])
def test_every_order_trains(serializer, padding):
    voxels = doubled(random_voxels((80, 0, 60), (8, 24, 20), 8))
    model = LION(8, "mamba", STAGES, 16, serializer=serializer, padding=padding).double().train()
    out = model(voxels)
    (out.features * torch.randn_like(out.features)).sum().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())


def test_unknown_order_is_named():
    with pytest.raises(ValueError, match=r"serializer='spiral'; expected one of \['hilbert', 'scene', 'window', 'z_order'\]"):
        LION(8, "mamba", STAGES, serializer="spiral")


def test_no_stages_are_refused():
    with pytest.raises(ValueError, match="stages: expected at least one"):
        LION(8, "mamba", [])


def test_without_descriptor():
    model = small_lion(descriptor=False).train()
    assert not any("conv_norm" in name for name in model.state_dict())
    out = model(doubled(random_voxels((80, 60), (16, 24, 20), 8)))
    (out.features * torch.randn_like(out.features)).sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("counts", [(80, 60), (70, 0, 5), (0,)])
def test_sparse_backbone_ends_flat(counts):
    torch.manual_seed(0)
    model = SparseLION(8, "mamba", STAGES, [Stage((7, 7, 1), 16), Stage((9, 9, 1), 32)], out_group_size=16).double().train()
    voxels = doubled(random_voxels(counts, (8, 24, 20), 8))
    out = model(voxels)
    assert out.spatial_shape == (1, 24, 20) and out.batch_size == len(counts)
    where = set(map(tuple, out.coords[:, [0, 2, 3]].tolist()))
    assert where >= set(map(tuple, voxels.coords[:, [0, 2, 3]].tolist())) and len(where) == len(out.coords)
    (out.features * torch.randn_like(out.features)).sum().backward()
    assert sum(counts) == 0 or all(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(("model", "count"), [(LION, 34), (SparseLION, 40)])
def test_blocks_know_their_places(monkeypatch, model, count):
    places = []
    monkeypatch.setattr(
        "visionrnn.backbones.lion.build_block", lambda operator, dim, place, drop: places.append(place) or torch.nn.Identity()
    )
    built = model(8, "mamba")
    assert [(place.index, place.count) for place in places] == [(i, count) for i in range(count)]
    layers = [module for module in built.modules() if isinstance(module, LIONLayer)]
    assert len(layers) == count // 2


def test_sparse_backbone_refuses_heights_that_stay():
    with pytest.raises(ValueError, match="height 16; expected at most 8 for 2 stages"):
        SparseLION(8, "mamba", STAGES)(random_voxels((5,), (16, 8, 8), 8))


def test_exact_and_duplicate_agree_where_no_group_is_short():
    voxels = doubled(random_voxels((64, 32), (8, 24, 20), 8))
    torch.manual_seed(0)
    layers = [
        LIONLayer(8, Stage((5, 5, 8), 16), True, Scan(dict(type="mamba"), padding=padding)).double() for padding in ("exact", "duplicate")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    assert torch.allclose(layers[0](voxels).features, layers[1](voxels).features, atol=1e-12)


def test_generated_voxels_are_the_diagonal_neighbours_of_the_best():
    voxels = doubled(random_voxels((50, 4, 30), (8, 24, 20), 8))
    merging = VoxelMerging(8, (1, 1, 2), generate_ratio=0.2).double()
    features = merging.describe(voxels)
    generated = merging._generate(voxels, features)
    expected = []
    for sample in range(3):
        rows = (voxels.coords[:, 0] == sample).nonzero().flatten()
        best = rows[features[rows].mean(1).argsort(descending=True)[: len(rows) // 5]]
        for step_x, step_y in ((-1, 1), (1, 1), (-1, -1), (1, -1)):
            for b, z, y, x in voxels.coords[best].tolist():
                expected.append([b, z, min(max(y + step_y, 0), 23), min(max(x + step_x, 0), 19)])
    assert generated.tolist() == expected
    _, inverse = merging(voxels)
    assert len(inverse) == len(voxels.coords) + len(expected)


def test_drop_path_drops_whole_sequences_and_keeps_the_mean():
    torch.manual_seed(0)
    drop, bounds = DropPath(0.25).train(), torch.arange(0, 4001, 2)
    out = drop(torch.ones(1, 4000, 3), bounds)[0]
    assert torch.equal(out[0::2], out[1::2])
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert out.mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(out[None]), out[None])
    assert set(DropPath(0.5).train()(torch.ones(64, 2, 1)).unique().tolist()) == {0.0, 2.0}
    with pytest.raises(ValueError, match="drop_path"):
        DropPath(1.0)


class TestVoxelEncoder:
    layout = ((0.0, -2.0, -1.0, 4.0, 2.0, 1.0), (0.5, 0.5, 0.5))

    def points(self, number=300, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(number, 4, generator=generator) * torch.tensor([5.0, 5.0, 3.0, 1.0]) - torch.tensor([0.5, 2.5, 1.5, 0.0])

    def test_features_by_hand(self):
        """One layer, evaluated point by point in plain Python."""
        encoder = DynamicVFE(4, [6], *self.layout).double().eval()
        points = self.points().double()
        features, coords, counts = encoder(points, torch.zeros(len(points), dtype=torch.long), 1)
        low, size = torch.tensor(self.layout[0][:3]).double(), torch.tensor(self.layout[1]).double()
        cells = {}
        for point in points:
            cell = ((point[:3] - low) / size).floor()
            if (cell >= 0).all() and (cell < torch.tensor(encoder.grid)).all():
                cells.setdefault(tuple(cell.int().tolist()), []).append(point)
        assert sorted(cells) == [tuple(row[[3, 2, 1]].tolist()) for row in coords]
        for row, cell in enumerate(sorted(cells)):
            inside = torch.stack(cells[cell])
            centre = (torch.tensor(cell) + 0.5) * size + low
            full = torch.cat([inside, inside[:, :3] - inside[:, :3].mean(0), inside[:, :3] - centre], 1)
            assert torch.allclose(features[row], encoder.layers[0](full).amax(0), atol=1e-12)
        assert counts == (len(cells),)

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("number", [0, 1])
    def test_empty_and_single(self, training, number):
        encoder = DynamicVFE(4, [8, 8], *self.layout).train(training)
        points = torch.tensor([[1.0, 0.0, 0.0, 0.5]])[:number]
        features, coords, counts = encoder(points, torch.zeros(number, dtype=torch.long), 2)
        assert features.shape == (number, 8) and len(coords) == number and counts == (number, 0)
        features.sum().backward()

    def test_all_out_of_range(self):
        encoder = DynamicVFE(4, [8, 8], *self.layout)
        features, _, counts = encoder(self.points() + 100, torch.zeros(300, dtype=torch.long), 1)
        assert features.shape == (0, 8) and counts == (0,)

    def test_wrong_columns_are_named(self):
        with pytest.raises(ValueError, match=r"points: expected \[P, 4\].*got \[5, 3\]"):
            DynamicVFE(4, [8], *self.layout)(torch.zeros(5, 3), torch.zeros(5), 1)

    def test_points_on_borders_fall_into_the_upper_voxel(self):
        """Every multiple of 0.2 m, as float32 stores it, belongs to the voxel it opens; float32 arithmetic puts some one lower."""
        index = torch.arange(1, 350)
        points = torch.zeros(len(index), 3)
        points[:, 1] = (index.double() / 5 - 40).float()
        layout = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0), (0.2, 0.2, 0.125)
        inside = points[:, 1].double() >= index.double() / 5 - 40  # float32 may store a hair less than the decimal
        assert torch.equal(voxel_coords(points, *layout)[inside, 1], index[inside])
        assert (voxel_coords(points, *layout, dtype=torch.float32)[inside, 1] != index[inside]).any()
