"""Trains seven small classifiers on scikit-learn's digits, tunes its SVM and k-NN on the same images, and makes a table and curves.

examples:
  python tools/digits.py --out work_dirs/digits                    everything: some minutes with one thread
  python tools/digits.py --out work_dirs/digits --models vil2 mamba --seeds 0 1
  python tools/digits.py --out work_dirs/digits --report           table and curves of what is there

The configs are those of ``visionrnn train``. The first half of the 1 797 images trains, the second half tests, as in scikit-learn's own
example. Every score is the last epoch's. Interrupted, run it again: finished models are kept, the one under way resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if find_spec("visionrnn") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from digits_report import WARPED, write_report

from visionrnn.cli.environment import KEPT_HEAP
from visionrnn.datasets.files import atomic_write

MODELS = {
    "vil2": "vil2_1xb32_digits",
    "sequencer": "sequencer_1xb32_digits",
    **{operator: f"visionrnn-{operator}_1xb32_digits" for operator in ("mamba", "rwkv", "retnet", "xlstm", "ttt")},
}
"""Name → config; the last five are VisionRNN with that operator."""
BASELINES = "scikit-learn.json"
FOLDS = 5


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")


def baselines() -> list[dict[str, Any]]:
    """Accuracy of an SVM and of k nearest neighbours, their options chosen by cross-validation on the training half alone."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    from visionrnn.integrations.classification.digits import load_digits, split

    images, labels = load_digits()
    pixels = images.reshape(len(images), -1) / 16
    train, test = split("trainval"), split("test")
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    choices = {
        "SVM": (SVC(kernel="rbf"), {"C": [0.3, 1, 3, 10, 30, 100], "gamma": [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]}),
        "k-NN": (KNeighborsClassifier(), {"n_neighbors": [1, 2, 3, 4, 5, 7, 9], "weights": ["uniform", "distance"], "p": [1, 2, 3]}),
    }
    found = []
    for name, (estimator, grid) in choices.items():
        start = time.process_time()
        search = GridSearchCV(estimator, grid, cv=folds).fit(pixels[train], labels[train])
        accuracy = 100 * float(search.score(pixels[test], labels[test]))
        seconds = time.process_time() - start
        found.append(
            {"model": name, "accuracy": accuracy, "options": search.best_params_, "cpu_seconds": seconds, "images": len(labels[test])}
        )
    return found


def warped_baseline(copies: int = 10) -> dict[str, Any]:
    """Accuracy of the SVM when it too is trained on warped images: ``copies`` of each, beside the original.

    Its options are chosen on the last fifth of the training half, since copies of an image must not be on both sides.
    """
    import numpy as np
    import torch
    from sklearn.svm import SVC

    from visionrnn.integrations.classification.augment import RandomWarp
    from visionrnn.integrations.classification.digits import Digits
    from visionrnn.integrations.mmengine.launch import load_config

    warp = RandomWarp(**{name: value for name, value in load_config(MODELS["vil2"]).model.augment[0].items() if name != "type"})

    def pixels(images: Any) -> Any:
        return (torch.nn.functional.avg_pool2d(images, 4).flatten(1).numpy() + 1) / 2  # 8 × 8 again

    def fit(subset: str, **options: Any) -> Any:
        torch.manual_seed(0)
        part = Digits(subset)
        images = np.concatenate([pixels(part.images), *(pixels(warp(part.images)) for _ in range(copies))])
        return SVC(**options).fit(images, np.tile(part.labels.numpy(), copies + 1))

    def score(fitted: Any, subset: str) -> float:
        part = Digits(subset)
        return 100 * float(fitted.score(pixels(part.images), part.labels.numpy()))

    start = time.process_time()
    grid = [{"C": C, "gamma": gamma} for C in (1, 3, 10) for gamma in (0.05, 0.1, 0.2, 0.4)]
    chosen = max(grid, key=lambda options: score(fit("train", **options), "val"))
    accuracy = score(fit("trainval", **chosen), "test")
    seconds = time.process_time() - start
    return {"model": WARPED, "accuracy": accuracy, "options": chosen, "cpu_seconds": seconds, "images": len(Digits("test"))}


def train(model: str, seed: int, out: Path) -> dict[str, Any]:
    """Trains one model, or goes on with it, and returns its score, cost and curves."""
    from visionrnn.integrations.mmengine.launch import train as run

    work_dir = out / f"{model}-seed{seed}"
    runner = run(MODELS[model], work_dir, resume="auto" if (work_dir / "last_checkpoint").is_file() else None, seed=seed)
    info = runner.message_hub.runtime_info
    curves = read_curves(work_dir)
    return {
        "model": model,
        "seed": seed,
        "accuracy": curves["accuracy"][-1][1],
        "images": len(runner.val_dataloader.dataset),
        "parameters": sum(parameter.numel() for parameter in runner.bare_model.parameters()),
        "epochs": runner.epoch,
        "cpu_seconds": float(info["cpu_seconds"]),
        "wall_seconds": float(info["wall_seconds"]),
        "curves": curves,
    }


def read_curves(work_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """(epoch, value) of loss and test accuracy, from the logs of a run and its resumptions, the last word on an epoch winning."""
    values: dict[str, dict[int, float]] = {"loss": {}, "accuracy": {}}
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "loss" in row:
                values["loss"][row["epoch"]] = row["loss"]
            elif "accuracy/top1" in row:
                values["accuracy"][row["step"]] = row["accuracy/top1"]
    return {name: sorted(found.items()) for name, found in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/digits"), help="folder of results (default: %(default)s)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME", help=f"of: {', '.join(MODELS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--report", action="store_true", help="only make the table and the curves of what is there")
    args = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in KEPT_HEAP.items()):  # malloc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEPT_HEAP})
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.report:
        import torch

        torch.set_num_threads(args.threads)
        if not (args.out / BASELINES).is_file():
            write_json(args.out / BASELINES, [*baselines(), warped_baseline()])
        for seed in args.seeds:
            for model in args.models:
                path = args.out / f"{model}-seed{seed}.json"
                if not path.is_file():
                    write_json(path, train(model, seed, args.out))
    print(write_report(args.out, list(MODELS)))


if __name__ == "__main__":
    main()
