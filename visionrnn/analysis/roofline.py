"""What a GPU would be given to do, and how long that takes at least: launches, bytes and operations, counted without a GPU.

**Predictions for engineers, from data sheets and stated assumptions. Nothing here is measured.**

A launch takes the longest of: its operations at the peak of its unit; its bytes at the memory's bandwidth; the bytes of one program at the
rate one program can ask for them; each divided by the share of the limit that good kernels reach. Launches follow each other with a gap,
unless the host is slower to launch them: of the device's time and the host's the longer one counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from visionrnn.kernels.launch import Launch, recording
from visionrnn.layers import linear


@dataclass(frozen=True)
class Device:
    """Of one GPU: bytes and operations per second, dense (without structured sparsity)."""

    name: str
    bandwidth: float
    float32: float
    tf32: float
    bfloat16: float
    multiprocessors: int


# NVIDIA's data sheets: "A100 80GB SXM", "H100 SXM"; B200 as the HGX B200 sheet divided by eight.
DEVICES = {
    "A100": Device("A100", 2.039e12, 19.5e12, 156e12, 312e12, 108),
    "H100": Device("H100", 3.35e12, 67e12, 494e12, 989e12, 132),
    "B200": Device("B200", 7.7e12, 75e12, 1125e12, 2250e12, 148),
}
# Assumptions, not from any sheet: typical figures of well-tuned kernels and of PyTorch 2 on a server's processor.
OF_BANDWIDTH, OF_PEAK = 0.75, 0.5
GAP = 2e-6  # seconds from the end of a launch to the start of the next one that is already waiting
HOST_TORCH, HOST_TRITON = 7e-6, 45e-6  # seconds of Python and dispatch per operation
LATENCY, IN_FLIGHT = 0.7e-6, 16e3  # a program has 16 kB under way at a time, which arrive after 0.7 µs

# Launches of torch's operations on CUDA where they are not one. Sorting is eight passes over 64-bit keys and what surrounds them.
LAUNCHES = {
    "sort": 12, "argsort": 12, "topk": 4, "cumsum": 2, "nonzero": 3, "index_add_": 1, "unique_consecutive": 6, "sum": 1, "searchsorted": 1,
    "silu_gate": 2,
}  # fmt: skip
# What launches nothing: no memory is touched, or the host's alone; the noise of visionrnn.analysis.planned.
NOTHING = (
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach", "alias", "lift_fresh", "_unsafe_view", "resize_",
    "set_", "_local_scalar_dense", "item", "sym_size", "is_same_size", "checked_boundaries",
    "promote_types", "scalar_tensor", "randn",
)  # fmt: skip
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_linear_pointwise", "addmm_", "linear")


@dataclass(frozen=True)
class Work:
    """Some launches of one kind. ``unit``: the field of :class:`Device` with its peak; ``parallel``: programs of a launch, None: enough."""

    name: str
    launches: int
    flops: float
    traffic: float
    unit: str = "float32"
    passes: int = 1  # products that make one product, tf32x3's three
    parallel: int | None = None
    triton: bool = False

    def seconds(self, device: Device) -> float:
        """On the device, the gap included."""
        peak = getattr(device, self.unit) / self.passes * OF_PEAK
        times = [self.flops / peak, self.traffic / (device.bandwidth * OF_BANDWIDTH)]
        if self.parallel:
            times += [self.traffic / self.parallel * LATENCY / IN_FLIGHT, self.flops / self.parallel / (peak / device.multiprocessors)]
        return max(times) + self.launches * GAP

    @property
    def host(self) -> float:
        return HOST_TRITON if self.triton else HOST_TORCH


@dataclass
class Plan:
    """All work of a call, in its order."""

    works: list[Work]

    @property
    def launches(self) -> int:
        return sum(work.launches for work in self.works)

    @property
    def flops(self) -> float:
        return sum(work.flops for work in self.works)

    @property
    def traffic(self) -> float:
        return sum(work.traffic for work in self.works)

    def device_seconds(self, device: Device) -> float:
        return sum(work.seconds(device) for work in self.works)

    @property
    def host_seconds(self) -> float:
        return sum(work.host for work in self.works)

    def seconds(self, device: Device) -> float:
        """The prediction."""
        return max(self.device_seconds(device), self.host_seconds)

    def by_name(self) -> Mapping[str, int]:
        """Launches of each kernel and operation, most first."""
        counter: Counter[str] = Counter()
        for work in self.works:
            counter[work.name] += work.launches
        return dict(counter.most_common())


def of_launch(stated: Launch) -> Work:
    """A Triton launch, in its first configuration."""
    config = stated.candidates[0]
    halves = any(value.dtype in (torch.float16, torch.bfloat16) for value in stated.arguments.values() if isinstance(value, Tensor))
    precision = config.constants.get("PRECISION")
    unit = "float32" if precision in (None, "ieee") and not (halves and precision) else "bfloat16" if halves else "tf32"
    passes = 3 if unit == "tf32" and precision == "tf32x3" else 1
    programs = math.prod(stated.grid(config.constants))
    return Work(
        stated.kernel.rpartition(".")[2], int(programs > 0), stated.flops, stated.traffic, unit, passes, max(programs, 1), triton=True
    )


class _Operations(TorchDispatchMode):
    """Collects torch's operations and Triton's launches in one list; of an op that launches Triton's kernels only those count."""

    def __init__(self, launches: list[Launch]):
        super().__init__()
        self.works: list[Work] = []
        self.launches = launches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = len(self.launches)
        out = func(*args, **kwargs)
        name = func.name().split("::")[1].split(".")[0]
        if name.startswith("triton_"):
            self.works += map(of_launch, self.launches[before:])
        elif name not in NOTHING and not _is_view(func):
            self.works.append(_of_operation(func, name, args, kwargs, out))
        return out


def _is_view(func: Any) -> bool:
    """An operation that returns another view of its input touches no memory."""
    infos = [value.alias_info for value in func._schema.returns]
    return bool(infos) and all(info is not None and not info.is_write for info in infos)


def _of_operation(func: Any, name: str, args: Any, kwargs: Any, out: Any) -> Work:
    tensors = {id(value): value for value in tree_leaves((args, kwargs, out)) if isinstance(value, Tensor)}
    traffic = float(sum(value.numel() * value.element_size() for value in tensors.values()))
    if name in ("index_select", "index", "gather"):  # of the source only what is read
        result = out.numel() * out.element_size()
        traffic = 2.0 * result + sum(value.numel() * value.element_size() for value in tree_leaves(args[1:]) if isinstance(value, Tensor))
    packet = func._overloadpacket
    flops = float(flop_registry[packet](*args, **kwargs, out_val=out)) if packet in flop_registry else 0.0
    if not flops:
        flops = float(max((value.numel() for value in tensors.values()), default=0))
    halves = any(value.dtype in (torch.float16, torch.bfloat16) for value in tensors.values())
    unit = "bfloat16" if halves and name in PRODUCTS else "float32"  # torch multiplies float32 without tensor cores unless told otherwise
    return Work(name, LAUNCHES.get(name, 1), flops, traffic, unit)


@contextmanager
def counting() -> Iterator[Plan]:
    """What is called inside, on CPU tensors, is counted as it would run on a GPU; outputs of Triton's kernels are arbitrary numbers."""
    plan, enabled = Plan([]), linear.enabled
    linear.enabled = False  # oneDNN's way of multiplying is a CPU's
    try:
        with recording() as launches, _Operations(launches) as operations:
            yield plan
    finally:
        linear.enabled = enabled
    plan.works = operations.works
