"""What a whole pass from points costs: sorts, host synchronisations, scanned tokens. On a synthetic frame with KITTI's layout."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from count_operations import CountOperations
from torch import Tensor, nn

from visionrnn.backbones import LION, SparseLION
from visionrnn.backbones.lion import LIONLayer, Stage
from visionrnn.datasets.synthetic_lidar import simulate_frame
from visionrnn.datasets.voxelize import DynamicVFE
from visionrnn.registry import BLOCKS
from visionrnn.serialization import Voxels

LAYOUT = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0), (0.2, 0.2, 0.125)
OPERATORS = [*BLOCKS, "gla"]
STAGES = [Stage((13, 13, 32), 1024), Stage((13, 13, 16), 512)]


@pytest.fixture(scope="module")
def points() -> Tensor:
    return torch.from_numpy(simulate_frame(0, "train", 0, density=0.3, field_of_view=90.0).points[::3])


def batch_of(points: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """The points ``samples`` times, a little moved each time, and their samples."""
    clouds = [points + torch.tensor([0.7 * i, 0.3 * i, 0.0, 0.0]) for i in range(samples)]
    return torch.cat(clouds), torch.arange(samples).repeat_interleave(len(points))


def run(model: LION, points: Tensor, batch: Tensor, samples: int, planned: bool = True) -> tuple[Voxels, Voxels, CountOperations]:
    torch.manual_seed(0)
    encoder = DynamicVFE(4, [model.dim, model.dim], *LAYOUT).train(model.training)
    with CountOperations() as count:
        plan = (model.first_plan,) if planned else ()
        voxels = encoder.voxels(points, batch, samples, *plan)
        out = model(voxels)
    return voxels, out, count


@pytest.mark.parametrize("padding", ["exact", "duplicate"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_sorts_and_waits_of_every_operator(points, operator, padding):
    """13 sets of coordinates: the voxels; two coarser levels and the closing merge of four stages."""
    model = LION(8, operator, padding=padding).eval()
    with torch.no_grad():
        voxels, _, count = run(model, points, torch.zeros(len(points), dtype=torch.long), 1)
    assert voxels.counts[0] > 500
    assert count.sorts <= 13 and count.waits <= 13, count.calls
    assert count.calls["topk"] == 4 and count.calls["nonzero"] == 0


@pytest.mark.parametrize("samples", [1, 3])
def test_sorts_and_waits_in_training(points, samples):
    """Forward; then the backward pass, which neither sorts nor waits."""
    model = LION(8, "mamba", drop_path=0.2).train()
    _, out, count = run(model, *batch_of(points, samples), samples)
    assert (count.sorts, count.waits) == (13, 13), count.calls
    with CountOperations() as count:
        out.features.sum().backward()
    assert (count.sorts, count.waits) == (0, 0), count.calls


def test_sorts_and_waits_without_a_plan(points):
    """An encoder that does not know the backbone costs one more of each; voxels from elsewhere cost their check."""
    model = LION(8, "mamba").eval()
    with torch.no_grad():
        voxels, out, count = run(model, points, torch.zeros(len(points), dtype=torch.long), 1, planned=False)
        assert (count.sorts, count.waits) == (14, 14), count.calls
        with CountOperations() as count:
            given = Voxels.from_coords(voxels.features, voxels.coords, voxels.spatial_shape, 1)
        assert (count.sorts, count.waits) == (0, 1), count.calls
        with CountOperations() as count:
            again = model(given)
        assert (count.sorts, count.waits) == (13, 13), count.calls
    assert torch.equal(again.features, out.features)


def test_sorts_and_waits_of_the_sparse_backbone(points):
    """14 sets of coordinates; the last one is sorted in three windows at once."""
    with torch.no_grad():
        _, out, count = run(SparseLION(8, "mamba").eval(), points, torch.zeros(len(points), dtype=torch.long), 1)
    assert (count.sorts, count.waits) == (14, 14), count.calls
    assert out.spatial_shape == (1, 400, 352) and not out.coords[:, 1].any()


@pytest.mark.parametrize("serializer", ["scene", "z_order", "hilbert"])
def test_sorts_and_waits_of_other_orders(points, serializer):
    with torch.no_grad():
        _, out, count = run(LION(8, "mamba", serializer=serializer).eval(), points, torch.zeros(len(points), dtype=torch.long), 1)
    assert (count.sorts, count.waits) == (13, 13), count.calls
    assert out.features.isfinite().all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_nothing_is_sent_anew_to_the_device(points, operator):
    """A constant made on the host has to be copied to the device, which the host may wait for: the second pass makes none."""
    model, encoder = LION(8, operator, STAGES).train(), DynamicVFE(4, [8, 8], *LAYOUT)
    points, batch = points[::4], torch.zeros(len(points[::4]), dtype=torch.long)
    with mock.patch("torch.tensor", wraps=torch.tensor) as made:
        for _ in range(2):
            made.reset_mock()
            model(encoder.voxels(points, batch, 1, model.first_plan)).features.sum().backward()
    assert not made.call_args_list


def scanned(model: LION, points: Tensor, batch: Tensor, samples: int) -> tuple[int, int]:
    """Tokens that blocks scanned, voxels that their layers were given."""
    numbers = [0, 0]
    for module in model.modules():
        if isinstance(module, LIONLayer):
            module.register_forward_pre_hook(lambda _, inputs: numbers.__setitem__(1, numbers[1] + 2 * len(inputs[0].coords)))
            for block in module.blocks:
                block.register_forward_pre_hook(lambda _, inputs: numbers.__setitem__(0, numbers[0] + inputs[0][..., 0].numel()))
    with torch.no_grad():
        run(model, points, batch, samples)
    return numbers[0], numbers[1]


@pytest.mark.parametrize("samples", [1, 2])
def test_every_voxel_is_scanned_once(points, samples):
    tokens, voxels = scanned(LION(8, "mamba").eval(), *batch_of(points, samples), samples)
    assert tokens / voxels == 1.0
    tokens, voxels = scanned(LION(8, "mamba", padding="duplicate").eval(), *batch_of(points, samples), samples)
    assert tokens / voxels > 1.02


def test_counter_sees_what_it_should():
    """So that a zero above means something."""
    x, mask, lengths = torch.arange(4.0), torch.tensor([True, False, True, True]), torch.tensor([1, 2])
    calls = {
        "sorts": [x.sort, x.argsort, x.unique, x.unique_consecutive],
        "waits": [
            mask.nonzero, lambda: x[mask], lambda: x.masked_select(mask), x.sum().item, lambda: int(x[0]), lambda: bool(mask[0]),
            lambda: lengths.repeat_interleave(lengths), lambda: x.tolist(), lambda: x.equal(x), lambda: lengths.bincount(),
        ],
        "neither": [lambda: x.repeat_interleave(2), lambda: x[lengths], lambda: nn.functional.gelu(x), lambda: x.topk(2)],
    }  # fmt: skip
    for kind, functions in calls.items():
        for i, function in enumerate(functions):
            with CountOperations() as count:
                function()
            assert (count.sorts > 0, count.waits > 0) == (kind == "sorts", kind == "waits"), (kind, i, count.calls)
