"""Compiles the Triton kernels ahead of time, without a GPU, and compares registers, spills and instructions with the committed table.

python tools/aot.py [--only NAME ...] [--kernel NAME] [--targets sm_90 ...] [--dtypes bf16 fp32] [--all] [--update]
python tools/aot.py --peers [--only NAME ...] [--count]     flash-linear-attention's kernels over its own configurations, beside ours
python tools/aot.py --keys     whether Triton would compile a kernel again for other numbers of steps and sequences

Compiled is the candidate that runs without tuning, the others only where it takes more shared memory than every GPU has, or with --all.
--only takes parts of names of families and recurrences, --kernel one of a kernel. What they are compiled for: visionrnn/testing/shipped.py.
"""

import argparse
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

if find_spec("visionrnn") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from visionrnn.analysis import aot
from visionrnn.analysis.compiled import LARGEST_SHARED, TARGETS, compile_all
from visionrnn.testing.shipped import DTYPES

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "kernels" / "aot.json"
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 48, 63, 64, 65, 96, 100, 127, 128, 129, 160, 192, 196, 256)
SIZES = [(length, 1 + i % 3) for i, length in enumerate(LENGTHS)]
WHOLE = [[""], "", set(TARGETS), set(DTYPES)]  # options of a run that renews the whole table
COLUMNS = ("registers", "spills", "stack", "shared", "occupancy", "instructions", "tensor", "loads", "stores", "barriers")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="parts of names of families or recurrences")
    parser.add_argument("--kernel", default="", metavar="NAME", help="part of the name of a kernel")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--all", action="store_true", help="every candidate; those beyond the table are not compared with it")
    parser.add_argument("--keys", action="store_true", help="ask Triton for the keys of 20 lengths and batches; compile nothing")
    parser.add_argument("--table", action="store_true", help="print the committed table for docs/triton.md; compile nothing")
    parser.add_argument("--peers", action="store_true", help="flash-linear-attention's kernels beside ours, for an H100")
    parser.add_argument("--count", action="store_true", help="with --peers: launches and bytes only")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--update", action="store_true", help="write what was found into the table")
    return parser.parse_args()


def line(job: aot.Job, figures: aot.Figures) -> str:
    if "error" in figures:
        return f"{job.key}: {figures['error']}"
    cells = " ".join(f"{figures[name]:>{max(len(name), 5)}}" for name in COLUMNS)
    return f"{cells}  {job.candidate} {job.key}"


def keys(options: argparse.Namespace) -> int:
    found = [(target, *aot.changing_keys(target, SIZES, options.only)) for target in options.targets]
    for target, kernels, changing in found:
        print(f"{target}: {kernels} kernels, {len(SIZES)} lengths and batches", *changing, sep="\n")
    return 1 if any(changing or not kernels for _, kernels, changing in found) else 0


def peers(options: argparse.Namespace) -> int:
    if find_spec("fla") is None:
        print("fla-core is not installed: pip install --no-deps -r tools/requirements-peers.txt", file=sys.stderr)
        return 2
    from aot_peers import compare

    compare(options.only, options.processes, options.count)
    return 0


def chosen(options: argparse.Namespace) -> tuple[list[str], list[str], list[str], str]:
    return options.targets, options.dtypes, options.only, options.kernel


def run(jobs: list[aot.Job], processes: int) -> list[tuple[aot.Job, aot.Figures]]:
    """Compiles and prints."""
    by_compilation = {job.compilation: job for job in jobs}
    results, kernel = [], ""
    print(*COLUMNS, " candidate, target, type, constants, warps, stages; - absent argument")
    for compilation, figures in compile_all(by_compilation, processes):
        job = by_compilation[compilation]
        results.append((job, figures))
        if job.kernel != kernel:
            kernel = job.kernel
            print(f"\n{kernel}")
        print(line(job, figures), flush=True)
    return results


def main() -> int:
    options, start = parsed(), time.perf_counter()
    os.environ.pop("TRITON_INTERPRET", None)  # read when Triton is imported; what its interpreter runs cannot be compiled
    os.environ.setdefault("TRITON_CACHE_DIR", str(ROOT / "build" / "aot"))
    if options.table:
        print(*aot.markdown(aot.read(TABLE)["kernels"], options.targets), sep="\n")
        return 0
    if options.peers:
        return peers(options)
    if options.keys:
        return keys(options)
    results = run(aot.shipped_jobs(*chosen(options), slice(None) if options.all else aot.FIRST), options.processes)
    if not results:
        print(f"no kernel fits {' '.join(options.only)} {options.kernel}", file=sys.stderr)
        return 2
    large = {aot.kind(job) for job, figures in results if figures.get("shared", 0) > LARGEST_SHARED}
    if large and not options.all:
        others = aot.shipped_jobs(*chosen(options), aot.OTHERS)
        results += run([job for job in others if aot.kind(job) in large], options.processes)
    number = len({job.kernel for job, _ in results})
    print(f"\n{len(results)} compilations of {number} kernels in {time.perf_counter() - start:.0f} s")
    table = aot.tabulated(results)
    problems = aot.broken_promises(table)
    known = aot.read(TABLE)["kernels"] if TABLE.exists() else {}
    if options.update:
        import triton

        whole = [options.only, options.kernel, set(options.targets), set(options.dtypes)] == WHOLE
        merged = table if whole else {name: {**known.get(name, {}), **table.get(name, {})} for name in {**known, **table}}
        aot.write(TABLE, merged, {"triton": triton.__version__})
    else:
        problems += aot.worse(table, known, complete=not options.all)
    print(*problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
