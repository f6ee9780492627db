"""Checks the back ends of a kernel family against its reference in float64, then prints their median times.

python tools/benchmark.py [FAMILY ...] [--length 1024] [--channels 64] [--repeats 10]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if find_spec("visionrnn") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from visionrnn.kernels import diagonal_scan, dispatch, selective_scan
from visionrnn.testing import diagonal_inputs, error, selective_inputs

STATES = 16


def selective_scan_softplus(**inputs: Any) -> Tensor:
    return selective_scan(**inputs, delta_softplus=True)  # type: ignore[return-value]


def diagonal(batch: int, length: int, channels: int) -> dict[str, tuple[Callable[..., Tensor], dict[str, Tensor]]]:
    """Function name → the function and float64 inputs of the shapes its docstring gives."""
    return {
        "diagonal_scan": (diagonal_scan, diagonal_inputs(batch, length, channels)),
        "selective_scan": (selective_scan_softplus, selective_inputs(batch, length, channels, STATES)),
    }


INPUTS = {"diagonal": diagonal}


def measure(function: Callable[..., Tensor], inputs: dict[str, Tensor], backends: Sequence[str], repeats: int) -> dict[str, list[float]]:
    """Back end → error against the float64 reference, median forward and forward + backward times in ms, in float32, interleaved."""
    exact = function(**inputs, backend="reference").detach()
    single = {name: value.detach().float().requires_grad_() for name, value in inputs.items()}

    def forward(backend: str) -> Tensor:
        with torch.no_grad():
            return function(**single, backend=backend)

    def train(backend: str) -> None:
        torch.autograd.grad(function(**single, backend=backend).sum(), list(single.values()))

    times: dict[tuple[str, Callable], list[float]] = {(name, call): [] for name in backends for call in (forward, train)}
    for repeat in range(repeats + 1):
        for (name, call), found in times.items():
            start = time.perf_counter()
            call(name)
            if repeat:  # the first is a warm-up
                found.append(1000 * (time.perf_counter() - start))
    medians = {name: [statistics.median(times[name, call]) for call in (forward, train)] for name in backends}
    return {name: [error(forward(name), exact), *medians[name]] for name in backends}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"one or more of {', '.join(INPUTS)} (default: all)")
    for name, value in (("batch", 2), ("length", 1024), ("channels", 64), ("repeats", 10)):
        parser.add_argument(f"--{name}", type=int, default=value, help="default: %(default)s")
    args = parser.parse_args()
    unknown = set(args.families) - set(INPUTS)
    if unknown:
        parser.error(f"unknown family {sorted(unknown)}; choose from {sorted(INPUTS)}")
    shape = f"[B, T, D] = [{args.batch}, {args.length}, {args.channels}]"
    print(f"{shape}, float32, {torch.get_num_threads()} threads; error: against the reference in float64")
    print(f"{'function':<16}{'back end':<12}{'error':>10}{'forward':>12}{'+ backward':>12}   ms")
    failed = False
    for family in args.families or INPUTS:
        for name, (function, inputs) in INPUTS[family](args.batch, args.length, args.channels).items():
            results = measure(function, inputs, dispatch.available_backends(family), args.repeats)
            for backend, (deviation, forward, train) in results.items():
                failed |= deviation > 1e-4
                verdict = "   WRONG" if deviation > 1e-4 else ""
                print(f"{name:<16}{backend:<12}{deviation:>10.1e}{forward:>12.2f}{train:>12.2f}{verdict}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
