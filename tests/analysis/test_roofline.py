"""Launches, bytes and predicted times: the model against numbers worked out by hand, and what LION promises."""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

import pytest
import torch

from visionrnn.analysis import planned, roofline
from visionrnn.analysis.planned import KITTI, SCENES, lion, lion_layer, saved_bytes
from visionrnn.analysis.roofline import DEVICES, GAP, OF_BANDWIDTH, OF_PEAK, Work, counting
from visionrnn.kernels import diagonal_scan, gated_linear_attention, launch
from visionrnn.serialization.route import Route

A100 = DEVICES["A100"]
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "roofline.md"


def test_the_longest_limit_counts():
    assert Work("copy", 1, 0, 2.039e9).seconds(A100) == pytest.approx(1e-3 / OF_BANDWIDTH + GAP)
    assert Work("product", 2, 312e9, 1e6, "bfloat16").seconds(A100) == pytest.approx(1e-3 / OF_PEAK + 2 * GAP)
    single, tripled = (Work("product", 1, 156e9, 1e6, "tf32", passes).seconds(A100) - GAP for passes in (1, 3))
    assert tripled == pytest.approx(3 * single)
    one, many = (Work("scan", 1, 0, 16e6, parallel=number).seconds(A100) for number in (1, 10_000))
    assert one == pytest.approx(1000 * 0.7e-6 + GAP) and many == pytest.approx(16e6 / (2.039e12 * OF_BANDWIDTH) + GAP)


def test_slow_hosts_count():
    plan = roofline.Plan([Work("a", 1, 0, 0), Work("b", 1, 0, 0, triton=True)])
    assert plan.seconds(A100) == pytest.approx(roofline.HOST_TORCH + roofline.HOST_TRITON)
    assert plan.device_seconds(A100) == pytest.approx(2 * GAP) and plan.launches == 2


def test_operations_of_torch():
    """Views and empty tensors launch nothing; of a gathered source only the rows read are traffic."""
    x, weight, rows = torch.zeros(100, 8), torch.zeros(8, 3), torch.arange(10)
    with counting() as plan:
        y = x.t()[:, :4].unsqueeze(0).transpose(1, 2)
        torch.empty_like(y).detach()
    assert not plan.works
    with counting() as plan:
        x.index_select(0, rows)
        x @ weight
        x.sort(0)
    gathered, product, _ = plan.works
    assert gathered.traffic == 2 * 10 * 8 * 4 + 10 * 8
    assert (product.flops, product.traffic, product.unit) == (2 * 100 * 8 * 3, 4 * (800 + 24 + 300), "float32")
    assert plan.launches == 2 + roofline.LAUNCHES["sort"]


def test_launches_of_triton_count_once_each():
    x = torch.rand(2, 50, 8, requires_grad=True)
    with counting() as plan:
        diagonal_scan(x, -x, backend="triton").sum().backward()
    found = [work for work in plan.works if work.triton]
    assert len(found) >= 2 and all(work.parallel for work in found) and plan.by_name()["neg"] >= 1


def test_half_types_are_read_as_they_are():
    """No copy in float32 is made, not even to check them."""
    q = torch.rand(2, 50, 1, 8, dtype=torch.bfloat16)
    with counting() as plan:
        gated_linear_attention(q, q, q, backend="triton")
    assert "_to_copy" not in plan.by_name()


def test_the_unit_follows_types_and_precision():
    from visionrnn.kernels.launch import Config, Launch

    def unit(dtype: torch.dtype, precision: str | None) -> tuple[str, int]:
        constants = {} if precision is None else {"PRECISION": precision}
        stated = Launch("a.b", lambda c: (1,), {"x": torch.zeros(1, dtype=dtype)}, (Config(constants),), 1.0)
        work = roofline.of_launch(stated)
        return work.unit, work.passes

    assert unit(torch.float32, None) == unit(torch.float32, "ieee") == unit(torch.bfloat16, None) == ("float32", 1)
    assert unit(torch.float32, "tf32x3") == ("tf32", 3) and unit(torch.float32, "tf32") == ("tf32", 1)
    assert unit(torch.bfloat16, "tf32x3") == ("bfloat16", 1)


@pytest.mark.parametrize("which", SCENES, ids=lambda which: which.name)
def test_a_mamba_layer_is_at_most_ten_launches(which):
    """A layer: both blocks with projections, norms and residuals, everything that launches. Its order is made once for many layers."""
    small = planned.Scene(which.name, min(which.voxels, 9000), which.shape, which.dim)
    plan = lion_layer("mamba", small).plan()
    assert plan.launches <= 10, plan.by_name()


def test_the_mamba_backbone_on_kitti_keeps_its_budget():
    """Predicted, orders, groups, rulebooks and merging included."""
    plan = lion("mamba", KITTI).plan()
    assert plan.seconds(A100) <= 50e-3
    assert 34 <= plan.by_name()["mixer_inputs"] == plan.by_name()["mixer_output"]


def test_bytes_that_a_layer_does_not_copy():
    """The formula is what counting finds: gathers in the layer that copies rows, orders read in the one that does not."""
    which = planned.Scene("few", 1000, (32, 400, 352), 64)
    straight = lion_layer("mamba", which).plan()
    with mock.patch.object(Route, "orders", lambda route: None):
        copied = lion_layer("mamba", which).plan()
    gathers = [work for work in copied.works if work.name == "index_select"]
    copies, orders = saved_bytes(1000, 64)
    assert len(gathers) == planned.GATHERS and sum(work.traffic for work in gathers) == copies
    assert not any(work.name == "index_select" for work in straight.works)
    with torch.no_grad(), launch.recording() as launches:
        lion_layer("mamba", which).call("fp32")()
    read = [stated.arguments["index"] for stated in launches if stated.arguments.get("index") is not None]
    assert sum(index.numel() * index.element_size() for index in read) == orders


def test_the_table_in_the_documentation():
    """Rows: | scene | voxels | channels | copies, MB | orders, MB | saved, MB |."""
    rows = dict(re.findall(r"^\| (KITTI|Waymo|Waymo large) \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE))
    for which in SCENES:
        copies, orders = saved_bytes(which.voxels, which.dim)
        numbers = [
            f"{which.voxels:,}".replace(",", " "),
            str(which.dim),
            *(f"{value / 1e6:.1f}" for value in (copies, orders, copies - orders)),
        ]
        assert rows[which.name] == " | ".join(numbers)
