"""The shapes for which launches are counted: LION on KITTI and Waymo, Vision-LSTM, flash-linear-attention's published benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from visionrnn.analysis.roofline import Plan, counting
from visionrnn.backbones.lion import LION, LIONLayer, Scan, Stage
from visionrnn.layers.voxel_merge import VoxelMerging
from visionrnn.serialization import Voxels
from visionrnn.testing import SAMPLES

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """``call(dtype)`` makes what is to be counted, ready to run."""

    name: str
    call: Callable[[str], Callable[[], Any]]
    gradients: bool = False

    def plan(self, dtype: str = "fp32") -> Plan:
        torch.manual_seed(0)
        run = self.call(dtype)
        with torch.set_grad_enabled(self.gradients), counting() as plan:
            run()
        return plan


@dataclass(frozen=True)
class Scene:
    """A sensor's view as it reaches LION: voxels near the ground, denser near the sensor. ``heads``: of blocks that have some."""

    name: str
    voxels: int
    shape: tuple[int, int, int]
    dim: int
    heads: int = 2


# Voxels of a frame: KITTI's as tools/benchmark.py lion has them, seen by a camera's 90°; Waymo's full turn of five sensors.
KITTI = Scene("KITTI", 7000, (32, 400, 352), 64)
SCENES = (KITTI, Scene("Waymo", 60_000, (32, 468, 468), 64), Scene("Waymo large", 60_000, (32, 468, 468), 128, 4))


@cache
def scene(which: Scene) -> Voxels:
    """Seeded voxels along rings of scan lines, on the ground and on upright things; features are noise."""
    generator = torch.Generator().manual_seed(0)
    depth, height, width = which.shape
    number = 4 * which.voxels
    angle = torch.rand(number, generator=generator) * 6.2832
    reach = min(height, width) * (0.03 + 0.5 * torch.rand(number, generator=generator) ** 1.5)
    x = (width / 2 + reach * angle.cos()).clamp(0, width - 1).long()
    y = (height / 2 + reach * angle.sin()).clamp(0, height - 1).long()
    thing = (x // 6 * 7919 + y // 6 * 104729) % 5 == 0  # one in five patches has something standing on it
    z = torch.where(thing, (torch.rand(number, generator=generator) * depth * 0.6).long(), depth // 5)
    cells = ((z * height + y) * width + x).unique()
    cells = cells[torch.randperm(len(cells), generator=generator)[: which.voxels]].sort().values
    place = torch.stack([torch.zeros_like(cells), cells // (height * width), cells // width % height, cells % width], 1)
    return Voxels.from_coords(torch.randn(len(cells), which.dim, generator=generator), place, which.shape, 1)


def operator(name: str, which: Scene) -> dict[str, Any]:
    options = {"num_heads": which.heads} if name in ("retnet", "rwkv", "xlstm", "ttt") else {}
    return {"type": name, "backend": "triton", **options}


GATHERS, INDEX = 3, 8  # of a layer in copies: rows → first scan → second scan → rows; bytes of a number in an order


def saved_bytes(voxels: int, channels: int, size: int = 4) -> tuple[int, int]:
    """Bytes of memory traffic of a layer's gathered copies, each row read and written and its place in the order read, and bytes that
    kernels read instead, which find rows through the order: that before and that behind the scans of both blocks."""
    return GATHERS * voxels * (2 * channels * size + INDEX), 2 * 2 * voxels * INDEX


def _again(voxels: Voxels) -> Voxels:
    """Nothing computed from the coordinates before is used."""
    return Voxels(voxels.features, voxels.coords, voxels.spatial_shape, voxels.counts)


def _with_noise(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Numbers are arbitrary while launches are counted; merging chooses voxels by them, so that they should be finite and seeded."""
    features: Tensor = given[0].features
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).to(features.dtype)
    return given[0].with_features(noise), *given[1:]


def _run(call: Callable[[], Any], dtype: str) -> Callable[[], Any]:
    def run() -> Any:
        with torch.autocast("cpu", torch.bfloat16) if dtype == "bf16" else nullcontext():
            return call()

    return run


def lion_layer(name: str, which: Scene, gradients: bool = False) -> Case:
    """A LIONLayer: two blocks, one for each order, on the finest voxels; orders and groups are made once for a set of voxels, before."""

    def call(dtype: str) -> Callable[[], Any]:
        voxels = _again(scene(which))
        layer = LIONLayer(which.dim, Stage((13, 13, 32), 4096), True, Scan(operator(name, which)), first=2)
        voxels.route(layer.traversal, layer.stage.group_size, "exact")
        if not gradients:
            return _run(lambda: layer.eval()(voxels), dtype)
        return _run(lambda: layer(voxels).features.sum().backward(), dtype)

    return Case(f"LION-{name} {which.name}, a layer" + (", forward + backward" if gradients else ""), call, gradients)


def lion(name: str, which: Scene) -> Case:
    """The whole backbone with all that makes its orders, groups and rulebooks, without gradients."""

    def call(dtype: str) -> Callable[[], Any]:
        model = LION(which.dim, operator(name, which)).eval()
        for module in model.modules():
            if isinstance(module, VoxelMerging):
                module.register_forward_pre_hook(_with_noise)
        return _run(lambda: model(_again(scene(which))), dtype)

    return Case(f"LION-{name} {which.name}, backbone, {which.voxels} voxels", call)


def lion_cases(operators: tuple[str, ...]) -> Iterator[Case]:
    for name in operators:
        for which in SCENES:
            yield lion_layer(name, which)
            yield lion(name, which)
        yield lion_layer(name, KITTI, gradients=True)


def recurrence(title: str, sample: str, gradients: bool, **sizes: int) -> Case:
    """One call of a recurrence, with the backward pass or without."""

    def call(dtype: str) -> Callable[[], Any]:
        inputs = SAMPLES[sample].inputs(dtype=TYPES[dtype], **sizes)
        if not gradients:
            return lambda: SAMPLES[sample].call(**inputs, **SAMPLES[sample].options, backend="triton")
        return lambda: SAMPLES[sample].call(**inputs, **SAMPLES[sample].options, backend="triton").sum().backward()

    return Case(f"{title}, {sample}" + (", forward + backward" if gradients else ""), call, gradients)


def vil_cases(_: tuple[str, ...]) -> Iterator[Case]:
    """mLSTM as in ViL-T: 384 inner channels in 4 heads; 14 × 14 patches of 224², 64 × 64 of 1024²."""
    for side, length in ((224, 196), (1024, 4096)):
        for gradients in (False, True):
            yield recurrence(f"ViL-T {side}², batch 8", "mlstm", gradients, batch=8, length=length, heads=4, key=96, value=96)


def kernel_cases(_: tuple[str, ...]) -> Iterator[Case]:
    """The sizes of flash-linear-attention's published benchmark: batch 8, 2048 steps, 8 heads of 64."""
    for sample in ("simple_gla", "gla", "delta_rule", "gated_delta_rule", "kda", "generalized_delta_rule", "rwkv6"):
        for gradients in (False, True):
            yield recurrence("B 8, T 2048, H 8, K = V = 64", sample, gradients, batch=8, length=2048, heads=8, key=64, value=64)


GROUPS: dict[str, Callable[[tuple[str, ...]], Iterator[Case]]] = {"lion": lion_cases, "vil": vil_cases, "kernels": kernel_cases}
