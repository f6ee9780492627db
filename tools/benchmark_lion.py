"""LION in the KITTI configuration against a plain PyTorch port of the published structure (tests/baselines/lion_port): time and memory.

python tools/benchmark.py lion [--operator NAME ...] [--threads 2] [--repeats 3] [--seconds 60] [--voxels 7000] [--profile]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_measure
import torch
from torch import Tensor, nn

from visionrnn.backbones.lion import LION
from visionrnn.checkpoints import as_official
from visionrnn.datasets.synthetic_lidar import simulate_frame
from visionrnn.datasets.voxelize import DynamicVFE
from visionrnn.serialization import Voxels

PORT = Path(__file__).resolve().parents[1] / "tests" / "baselines"
OPERATORS: dict[str, dict[str, Any]] = {"mamba": {}, "rwkv": {}, "retnet": {"num_heads": 2}, "xlstm": {}, "ttt": {}}  # KITTI's options
VARIANTS = ("exact", "duplicate", "port")
DIM, SHAPE = 64, (32, 400, 352)  # channels, grid (z, y, x)
LAYOUT = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0), (0.2, 0.2, 0.125)
Times = dict[str, list[float]]


def frame(number: int) -> Voxels:
    """The ``number`` voxels nearest to the sensor of a synthetic frame, seen by a camera's 90°, with features of a random encoder."""
    for index in range(100):
        points = torch.from_numpy(simulate_frame(0, "train", index, field_of_view=90).points)
        encoder = DynamicVFE(4, [DIM, DIM], *LAYOUT).eval()
        features, coords, counts = encoder(points, torch.zeros(len(points), dtype=torch.long), 1)
        if counts[0] >= number:
            break
    else:
        raise SystemExit(f"--voxels {number}: no synthetic frame has that many; expected at most about 8000")
    centre = coords[:, [3, 2]] * 0.2 - torch.tensor([0.0, 40.0])
    kept = centre.square().sum(1).argsort(stable=True)[:number].sort().values
    return Voxels.from_coords(features[kept], coords[kept], SHAPE, 1)


def models(name: str, variants: tuple[str, ...]) -> dict[str, nn.Module]:
    """Our backbone with both paddings and the port, all with the same weights."""
    operator = {"type": name, **OPERATORS[name]}
    built: dict[str, nn.Module] = {padding: LION(DIM, operator, padding=padding) for padding in ("exact", "duplicate")}
    built["duplicate"].load_state_dict(built["exact"].state_dict())
    if "port" in variants:
        if not PORT.is_dir():
            raise SystemExit(f"{PORT}: the port that LION is compared with is part of the repository; run this tool in a checkout")
        sys.path.insert(0, str(PORT))
        from lion_port import PortedLION

        built["port"] = PortedLION(DIM, operator)
        built["port"].load_state_dict(as_official(built["exact"].state_dict()))
    return {variant: built[variant].eval() for variant in variants}


def run(model: nn.Module, voxels: Voxels) -> tuple[Tensor, Tensor]:
    """Features and coordinates of the result; nothing computed from the coordinates before is used."""
    coords = voxels.coords
    if not isinstance(model, LION):
        return model(voxels.features, coords.long(), voxels.spatial_shape, voxels.batch_size)
    out = model(Voxels(voxels.features, coords, voxels.spatial_shape, voxels.counts))
    return out.features, out.coords.long()


def stage_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The parts of a forward pass, by one name in our backbone and in the port."""
    parts: dict[str, nn.Module] = {}
    for i in range(1, 5):
        ours = isinstance(model, LION)
        parts[f"stage {i}"] = model.get_submodule(f"stages.{i - 1}" if ours else f"linear_{i}")
        parts[f"merge {i}"] = model.get_submodule(f"merges.{i - 1}" if ours else f"dow{i}")
    parts["last layer"] = model.get_submodule("out_layer" if isinstance(model, LION) else "linear_out")
    return parts


def record(model: nn.Module, times: Times) -> None:
    """Adds the milliseconds of every part to ``times`` whenever the model runs."""

    def started(module: nn.Module, inputs: object) -> None:
        module.started = time.perf_counter()  # type: ignore[assignment]

    def ended(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: times.setdefault(name, []).append(1000 * (time.perf_counter() - module.started))

    for name, module in stage_modules(model).items():
        module.register_forward_pre_hook(started)
        module.register_forward_hook(ended(name))


def compare(name: str, voxels: Voxels, repeats: int, seconds: float) -> None:
    """Rounds of three runs of ours with each padding and one of the port, until ``repeats`` rounds or ``seconds`` are over."""
    built = models(name, VARIANTS)
    few = Voxels.from_coords(voxels.features[:300], voxels.coords[:300], SHAPE, 1)
    outputs = {variant: run(model, voxels if variant != "port" else few) for variant, model in built.items()}  # warm-up
    times: dict[str, Times] = {variant: {} for variant in built}
    for variant, model in built.items():
        record(model, times[variant])
    end = time.monotonic() + seconds
    for _ in range(repeats):
        for variant in ("exact", "duplicate") * 3 + ("port",):
            start, processor = time.perf_counter(), time.process_time()
            outputs[variant] = run(built[variant], voxels)
            times[variant].setdefault("total", []).append(1000 * (time.perf_counter() - start))
            times[variant].setdefault("processor", []).append(1000 * (time.process_time() - processor))
        if time.monotonic() > end:
            break
    report(name, times, outputs)


def report(name: str, times: dict[str, Times], outputs: dict[str, tuple[Tensor, Tensor]]) -> None:
    median = {part: {variant: statistics.median(times[variant][part]) for variant in times} for part in times["port"]}
    for variant in VARIANTS:
        runs = times[variant]["total"]
        spread = f"({min(runs):.0f}-{max(runs):.0f}), {len(runs)} runs"
        memory = peak_memory(name, variant)
        ratio, used = (median[part]["port"] / median[part][variant] for part in ("total", "processor"))
        timing = f"{median['total'][variant]:10.1f} ms {spread:<28}{ratio:7.2f}x"
        print(f"{name:<8}{variant:<11}{timing}{median['processor'][variant]:10.1f} ms{used:7.2f}x{memory:8.0f} MiB", flush=True)
    (ours, ours_at), (theirs, theirs_at) = outputs["duplicate"], outputs["port"]
    if torch.equal(ours_at, theirs_at):
        deviation = float((ours - theirs).abs().max() / theirs.abs().max())
        print(f"{name:<8}{len(ours)} voxels at the end, duplicate and port alike, features within {deviation:.0e}")
    else:
        print(f"{name:<8}{len(ours)} voxels at the end, {len(theirs)} in the port: rounding chose other voxels to generate from")
    print(f"{name:<8}{'part':<12}" + "".join(f"{variant + ' ms':>14}" for variant in VARIANTS) + f"{'port / exact':>14}")
    for part, found in median.items():
        row = "".join(f"{found[variant]:14.1f}" for variant in VARIANTS)
        print(f"{name:<8}{part:<12}{row}{found['port'] / found['exact']:14.2f}")


def peak_memory(name: str, variant: str) -> float:
    """MiB that one forward adds to the memory of a process of its own, in which malloc gives back at once what is freed."""
    command = [sys.executable, *sys.argv, "--operator", name, "--memory-of", variant]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(command, capture_output=True, text=True, env={**plain, "MALLOC_MMAP_THRESHOLD_": "65536"})
    if done.returncode:
        raise SystemExit(f"measuring the memory of {name} {variant} failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def measure_memory(name: str, variant: str, voxels: Voxels) -> float:
    """MiB one forward adds to this process, after a small one as warm-up."""
    model = models(name, VARIANTS if variant == "port" else (variant,))[variant]
    run(model, Voxels.from_coords(voxels.features[:300], voxels.coords[:300], SHAPE, 1))
    if not benchmark_measure.reset_peak_memory():
        raise SystemExit("this system does not tell a process's peak memory (needs glibc and Linux)")
    run(model, voxels)
    return benchmark_measure.peak_memory()


def profile(name: str, voxels: Voxels, repeats: int) -> None:
    """The operations in which ours spends its time."""
    model = models(name, ("exact",))["exact"]
    run(model, voxels)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(repeats):
            run(model, voxels)
    print(f"{name}: {repeats} forward passes")
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=60))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmark.py lion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operator", nargs="+", choices=list(OPERATORS), default=list(OPERATORS), help="default: all five")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds: three runs of ours, one of the port (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="no new round after this long, per operator (default: %(default)s)")
    parser.add_argument("--voxels", type=int, default=7000, help="voxels that go in (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="instead: the operations ours spends its time in")
    parser.add_argument("--memory-of", choices=VARIANTS, help="instead: peak memory of one forward in this process, in MiB")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with torch.no_grad():
        voxels = frame(args.voxels)
        if args.memory_of:
            print(measure_memory(args.operator[0], args.memory_of, voxels))
            return 0
        print(f"{args.threads} threads, {benchmark_measure.heap()}")
        print("processor: time of all threads together, which other programs disturb less; memory: of one forward, over the start")
        print(f"{args.voxels} voxels of a synthetic frame in, width {DIM}, grid {SHAPE} (z, y, x), evaluation without gradients")
        if not args.profile:
            print(f"{'':<19}{'median':>10}    {'(lowest-highest)':<28}{'gain':>8}{'processor':>11}{'gain':>10}{'memory':>9}")
        for name in args.operator:
            if args.profile:
                profile(name, voxels, args.repeats)
            else:
                compare(name, voxels, args.repeats, args.seconds)
    return 0
