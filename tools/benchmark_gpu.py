"""Triton kernels on a GPU: checked against the reference in float64, then timed beside chunkwise PyTorch and flash-linear-attention.

python tools/benchmark.py gpu [--op NAME ...] [--dtype bf16] [--tune] [--batch 8] [--length 2048] [--heads 8] [--key 64] [--value 64]

flash-linear-attention takes part where it can be imported (pip install fla-core). Times are medians of the device's, in ms.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from visionrnn.kernels import dispatch, launch
from visionrnn.testing import SAMPLES, Sample, error

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WRONG = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 1e-2}
CHECKED_STEPS = 256
# sample → flash-linear-attention's function, and ours of its arguments by name; the layouts are alike
FLA = {
    "simple_gla": ("simple_gla:chunk_simple_gla", {"q": "q", "k": "k", "v": "v", "g": "log_decay"}),
    "gla": ("gla:chunk_gla", {"q": "q", "k": "k", "v": "v", "g": "log_decay"}),
    "rwkv6": ("rwkv6:chunk_rwkv6", {"r": "q", "k": "k", "v": "v", "w": "log_decay", "u": "bonus"}),
    "delta_rule": ("delta_rule:chunk_delta_rule", {"q": "q", "k": "k", "v": "v", "beta": "beta"}),
    "gated_delta_rule": ("gated_delta_rule:chunk_gated_delta_rule", {"q": "q", "k": "k", "v": "v", "g": "log_decay", "beta": "beta"}),
    "kda": ("kda:chunk_kda", {"q": "q", "k": "k", "v": "v", "g": "log_decay", "beta": "beta"}),
}

Call = Callable[[dict[str, Any]], Tensor]


def callers(sample: Sample) -> dict[str, Call]:
    """Row name → function of the inputs."""

    def ours(backend: str) -> Call:
        return lambda inputs: sample.call(**inputs, **sample.options, backend=backend)

    found = {backend: ours(backend) for backend in ("triton", "chunkwise")}
    if sample.name in FLA:
        path, names = FLA[sample.name]
        module, _, function = path.partition(":")
        try:
            theirs = getattr(importlib.import_module(f"fla.ops.{module}"), function)
        except ImportError as reason:
            print(f"{sample.name:<26}fla: not run: {reason}")
        else:
            scale = {"scale": 1.0} if sample.name == "rwkv6" else {}
            found["fla"] = lambda inputs: theirs(**{name: inputs[own] for name, own in names.items()}, **scale)[0]
    return found


def from_zero(sample: Sample, inputs: dict[str, Any], device: str) -> dict[str, Any]:
    """Everybody starts from zero states."""

    def moved(name: str, value: Tensor) -> Tensor:
        return (torch.zeros_like(value) if name in sample.states else value.detach()).to(device).requires_grad_()

    return {name: moved(name, value) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def deviation(sample: Sample, call: Call, sizes: dict[str, int], dtype: torch.dtype, device: str) -> float:
    """Of the output from the reference in float64, both from inputs rounded to ``dtype``, on a short run."""
    inputs = sample.inputs(**{**sizes, "batch": 1, "length": min(sizes["length"], CHECKED_STEPS)}, dtype=dtype)
    exact = {name: value.detach().double() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    with torch.no_grad():
        want = sample.call(**from_zero(sample, exact, "cpu"), **sample.options, backend="reference")
        return error(call(from_zero(sample, inputs, device)).cpu(), want)


def train(call: Call, inputs: dict[str, Any]) -> None:
    tensors = [value for value in inputs.values() if isinstance(value, Tensor) and value.requires_grad]
    torch.autograd.grad(call(inputs).sum(), tensors, allow_unused=True)


def milliseconds(run: Callable[[], object]) -> float:
    """Median of the device's time for a call."""
    from triton.testing import do_bench

    return do_bench(run, return_mode="median")


def measure(sample: Sample, sizes: dict[str, int], name: str, device: str, time: Callable[[Callable[[], object]], float]) -> bool:
    """Prints a line for each caller; True when ours deviates too far."""
    inputs, wrong = from_zero(sample, sample.inputs(**sizes, dtype=TYPES[name]), device), False
    for title, call in callers(sample).items():
        found = deviation(sample, call, sizes, TYPES[name], device)
        with torch.no_grad():
            ahead = time(lambda call=call: call(inputs))
        both = time(lambda call=call: train(call, inputs))
        failed = found > WRONG[name]
        wrong |= failed and title == "triton"
        print(f"{sample.name:<26}{title:<12}{found:10.1e}{ahead:12.3f}{both:12.3f}{'  WRONG' if failed else ''}", flush=True)
    return wrong


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmark.py gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    covered = [sample for sample in SAMPLES.values() if dispatch.has(sample.family, "triton", sample.kernel)]
    parser.add_argument("--op", nargs="+", choices=[sample.name for sample in covered], metavar="NAME", help="default: all with kernels")
    parser.add_argument("--dtype", choices=TYPES, default="bf16")
    parser.add_argument("--tune", action="store_true", help="let each kernel choose the fastest of its configurations first")
    for name, value in (("batch", 8), ("length", 2048), ("heads", 8), ("key", 64), ("value", 64)):
        parser.add_argument(f"--{name}", type=int, default=value, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmark.py gpu needs a CUDA or ROCm device, and none is there", file=sys.stderr)
        return 2
    sizes = {name: getattr(options, name) for name in ("batch", "length", "heads", "key", "value")}
    print(f"{torch.cuda.get_device_name()}, {options.dtype}, " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
    print(f"{'form':<26}{'':<12}{'error':>10}{'forward':>12}{'fwd + bwd':>12}")
    wrong = False
    with launch.autotuning() if options.tune else nullcontext():
        for sample in covered:
            if not options.op or sample.name in options.op:
                wrong |= measure(sample, sizes, options.dtype, "cuda", milliseconds)
    return int(wrong)
