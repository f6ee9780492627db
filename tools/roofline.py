"""Launches, bytes and operations of models on a GPU, and from them PREDICTED times on A100, H100 and B200; nothing is measured.

python tools/roofline.py [lion] [vil] [kernels] [--operators mamba ...] [--dtype bf16] [--launches]

Counts what our code would launch; how that becomes a time, and from which numbers: visionrnn/analysis/roofline.py. No GPU is needed.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("visionrnn") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from visionrnn.analysis.planned import GROUPS, Case
from visionrnn.analysis.roofline import DEVICES, Plan

ABOUT = """PREDICTIONS from data sheets and stated assumptions (visionrnn/analysis/roofline.py), not measurements.
ms: of the device and the host the slower one; in brackets the device's work alone, launches queued ahead or captured in a graph."""


def line(case: Case, plan: Plan) -> str:
    times = " ".join(f"{1e3 * plan.seconds(device):9.2f} ({1e3 * plan.device_seconds(device):7.2f})" for device in DEVICES.values())
    return f"{case.name:<58}{plan.launches:>8}{plan.flops / 1e9:>10.2f}{plan.traffic / 1e6:>11.1f} {times}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--operators", nargs="+", default=["mamba", "rwkv", "retnet", "xlstm", "ttt"], help="LION's blocks")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="of inputs; bf16: LION and ViL under autocast")
    parser.add_argument("--launches", action="store_true", help="also how often each kernel and operation is launched")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"unknown {sorted(unknown)}; choose from {', '.join(GROUPS)}")
    print(ABOUT)
    columns = " ".join(f"{name + ' ms':>19}" for name in DEVICES)
    print(f"{'case, ' + options.dtype:<58}{'launches':>8}{'GFLOP':>10}{'MB':>11} {columns}")
    for group in options.groups or GROUPS:
        for case in GROUPS[group](tuple(options.operators)):
            plan = case.plan(options.dtype)
            print(line(case, plan), flush=True)
            if options.launches:
                print("    " + ", ".join(f"{name} {number}" for name, number in plan.by_name().items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
