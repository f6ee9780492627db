"""A training small enough for tests, with everything that could differ after a resume: shuffling, augmentation, dropout, BatchNorm, EMA.

As a program: ``python tiny.py WORK_DIR [--resume] [--epochs N] [--kill-at ITERATION] [--launcher pytorch]``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import nn
from torch.utils.data import Dataset

from visionrnn.integrations.mmengine import SafeRunner
from visionrnn.integrations.mmengine.seeding import seed_of


@DATASETS.register_module()
class TinyDataset(Dataset):
    """Samples of 6 numbers; noise is a function of (seed, epoch, index)."""

    def __init__(self, length: int = 12, poison: int | None = None):
        self.length, self.poison = length, poison
        self.metainfo = {"classes": ("Car", "Pedestrian"), "palette": [(1, 2, 3)], "scale": np.float32(2.0)}
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        base = np.random.default_rng(index).normal(size=6)
        noise = np.random.default_rng(seed_of(7, int(self._epoch), index)).normal(size=6)
        x = torch.tensor(base + 0.1 * noise, dtype=torch.float32)
        if index == self.poison:
            x[0] = float("nan")
        return {"x": x, "y": x.sum().sin(), "data_samples": Sample({"sample_idx": index})}


class Sample:
    def __init__(self, metainfo: dict[str, Any]):
        self.metainfo = metainfo


@MODELS.register_module()
class TinyModel(BaseModel):
    def __init__(self, width: int = 16, dropout: float = 0.3, frozen_norm: bool = False):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, width), nn.BatchNorm1d(width), nn.Linear(width, 1)
        self.A_log = nn.Parameter(torch.zeros(width))
        self.dropout, self.frozen_norm = dropout, frozen_norm

    def train(self, mode: bool = True) -> TinyModel:
        super().train(mode)
        if self.frozen_norm:
            self.norm.eval()
        return self

    def forward(self, x: Any, y: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        hidden = self.norm(self.first(torch.stack(list(x)))).relu() * self.A_log.exp()
        out = self.last(nn.functional.dropout(hidden, self.dropout, self.training)).squeeze(-1)
        if mode == "loss":
            return {"loss": (out - torch.stack(list(y))).square().mean()}
        return [{"error": float(value)} for value in (out - torch.stack(list(y))).abs()]


@METRICS.register_module()
class TinyMetric(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += list(data_samples)

    def compute_metrics(self, results: list) -> dict[str, Any]:
        return {"score": np.float64(-np.mean([result["error"] for result in results]))}


@HOOKS.register_module()
class LossLog(Hook):
    """Appends every iteration's loss, exactly, to a file; kills the process with SIGKILL after an iteration."""

    def __init__(self, path: str, kill_at: int = -1):
        self.path, self.kill_at = path, kill_at

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        group = runner.optim_wrapper.param_groups[0]
        row = [runner.iter, outputs["loss"].item().hex(), group["lr"].hex(), float(group["betas"][0]).hex()]
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        if runner.iter == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def config(work_dir: Path, epochs: int = 4, workers: int = 2, kill_at: int = -1, **changes: Any) -> Config:
    """Config of a tiny training: the shared schedule and run-time settings with the tiny model and data."""
    base = Path(__file__).resolve().parents[2] / "configs" / "_base_"
    cfg = Config.fromfile(base / "schedules" / "one-cycle.py")
    cfg.merge_from_dict(Config.fromfile(base / "default_runtime.py", import_custom_modules=False).to_dict())
    loader = {
        "batch_size": 3,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "dataset": {"type": "TinyDataset"},
    }
    still = {**loader, "num_workers": 0, "persistent_workers": False, "sampler": {"type": "DefaultSampler", "shuffle": False}}
    cfg.merge_from_dict(
        {
            "default_scope": "mmengine",
            "custom_imports": {"imports": [], "allow_failed_imports": True},
            "work_dir": str(work_dir),
            "experiment_name": work_dir.as_posix().replace("/", "_"),
            "model": {"type": "TinyModel"},
            "train_dataloader": loader,
            "val_dataloader": still,
            "test_dataloader": still,
            "val_evaluator": {"type": "TinyMetric"},
            "test_evaluator": {"type": "TinyMetric"},
            "train_cfg": {"max_epochs": epochs, "val_interval": 1},
            "custom_hooks": [
                {"type": "LossLog", "path": str(work_dir / "losses.jsonl"), "kill_at": kill_at},
                {"type": "EMAHook", "momentum": 0.1},
            ],
            "default_hooks.checkpoint": {"max_keep_ckpts": 2, "save_best": "score", "rule": "greater"},
            **changes,
        }
    )
    return cfg


def losses(work_dir: Path) -> dict[int, list]:
    """Iteration → [loss, lr, momentum] as hexadecimal text; a later line for the same iteration wins."""
    rows = [json.loads(line) for line in (work_dir / "losses.jsonl").read_text().splitlines()]
    return {row[0]: row[1:] for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--kill-at", type=int, default=-1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    SafeRunner.from_cfg(config(args.work_dir, args.epochs, kill_at=args.kill_at, resume=args.resume)).train()


if __name__ == "__main__":
    main()
