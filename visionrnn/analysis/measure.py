"""Runs a model and gathers what it costs."""

from __future__ import annotations

import contextlib
import platform
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from visionrnn.analysis.memory import ProcessPeak, TensorPeak
from visionrnn.analysis.operations import OperationCount
from visionrnn.analysis.trace import ScanTrace, Stage, Stopwatch, stage_modules, stage_watch
from visionrnn.backbones.lion import LION

REST = "the rest"


@dataclass
class Part:
    """A child of the model, or what none of them does (decoding, suppression, collecting): parameters, operations, median seconds.

    A child that works without being called as a module (one at most) is given all that the others did not do.
    """

    name: str
    parameters: int
    operations: int
    seconds: float


@dataclass
class StageCost:
    """A stage of LION: what it scans and its cost; ``scan_seconds`` of its operator blocks, ``merge_seconds`` of merging, both inside
    ``seconds``; the remainder is position embedding, reordering and norms."""

    scan: Stage
    parameters: int
    operations: int
    seconds: float
    scan_seconds: float
    merge_seconds: float


@dataclass
class Analysis:
    """All that was measured in passes without gradients. Bytes: ``tensor_peak`` of tensors made in a pass and alive at one time,
    ``process_peak`` as :class:`ProcessPeak`, ``weights`` of parameters and buffers."""

    parts: list[Part]
    stages: list[StageCost]
    seconds: float
    repeats: int
    not_counted: list[str]
    weights: int
    tensor_peak: int
    process_peak: int | None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def operations(self) -> int:
        return sum(part.operations for part in self.parts)


def analyze(model: nn.Module, run: Callable[[], Any], repeats: int = 5) -> Analysis:
    """``run`` makes one pass of ``model``. The first pass measures the process's memory and warms up, the second counts operations,
    the third sequences and tensors, ``repeats`` more are timed."""
    if repeats < 1:
        raise ValueError(f"repeats={repeats}; expected at least 1")
    cuda = next((parameter.is_cuda for parameter in model.parameters()), False)
    parts = dict(model.named_children())
    lion = next((module for module in model.modules() if isinstance(module, LION)), None)
    with torch.no_grad(), ProcessPeak(cuda) as process:
        run()
    with torch.no_grad(), OperationCount() as count:
        run()
    with torch.no_grad(), TensorPeak() as tensors, contextlib.ExitStack() as stack:
        trace = stack.enter_context(ScanTrace(lion)) if lion is not None else None
        run()
    watched = {f"part/{name}": module for name, module in parts.items()}
    with torch.no_grad(), Stopwatch({**watched, **(stage_watch(lion) if lion is not None else {})}, cuda) as watch:
        total = []
        for _ in range(repeats):
            start = watch.now()
            run()
            total.append(watch.now() - start)
            watch.next_run()
    seconds = statistics.median(total)
    called = [name.removeprefix("part/") for name in watch.order if name in watched]
    names = [*called, *(name for name in parts if name not in called)]
    costs = [Part(name, _parameters([parts[name]]), count.of(name), watch.median(f"part/{name}")) for name in names]
    left = count.of() - sum(part.operations for part in costs)
    rest = Part(REST, _parameters([model]) - sum(part.parameters for part in costs), left, seconds - sum(p.seconds for p in costs))
    unwatched = [part for part in costs if part.parameters and part.name not in called]
    if len(unwatched) == 1:  # a head whose ``predict`` is called, not the module: what nobody else did is its doing
        (part,) = unwatched
        part.operations, part.seconds, rest.operations, rest.seconds = left, rest.seconds, 0, 0.0
    costs.append(rest)
    return Analysis(
        parts=[part for part in costs if part.parameters or part.operations or part.seconds > 1e-4 * seconds],
        stages=_stages(model, lion, trace.stages, count, watch) if lion is not None and trace is not None else [],
        seconds=seconds,
        repeats=repeats,
        not_counted=sorted(count.not_counted),
        weights=sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()]),
        tensor_peak=tensors.peak,
        process_peak=process.bytes,
        about={"torch": torch.__version__, "threads": torch.get_num_threads(), "device": "cuda" if cuda else platform.machine()},
    )


def _stages(model: nn.Module, lion: LION, scanned: list[Stage], count: OperationCount, watch: Stopwatch) -> list[StageCost]:
    path = {module: name for name, module in model.named_modules()}
    costs = []
    for stage, modules in zip(scanned, stage_modules(lion).values(), strict=True):
        names = [name for name in watch.runs[0] if name.startswith(f"{stage.name}/")]
        seconds = {
            kind: sum(watch.median(name) for name in names if name.partition("/")[2].startswith(kind)) for kind in ("scan ", "merge ")
        }
        whole = sum(watch.median(f"{stage.name}/{i}") for i in range(len(modules)))
        operations = sum(count.of(path[module]) for module in modules)
        costs.append(StageCost(stage, _parameters(modules), operations, whole, seconds["scan "], seconds["merge "]))
    return costs


def _parameters(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
