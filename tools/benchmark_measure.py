"""Interleaved timing, peak memory, and what the machine can do at most."""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from visionrnn.kernels import native

Name = TypeVar("Name")


@dataclass
class Timing:
    """Times of one call in milliseconds, and the peak memory over its start in MiB (None where the system does not tell)."""

    times: list[float] = field(default_factory=list)
    peak: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def __str__(self) -> str:
        low, high = min(self.times), max(self.times)
        return f"{self.median:.2f} ({low:.2f}-{high:.2f})"


def interleave(
    calls: dict[Name, Callable[[], object]], repeats: int, budget: float, clock: Callable[[], float] = time.perf_counter
) -> dict[Name, Timing]:
    """Times all calls in turn, round by round, so that a slow moment of the machine hits all alike; no new round after ``budget`` seconds.

    The first round is a warm-up in which memory is measured. ``clock``: time.process_time counts what all threads of this process worked,
    which other programs disturb less.
    """
    timings = {name: Timing() for name in calls}
    for name, call in calls.items():
        reset = reset_peak_memory()
        call()
        timings[name].peak = peak_memory() if reset else None
    end = time.monotonic() + budget
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            timings[name].times.append(1000 * (clock() - start))
        if time.monotonic() > end:
            break
    return timings


_START = 0.0


def reset_peak_memory() -> bool:
    """Starts a new peak, after giving free memory back to the system (glibc on Linux); False where that cannot be done."""
    global _START
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    _START = _resident("VmRSS")
    return True


def peak_memory() -> float:
    """MiB over what was resident at the last reset."""
    return _resident("VmHWM") - _START


def _resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def multiply_add_peak() -> float | None:
    """GFLOP/s of multiply-adds that need no memory; None without the native library."""
    if not native.is_built():
        return None
    rounds, threads = 4_000_000, torch.get_num_threads()
    out = torch.zeros(threads)
    timing = interleave({"fma": lambda: native.call("multiply_add_rounds", out, rounds)}, 5, 10)["fma"]
    return rounds * threads * 40 * native.library().lanes() / min(timing.times) / 1e6


def copy_bandwidth() -> float:
    """GB/s of copying 256 MB, reading and writing counted."""
    source = torch.zeros(1 << 26)
    target = torch.empty_like(source)
    timing = interleave({"copy": lambda: target.copy_(source)}, 5, 10)["copy"]
    return 2 * source.numel() * 4 / min(timing.times) / 1e6


def heap() -> str:
    """Whether malloc keeps freed memory, which makes programs that allocate much up to three times faster."""
    return (
        "kept heap"
        if os.environ.get("MALLOC_TRIM_THRESHOLD_")
        else "default heap (make bench keeps it: allocation-heavy code gains up to 3x)"
    )
