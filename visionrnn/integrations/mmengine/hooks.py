"""Hooks of every run: a loss that is not finite stops it, and its end says where everything is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from visionrnn.errors import DataError
from visionrnn.integrations.mmengine.log import headline


class LossError(DataError):
    """A loss became NaN or infinite; the message names iteration, losses and samples."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Raises LossError at the first iteration whose loss is NaN or infinite, naming the samples of the batch."""

    priority = "ABOVE_NORMAL"

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        losses = {name: _number(value) for name, value in (outputs or {}).items() if _is_number(value)}
        wrong = {name: value for name, value in losses.items() if "loss" in name and not math.isfinite(value)}
        if not wrong:
            return
        samples = ", ".join(sample_names(data_batch)) or "unknown"
        last = runner.message_hub.get_info("last_ckpt") if "last_ckpt" in runner.message_hub.runtime_info else None
        raise LossError(
            f"epoch {runner.epoch + 1}, iteration {runner.iter + 1}: {', '.join(f'{name} = {value}' for name, value in wrong.items())};"
            f" samples of the batch: {samples}. Training stopped; last good checkpoint: {last or 'none yet'}. Look at these samples (NaN"
            " values, boxes without size), or lower optim_wrapper.optimizer.lr"
        )


def _number(value: Any) -> float:
    return float(value.detach()) if isinstance(value, torch.Tensor) else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, torch.Tensor) and value.numel() == 1)


def sample_names(data_batch: Any) -> Iterator[str]:
    """Names of a batch's samples: its ``names``, else the point file where the sample knows it, otherwise its index."""
    if isinstance(data_batch, dict) and "names" in data_batch:
        yield from map(str, data_batch["names"])
        return
    samples = data_batch.get("data_samples", ()) if isinstance(data_batch, dict) else ()
    for sample in samples:
        meta = getattr(sample, "metainfo", {})
        name = meta.get("lidar_path") or meta.get("sample_idx")
        if name is not None:
            yield str(name)


@HOOKS.register_module()
class SummaryHook(Hook):
    """Logs, when a run is over, where checkpoints, logs and metrics are and what the best and last scores were."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self._metrics: dict[str, float] = {}

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._metrics = dict(metrics or {})

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._metrics = dict(metrics or {})

    @master_only
    def after_run(self, runner: Any) -> None:
        info = runner.message_hub.runtime_info
        lines = [f"work dir          {runner.work_dir}"]
        for title, key in (("last checkpoint", "last_ckpt"), ("best checkpoint", "best_ckpt")):
            if info.get(key):
                score = f" (score {float(info['best_score']):.4f})" if key == "best_ckpt" and "best_score" in info else ""
                lines.append(f"{title:<17} {info[key]}{score}")
        log_dir = Path(runner.log_dir)
        lines.append(f"log               {log_dir / (runner.timestamp + '.log')}")
        scalars = log_dir / "vis_data" / "scalars.json"
        if scalars.is_file():
            lines.append(f"losses, scores    {scalars}")
        shown = headline(self._metrics)
        for name, value in shown.items():
            lines.append(f"  {name:<36} {value:.4f}" if isinstance(value, float) else f"  {name:<36} {value}")
        if len(shown) < len(self._metrics):
            lines.append(f"  … and {len(self._metrics) - len(shown)} more metrics, all in {log_dir}")
        if info.get("last_ckpt") and runner.cfg.filename:
            lines.append(f"next: visionrnn test {runner.cfg.filename} {info.get('best_ckpt') or info['last_ckpt']}")
        runner.logger.info("finished\n" + "\n".join(f"  {line}" for line in lines))
