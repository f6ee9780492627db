"""Hooks that watch a model run: how long modules take, and what LION's layers scan."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from visionrnn.backbones.lion import LION, LIONLayer
from visionrnn.layers.voxel_merge import VoxelMerging
from visionrnn.serialization import Voxels


class _Hooks:
    """A ``with`` block in which hooks are in place."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


class Stopwatch(_Hooks):
    """Seconds inside modules, by name, summed over the calls of one run; :meth:`next_run` begins another.

    ``order``: the names as the modules were first called.
    """

    def __init__(self, modules: Mapping[str, nn.Module], cuda: bool = False):
        super().__init__()
        self.cuda = cuda
        self.runs: list[dict[str, float]] = [dict.fromkeys(modules, 0.0)]
        self._names = tuple(modules)
        self._started: dict[str, float] = {}
        self.order: list[str] = []
        for name, module in modules.items():
            self._handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._start(name), prepend=True))
            self._handles.append(module.register_forward_hook(lambda *_, name=name: self._stop(name)))

    def now(self) -> float:
        """Seconds, the GPU's work done."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _start(self, name: str) -> None:
        if name not in self.order:
            self.order.append(name)
        self._started[name] = self.now()

    def _stop(self, name: str) -> None:
        self.runs[-1][name] += self.now() - self._started.pop(name)

    def next_run(self) -> None:
        self.runs.append(dict.fromkeys(self._names, 0.0))

    def median(self, name: str) -> float:
        """Over the runs that have ended."""
        return statistics.median(run[name] for run in self.runs[:-1])


@dataclass
class Stage:
    """What one stage of LION scans in one pass. ``levels``: voxels at each of its resolutions, finest first. ``scanned_voxels`` and
    ``scanned_tokens``: sums over its blocks; they differ where groups are filled with copies."""

    name: str
    window: tuple[int, int, int]
    group_size: int
    blocks: int = 0
    levels: list[int] = field(default_factory=list)
    voxels_out: int = 0
    groups: int = 0
    scanned_voxels: int = 0
    scanned_tokens: int = 0

    @property
    def tokens_per_voxel(self) -> float:
        return self.scanned_tokens / self.scanned_voxels if self.scanned_voxels else 1.0


class ScanTrace(_Hooks):
    """Counts what the layers of a LION backbone scan; ``stages`` are in the order they run. For one pass."""

    def __init__(self, lion: LION):
        super().__init__()
        self.stages: list[Stage] = []
        self._shapes: set[tuple[str, tuple[int, ...]]] = set()
        self._voxels = 0
        for name, modules in stage_modules(lion).items():
            layers = [layer for module in modules for layer in module.modules() if isinstance(layer, LIONLayer)]
            stage = Stage(name, layers[0].stage.window, layers[0].stage.group_size)
            self.stages.append(stage)
            for layer in layers:
                self._handles.append(layer.register_forward_pre_hook(lambda _, given, stage=stage: self._enter(stage, given[0])))
                for block in layer.blocks:
                    self._handles.append(block.register_forward_pre_hook(lambda _, given, stage=stage: self._scan(stage, *given[:2])))
            self._handles.append(modules[-1].register_forward_hook(lambda _, __, out, stage=stage: self._leave(stage, out)))

    def _enter(self, stage: Stage, voxels: Voxels) -> None:
        self._voxels = len(voxels.features)
        level = stage.name, voxels.spatial_shape
        if level not in self._shapes:
            self._shapes.add(level)
            stage.levels.append(self._voxels)

    def _scan(self, stage: Stage, x: Tensor, cu_seqlens: Tensor | None = None) -> None:
        stage.blocks += 1
        stage.groups += len(x) if cu_seqlens is None else len(cu_seqlens) - 1
        stage.scanned_voxels += self._voxels
        stage.scanned_tokens += x.shape[0] * x.shape[1]

    def _leave(self, stage: Stage, out: Any) -> None:
        stage.voxels_out = len((out if isinstance(out, Voxels) else out[0]).features)


def stage_modules(lion: LION) -> dict[str, list[nn.Module]]:
    """LION's modules by stage, in the order they run: each U-Net with the merge after it, the closing layer, those of the sparse form."""
    pairs = zip(lion.stages, lion.merges, strict=True)
    found: dict[str, list[nn.Module]] = {f"stage {i}": list(pair) for i, pair in enumerate(pairs, 1)}
    merge_out = getattr(lion, "merge_out", None)
    found["closing layer"] = [lion.out_layer] if merge_out is None else [lion.out_layer, merge_out]
    for i, layer in enumerate(getattr(lion, "bev_layers", ()), 1):
        found[f"map layer {i}"] = [layer]
    return found


def stage_watch(lion: LION) -> dict[str, nn.Module]:
    """Modules to time, by name: "stage 1/0" … together the whole stage, "stage 1/scan 0" … its blocks, "stage 1/merge 0" … its merging."""
    found: dict[str, nn.Module] = {}
    for name, modules in stage_modules(lion).items():
        inner = [module for whole in modules for module in whole.modules()]
        layers = [module for module in inner if isinstance(module, LIONLayer)]
        merges = [module for module in inner if isinstance(module, VoxelMerging)]
        blocks = [block for layer in layers for block in layer.blocks]
        for kind, chosen in (("", modules), ("scan ", blocks), ("merge ", merges)):
            found |= {f"{name}/{kind}{i}": module for i, module in enumerate(chosen)}
    return found
