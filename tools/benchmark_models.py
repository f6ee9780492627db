"""Image classifiers beside others of their size, and beside the same weights computed another way: time and memory, with the crossover.

python tools/benchmark.py models [--group vil_tiny] [--size 224 512 1024] [--batch 1 8] [--pass forward training] [--threads 2]
python tools/benchmark.py models --models visionrnn_mamba_tiny_patch16_224 deit_tiny_patch16_224       any names timm knows, the first leads

How to read a line: a model at one image size, batch and pass; for each way to multiply matrices the median (lowest-highest) of runs that
take turns with all others of the block, and that median over the first model's: above 1 the first is faster. "all": this model as torch
has it by default, over the first model by oneDNN. Memory: most that a pass adds to a process of its own. Error: largest difference from the
first model's scores over the largest score, where both have the same weights. A training pass is forward, loss and backward, no optimiser.

Ways to multiply: "torch" is torch's default (MKL); "onednn" sends the linear layers of all models, timm's too, to oneDNN at full precision
(visionrnn/layers/linear.py); "medium" is torch.set_float32_matmul_precision("medium"), all products by oneDNN, in bfloat16 on processors
that have units for it. Attention is torch's fused one in every case. Convolutions and LSTMs are torch's, oneDNN, throughout.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import benchmark_measure
import timm
import torch
import torch.nn.functional as F
from benchmark_measure import Timing
from torch import Tensor, nn

import visionrnn  # noqa: F401  registers its models with timm
from visionrnn.layers import linear

BASELINES = Path(__file__).resolve().parents[1] / "tests" / "baselines"
QUADRATIC = "quadratic:"  # before a ViL's name: the same weights, the memory read by matrices of tokens × tokens, as the authors do
CHECKPOINTED = "checkpointed:"  # before any name: blocks are computed again in the backward pass, which saves memory
VIL_TINY, VIL_SMALL = "vil2_tiny_patch16_224", "vil2_small_patch16_224"
GROUPS: dict[str, tuple[str, ...]] = {
    "vil_tiny": (VIL_TINY, QUADRATIC + VIL_TINY, "deit_tiny_patch16_224"),
    "vil_small": (VIL_SMALL, QUADRATIC + VIL_SMALL, "deit_small_patch16_224"),
    "checkpointed": (CHECKPOINTED + VIL_TINY, "deit_tiny_patch16_224", CHECKPOINTED + "deit_tiny_patch16_224"),
    "sequencer": ("lstm_sequencer2d_s", "sequencer2d_s"),
    "operators": (*(f"visionrnn_{name}_tiny_patch16_224" for name in ("mamba", "rwkv", "retnet", "xlstm", "ttt")), "deit_tiny_patch16_224"),
}
QUICK = ("vil_tiny", "sequencer")
WEIGHTS_OF = {"sequencer2d_s": "lstm_sequencer2d_s"}  # timm's model is given ours
SIZES, BATCHES, PASSES, WAYS = (224, 512, 1024), (1, 8), ("forward", "training"), ("torch", "onednn", "medium")
MIB = 2**20


def build(name: str, size: int) -> nn.Module:
    """The model for images of size × size, at random weights away from their starting values; the same ones where two can share them."""
    if name.startswith(CHECKPOINTED):
        model = build(name.removeprefix(CHECKPOINTED), size)
        model.set_grad_checkpointing(True)  # type: ignore[operator]
        return model
    if name.startswith(QUADRATIC):
        if not BASELINES.is_dir():
            raise SystemExit(f"{BASELINES}: the quadratic form is part of the repository; run this tool in a checkout")
        sys.path.insert(0, str(BASELINES))
        from quadratic_vil import quadratic_vil

        return quadratic_vil(build(name.removeprefix(QUADRATIC), size))
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=size)
    if name in WEIGHTS_OF:
        model.load_state_dict(build(WEIGHTS_OF[name], size).state_dict())
        return model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def same_weights(first: str, other: str) -> bool:
    return other in (first, QUADRATIC + first) or WEIGHTS_OF.get(other) == first


@contextlib.contextmanager
def multiplying(way: str) -> Iterator[None]:
    """Matrix products by torch's default, with all linear layers by oneDNN, or with torch's precision "medium"."""
    enabled, forward, precision = linear.enabled, nn.Linear.forward, torch.get_float32_matmul_precision()
    linear.enabled = way == "onednn"
    if way == "onednn":
        nn.Linear.forward = linear.Linear.forward  # type: ignore[method-assign]
    if way == "medium":
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        linear.enabled, nn.Linear.forward = enabled, forward  # type: ignore[method-assign]
        if way == "medium":
            torch.set_float32_matmul_precision(precision)


def runner(model: nn.Module, images: Tensor, kind: str, way: str) -> Callable[[], Tensor]:
    """One pass, as a function that returns the scores."""
    labels = torch.arange(len(images))

    def run() -> Tensor:
        model.train(kind == "training")
        with multiplying(way):
            if kind == "forward":
                with torch.no_grad():
                    return model(images)
            model.zero_grad(set_to_none=True)
            scores = model(images)
            F.cross_entropy(scores, labels).backward()
            return scores.detach()

    return run


def fitting(name: str, size: int) -> int:
    """The size itself; for Sequencer, whose patches are merged to 14 pixels, the next smaller one they divide."""
    return size - size % 14 if "sequencer" in name else size


def peak_memory(name: str, size: int, batch: int, kind: str, args: argparse.Namespace) -> float | None:
    """MiB that a pass adds to a process of its own, in which malloc gives back at once what is freed; None when it does not fit."""
    tool = str(Path(__file__).with_name("benchmark.py"))
    cell = ["--models", name, "--size", str(size), "--batch", str(batch), "--pass", kind, "--threads", str(args.threads)]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, tool, "models", *cell, "--memory", str(args.memory), "--only-memory"]
    done = subprocess.run(command, capture_output=True, text=True, env={**plain, "MALLOC_MMAP_THRESHOLD_": "65536"})
    if done.returncode and ("allocate memory" in done.stderr or "MemoryError" in done.stderr):
        return None
    if done.returncode:
        raise SystemExit(f"measuring the memory of {name} failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def only_memory(name: str, size: int, batch: int, kind: str, limit: float) -> float:
    """MiB one pass adds to this process, after a small pass of a model for small images as warm-up."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 1024 * MIB),) * 2)
    runner(build(name, fitting(name, 64)), torch.randn(1, 3, *2 * [fitting(name, 64)]), kind, "onednn")()
    model, images = build(name, size), torch.randn(batch, 3, size, size)
    if not benchmark_measure.reset_peak_memory():
        raise SystemExit("this system does not tell a process's peak memory (needs glibc and Linux)")
    runner(model, images, kind, "onednn")()
    return benchmark_measure.peak_memory()


def block(names: tuple[str, ...], size: int, batch: int, kind: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measures and prints the models of a group on one kind of pass; returns each one's ratio to the first, by way and for "memory"."""
    size = min(fitting(name, size) for name in names)
    memory = {name: peak_memory(name, size, batch, kind, args) for name in names}
    models = {name: build(name, size) for name, needed in memory.items() if needed is not None}
    torch.manual_seed(1)
    images = torch.randn(batch, 3, size, size)
    calls = {(name, way): runner(model, images, kind, way) for name, model in models.items() for way in args.ways}
    scores = {name: runner(model, images, "forward", args.ways[0])() for name, model in models.items() if same_weights(names[0], name)}
    clock = time.process_time if args.processor else time.perf_counter
    timings = benchmark_measure.interleave(calls, args.repeats, args.seconds, clock)
    ratios: dict[str, dict[str, float]] = {}
    for name in names:
        label = f"{size:>5}² {batch:>5}  {kind:<9}{name:<34}"
        if name not in models:
            print(f"{label} does not fit in {args.memory:.1f} GiB", flush=True)
        elif names[0] in models:
            ratios[name] = {way: timings[name, way].median / timings[names[0], way].median for way in args.ways}
            ratios[name]["memory"] = memory[name] / memory[names[0]]  # type: ignore[operator]
            print(label + cells(name, names[0], timings, ratios[name], memory, scores, args.ways), flush=True)
    return ratios


def cells(
    name: str,
    first: str,
    timings: dict[tuple[str, str], Timing],
    ratio: dict[str, float],
    memory: dict[str, float | None],
    scores: dict[str, Tensor],
    ways: tuple[str, ...],
) -> str:
    text = "".join(f"{timings[name, way]!s:>27}{ratio[way]:7.2f}" for way in ways)
    if "torch" in ways and "onednn" in ways:
        text += f"{timings[name, 'torch'].median / timings[first, 'onednn'].median:7.2f}"
    text += f"{memory[name]:8.0f}{ratio['memory']:6.1f}"
    if name != first and name in scores:
        text += f"{float((scores[name] - scores[first]).abs().max() / scores[first].abs().max()):9.0e}"
    return text


def crossover(sizes: list[int], ratios: list[float]) -> str:
    """Where a ratio passes 1, straight lines between the logarithms; the largest such size."""
    points = list(zip(sizes, ratios, strict=True))
    for (low, below), (high, above) in reversed(list(itertools.pairwise(points))):
        if (below < 1) != (above < 1):
            share = math.log(1 / below) / math.log(above / below)
            at = math.exp(math.log(low) + share * math.log(high / low))
            return f"{'ahead' if above > 1 else 'behind'} from about {at:.0f}² up (between the sizes measured: estimated)"
    return f"{'ahead' if ratios[0] > 1 else 'behind'} at all sizes measured"


def compare(names: tuple[str, ...], args: argparse.Namespace) -> None:
    """All blocks of a group, and how the first model stands against each other one as images grow."""
    found: dict[tuple[str, int], dict[int, dict[str, dict[str, float]]]] = {}
    for batch in args.batch:
        for size in args.size:
            for kind in args.passes:
                if not (args.full or args.given or batch == 1 or size == SIZES[0]):
                    continue
                found.setdefault((kind, batch), {})[size] = block(names, size, batch, kind, args)
    for (kind, batch), by_size in found.items():
        for name in names[1:]:
            for way in (*args.ways, "memory"):
                known = {size: ratios[name][way] for size, ratios in by_size.items() if name in ratios}
                if len(known) > 1:
                    series = ", ".join(f"{size}² {value:.2f}" for size, value in known.items())
                    verdict = crossover(list(known), list(known.values()))
                    print(f"{names[0]} against {name}, {kind}, batch {batch}, {way}: {series}; {verdict}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmark.py models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", nargs="+", choices=list(GROUPS), help=f"default: {' '.join(QUICK)}; all with --full")
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help=f"instead of groups: timm's names, also {QUADRATIC}NAME; the first leads"
    )
    parser.add_argument("--size", nargs="+", type=int, metavar="PIXELS", help=f"default: {' '.join(map(str, SIZES))}")
    parser.add_argument(
        "--batch", nargs="+", type=int, metavar="NUMBER", help="default: 1, and 8 at the smallest size (with --full at all)"
    )
    parser.add_argument("--pass", nargs="+", choices=PASSES, default=PASSES, dest="passes", help="default: both")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS[:2], help="to multiply matrices (default: torch onednn)")
    parser.add_argument("--full", action="store_true", help="all groups and batches: about an hour")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8, help="no new round after this long, per block (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=12, metavar="GIB", help="that a pass may need (default: %(default)s)")
    parser.add_argument("--processor", action="store_true", help="time of all threads together, which other programs disturb less")
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    for name in args.models or ():
        if not timm.is_model(name.removeprefix(CHECKPOINTED).removeprefix(QUADRATIC)):
            parser.error(f"unknown model {name!r}; expected one of timm.list_models(), which has visionrnn's too")
    args.given = args.batch is not None
    args.size, args.batch = args.size or list(SIZES), args.batch or list(BATCHES)
    args.ways = tuple(args.ways)
    args.groups = [tuple(args.models)] if args.models else [GROUPS[name] for name in args.group or (GROUPS if args.full else QUICK)]
    return args


def main(arguments: list[str]) -> int:
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    if args.only_memory:
        print(only_memory(args.models[0], args.size[0], args.batch[0], args.passes[0], args.memory))
        return 0
    clock = "processor time of all threads" if args.processor else "time"
    print(
        f"{args.threads} threads, {benchmark_measure.heap()}, float32; {clock} in ms: median (lowest-highest), then relative to the first"
    )
    heading = "".join(f"{way:>27}{'ratio':>7}" for way in args.ways) + (f"{'all':>7}" if {"torch", "onednn"} <= {*args.ways} else "")
    print(f"{'images':>6} {'batch':>5}  {'pass':<9}{'model':<34}{heading}{'MiB':>8}{'ratio':>6}{'error':>9}")
    for names in args.groups:
        compare(names, args)
    return 0
