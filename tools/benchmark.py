"""Checks the back ends of a kernel family against its reference in float64, then prints their median times.

python tools/benchmark.py [FAMILY ...] [--length 1024] [--channels 64] [--repeats 10]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

if find_spec("visionrnn") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from visionrnn.kernels import diagonal_scan, dispatch, selective_scan

STATES = 16


def diagonal_inputs(batch: int, length: int, channels: int) -> dict[str, tuple[Callable[..., Tensor], dict[str, Tensor]]]:
    """Function name → the function and float64 inputs of the shapes its docstring gives."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(batch, length, channels)
    scan = {"x": x, "log_decay": -normal(batch, length, channels).abs()}
    selective = {"u": x, "delta": normal(batch, length, channels).abs() * 0.1, "A": -normal(channels, STATES).abs()}
    selective |= {"B": normal(batch, length, STATES), "C": normal(batch, length, STATES), "D": normal(channels), "z": normal(*x.shape)}
    return {"diagonal_scan": (diagonal_scan, scan), "selective_scan": (selective_scan, selective)}


INPUTS = {"diagonal": diagonal_inputs}


def median_milliseconds(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def measure(function: Callable[..., Tensor], inputs: dict[str, Tensor], backend: str, repeats: int) -> tuple[float, float, float]:
    """Relative error against the float64 reference, forward time and forward + backward time in ms, both in float32."""
    exact = function(**inputs, backend="reference")
    single = {name: value.float().requires_grad_() for name, value in inputs.items()}

    def forward() -> Tensor:
        with torch.no_grad():
            return function(**single, backend=backend)

    def train() -> None:
        torch.autograd.grad(function(**single, backend=backend).sum(), list(single.values()))

    error = float((forward().double() - exact).abs().max() / exact.abs().max())
    return error, median_milliseconds(forward, repeats), median_milliseconds(train, repeats)


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
            for backend in dispatch.available_backends(family):
                error, forward, train = measure(function, inputs, backend, args.repeats)
                failed |= error > 1e-4
                verdict = "   WRONG" if error > 1e-4 else ""
                print(f"{name:<16}{backend:<12}{error:>10.1e}{forward:>12.2f}{train:>12.2f}{verdict}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
