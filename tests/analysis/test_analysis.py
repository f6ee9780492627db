"""What a model costs, against numbers worked out by hand."""

from __future__ import annotations

import math
import mmap

import pytest
import torch
from torch import nn

from visionrnn.analysis import OperationCount, ProcessPeak, ScanTrace, Stopwatch, TensorPeak
from visionrnn.analysis.measure import REST, analyze
from visionrnn.analysis.operations import ELEMENTWISE, FORMULAS, KERNELS
from visionrnn.analysis.trace import stage_modules
from visionrnn.backbones import LION, SparseLION
from visionrnn.kernels import available_backends, native, selective_scan
from visionrnn.layers.linear import Linear
from visionrnn.layers.sparse_conv import SparseConvTensor, SubMConv3d
from visionrnn.serialization import Voxels
from visionrnn.testing import SAMPLES

needs_native = pytest.mark.skipif(not native.is_built(), reason="the native library is not built")


def full_grid(depth: int, height: int, width: int, dim: int) -> Voxels:
    """One sample in which every voxel is occupied."""
    axes = torch.meshgrid(*(torch.arange(size) for size in (1, depth, height, width)), indexing="ij")
    coords = torch.stack(axes, -1).flatten(0, -2).int()
    return Voxels.from_coords(torch.randn(len(coords), dim), coords, (depth, height, width), 1)


def tiny_lion(padding: str = "exact", kind: type[LION] = LION, **options) -> LION:
    stage = dict(window=(2, 2, 2), group_size=5)
    return kind(8, "mamba", [stage], out_group_size=3, generate_ratio=0.0, padding=padding, **options).eval()


@pytest.mark.parametrize(("padding", "tokens", "closing"), [("exact", 82, 32), ("duplicate", 100, 36)])
def test_sequences_of_a_full_grid(padding, tokens, closing):
    """2 × 4 × 4 voxels merge to 4 and to 1; layers run at 32, 4, 1 and again 4 voxels, twice each, in groups of 5."""
    lion = tiny_lion(padding)
    with torch.no_grad(), ScanTrace(lion) as trace:
        lion(full_grid(2, 4, 4, 8))
    first, last = trace.stages
    assert (first.name, first.window, first.group_size) == ("stage 1", (2, 2, 2), 5)
    assert first.levels == [32, 4, 1] and first.voxels_out == 16
    assert (first.blocks, first.groups) == (8, 2 * (7 + 1 + 1 + 1))
    assert (first.scanned_voxels, first.scanned_tokens) == (82, tokens)
    assert first.tokens_per_voxel == tokens / 82
    assert (last.name, last.levels, last.voxels_out) == ("closing layer", [16], 16)
    assert (last.blocks, last.groups, last.scanned_tokens) == (2, 12, closing)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lion.modules())


def test_stages_of_the_sparse_form_hold_every_parameter():
    lion = tiny_lion(kind=SparseLION, bev_stages=[dict(window=(3, 3, 1), group_size=4)])
    stages = stage_modules(lion)
    assert list(stages) == ["stage 1", "closing layer", "map layer 1"]
    inside = sum(parameter.numel() for modules in stages.values() for module in modules for parameter in module.parameters())
    assert inside == sum(parameter.numel() for parameter in lion.parameters())
    with torch.no_grad(), ScanTrace(lion) as trace:
        lion(full_grid(2, 4, 4, 8))
    assert [stage.voxels_out for stage in trace.stages] == [16, 16, 16]


def test_matrix_products_and_parts():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 7, bias=False))
    x = torch.randn(11, 3)
    with OperationCount() as count:
        model(x)
    assert count.of("0") == 2 * 11 * 3 * 5 and count.of("2") == 2 * 11 * 5 * 7
    assert count.of("1") == count.of("nothing") == 0
    assert count.of() == count.of("0") + count.of("2") and not count.not_counted


def test_linear_layers_count_alike_in_either_library():
    """visionrnn's Linear asks oneDNN where torch's asks its default."""
    x = torch.randn(2, 11, 3)
    for layer in (Linear(3, 5), Linear(3, 5).double(), nn.Linear(3, 5)):
        with OperationCount() as count:
            layer(x.to(layer.weight.dtype))
        assert count.of() == 2 * 22 * 3 * 5


def test_sparse_convolution_counts_pairs_of_neighbours():
    """Two voxels side by side and one alone: 3 + 2 pairs."""
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 3, 3, 3]], dtype=torch.int32)
    conv = SubMConv3d(4, 6, 3, bias=False)
    with torch.no_grad(), OperationCount() as count:
        conv(SparseConvTensor(torch.randn(3, 4), coords, (4, 4, 4), 1))
    assert count.of() == 2 * 5 * 4 * 6


@needs_native
def test_a_selective_scan_counts_as_its_definition():
    steps, channels, states = 6, 4, 3
    u, delta = torch.randn(1, steps, channels), torch.rand(1, steps, channels)
    B, C = torch.randn(2, 1, steps, 1, states)
    with OperationCount() as count:
        selective_scan(u, delta, -torch.rand(channels, states), B, C, backend="native")
    assert count.of() == steps * channels * (7 * states + 1)


COUNTED = [
    name
    for name, sample in SAMPLES.items()
    if sample.family in ("gated_linear", "delta_rule", "nonlinear") and "native" in available_backends(sample.family, sample.kernel, "cpu")
]


@pytest.mark.parametrize("name", COUNTED)
def test_native_recurrences_have_formulas(name):
    """Doubling the steps doubles the count, and it is at least that of reading and updating the state once."""
    sample = SAMPLES[name]
    counts = []
    for length in (32, 64):
        inputs = sample.inputs(batch=1, length=length, heads=1, key=4, value=4, dtype=torch.float32)
        with torch.no_grad(), OperationCount() as count:
            sample.run(inputs, backend="native")
        assert not count.not_counted
        counts.append(count.of())
    assert counts[1] == pytest.approx(2 * counts[0], rel=0.1) and counts[0] >= 32 * 2 * 4 * 4


@needs_native
def test_every_native_operator_is_counted_or_known_as_elementwise():
    names = {name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if name.startswith("visionrnn::")}
    forward = {name for name in names if not name.endswith("_backward")}
    assert "selective_scan" in forward and forward <= {*FORMULAS, *ELEMENTWISE, *(f"triton_{name}" for name in KERNELS)}


def test_tensor_peak_counts_bytes_alive_together():
    def work() -> torch.Tensor:
        first = torch.zeros(1000)  # 4000 bytes
        second = first + 1  # 8000 with the first
        view = second.view(10, 100)  # no memory of its own
        del first
        return view.add_(1).sum()  # 4 more

    outside = torch.zeros(5000)
    with TensorPeak() as peak:
        work()
        assert peak.now == 0
        outside.add_(1)
    assert peak.peak == 8000


def test_process_peak_sees_a_large_block():
    size = 64 * 2**20
    with ProcessPeak() as peak, mmap.mmap(-1, size) as block:  # of the system, where malloc may have kept enough
        for page in range(0, size, mmap.PAGESIZE):
            block[page] = 1
    if peak.bytes is None:
        pytest.skip("this system does not tell")
    assert 0.9 * size < peak.bytes < 2 * size


def test_stopwatch_sums_calls_of_a_run_and_takes_the_median(monkeypatch):
    clock = iter([0.0, 1.0, 10.0, 12.0, 20.0, 25.0])
    layer = nn.Identity()
    with Stopwatch({"layer": layer, "idle": nn.Identity()}) as watch:
        monkeypatch.setattr(watch, "now", lambda: next(clock))
        for calls in (2, 1):
            for _ in range(calls):
                layer(torch.zeros(1))
            watch.next_run()
    assert watch.median("layer") == (3.0 + 5.0) / 2 and watch.median("idle") == 0.0
    assert watch.order == ["layer"]


class Detector(nn.Module):
    """A voxel backbone, a head, and something that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.middle_encoder = nn.Linear(8, 3), tiny_lion()
        self.scale = nn.Parameter(torch.ones(3, 3))

    def forward(self, voxels: Voxels) -> torch.Tensor:
        return self.head(self.middle_encoder(voxels).features) @ self.scale


def test_analysis_adds_up():
    model = Detector()
    analysis = analyze(model, lambda: model(full_grid(2, 4, 4, 8)), repeats=3)
    parts = {part.name: part for part in analysis.parts}
    assert list(parts) == ["middle_encoder", "head", REST]  # as they run
    assert parts["head"].parameters == 27 and parts["head"].operations == 2 * 16 * 8 * 3
    assert parts[REST].parameters == 9 and parts[REST].operations == 2 * 16 * 3 * 3
    assert analysis.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert math.isclose(sum(part.seconds for part in analysis.parts), analysis.seconds, rel_tol=1e-6)
    first, last = analysis.stages
    assert first.parameters + last.parameters == parts["middle_encoder"].parameters
    assert first.operations + last.operations == parts["middle_encoder"].operations > 0
    assert 0 < first.scan_seconds + first.merge_seconds < first.seconds < analysis.seconds
    assert analysis.weights >= 4 * analysis.parameters and analysis.tensor_peak > 32 * 8 * 4
    with pytest.raises(ValueError, match="repeats=0"):
        analyze(model, lambda: None, repeats=0)


def test_a_head_that_is_not_called_as_a_module_gets_what_is_left():
    class Sparse(Detector):
        def forward(self, voxels: Voxels) -> torch.Tensor:
            return self.middle_encoder(voxels).features @ self.head.weight.t()

    model = Sparse()
    parts = {part.name: part for part in analyze(model, lambda: model(full_grid(2, 4, 4, 8)), repeats=1).parts}
    assert parts["head"].operations == 2 * 16 * 8 * 3 and parts["head"].seconds > 0
    assert parts[REST].parameters == 9 and parts[REST].seconds == 0
