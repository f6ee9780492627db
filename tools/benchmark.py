"""Checks back ends against the reference in float64, then prints their speed and memory, the machine's limits, and what others take.

python tools/benchmark.py kernels [--op NAME ...] [--backend NAME ...] [--peers]
python tools/benchmark.py lion [--operator NAME ...] [--threads 2] [--profile]      the whole backbone against a plain PyTorch port
python tools/benchmark.py gpu [--op NAME ...] [--dtype bf16] [--tune]                Triton kernels on a GPU, beside flash-linear-attention
python tools/benchmark.py models [--group NAME ...] [--models NAME ...] [--full]    image classifiers beside timm's
"""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if find_spec("visionrnn") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark_measure import Timing, copy_bandwidth, heap, interleave, multiply_add_peak
from benchmark_peers import PEERS, Peer

from visionrnn.kernels import available_backends
from visionrnn.testing import SAMPLES, Sample, error

REFERENCE_STEPS = 2048  # the reference in float64 is compared on this many steps at most
WRONG = 1e-4
OTHERS = ("gpu", "lion", "models")  # have options of their own, in benchmark_gpu.py and so on

# Operations of the recurrence itself per batch entry, step and head, as (K, V) -> number; an exponential counts as 14.
OPERATIONS: dict[str, Callable[[int, int], float]] = {
    "selective_scan": lambda K, V: V * K * 20,
    "diagonal_scan": lambda K, V: K * 16,
    "gla": lambda K, V: 5 * K * V,
    "simple_gla": lambda K, V: 5 * K * V,
    "rwkv6": lambda K, V: 5 * K * V,
    "mlstm": lambda K, V: 5 * K * (V + 1),
    "delta_rule": lambda K, V: 6 * K * V,
    "gated_delta_rule": lambda K, V: 7 * K * V,
    "generalized_delta_rule": lambda K, V: 9 * K * V,
    "lstm": lambda K, V: 8 * K * K,
    "slstm": lambda K, V: 8 * K * K,
    "slstm_without_floor": lambda K, V: 8 * K * K,
}

Call = Callable[[dict[str, Any]], Tensor]


def callers(sample: Sample, backends: list[str], peers: bool) -> dict[str, Call]:
    """Row name → function of the inputs."""

    def ours(backend: str) -> Call:
        return lambda inputs: sample.run(inputs, backend=backend)[0]

    found: dict[str, Call] = {name: ours(name) for name in backends if name in available_backends(sample.family, sample.kernel)}
    return found | (available_peers(sample) if peers else {})


def available_peers(sample: Sample) -> dict[str, Peer]:
    """Peers that run here; the others are named with the reason."""
    found = {}
    for name, peer in PEERS.get(sample.name, {}).items():
        inputs = from_zero(sample, sample.inputs(batch=1, length=64, heads=1, key=16, value=16, dtype=torch.float32))
        try:
            peer(inputs)
            found[name] = peer
        except (ImportError, AttributeError, TypeError, RuntimeError) as reason:
            print(f"{sample.name:<24}{name}: not run: {type(reason).__name__}: {reason}")
    return found


def from_zero(sample: Sample, inputs: dict[str, Any]) -> dict[str, Any]:
    """Peers start from zero states: so does everybody where there are peers."""
    zero = sample.states if sample.name in PEERS else ()
    return {name: torch.zeros_like(given) if name in zero else given for name, given in inputs.items()}


def measure(sample: Sample, calls: dict[str, Call], sizes: dict[str, int], args: argparse.Namespace) -> bool:
    """Prints one line per caller; True when one of them is wrong."""
    inputs = from_zero(sample, sample.inputs(**sizes, dtype=torch.float32))
    tensors = [given for given in inputs.values() if isinstance(given, Tensor) and given.requires_grad]
    deviations = {name: deviation(sample, call, sizes) for name, call in calls.items()}

    def forward(call: Call) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.no_grad():
                return call(inputs)

        return run

    def train(call: Call) -> Callable[[], object]:
        return lambda: torch.autograd.grad(call(inputs).sum(), tensors, allow_unused=True)

    runs = {(name, kind): make(call) for name, call in calls.items() for kind, make in (("forward", forward), ("train", train))}
    timings = interleave({f"{name}/{kind}": run for (name, kind), run in runs.items()}, args.repeats, args.seconds)
    kept = sum(tensor.numel() * 4 for tensor in tensors)
    first = next(iter(calls))
    for name in calls:
        ahead, both = timings[f"{name}/forward"], timings[f"{name}/train"]
        base = timings[f"{first}/forward"], timings[f"{first}/train"]
        print(row(sample, name, deviations[name], ahead, both, base, sizes, kept, args), flush=True)
    return any(deviations[name] > WRONG for name in calls)


def deviation(sample: Sample, call: Call, sizes: dict[str, int]) -> float:
    """Of the output from the reference in float64, on a shorter run."""
    sizes = {**sizes, "batch": 1, "length": min(sizes["length"], REFERENCE_STEPS)}
    inputs = from_zero(sample, sample.inputs(**sizes))
    single = {name: given.float() if isinstance(given, Tensor) else given for name, given in inputs.items()}
    with torch.no_grad():
        return error(call(single), sample.run(inputs, backend="reference")[0])


def row(
    sample: Sample,
    name: str,
    deviation: float,
    forward: Timing,
    train: Timing,
    base: tuple[Timing, Timing],
    sizes: dict[str, int],
    kept: int,
    args: argparse.Namespace,
) -> str:
    count = OPERATIONS.get(sample.name)
    steps = sizes["batch"] * sizes["length"] * sizes["heads"]
    rate = steps * count(sizes["key"], sizes["value"]) / forward.median / 1e6 if count else None
    share = f"{rate:6.1f} {100 * rate / args.peak:4.0f}%" if rate and args.peak else f"{'':>12}"
    bandwidth = 100 * kept / forward.median / 1e6 / args.bandwidth
    peak = f"{train.peak:7.0f}" if train.peak is not None else f"{'?':>7}"
    ratio = f"{forward.median / base[0].median:6.1f} {train.median / base[1].median:6.1f}"
    verdict = "  WRONG" if deviation > WRONG else ""
    return f"{sample.name:<24}{name:<32}{deviation:8.0e} {forward!s:>24} {train!s:>24} {ratio} {share} {bandwidth:4.0f}% {peak}{verdict}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kernels", *OTHERS], nargs="?", default="kernels")
    parser.add_argument("--op", nargs="+", metavar="NAME", help=f"forms or families (default: all) of {', '.join(SAMPLES)}")
    parser.add_argument("--backend", nargs="+", metavar="NAME", default=["native", "chunkwise"], help="default: native chunkwise")
    parser.add_argument("--peers", action="store_true", help="also other packages' functions that can be imported, and plain PyTorch")
    for name, value in (("batch", 2), ("length", 1024), ("heads", 4), ("key", 64), ("value", 64), ("repeats", 20)):
        parser.add_argument(f"--{name}", type=int, default=value, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=30, help="at most this long per form (default: %(default)s)")
    parser.add_argument("--precision", choices=["highest", "high", "medium"], default="highest", help="of PyTorch's float32 products")
    args = parser.parse_args()
    if args.what in OTHERS:
        parser.error(f"{args.what} has options of its own and comes first: benchmark.py {args.what} --help")
    chosen = [s for s in SAMPLES.values() if not args.op or {s.name, s.family} & set(args.op)]
    known = set(SAMPLES) | {sample.family for sample in SAMPLES.values()}
    if unknown := set(args.op or ()) - known:
        parser.error(f"unknown --op {sorted(unknown)}; choose from {sorted(known)}")
    if unknown := set(args.backend) - {"reference", "chunkwise", "native"}:
        parser.error(f"unknown --backend {sorted(unknown)}; choose from reference, chunkwise, native")
    args.samples = chosen
    return args


def main() -> int:
    if sys.argv[1:] and sys.argv[1] in OTHERS:
        return import_module(f"benchmark_{sys.argv[1]}").main(sys.argv[2:])
    args = parse()
    torch.set_float32_matmul_precision(args.precision)
    args.peak, args.bandwidth = multiply_add_peak(), copy_bandwidth()
    sizes = {name: getattr(args, name) for name in ("batch", "length", "heads", "key", "value")}
    limit = f"{args.peak:.0f} GFLOP/s of multiply-adds" if args.peak else "native library not built"
    print(f"{torch.get_num_threads()} threads, {heap()}, float32 products {args.precision!r}")
    print(f"limits of this machine: {limit}, {args.bandwidth:.0f} GB/s copied")
    print(", ".join(f"{name} {size}" for name, size in sizes.items()))
    print("error: output against the reference in float64; times: median (lowest-highest) in ms, then relative to the first row;")
    print("GFLOP/s of the recurrence, share of the limit; inputs read at this share of the bandwidth; peak memory over the start in MiB")
    heading = f"{'form':<24}{'back end':<32}{'error':>8} {'forward':>24} {'forward + backward':>24} {'ratio':>13}"
    print(f"{heading} {'GFLOP/s':>12} {'b/w':>5} {'peak':>7}")
    wrong = False
    for sample in args.samples:
        wrong |= measure(sample, callers(sample, args.backend, args.peers), sizes, args)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
