"""Trains LION's operators, two baselines and three ablations at equal cost on SYNTHETIC scenes, scores them, and makes a table and a plot.

examples:
  python tools/study.py --out work_dirs/study                          everything: twelve runs of seven processor minutes each
  python tools/study.py --out work_dirs/study --runs mamba second      some of them; --list names all
  python tools/study.py --out work_dirs/study --report                 table and plot of what is there

The budget counts processor seconds of one thread, loading of data included: on a quiet machine they are wall-clock seconds, on a busy
one they stay comparable. First the cost of a step is measured for all models, in turn; each then trains one whole one-cycle schedule of as
many steps as its budget pays for, with the trainer of ``visionrnn train``. Seconds really used are in the table.

Interrupted, run it again: finished runs are kept, others go on from their last checkpoint. Give each budget a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if find_spec("visionrnn") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study_report import write_report

from visionrnn.cli.environment import KEPT_HEAP
from visionrnn.datasets.files import atomic_write

EPOCHS = 10  # of equal length, whatever the number of steps: one checkpoint each
BATCH = 2
POLL = 0.5  # seconds between looks at the running jobs
LION, SECOND, POINTPILLARS = (f"{name}_1xb2_synthetic-near-3d-3class" for name in ("lion-mamba", "second", "pointpillars"))
OPERATORS = ("mamba", "rwkv", "retnet", "xlstm", "ttt")
ENCODER = "model.middle_encoder"
SMALL_GROUPS = (f"{ENCODER}.stages.0.group_size=64", f"{ENCODER}.stages.1.group_size=32", f"{ENCODER}.out_group_size=16")
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{name: (LION, (f"{ENCODER}.operator.type={name}",)) for name in OPERATORS},
    "second": (SECOND, ()),
    "pointpillars": (POINTPILLARS, ()),
    "small-groups": (LION, SMALL_GROUPS),
    "no-descriptor": (LION, (f"+{ENCODER}.descriptor=False",)),
    "no-generation": (LION, (f"{ENCODER}.generate_ratio=0",)),
}
"""Name → config and what differs: LION's operators (one word), the baselines, and Mamba without groups a sixteenth of theirs in size,
without the 3D descriptor, without generated voxels."""


@dataclass(frozen=True)
class Run:
    """A model and a seed; Mamba is trained with every seed, the others with the first."""

    model: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.model}-seed{self.seed}"


def plan(seeds: list[int], models: list[str]) -> list[Run]:
    """The runs, Mamba's first."""
    return [Run(model, seed) for model in models for seed in (seeds if model == "mamba" else seeds[:1])]


def options(model: str, data: Path, steps: int) -> list[str]:
    """``--cfg-options`` of a training of ``steps`` steps without validation."""
    length = max(round(steps / EPOCHS), 1) * BATCH
    return [
        f"data_root={data}",
        *MODELS[model][1],
        f"train_cfg.max_epochs={EPOCHS}",
        f"train_cfg.val_interval={EPOCHS + 1}",
        f'train_dataloader.sampler={{"type": "StreamSampler", "length": {length}}}',
        'custom_hooks=[{"type": "ClockHook"}]',
        "default_hooks.checkpoint.max_keep_ckpts=1",
    ]


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")


# ---- in the process of one run


def calibrate(models: list[str], data: Path, out: Path, job: str) -> None:
    """Writes the processor seconds of a step of every model: OUT/steps/JOB.json."""
    from visionrnn.integrations.mmengine.budget import step_seconds
    from visionrnn.integrations.mmengine.launch import load_config

    folder = out / "logs" / job
    configs = {model: load_config(MODELS[model][0], options(model, data, 1000), folder / model) for model in models}
    seconds = step_seconds(configs)
    write_json(out / "steps" / f"{job}-{'-'.join(models)}.json", seconds)


def train_and_score(run: Run, steps: int, data: Path, out: Path) -> None:
    """Trains, or goes on with, one run, scores it and writes OUT/NAME.json."""
    from visionrnn.integrations.mmengine import launch
    from visionrnn.integrations.mmengine.budget import CPU_SECONDS, WALL_SECONDS

    config, chosen = MODELS[run.model][0], options(run.model, data, steps)
    folder = out / run.name
    runner = launch.train(config, folder, "auto", chosen, seed=run.seed)
    info = runner.message_hub.runtime_info
    last = folder / f"epoch_{EPOCHS}.pth"
    start = time.process_time()
    scores = launch.test(config, last, folder / "test", cfg_options=chosen)
    result = {
        "data": "SYNTHETIC",
        "model": run.model,
        "seed": run.seed,
        "command": f"visionrnn train {config} --seed {run.seed} --cfg-options {shlex.join(chosen)}",
        "parameters": sum(parameter.numel() for parameter in runner.bare_model.parameters()),
        "steps": runner.iter,
        "passes": runner.iter * BATCH / len(runner.train_dataloader.dataset),
        "cpu_seconds": info[CPU_SECONDS],
        "wall_seconds": info[WALL_SECONDS],
        "scoring_cpu_seconds": time.process_time() - start,
        "scores": scores,
    }
    write_json(out / f"{run.name}.json", result)


# ---- in the first process


def read_steps(out: Path) -> dict[str, float]:
    """Model → measured processor seconds of a step, the mean of all measurements; empty before calibration."""
    found: dict[str, list[float]] = {}
    for path in sorted((out / "steps").glob("*.json")):
        for model, seconds in json.loads(path.read_text(encoding="utf-8")).items():
            found.setdefault(model, []).append(seconds)
    return {model: sum(seconds) / len(seconds) for model, seconds in found.items()}


def start(arguments: list[str], log: Path) -> subprocess.Popen:
    """Starts this script for one job, on one thread, its output in ``log``."""
    environment = {**KEPT_HEAP, **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        words = [sys.executable, str(Path(__file__).resolve()), *arguments]
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=environment)


def work(jobs: dict[str, list[str]], number: int, out: Path) -> list[str]:
    """Does the jobs (name → arguments), ``number`` at a time, and returns the names of those that failed."""
    waiting, running, failed = list(jobs), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < number:
                name = waiting.pop(0)
                print(f"{time.strftime('%H:%M:%S')}  {name}: started, log {out / 'logs' / name}.txt", flush=True)
                running[name] = start(jobs[name], out / "logs" / f"{name}.txt")
            time.sleep(POLL)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    failed += [name] if process.returncode else []
                    print(f"{time.strftime('%H:%M:%S')}  {name}: {'FAILED' if process.returncode else 'done'}", flush=True)
    finally:
        for process in running.values():
            process.terminate()
    return failed


def prepare_data(data: Path, train: int, val: int) -> None:
    """Makes the synthetic data set unless it is there."""
    if not (data / "kitti_infos_val.pkl").is_file():
        from visionrnn.cli import main as visionrnn

        if visionrnn(["create-data", "synthetic", "--out", str(data), "--train", str(train), "--val", str(val)]):
            sys.exit("study: the data could not be made")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of results, logs and checkpoints")
    parser.add_argument(
        "--data", type=Path, default=Path("data/synthetic-study"), help="synthetic data, made if absent (default: %(default)s)"
    )
    parser.add_argument("--train", type=int, default=400, help="training frames, if they have to be made (default: %(default)s)")
    parser.add_argument("--val", type=int, default=150, help="validation frames, if they have to be made (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=420, help="processor seconds of one training (default: %(default)s)")
    parser.add_argument("--runs", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME", help=f"some of {', '.join(MODELS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of Mamba; the others take the first (default: 0 1 2)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one thread (default: %(default)s)")
    parser.add_argument("--report", action="store_true", help="only make table and plot of the results that are there")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.budget <= 0 or args.jobs < 1:
        parser.error(f"--budget {args.budget} --jobs {args.jobs}: expected positive numbers")
    return args


def study(args: argparse.Namespace) -> int:
    """Data, calibration, runs, report; 1 when something failed."""
    out = args.out.resolve()
    settings = {"budget": args.budget, "data": str(args.data.resolve())}
    noted = out / "settings.json"
    if noted.is_file() and json.loads(noted.read_text(encoding="utf-8")) != settings:
        sys.exit(f"study: {noted} is of another budget or data set; choose another --out")
    prepare_data(args.data, args.train, args.val)
    out.mkdir(parents=True, exist_ok=True)
    write_json(noted, settings)
    common = ["--out", str(out), "--data", settings["data"], "--budget", str(args.budget)]
    runs = [run for run in plan(args.seeds, args.runs) if not (out / f"{run.name}.json").is_file()]
    unknown = [model for model in dict.fromkeys(run.model for run in runs) if model not in read_steps(out)]
    # as many measurements at a time as there will be trainings: neighbours slow each other down
    measurements = {name: [*common, "--runs", *unknown, "--job", name] for name in (f"calibration-{i}" for i in range(args.jobs))}
    if unknown and work(measurements, args.jobs, out):
        return 1
    steps = {run: round(args.budget / read_steps(out)[run.model]) for run in runs}
    jobs = {
        run.name: [*common, "--runs", run.model, "--seeds", str(run.seed), "--job", run.name, "--steps", str(steps[run])] for run in runs
    }
    failed = work(jobs, args.jobs, out)
    print(write_report(out, list(MODELS)))
    return int(bool(failed))


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.report:
        print(write_report(args.out, list(MODELS)))
        return 0
    if args.job is None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the jobs end with this process
        return study(args)
    import torch

    torch.set_num_threads(1)
    if args.job.startswith("calibration"):
        calibrate(args.runs, args.data, args.out, args.job)
    else:
        train_and_score(plan(args.seeds, args.runs)[0], args.steps, args.data, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
