"""The one way from a Triton operator to its kernels: launched, or only written down for compilers and accountants.

An operator states a launch completely: kernel, grid, arguments, candidates of block sizes, and the work that it is. :func:`launch` runs
the first candidate, which is the operator's own choice, so that a first call never stalls for tuning; inside :func:`autotuning` it
measures them all (there are at most four) and keeps the fastest. Inside :func:`recording` nothing runs and Triton is not even imported:
what would be launched is collected, which is how kernels are compiled ahead of time and counted without a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

MAX_CANDIDATES = 4
PRECISIONS = ("tf32x3", "ieee", "tf32")  # of products of float32 matrices
Constants = Mapping[str, Any]


@dataclass(frozen=True)
class Config:
    """One way to compile a kernel: its constexpr arguments, warps per program and software-pipelining stages."""

    constants: Constants
    warps: int = 4
    stages: int = 2

    def key(self) -> tuple:
        return (*sorted(self.constants.items()), self.warps, self.stages)

    def on(self, backend: str) -> Constants:
        """The constexpr arguments on "cuda" or "hip": AMD's matrix units multiply float32 itself, and know no tf32x3."""
        if backend == "hip" and self.constants.get("PRECISION") == "tf32x3":
            return {**self.constants, "PRECISION": "ieee"}
        return self.constants


@dataclass(frozen=True)
class Launch:
    """A launch as it was stated. ``flops``: a multiply-add counts as two; ``traffic``: bytes that must cross the memory bus."""

    kernel: str
    grid: Callable[[Constants], tuple[int, ...]]
    arguments: Mapping[str, Any]
    candidates: tuple[Config, ...]
    flops: float
    traffic: float = field(default=0.0)


_recorded: list[Launch] | None = None
_tuning = False
_fastest: dict[tuple, Config] = {}
_precision = "tf32x3"


def launch(
    kernel: str,
    grid: Callable[[Constants], tuple[int, ...]],
    arguments: Mapping[str, Any],
    candidates: Sequence[Config],
    *,
    flops: float = 0.0,
    traffic: float | None = None,
) -> None:
    """Runs ``kernel``, "family.module.function" below this package, e.g. "diagonal.triton_kernels.diagonal_scan_forward".

    ``grid(constants)`` gives the numbers of programs; none are run where one of them is 0. ``arguments``: tensors, numbers and None by
    parameter name, without constexpr ones. ``traffic`` is the size of all tensor arguments when absent: each read or written once.
    Raises ValueError for more than four candidates, for tensors that are not contiguous and for tensors on several devices.
    """
    if not 1 <= len(candidates) <= MAX_CANDIDATES:
        raise ValueError(f"{kernel}: expected 1 to {MAX_CANDIDATES} candidates, got {len(candidates)}")
    tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    scattered = [name for name, value in tensors.items() if not value.is_contiguous()]
    devices = {value.device for value in tensors.values()}
    if scattered or len(devices) != 1:
        raise ValueError(f"{kernel}: expected contiguous tensors on one device, got {scattered or sorted(map(str, devices))}")
    if traffic is None:
        traffic = sum(value.numel() * value.element_size() for value in tensors.values())
    stated = Launch(kernel, grid, dict(arguments), tuple(candidates), flops, traffic)
    if _recorded is not None:
        _recorded.append(stated)
        return
    device = devices.pop()
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        _run(stated, _chosen(stated))


def jit_function(kernel: str) -> Any:
    """The ``triton.jit`` function of a name as :func:`launch` takes it."""
    module, _, function = kernel.rpartition(".")
    if is_interpreted():
        from . import interpreter

        interpreter.install()
    return getattr(import_module(f"{__package__}.{module}"), function)


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors: TRITON_INTERPRET=1, set before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "on", "true", "yes", "y")


def is_recording() -> bool:
    return _recorded is not None


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collects launches instead of running them; outputs hold arbitrary numbers. On a CPU ``backend="triton"`` is then allowed."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


@contextmanager
def autotuning() -> Iterator[None]:
    """Inside, the first launch of every kernel and configuration measures all candidates; the fastest stays chosen afterwards."""
    global _tuning
    before, _tuning = _tuning, True
    try:
        yield
    finally:
        _tuning = before


def product_precision() -> str:
    """How float32 matrices are multiplied: "tf32x3" (three tensor-core products, about float32), "ieee" (no tensor cores) or "tf32"."""
    return _precision


def set_product_precision(name: str) -> None:
    """Chooses :func:`product_precision` for all launches from now on. Raises ValueError for another name."""
    global _precision
    if name not in PRECISIONS:
        raise ValueError(f"precision={name!r}; expected one of {list(PRECISIONS)}")
    _precision = name


def _chosen(stated: Launch) -> Config:
    if len(stated.candidates) == 1:
        return stated.candidates[0]
    types = tuple((name, value.dtype) for name, value in stated.arguments.items() if isinstance(value, Tensor))
    key = (stated.kernel, types, tuple(config.key() for config in stated.candidates))
    if key not in _fastest and _tuning and not is_interpreted():
        from triton.testing import do_bench

        copies = {name: value.clone() if isinstance(value, Tensor) else value for name, value in stated.arguments.items()}
        trial = replace(stated, arguments=copies)  # some kernels work in place, and each candidate runs many times
        times = [do_bench(lambda config=config: _run(trial, config), return_mode="median") for config in stated.candidates]
        _fastest[key] = stated.candidates[times.index(min(times))]
    return _fastest.get(key, stated.candidates[0])


def _run(stated: Launch, config: Config) -> None:
    grid = stated.grid(config.constants)
    if min(grid) > 0:
        how = {} if is_interpreted() else {"num_warps": config.warps, "num_stages": config.stages}
        constants = config.on("hip" if torch.version.hip else "cuda")
        jit_function(stated.kernel)[grid](**stated.arguments, **constants, **how)
